"""Hooks on single modules, open for the length of a context."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Receive = Callable[[Tensor], None]
ReceiveRun = Callable[[Tensor, Any], Tensor | None]


@contextmanager
def removing(handle: RemovableHandle) -> Iterator[None]:
    """Keep a hook for the length of a context."""
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def outputs(modules: Sequence[nn.Module], receive: Receive, layer: nn.Module | None = None) -> Iterator[None]:
    """While open, hand over the sum of the modules' outputs each time that all of them have run.

    Args:
        modules: usually one. Several if their outputs are added, as those of a projection and its adapter.
        receive: is called with the sum.
        layer: the decoder layer during which the modules count. None counts every run. It is needed if several layers
            share the modules.
    """
    arrived: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        arrived.append(local(output))
        if len(arrived) == len(modules):
            total = added(arrived)
            arrived.clear()
            receive(total)

    with ExitStack() as hooks:
        active = hooks.enter_context(_running(layer))
        for module in modules:
            handle = module.register_forward_hook(lambda *call: keep(*call) if active() else None)
            hooks.callback(handle.remove)
        yield


@contextmanager
def inputs(module: nn.Module, receive: Receive, layer: nn.Module | None = None) -> Iterator[None]:
    """While open, hand over the module's first argument at each of its runs; see `outputs` for `layer`."""
    with ExitStack() as hooks:
        active = hooks.enter_context(_running(layer))
        handle = module.register_forward_pre_hook(lambda _, args: receive(local(args[0])) if active() else None)
        hooks.callback(handle.remove)
        yield


@contextmanager
def bypassed(
    module: nn.Module, projections: Sequence[nn.Module], receive: ReceiveRun, layer: nn.Module | None = None
) -> Iterator[None]:
    """While open, hand over each run of a module in which none of its projections ran.

    Args:
        module: the module.
        projections: the modules inside it that it usually calls.
        receive: is called at the end of such a run with the module's input and output, and may call the projections.
            What it returns takes the place of the output. None leaves the output as it is.
        layer: as for `outputs`.
    """
    ran: list[nn.Module] = []

    def start(module: nn.Module, args: Any) -> None:
        ran.clear()

    def keep(projection: nn.Module, args: Any) -> None:
        ran.append(projection)

    def end(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor | None:
        if ran or not active():
            return None
        return receive(next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), output)

    with ExitStack() as hooks:
        active = hooks.enter_context(_running(layer))
        hooks.callback(module.register_forward_pre_hook(start).remove)
        for projection in projections:
            hooks.callback(projection.register_forward_pre_hook(keep).remove)
        # In front of the hooks with which FSDP and ZeRO 3 free the parameters.
        hooks.callback(module.register_forward_hook(end, with_kwargs=True, prepend=True).remove)
        yield


def added(outputs: Sequence[Tensor]) -> Tensor:
    """Return the sum of the outputs of some modules."""
    return sum(outputs[1:], start=outputs[0])


def local(tensor: Any) -> Any:
    """Return what this process has of a tensor. Tensor parallel in transformers 4.57 hands over distributed ones."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


@contextmanager
def _running(layer: nn.Module | None) -> Iterator[Callable[[], bool]]:
    """Give a function that says whether the layer is running; always true for None."""
    if layer is None:
        yield lambda: True
        return
    state = {"running": False}

    def start(module: nn.Module, args: Any) -> None:
        state["running"] = True

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        state["running"] = False

    with ExitStack() as hooks:
        hooks.callback(layer.register_forward_pre_hook(start).remove)
        hooks.callback(layer.register_forward_hook(stop).remove)
        yield lambda: state["running"]
