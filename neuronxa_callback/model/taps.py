"""Hooks on single modules, open for the length of a context."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Receive = Callable[[Tensor], None]


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
        arrived.append(_local(output))
        if len(arrived) == len(modules):
            total = arrived[0] if len(arrived) == 1 else sum(arrived[1:], start=arrived[0])
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
        handle = module.register_forward_pre_hook(lambda _, args: receive(_local(args[0])) if active() else None)
        hooks.callback(handle.remove)
        yield


def _local(tensor: Any) -> Any:
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
