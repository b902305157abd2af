"""A sentence's tokens to one vector (Eq. 3 of the paper), in float32 whatever the model computes in."""

from __future__ import annotations

import torch
from torch import Tensor

from neuronxa_callback.vocabulary import TokenPooling

# Elements weighted at once while pooling, which bounds the hook's own memory: what a CPU's cache holds, and enough
# to fill an accelerator.
CPU_POOLING_CHUNK = 200_000
ACCELERATOR_POOLING_CHUNK = 16_000_000


def token_weights(lengths: Tensor, token_pooling: TokenPooling) -> Tensor:
    """The share of each token in its sentence's representation; padding has none.

    "weighted" is Eq. 3 of the paper, w_t = t / sum k, t counting the sentence's tokens from 1.

    Args:
        lengths: (batch,) token counts.
        token_pooling: "weighted", "average" or "last".

    Returns:
        float32 (batch, tokens), integers until `pool_tokens` divides by their sum.
    """
    position = torch.arange(1, int(lengths.max()) + 1, device=lengths.device, dtype=torch.float32)
    length = lengths.unsqueeze(1)
    if token_pooling == "weighted":
        return position * (position <= length)
    if token_pooling == "average":
        return (position <= length).float()
    return (position == length).float()


def pool_tokens(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over tokens in float32 (Eq. 3).

    The weights are whole numbers and the division comes last: for states the sum is a whole number below 2^24 (up
    to 5,792 tokens), so the result is exact to one rounding, whatever the order of summation.

    Args:
        values: (batch, tokens, features), of any dtype.
        weights: (batch, tokens), as `token_weights` returns them.

    Returns:
        float32 (batch, features).
    """
    weights = weights.to(values.device)  # layers of a model split over devices
    chunk = CPU_POOLING_CHUNK if values.device.type == "cpu" else ACCELERATOR_POOLING_CHUNK
    rows = max(1, chunk // (values.shape[1] * values.shape[2]))
    dtype = torch.promote_types(values.dtype, weights.dtype)
    sums = torch.empty(values.shape[0], values.shape[2], dtype=dtype, device=values.device)
    # Multiply (which promotes to float32) and sum rather than a matrix product, which autocast and TF32 would run in
    # lower precision.
    for value, weight, place in zip(values.split(rows), weights.split(rows), sums.split(rows), strict=True):
        torch.sum(value * weight.unsqueeze(-1), dim=1, out=place)
    return (sums / weights.sum(dim=1, keepdim=True)).float()
