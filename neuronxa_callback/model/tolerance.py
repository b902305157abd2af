"""When two computations of the same numbers count as different."""

from __future__ import annotations

import torch
from torch import Tensor

# Leaves room for kernels that fuse or round differently in bfloat16. Swapped halves differ by far more.
SAME_FORMULA = 0.05


def differ(found: Tensor, expected: Tensor, tolerance: float = SAME_FORMULA) -> bool:
    """Return whether two tensors differ by more than a share of the expected one's norm."""
    expected = expected.float()
    distance = torch.linalg.vector_norm(found.float() - expected)
    return bool(distance > tolerance * torch.linalg.vector_norm(expected))


def rounding(dtype: torch.dtype) -> float:
    """Return a share that rounding alone does not reach in a few operations: 0.0003 in float32, 0.09 in bfloat16."""
    return float(torch.finfo(dtype).eps ** 0.5)
