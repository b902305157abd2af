"""When two computations of the same numbers count as different."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuronxa_callback.model.engine import compute_dtypes

# Leaves room for kernels that fuse or round differently in bfloat16. Swapped halves differ by far more.
SAME_FORMULA = 0.05
# Exact GELU and its approximation by tanh differ by 0.0002 of an output, and GELU and SiLU by 0.07 and more.
SAME_KERNEL = 0.01
TINY = 1e-30
TF32 = 2.0**-10  # the relative spacing of its numbers


def mean_distance(found: Tensor, expected: Tensor, size: Tensor) -> float:
    """Return the distance of two tensors (..., features), as a share of each token's size, as a mean over tokens.

    The norm of a token in `size` is its size. Tokens may differ in size by a factor of hundreds.
    """
    distance = torch.linalg.vector_norm(found.float() - expected.float(), dim=-1)
    return float((distance / torch.linalg.vector_norm(size.float(), dim=-1).clamp(min=TINY)).mean())


def of_kernels(share: float) -> float:
    """Return the share by which two kernels may differ that compute the same FFN.

    It is four spacings of numbers in the coarsest dtype, which is 3 % in bfloat16, and never less than 1 %.

    Args:
        share: what `rounding` returns.
    """
    return max(SAME_KERNEL, 4 * share**2)


def differ(found: Tensor, expected: Tensor, tolerance: float = SAME_FORMULA) -> bool:
    """Return whether two tensors differ by more than a share of the expected one's norm."""
    expected = expected.float()
    distance = torch.linalg.vector_norm(found.float() - expected)
    return bool(distance > tolerance * torch.linalg.vector_norm(expected))


def tokens_that_differ(found: Tensor, expected: Tensor, size: Tensor, tolerance: float) -> int:
    """Return how many tokens differ by more than a share of their size.

    Each token is judged by itself, because one token may be a hundred times larger than the others, as a BOS often is.

    Args:
        found: (tokens, features).
        expected: the same.
        size: the same; the norm of a token is its size.
        tolerance: the share.
    """
    distance = torch.linalg.vector_norm(found.float() - expected.float(), dim=-1)
    return int((distance > tolerance * torch.linalg.vector_norm(size.float(), dim=-1)).sum())


def rounding(model: nn.Module, device: torch.device) -> float:
    """Return a share of a number that rounding does not reach in the few operations of a block.

    It is the square root of the coarsest spacing of numbers in the model's arithmetic: 0.0003 in float32, 0.03 in
    float16 and with TF32, 0.09 in bfloat16. Weights, the compute dtype of quantised layers, FSDP's and autocast count.
    """
    dtypes = {weight.dtype for weight in model.parameters() if weight.is_floating_point() and weight.itemsize > 1}
    computed = {getattr(module, "compute_dtype", None) for module in model.modules()}
    dtypes |= {dtype for dtype in computed if isinstance(dtype, torch.dtype) and dtype.is_floating_point}
    dtypes |= compute_dtypes(model)
    if torch.is_autocast_enabled(device.type):
        dtypes.add(torch.get_autocast_dtype(device.type))
    spacings = [torch.finfo(dtype).eps for dtype in dtypes or {torch.float32}]
    if device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        spacings.append(TF32)
    return float(max(spacings) ** 0.5)
