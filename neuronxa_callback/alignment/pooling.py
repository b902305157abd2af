"""Token pooling: a sentence's tokens become one vector (Eq. 3 of the paper), in float32 whatever the model's dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from neuronxa_callback.vocabulary import TokenPooling

# Pooling weights at most this many elements at once, which bounds the memory of the hook. A CPU's cache holds the
# smaller numbers. The largest one is enough to fill an accelerator.
CPU_POOLING_CHUNK = 200_000
CPU_STATES_CHUNK = 800_000
ACCELERATOR_POOLING_CHUNK = 16_000_000


def token_weights(lengths: Tensor, token_pooling: TokenPooling) -> Tensor:
    """Return the weight of each token in its sentence's representation; padding has weight 0.

    "weighted" is Eq. 3 of the paper, w_t = t / sum k, where t counts the sentence's tokens from 1.

    Args:
        lengths: token counts (batch,).
        token_pooling: "weighted", "average" or "last".

    Returns:
        float32 (batch, tokens). The weights are whole numbers; `pool_tokens` divides by their sum.
    """
    position = torch.arange(1, int(lengths.max()) + 1, device=lengths.device, dtype=torch.float32)
    length = lengths.unsqueeze(1)
    if token_pooling == "weighted":
        return position * (position <= length)
    if token_pooling == "average":
        return (position <= length).float()
    return (position == length).float()


def pool_states(firing: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted share of tokens that fire each neuron: `pool_tokens` of the activation states (NAS).

    The states are written as 0 and 1 in float32 at once. To pool a boolean tensor takes five times as long on a CPU.

    Args:
        firing: (batch, tokens, neurons), of any dtype; a neuron is active where it is > 0.
        weights: (batch, tokens), as `token_weights` returns them.

    Returns:
        float32 (batch, neurons).
    """
    weights = weights.to(firing.device)  # a model's layers may be on several devices
    rows = _rows_at_once(firing, CPU_STATES_CHUNK)
    sums = torch.empty(firing.shape[0], firing.shape[2], device=firing.device)
    room = torch.empty(min(rows, len(firing)), *firing.shape[1:], device=firing.device)
    for some, weight, place in zip(firing.split(rows), weights.split(rows), sums.split(rows), strict=True):
        states = torch.gt(some, 0, out=room[: len(some)])
        torch.sum(states.mul_(weight.unsqueeze(-1)), dim=1, out=place)
    return sums / weights.sum(dim=1, keepdim=True)


def pool_tokens(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean over tokens in float32 (Eq. 3).

    The weights are whole numbers, and the division comes last. For states the sum is a whole number below 2^24 (up to
    5,792 tokens). So the result is exact to one rounding, whatever the order of summation.

    Args:
        values: (batch, tokens, features), of any dtype.
        weights: (batch, tokens), as `token_weights` returns them.

    Returns:
        float32 (batch, features).
    """
    weights = weights.to(values.device)  # a model's layers may be on several devices
    rows = _rows_at_once(values, CPU_POOLING_CHUNK)
    dtype = torch.promote_types(values.dtype, weights.dtype)
    sums = torch.empty(values.shape[0], values.shape[2], dtype=dtype, device=values.device)
    # Multiply, which promotes to float32, and sum. Autocast and TF32 would run a matrix product in lower precision.
    for value, weight, place in zip(values.split(rows), weights.split(rows), sums.split(rows), strict=True):
        torch.sum(value * weight.unsqueeze(-1), dim=1, out=place)
    return (sums / weights.sum(dim=1, keepdim=True)).float()


def _rows_at_once(values: Tensor, cpu_chunk: int) -> int:
    chunk = cpu_chunk if values.device.type == "cpu" else ACCELERATOR_POOLING_CHUNK
    return max(1, chunk // (values.shape[1] * values.shape[2]))
