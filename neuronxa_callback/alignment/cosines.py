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

from neuronxa_callback.vocabulary import Direction, Method

# Two cosines closer than this are a tie. Rounding in float64 keeps equal cosines within about 1e-15 of each other.
# Without the margin, rounding would decide at random which of two equal sentences is "strictly" nearer.
TIE = 1e-12
# The rows of so many layers, side by side, are copied faster than those of one layer after another.
TOGETHER = 8


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
    return _by_rank(cosines, torch.arange(1, cosines.shape[-1] + 1))


def _by_rank(cosines: Tensor, values: Tensor) -> Tensor:
    """Return the value that belongs to each cosine's rank in its row, given the values (sentences,) of rank 1 to n.

    The place in the row's order gives the rank, if no two neighbours in the order are near a tie. The last bits of each
    cosine are replaced by its column for the sort, because a sort of numbers is faster than one of their places.
    """
    n = cosines.shape[-1]
    bits = (n - 1).bit_length()
    cosines = cosines.contiguous()
    keys = (cosines.view(torch.int64) >> bits << bits) | torch.arange(n)
    keys.view(torch.float64).numpy().sort(axis=-1)  # numpy sorts several times as fast as torch
    found = torch.empty_like(cosines, dtype=values.dtype)
    found.scatter_(-1, keys & ((1 << bits) - 1), values.flip(0).expand_as(keys))
    ordered = keys.view(torch.float64)
    near = TIE + 2.0 ** (bits - 50)  # a cosine is at most 1, so other last bits change it by less than 2^(bits - 52)
    unsure = ~(ordered[..., 1:] > ordered[..., :-1] + near).all(dim=-1)
    if unsure.any():
        rows = cosines[unsure]
        below = torch.searchsorted(rows.sort(dim=-1).values + TIE, rows)
        found[unsure] = values[n - below - 1]
    return found


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
    if kind == "nasca_rank":
        logs = _logs(n)
        return _rank_score(_by_rank(cosines, logs) + _by_rank(cosines.mT, logs).mT, n)
    if kind == "source->target":
        return strictly_nearest(cosines).double()
    if kind == "target->source":
        return strictly_nearest(cosines.mT).mT.double()
    return (strictly_nearest(cosines) & strictly_nearest(cosines.mT).mT).double()


def means_without(cosines: Tensor, kind: Method | Direction) -> Tensor:
    """Return the mean of the pairs' contributions when one pair is left out, with both its sentences.

    Args:
        cosines: (layers, sentences, sentences), sources in rows. There are at least three sentences.
        kind: as for `contributions`.

    Returns:
        float64 tensor (layers, sentences): column k leaves out pair k.
    """
    n = cosines.shape[-1]
    if kind == "sads":
        return _gaps_without(cosines)
    own = cosines.diagonal(dim1=-2, dim2=-1)
    margin = cosines + TIE
    # A source's own target has these competitors in its row, and a target's own source has these in its column.
    in_row, in_column = ~(own.unsqueeze(-1) > margin), ~(own.unsqueeze(-2) > margin)
    for competitors in (in_row, in_column):
        competitors.diagonal(dim1=-2, dim2=-1).fill_(False)
    if kind == "nasca_rank":
        return _rank_scores_without(in_row, in_column)
    firsts = []
    if kind != "target->source":
        firsts.append(_first_without(in_row))
    if kind != "source->target":
        firsts.append(_first_without(in_column.mT))
    first = firsts[0] if len(firsts) == 1 else firsts[0] & firsts[1]
    first.diagonal(dim1=-2, dim2=-1).fill_(False)  # a pair that is left out contributes nothing
    return first.sum(dim=-2).double() / (n - 1)


def _first_without(competitors: Tensor) -> Tensor:
    """Return where the pair of the row has rank 1 when the sentence of the column is left out."""
    count = competitors.sum(dim=-1, keepdim=True)
    return (competitors & (count == 1)) | (count == 0)


def _rank_scores_without(in_row: Tensor, in_column: Tensor) -> Tensor:
    """Return the mean rank score when a pair is left out. Each pair above whose own one it stood gains a rank."""
    n = in_row.shape[-1]
    logs = _logs(n)
    counts = in_row.sum(dim=-1), in_column.sum(dim=-2)
    of_pair = logs[counts[0]] + logs[counts[1]]
    gains = [logs[count] - logs[(count - 1).clamp(min=0)] for count in counts]
    gained = (gains[0].unsqueeze(-2) @ in_row.double()).squeeze(-2)
    gained += (in_column.double() @ gains[1].unsqueeze(-1)).squeeze(-1)
    left = of_pair.sum(dim=-1, keepdim=True) - of_pair - gained
    return _rank_score(left / (n - 1), n - 1)


def _gaps_without(cosines: Tensor) -> Tensor:
    """Return the mean gap (SADS) when a pair is left out."""
    n = cosines.shape[-1]
    own = cosines.diagonal(dim1=-2, dim2=-1)
    others = cosines.sum(dim=-1) + cosines.sum(dim=-2) - 2 * own  # of each pair, with all other pairs
    own, left = (values.sum(dim=-1, keepdim=True) - values for values in (own, others))
    return (own - (left - others) / (2 * (n - 2))) / (n - 1)


def _logs(n: int) -> Tensor:
    """Return the logarithms of the ranks 1 to n."""
    return torch.arange(1, n + 1, dtype=torch.float64).log()


def _rank_score(logs: Tensor, n: int) -> Tensor:
    """Return the rank score, given the sum of the two ranks' logarithms: 1 for rank 1 both ways, 0 for rank n."""
    return 1 - logs / (2 * log(n))


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
    targets = orders.T.contiguous()
    if table.count_nonzero() <= layers * n:  # as in Eq. 4: at most one target of each source
        return torch.stack([_of_few_cells(layer, targets) for layer in table], dim=1) / n
    if layers < TOGETHER:
        return torch.stack([_of_all_cells(layer, targets) for layer in table], dim=1) / n
    return _of_all_cells(table.permute(1, 2, 0).contiguous(), targets) / n


def _of_few_cells(table: Tensor, targets: Tensor) -> Tensor:
    """Return one layer's sum for each order, from the cells that are not 0."""
    rows, columns = table.nonzero(as_tuple=True)
    there = targets[rows] == columns.unsqueeze(1)
    return table[rows, columns] @ there.double()


def _of_all_cells(cells: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of cells[i, targets[i]] over the sources i.

    Args:
        cells: (sentences, sentences, ...), one layer or the values of several layers side by side.
        targets: (sentences, orders).

    Returns:
        a tensor (orders, ...).
    """
    total = cells.new_zeros(targets.shape[1], *cells.shape[2:])
    drawn = torch.empty_like(total)
    for row, chosen in zip(cells, targets, strict=True):
        total += torch.index_select(row, 0, chosen, out=drawn)
    return total
