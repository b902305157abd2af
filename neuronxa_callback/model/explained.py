"""Check that what FFN blocks add to the residual stream comes from the neurons that are read, and from nothing else.

A block is a module whose output at a token depends on its input at that token alone. Attention, convolutions and state
spaces mix tokens, so they are no blocks, and the check goes on to the modules inside them. A block whose found neurons
are all set to 0, and whose norms are left out, must leave nothing but an affine map of its input. Anything more is
computed by neurons that are not read, such as a shared expert beside the routed ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neuronxa_callback.model.dense import DenseFFN
from neuronxa_callback.model.engine import unwrapped
from neuronxa_callback.model.layers import REMEDY, UnreadableFFNError
from neuronxa_callback.model.neurons import FFN, may_hold_ffn
from neuronxa_callback.model.tolerance import tokens_that_differ

TOKENS = 8  # the check needs tokens to change and tokens to keep


@dataclass(frozen=True)
class _Call:
    """One run of a module on a sentence.

    Attributes:
        args: its arguments, copied before the run could change them.
        kwargs: its named arguments, copied.
        place: the place among `args`, or the name among `kwargs`, of the features (..., hidden) that it was given.
        output: the features (tokens, hidden) that it gave; None if it gave none of each token, or is still running.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    place: int | str
    output: Tensor | None = None

    @property
    def features(self) -> Tensor:
        """The features (..., hidden) that the module was given."""
        return self.args[self.place] if isinstance(self.place, int) else self.kwargs[self.place]  # type: ignore[no-any-return]

    def given(self, features: Tensor) -> _Call:
        """Return the call with other features."""
        if isinstance(self.place, str):
            return replace(self, kwargs={**self.kwargs, self.place: features})
        return replace(self, args=(*self.args[: self.place], features, *self.args[self.place + 1 :]))

    def run(self, module: nn.Module) -> Tensor:
        """Run a module on copies of the arguments and return its features (tokens, hidden)."""
        output = _features(module(*_copied(self.args), **_copied_named(self.kwargs)), _tokens(self.features))
        if output is None:
            raise RuntimeError(f"{type(module).__name__} gives other outputs when it runs again.")
        return output


@dataclass
class _Record:
    """The runs of the modules of one layer.

    Attributes:
        calls: each module's first run.
        is_open: whether runs are recorded.
    """

    calls: dict[nn.Module, _Call] = field(default_factory=dict)
    is_open: bool = True

    def keep_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep a run that begins: a forward pre-hook."""
        numbered: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        place = next((at for at, value in numbered if _is_features(value)), None)
        if self.is_open and place is not None and module not in self.calls:
            self.calls[module] = _Call(_copied(args), _copied_named(kwargs), place)

    def keep_output(self, module: nn.Module, args: Any, output: Any) -> None:
        """Keep what a run gave: a forward hook."""
        call = self.calls.get(module)
        if self.is_open and call is not None and call.output is None:
            features = _features(output, _tokens(call.features))
            self.calls[module] = replace(call, output=None if features is None else features.clone())


@contextmanager
def explained(
    layers: Sequence[nn.Module],
    ffns: Sequence[Sequence[FFN]],
    names: Mapping[nn.Module, str],
    tolerance: float,
    is_sharded: bool = False,
) -> Iterator[None]:
    """Watch one forward pass of one sentence, and check at each layer's end that the FFNs explain its blocks.

    The sentence must have some tokens, `TOKENS` or more. Blocks run again by themselves within the forward pass of
    their layer, where FSDP and ZeRO 3 have gathered its parameters.

    Args:
        layers: the decoder layers.
        ffns: the FFNs that were found in each layer.
        names: the modules' names, for messages.
        tolerance: the share of a token's output that counts as rounding.
        is_sharded: whether the layers' own hooks free their parameters at the end (FSDP, ZeRO 3). The check comes in
            front of these hooks then, and does not see blocks that hooks of the layer run.

    Raises:
        UnreadableFFNError: a block holds neurons that are not read, or an FFN mixes tokens.
    """
    with ExitStack() as hooks:
        for layer, its in zip(layers, ffns, strict=True):
            record = _Record()
            for module in set(_possible_blocks(layer)):
                hooks.callback(module.register_forward_pre_hook(record.keep_call, with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(record.keep_output).remove)
            check = partial(_check_layer, record, its, names, tolerance)
            hooks.callback(unwrapped(layer).register_forward_hook(check, prepend=is_sharded).remove)
        yield


def _check_layer(
    record: _Record,
    ffns: Sequence[FFN],
    names: Mapping[nn.Module, str],
    tolerance: float,
    layer: nn.Module,
    args: Any,
    output: Any,
) -> None:
    """Check the blocks of a layer, which has just run."""
    record.is_open = False  # blocks run again in the check
    _check_inside(layer, record.calls, ffns, names, tolerance)
    record.calls.clear()


def _possible_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules inside a module that may be blocks. Projections are none: they are most of a model."""
    for name, child in module.named_children():
        if may_hold_ffn(name) and not _is_projection(child) and _projections(child) > 1:
            yield child
            yield from _possible_blocks(child)


def _is_projection(module: nn.Module) -> bool:
    return hasattr(module, "in_features")


def _projections(module: nn.Module) -> int:
    """Return the number of projections inside a module, and of matrices outside of them.

    The weights of quantised projections may be buffers, and ZeRO-3 keeps a sharded weight's shape in `ds_shape`.
    """
    count = 0
    for inner in module.modules():
        held = (*inner.parameters(recurse=False), *inner.buffers(recurse=False))
        count += _is_projection(inner) or any(len(getattr(tensor, "ds_shape", tensor.shape)) > 1 for tensor in held)
    return count


def _is_features(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1


def _copied(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in values)


def _copied_named(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in values.items()}


def _tokens(features: Tensor) -> int:
    return features.numel() // features.shape[-1]


def _features(output: Any, tokens: int) -> Tensor | None:
    """Return what a module gives of each token, as (tokens, features): its output, or the first one that is such."""
    outputs = output if isinstance(output, tuple | list) else (output,)
    found = next((value for value in outputs if _is_features(value) and _tokens(value) == tokens), None)
    return None if found is None else found.reshape(tokens, -1)


def _check_inside(
    module: nn.Module,
    calls: Mapping[nn.Module, _Call],
    ffns: Sequence[FFN],
    names: Mapping[nn.Module, str],
    tolerance: float,
) -> None:
    """Check the blocks inside a module."""
    for child in dict.fromkeys(module.children()):
        call = calls.get(child)
        if call is None or call.output is None:
            _check_inside(child, calls, ffns, names, tolerance)
        elif _mixes_tokens(child, call, call.output, tolerance):
            if any(ffn.module is child for ffn in ffns if isinstance(ffn, DenseFFN)):
                raise UnreadableFFNError(
                    f"{names[child]} ({type(child).__name__}) mixes the tokens of a sentence, so its neurons do not "
                    f"belong to one token. {REMEDY}"
                )
            _check_inside(child, calls, ffns, names, tolerance)
        elif not _is_explained(child, call, call.output, ffns, tolerance):
            raise UnreadableFFNError(
                f"{names[child]} ({type(child).__name__}) holds neurons that are not read: with all neurons that were "
                f"found set to 0, its output still depends on its input. {REMEDY}"
            )


def _mixes_tokens(module: nn.Module, call: _Call, output: Tensor, tolerance: float) -> bool:
    """Return whether the later tokens' outputs change when the earlier tokens' inputs do."""
    rows = call.features.reshape(-1, call.features.shape[-1])
    changed = len(rows) // 2
    other = torch.cat([-rows[:changed].roll(1, dims=-1), rows[changed:]]).reshape(call.features.shape)
    after = call.given(other).run(module)[changed:]
    return tokens_that_differ(after, output[changed:], output[changed:], tolerance) > 0


def _is_explained(block: nn.Module, call: _Call, output: Tensor, ffns: Sequence[FFN], tolerance: float) -> bool:
    """Return whether a block without its neurons and norms maps the mean of two inputs to the mean of their outputs."""
    with ExitStack() as changes:
        for ffn in ffns:
            changes.enter_context(ffn.silenced())
        for norm in (module for name, module in block.named_modules() if "norm" in name.rpartition(".")[2]):
            changes.callback(norm.register_forward_hook(_leave_out, with_kwargs=True).remove)
        other = -call.features.roll(1, dims=-1)
        first, second, middle = (
            call.given(given).run(block).float() for given in (call.features, other, (call.features + other) / 2)
        )
    return tokens_that_differ(middle, (first + second) / 2, output, tolerance) == 0


def _leave_out(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Return a norm's input in place of its output."""
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
