"""Methods that are means over sentence pairs: what each pair contributes at a layer, given the layer's cosines.

A method of this kind gives every source i and target j a number: what the two would contribute if they were a pair. The
diagonal holds the pairs, and its mean is the method's value. When the targets are put into another order, other numbers
of the same matrix are averaged. So one matrix gives the value, the value of torn-apart pairs, and chance.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log

import torch
from torch import Tensor
from torch.nn import functional

from neuronxa_callback.vocabulary import Direction, Method

# Two cosines closer than this are a tie. Rounding in float64 keeps equal cosines within about 1e-15 of each other.
# Without the margin, rounding would decide at random which of two equal sentences is "strictly" nearer.
TIE = 1e-12


def cosine_similarity(source: Tensor, target: Tensor) -> Tensor:
    """Return the float64 cosines (..., sentences, sentences) of each source with each target; 0 for zero vectors."""
    return unit(source) @ unit(target).mT


def joined_cosines(layers: Iterable[tuple[Tensor, Tensor]], n: int) -> Tensor:
    """Return the float64 cosines (1, n, n) of the vectors that join the neurons of all layers.

    Products and squares are summed over the layers, so the joined vectors themselves are never made. The cosine with a
    zero vector is 0.

    Args:
        layers: the two sides of some layers at a time, each (layers, n, features).
        n: the number of sentences.
    """
    products = torch.zeros(n, n, dtype=torch.float64)
    squares = torch.zeros(2, n, dtype=torch.float64)
    for sides in layers:
        source, target = (side.double() for side in sides)
        products += (source @ target.mT).sum(dim=0)
        squares += torch.stack([side.square().sum(dim=(0, 2)) for side in (source, target)])
    lengths = squares[0].sqrt().unsqueeze(1) * squares[1].sqrt()
    return torch.div(products, lengths.masked_fill(lengths == 0, 1)).unsqueeze(0)


def unit(vectors: Tensor) -> Tensor:
    """Return the vectors in float64, scaled to length 1. Zero vectors stay zero."""
    vectors = vectors.double()
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return torch.div(vectors, norms.masked_fill(norms == 0, 1))


def strictly_nearest(cosines: Tensor) -> Tensor:
    """Return where a cosine is strictly the greatest of its row: a boolean tensor of the same shape."""
    greatest: Tensor
    greatest, second = cosines.topk(2, dim=-1).values.split(1, dim=-1)
    return torch.eq(cosines, greatest) & torch.gt(greatest, second + TIE)


def ranks(cosines: Tensor) -> Tensor:
    """Return each cosine's rank in its row, from 1 for the strictly greatest. In a tie all have the lowest rank."""
    ordered = cosines.sort(dim=-1).values + TIE
    return cosines.shape[-1] - torch.searchsorted(ordered.contiguous(), cosines.contiguous())


def _first_or_later(cosines: Tensor) -> Tensor:
    """Return 1 where the rank is 1, and 2 elsewhere. It needs no sorting, and only the rank score reads other ranks."""
    return 2 - strictly_nearest(cosines).long()


def contributions(cosines: Tensor, kind: Method | Direction) -> Tensor:
    """Return what each source and each target would contribute if they were a pair.

    Args:
        cosines: (layers, sentences, sentences), sources in rows.
        kind: a method of `vocabulary.OVER_PAIRS`, or a direction of retrieval.

    Returns:
        float64 tensor (layers, sentences, sentences).
    """
    n = cosines.shape[-1]
    if kind == "sads":
        return _gap(cosines, cosines.sum(dim=-1, keepdim=True) + cosines.sum(dim=-2, keepdim=True), n)
    rank = ranks if kind == "nasca_rank" else _first_or_later
    return _by_ranks(rank(cosines), rank(cosines.mT).mT, n, kind)


def means_without(cosines: Tensor, kind: Method | Direction) -> Tensor:
    """Return the mean of the pairs' contributions when one pair is left out, with both its sentences.

    Args:
        cosines: (layers, sentences, sentences), sources in rows. There are at least three sentences.
        kind: as for `contributions`.

    Returns:
        float64 tensor (layers, sentences): column k leaves out pair k.
    """
    n = cosines.shape[-1]
    own = cosines.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    if kind == "sads":
        sums = (cosines.sum(dim=-1) + cosines.sum(dim=-2)).unsqueeze(-1)
        left = _gap(own, sums - cosines - cosines.mT, n - 1)
    else:
        in_row, in_column = (_ranks_without(own, side) for side in (cosines, cosines.mT))
        left = _by_ranks(in_row, in_column, n - 1, kind)
    left.diagonal(dim1=-2, dim2=-1).fill_(0)  # a pair that is left out contributes nothing
    return left.sum(dim=-2) / (n - 1)


def _ranks_without(own: Tensor, cosines: Tensor) -> Tensor:
    """Return the rank of each row's own pair when another sentence (column) is left out."""
    competes = ~(own > cosines + TIE)
    competes.diagonal(dim1=-2, dim2=-1).fill_(False)
    return 1 + competes.sum(dim=-1, keepdim=True) - competes.long()


def _by_ranks(in_row: Tensor, in_column: Tensor, n: int, kind: Method | Direction) -> Tensor:
    """Return what pairs contribute, given their ranks among n sentences in both directions; both are 1 in Eq. 4."""
    if kind == "nasca_rank":
        return _rank_score(in_row, in_column, n)
    if kind == "source->target":
        return (in_row == 1).double()
    if kind == "target->source":
        return (in_column == 1).double()
    return ((in_row == 1) & (in_column == 1)).double()


def _rank_score(in_row: Tensor, in_column: Tensor, n: int) -> Tensor:
    """Return the rank score: 1 for rank 1 both ways, 0 for rank n both ways."""
    return 1 - (in_row.double().log() + in_column.double().log()) / (2 * log(n))


def _gap(own: Tensor, sums: Tensor, n: int) -> Tensor:
    """Return the cosine of two sentences minus their mean cosine with the n - 1 others of the other side."""
    return own - (sums - 2 * own) / (2 * (n - 1))


def mean_over_pairs(table: Tensor, orders: Tensor) -> Tensor:
    """Return the mean of table[i, order[i]] over the sources i, for each order of the targets.

    Args:
        table: (layers, sentences, sentences).
        orders: (orders, sentences).

    Returns:
        a tensor (orders, layers).
    """
    layers, n, _ = table.shape
    if table.count_nonzero() <= layers * n:  # as in Eq. 4: at most one target of each source
        return torch.stack([_of_few_cells(layer, orders) for layer in table], dim=1)
    cells = table.permute(1, 2, 0).reshape(n * n, layers)
    return functional.embedding_bag(orders + n * torch.arange(n, dtype=orders.dtype), cells, mode="mean")


def _of_few_cells(table: Tensor, orders: Tensor) -> Tensor:
    """Return one layer's mean for each order, from the cells that are not 0."""
    rows, columns = table.nonzero(as_tuple=True)
    there = (orders[:, rows] == columns).double()
    return there @ table[rows, columns] / len(table)
