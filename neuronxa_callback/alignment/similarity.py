"""Similarity measures of all pairs together: CKA, SVCCA and ANC. They are no means over pairs.

Each is made of two parts: what one side contributes alone, and a comparison of two such parts. Another order of the
targets only reorders the rows of their part, so the parts are computed once for all orders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from neuronxa_callback.alignment.cosines import unit
from neuronxa_callback.vocabulary import Method

# A feature that varies by no more than this share of its size counts as constant, because representations are float32.
CONSTANT = 1e-6
SVCCA_VARIANCE = 0.99


class Similarity(NamedTuple):
    """A measure in two parts.

    Attributes:
        prepare: returns what one side contributes, a tensor with a row for each sentence.
        compare: returns the measure of two prepared sides, a float64 tensor without dimensions.
    """

    prepare: Callable[[Tensor], Tensor]
    compare: Callable[[Tensor, Tensor], Tensor]


def similarity(method: Method) -> Similarity:
    """Return a measure by its name.

    "cka" is linear centred kernel alignment (Kornblith et al. 2019, Eq. 3 with linear kernels, biased HSIC). It is
    invariant to rotation, and to one scale for all features of a side. With fewer sentences than features it is well
    above 0 for unrelated text, too. So compare it with chance and not with 0.

    "svcca" is singular vector canonical correlation analysis (Raghu et al. 2017). Both sides are centred and reduced to
    the fewest singular directions that hold 99 % of their variance. The value is the mean canonical correlation of the
    reduced sides, over as many directions as the smaller side has kept. It is invariant to rotation and scale. There
    are at most sentences - 1 directions. If both sides keep more than half of these, their subspaces meet by necessity,
    and unrelated text scores high. 100 sentences of many features do this.

    "anc" is averaged neuron-wise correlation (Del and Fishel 2022): the mean over features of the absolute Pearson r
    between a feature on one side and the same feature on the other. A feature that does not vary over the sentences of
    one side has no correlation and is left out. Unrelated text scores about sqrt(2 / (pi * sentences)), which is 0.08
    for 100 sentences.

    All three lie in [0, 1], and are 0 where one side does not vary over the sentences.
    """
    return {
        "cka": Similarity(_scaled_factor, _cka),
        "svcca": Similarity(_directions, _svcca),
        "anc": Similarity(_standardised, _anc),
    }[method]


def _kernel_factor(vectors: Tensor) -> Tensor:
    """Return (sentences, at most sentences) with the same inner products as the centred vectors."""
    centred = _centred(vectors)
    return torch.linalg.qr(centred.T).R.T if centred.shape[1] > len(centred) else centred


def _scaled_factor(vectors: Tensor) -> Tensor:
    """Return the kernel's factor, scaled so that the kernel has norm 1; 0 if the side does not vary."""
    factor = _kernel_factor(vectors)
    size: Tensor = torch.linalg.matrix_norm(factor.T @ factor)
    return torch.div(factor, size.sqrt()) if size > 0 else factor


def _cka(source: Tensor, target: Tensor) -> Tensor:
    cross: Tensor = torch.linalg.matrix_norm(source.T @ target)
    return (cross**2).clamp(max=1)


def _directions(vectors: Tensor) -> Tensor:
    """Return an orthonormal basis (sentences, kept) of the singular directions that hold the variance."""
    left: Tensor
    left, values, _ = torch.linalg.svd(_kernel_factor(vectors), full_matrices=False)
    variance = values**2
    if variance.sum() == 0:
        return left[:, :0]
    held = variance.cumsum(0) / variance.sum()
    return left[:, : int((held < SVCCA_VARIANCE).sum()) + 1]


def _svcca(source: Tensor, target: Tensor) -> Tensor:
    # The canonical correlations of two orthonormal bases are the singular values of their product.
    values: Tensor = torch.linalg.svdvals(source.T @ target)
    return values.clamp(max=1).mean() if values.numel() else source.new_zeros(())


def _standardised(vectors: Tensor) -> Tensor:
    """Return the features centred and scaled to length 1; features that do not vary are 0."""
    return unit(_centred(vectors).T).T


def _anc(source: Tensor, target: Tensor) -> Tensor:
    varies = (source != 0).any(dim=0) & (target != 0).any(dim=0)
    correlations: Tensor = (source * target).sum(dim=0)[varies]
    return correlations.abs().clamp(max=1).mean() if correlations.numel() else correlations.sum()


def _centred(vectors: Tensor) -> Tensor:
    """Return float64 vectors minus the mean sentence; a feature that varies by no more than rounding is exactly 0."""
    vectors = vectors.double()
    centred: Tensor = vectors - vectors.mean(dim=0)
    size, spread = torch.linalg.vector_norm(vectors, dim=0), torch.linalg.vector_norm(centred, dim=0)
    return centred.masked_fill(spread <= CONSTANT * size, 0)
