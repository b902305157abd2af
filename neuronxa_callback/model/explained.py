"""Check that what FFN blocks add to the residual stream comes from the neurons that are read, and from nothing else.

A block is a module whose output at a token depends on its input at that token alone. Attention, convolutions and state
spaces mix tokens, so they are no blocks, and the check goes on to the modules inside them. A block whose found neurons
are all set to 0, and whose norms are left out, must leave nothing but an affine map of its input. Anything more is
computed by neurons that are not read, such as a shared expert beside the routed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from neuronxa_callback.model.dense import DenseFFN
from neuronxa_callback.model.layers import REMEDY, UnreadableFFNError
from neuronxa_callback.model.neurons import FFN, may_hold_ffn
from neuronxa_callback.model.tolerance import differ, rounding

TOKENS = 8  # the check needs tokens to change and tokens to keep


@dataclass(frozen=True)
class _Call:
    """One run of a module on a sentence.

    Attributes:
        args: its arguments, copied before the run could change them.
        kwargs: its named arguments, copied.
        place: the place among `args`, or the name among `kwargs`, of the features (..., hidden) that it was given.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    place: int | str

    @property
    def features(self) -> Tensor:
        """The features (..., hidden)."""
        return self.args[self.place] if isinstance(self.place, int) else self.kwargs[self.place]  # type: ignore[no-any-return]

    def given(self, features: Tensor) -> _Call:
        """Return the call with other features."""
        if isinstance(self.place, str):
            return replace(self, kwargs={**self.kwargs, self.place: features})
        return replace(self, args=(*self.args[: self.place], features, *self.args[self.place + 1 :]))

    def run(self, module: nn.Module) -> Tensor | None:
        """Run a module on copies of the arguments; return its features, or None if it gives no features of tokens."""
        output = module(*_copied(self.args), **_copied_named(self.kwargs))
        return _features(output if isinstance(output, tuple | list) else (output,), _tokens(self.features))


@contextmanager
def explained(
    layers: Sequence[nn.Module], ffns: Sequence[Sequence[FFN]], names: Mapping[nn.Module, str]
) -> Iterator[None]:
    """Watch one forward pass of one sentence, and check at its end that the FFNs explain every block.

    The sentence must have some tokens, `TOKENS` or more.

    Args:
        layers: the decoder layers.
        ffns: the FFNs that were found in each layer.
        names: the modules' names, for messages.

    Raises:
        UnreadableFFNError: a block holds neurons that are not read, or an FFN mixes tokens.
    """
    calls: dict[nn.Module, _Call] = {}
    with ExitStack() as hooks:
        for module in {module for layer in layers for module in layer.modules()}:
            hooks.callback(module.register_forward_pre_hook(_keep_call(calls), with_kwargs=True).remove)
        yield
    for layer, its in zip(layers, ffns, strict=True):
        _check_inside(layer, calls, its, names)


def _may_be_block(name: str, module: nn.Module) -> bool:
    """Return whether a module, called so by its parent, may be a block or hold one. A projection alone is none."""
    return may_hold_ffn(name) and _matrices(module) > 1 and not hasattr(module, "in_features")


def _matrices(module: nn.Module) -> int:
    """Return the number of weight matrices inside a module. ZeRO-3 keeps a sharded weight's shape in `ds_shape`."""
    return sum(len(getattr(weight, "ds_shape", weight.shape)) > 1 for weight in module.parameters())


def _keep_call(calls: dict[nn.Module, _Call]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        numbered: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        place = next((at for at, value in numbered if _is_features(value)), None)
        if place is not None and module not in calls:
            calls[module] = _Call(_copied(args), _copied_named(kwargs), place)

    return hook


def _is_features(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1


def _copied(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in values)


def _copied_named(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in values.items()}


def _tokens(features: Tensor) -> int:
    return features.numel() // features.shape[-1]


def _features(outputs: Sequence[Any], tokens: int) -> Tensor | None:
    """Return the first output that holds features of each token, as (tokens, features)."""
    found = next((value for value in outputs if _is_features(value) and _tokens(value) == tokens), None)
    return None if found is None else found.reshape(tokens, -1)


def _check_inside(
    module: nn.Module, calls: Mapping[nn.Module, _Call], ffns: Sequence[FFN], names: Mapping[nn.Module, str]
) -> None:
    """Check the blocks inside a module."""
    for name, child in module.named_children():
        if not _may_be_block(name, child):
            continue
        call = calls.get(child)
        if call is not None and _each_token_by_itself(child, call):
            _check_block(child, call, ffns, names)
        elif any(ffn.module is child for ffn in ffns if isinstance(ffn, DenseFFN)):
            raise UnreadableFFNError(
                f"{names[child]} ({type(child).__name__}) mixes the tokens of a sentence, so its neurons do not belong "
                f"to one token. {REMEDY}"
            )
        else:
            _check_inside(child, calls, ffns, names)


def _check_block(block: nn.Module, call: _Call, ffns: Sequence[FFN], names: Mapping[nn.Module, str]) -> None:
    whole = call.run(block)
    with ExitStack() as silenced:
        for ffn in ffns:
            silenced.enter_context(ffn.silenced())
        for norm in (module for name, module in block.named_modules() if "norm" in name.rpartition(".")[2]):
            silenced.callback(norm.register_forward_hook(lambda module, args, output: args[0]).remove)
        if whole is not None and not _is_affine(block, call, whole):
            raise UnreadableFFNError(
                f"{names[block]} ({type(block).__name__}) holds neurons that are not read: with all neurons that were "
                f"found set to 0, its output still depends on its input. {REMEDY}"
            )


def _each_token_by_itself(module: nn.Module, call: _Call) -> bool:
    """Return whether the later tokens' outputs stay as they are when the earlier tokens' inputs change."""
    rows = call.features.reshape(-1, call.features.shape[-1])
    changed = len(rows) // 2
    other = torch.cat([-rows[:changed].roll(1, dims=-1), rows[changed:]]).reshape(call.features.shape)
    before, after = call.run(module), call.given(other).run(module)
    if before is None or after is None:
        return False
    tolerance = rounding(before.dtype)
    return not any(differ(now, then, tolerance) for now, then in zip(after[changed:], before[changed:], strict=True))


def _is_affine(block: nn.Module, call: _Call, whole: Tensor) -> bool:
    """Return whether a block maps the mean of two inputs to the mean of their outputs, but for rounding.

    Args:
        block: the block with its neurons silenced.
        call: its call.
        whole: its output (tokens, hidden) with its neurons. Rounding is measured by its size.
    """
    other = -call.features.roll(1, dims=-1)
    outputs = [call.given(given).run(block) for given in (call.features, other, (call.features + other) / 2)]
    first, second, middle = (output.float() for output in outputs if output is not None)
    distance = torch.linalg.vector_norm(middle - (first + second) / 2)
    return bool(distance <= rounding(whole.dtype) * torch.linalg.vector_norm(whole.float()))
