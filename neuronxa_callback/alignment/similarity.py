"""Similarity measures of all pairs together: CKA, SVCCA and ANC. They are no means over pairs.

Each is made of two parts: what one side contributes alone, and a comparison of two such parts. Another order of the
targets only reorders the rows of their part. So the parts are computed once, and compared in many orders at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuronxa_callback.alignment.cosines import unit
from neuronxa_callback.vocabulary import Method

# A feature that varies by no more than this share of its size counts as constant, because representations are float32.
CONSTANT = 1e-6
SVCCA_VARIANCE = 0.99
# Reordered rows are held so many numbers at a time: 0.5 MB in float64, which a processor's cache holds.
BLOCK = 65_536
PLACED = 8  # blocks whose places are found at once


@dataclass(frozen=True)
class Similarity:
    """A measure in two parts.

    Attributes:
        prepare: returns what one side (sentences, features) contributes at a layer.
        compare: returns the measure of prepared sides, given the sources' part of each layer, the targets' part of each
            layer, and orders of the targets, an integer tensor (orders, sentences): a float64 tensor (orders, layers).
    """

    prepare: Callable[[Tensor], Any]
    compare: Callable[[Sequence[Any], Sequence[Any], Tensor], Tensor]


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
    measures: dict[str, Similarity] = {
        "cka": Similarity(_kernel, _cka),
        "svcca": Similarity(_directions, _svcca),
        "anc": Similarity(_standardised, _anc),
    }
    return measures[method]


class Directions(NamedTuple):
    """The singular directions of a side.

    Attributes:
        basis: orthonormal columns, (sentences, directions). They are all directions of the sentences' space if the side
            can keep more than half of them.
        kept: how many of the columns, from the first on, SVCCA keeps.
    """

    basis: Tensor
    kept: int


def _kernel(vectors: Tensor) -> Tensor:
    """Return the centred sentences' inner products (sentences, sentences), scaled to norm 1; 0 without variation."""
    centred = _centred(vectors)
    kernel = centred @ centred.T
    size: Tensor = torch.linalg.matrix_norm(kernel)
    return torch.div(kernel, size) if size > 0 else kernel


def _cka(sources: Sequence[Tensor], targets: Sequence[Tensor], orders: Tensor) -> Tensor:
    # The kernels are symmetric, so half of each is enough. All layers reorder theirs alike.
    n = orders.shape[1]
    row, column = torch.tril_indices(n, n)
    twice = torch.where(row == column, 1.0, 2.0).double()
    halves = [kernel[row, column] * twice for kernel in sources]
    at_once = max(1, BLOCK // len(row))
    found: list[Tensor] = []
    for some in orders.split(PLACED * at_once):
        places = torch.cat([some[:, : i + 1] + n * some[:, i : i + 1] for i in range(n)], dim=1)
        found += [_products(halves, targets, block) for block in places.split(at_once)]
    return torch.cat(found).clamp(0, 1)


def _products(halves: Sequence[Tensor], kernels: Sequence[Tensor], places: Tensor) -> Tensor:
    """Return the inner products of kernels' halves with the halves at these places of others, (orders, layers)."""
    reordered = (kernel.flatten().index_select(0, places.flatten()).view(places.shape) for kernel in kernels)
    return torch.stack([values @ half for values, half in zip(reordered, halves, strict=True)], dim=1)


def _directions(vectors: Tensor) -> Directions:
    """Return the singular directions, of which SVCCA keeps the fewest that hold the variance."""
    centred = _centred(vectors)
    n, features = centred.shape
    factor = torch.linalg.qr(centred.T, mode="r").R.T if features > n else centred  # its inner products are the same
    basis: Tensor
    basis, values, _ = torch.linalg.svd(factor, full_matrices=2 * features > n)
    variance = values**2
    if variance.sum() == 0:
        return Directions(basis, 0)
    held = variance.cumsum(0) / variance.sum()
    return Directions(basis, int((held < SVCCA_VARIANCE).sum()) + 1)


def _svcca(sources: Sequence[Directions], targets: Sequence[Directions], orders: Tensor) -> Tensor:
    pairs = zip(sources, targets, strict=True)
    return torch.stack([_mean_correlation(one, other, orders) for one, other in pairs], dim=1)


def _mean_correlation(one: Directions, other: Directions, orders: Tensor) -> Tensor:
    """Return the mean canonical correlation for each order.

    The canonical correlations of two orthonormal bases are the singular values of their product. Two subspaces of p and
    q dimensions that have p + q > n meet in at least p + q - n dimensions, where the correlation is 1. The other
    correlations are those of what is orthogonal to each (Knyazev and Argentati 2007). If most directions
    are kept, that product is much the smaller one.
    """
    n, fewest = orders.shape[1], min(one.kept, other.kept)
    if not fewest:
        return torch.zeros(len(orders), dtype=torch.float64)
    met = max(0, one.kept + other.kept - n)
    columns = [slice(side.kept, None) if met else slice(side.kept) for side in (one, other)]
    source, target = one.basis[:, columns[0]], other.basis[:, columns[1]].contiguous()
    sums = []
    for some in orders.split(max(1, BLOCK // max(1, target.numel()))):
        reordered = target.index_select(0, some.flatten()).view(*some.shape, -1)
        values: Tensor = torch.linalg.svdvals(source.T @ reordered)
        sums.append(values.clamp(max=1).sum(dim=-1))
    return (met + torch.cat(sums)) / fewest


def _standardised(vectors: Tensor) -> Tensor:
    """Return the features centred and scaled to length 1; features that do not vary are 0."""
    return unit(_centred(vectors).T).T.contiguous()


def _anc(sources: Sequence[Tensor], targets: Sequence[Tensor], orders: Tensor) -> Tensor:
    pairs = zip(sources, targets, strict=True)
    return torch.stack([_mean_of_features(one, other, orders) for one, other in pairs], dim=1)


def _mean_of_features(source: Tensor, target: Tensor, orders: Tensor) -> Tensor:
    """Return the mean absolute correlation of the features that vary on both sides, for each order."""
    varies = (source != 0).any(dim=0) & (target != 0).any(dim=0)
    if not varies.any():
        return torch.zeros(len(orders), dtype=torch.float64)
    if not varies.all():
        source, target = source[:, varies], target[:, varies]
    means = []
    for some in orders.split(max(1, BLOCK // source.shape[1])):
        correlations = source.new_zeros(len(some), source.shape[1])
        reordered = torch.empty_like(correlations)
        for sentence, places in zip(source, some.T.contiguous(), strict=True):
            torch.index_select(target, 0, places, out=reordered)
            correlations.addcmul_(reordered, sentence)
        means.append(correlations.abs().clamp(max=1).mean(dim=1))
    return torch.cat(means)


def _centred(vectors: Tensor) -> Tensor:
    """Return float64 vectors minus the mean sentence; a feature that varies by no more than rounding is exactly 0."""
    vectors = vectors.double()
    centred: Tensor = vectors - vectors.mean(dim=0)
    size, spread = torch.linalg.vector_norm(vectors, dim=0), torch.linalg.vector_norm(centred, dim=0)
    return centred.masked_fill(spread <= CONSTANT * size, 0)
