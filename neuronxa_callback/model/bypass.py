"""The check of an FFN whose forward bypasses its projections: does it compute what they would?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from neuronxa_callback.model.tolerance import mean_distance

if TYPE_CHECKING:
    from neuronxa_callback.model.dense import DenseFFN


def fault_of(ffn: DenseFFN, x: Tensor, output: Any, tolerance: float) -> str | None:
    """Return what is wrong with the output of an FFN, as the end of a sentence; None if nothing is.

    An adapter that has been trained for a short time changes an output by less than rounding in bfloat16 may do. So
    the output is also compared with what the projections compute without some of their adapters. It must not be much
    nearer to that.

    Args:
        ffn: the FFN.
        x: its input, (..., hidden).
        output: what its forward gave of it.
        tolerance: the share of a token's output that counts as rounding, as a mean over tokens.
    """
    expected = ffn.output_of(x)
    if not isinstance(output, Tensor) or output.shape != expected.shape:
        return "its output is not that of its last projection"
    distance = mean_distance(output, expected, expected)
    for bare in _without_some_adapters(ffn):
        if mean_distance(output, bare.output_of(x), expected) < distance / 2:
            return "its output lacks an adapter (LoRA) of them"
    if not distance <= tolerance:  # NaN is no agreement
        return "its output is not what they compute by Eq. 1 of the paper"
    return None


def shows_no_adapter(ffn: DenseFFN, x: Tensor, output: Any) -> bool:
    """Return whether an FFN's adapters change its output by too little to tell whether a forward leaves them out.

    A LoRA adds nothing before its first training step.

    Args:
        ffn: the FFN.
        x: its input, (..., hidden).
        output: what its forward gave of it. `fault_of` has no fault to find with it.
    """
    *_, bare = (ffn, *_without_some_adapters(ffn))
    if bare is ffn:
        return False
    expected = ffn.output_of(x)
    added = mean_distance(bare.output_of(x), expected, expected)
    return added <= 2 * mean_distance(output, expected, expected)


def _without_some_adapters(ffn: DenseFFN) -> Iterator[DenseFFN]:
    """Yield the FFN without the adapters of each of its projections, of each two, and of all."""
    # PEFT's layers hold the projection that they adapt in `base_layer`.
    choices = [tuple(dict.fromkeys((part, getattr(part, "base_layer", part)))) for part in ffn.projections]
    for chosen in list(product(*choices))[1:]:
        yield _with_projections(ffn, chosen)


def _with_projections(ffn: DenseFFN, projections: tuple[nn.Module, ...]) -> DenseFFN:
    gates, down = projections[: len(ffn.gates)], projections[-1]
    up = None if ffn.up is None else projections[len(ffn.gates)]
    return replace(ffn, gates=gates, up=up, down=down, inner=down if ffn.inner is ffn.down else ffn.inner)
