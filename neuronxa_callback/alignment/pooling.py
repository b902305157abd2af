"""Token pooling: a sentence's tokens become one vector (Eq. 3 of the paper), in float32 whatever the model's dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from neuronxa_callback.vocabulary import TokenPooling

# Pooling weights at most this many elements at once, which bounds the memory of the hook. A CPU's cache holds the
# smaller number. The larger one is enough to fill an accelerator.
CPU_POOLING_CHUNK = 200_000
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
    chunk = CPU_POOLING_CHUNK if values.device.type == "cpu" else ACCELERATOR_POOLING_CHUNK
    rows = max(1, chunk // (values.shape[1] * values.shape[2]))
    dtype = torch.promote_types(values.dtype, weights.dtype)
    sums = torch.empty(values.shape[0], values.shape[2], dtype=dtype, device=values.device)
    # Multiply, which promotes to float32, and sum. Autocast and TF32 would run a matrix product in lower precision.
    for value, weight, place in zip(values.split(rows), weights.split(rows), sums.split(rows), strict=True):
        torch.sum(value * weight.unsqueeze(-1), dim=1, out=place)
    return (sums / weights.sum(dim=1, keepdim=True)).float()
