"""The scores that were tried beside NASCA: what each pair contributes to them, given the cosines of a layer.

Only the rank score is a method of the package (docs/explanation/method.md). `python -m benchmarks.rises` compares all
four.
"""

from __future__ import annotations

from torch import Tensor

from neuronxa_callback.alignment.cosines import contributions, ranks

NEIGHBOURS = 10  # as in Conneau et al. (2018)


def candidates(cosines: Tensor, neighbours: int = NEIGHBOURS) -> dict[str, Tensor]:
    """Return each pair's part of each score: score -> float64 tensor (layers, pairs).

    Args:
        cosines: (layers, sentences, sentences), sources in rows.
        neighbours: how many nearest neighbours CSLS takes.
    """
    return {
        "nasca": contributions(cosines, "nasca").diagonal(dim1=1, dim2=2),
        "nasca_rank": contributions(cosines, "nasca_rank").diagonal(dim1=1, dim2=2),
        "reciprocal_rank": reciprocal_ranks(cosines),
        "csls": csls_margins(cosines, neighbours),
    }


def reciprocal_ranks(cosines: Tensor) -> Tensor:
    """Return the mean of 1 / rank of the own translation, both ways."""
    in_row, in_column = (ranks(side).diagonal(dim1=1, dim2=2).double() for side in (cosines, cosines.mT))
    return (1 / in_row + 1 / in_column) / 2


def csls_margins(cosines: Tensor, neighbours: int) -> Tensor:
    """Return CSLS of each pair minus the greatest CSLS of its sentences with another, mean of both ways.

    CSLS(i, j) = 2 cos(i, j) - (mean cosine of i's nearest neighbours) - (of j's nearest neighbours) (Conneau et al.
    2018, "Word Translation Without Parallel Data", section 2.3, with ten neighbours).
    """
    near_row, near_column = (side.topk(neighbours, dim=-1).values.mean(dim=-1) for side in (cosines, cosines.mT))
    csls = 2 * cosines - near_row.unsqueeze(2) - near_column.unsqueeze(1)
    own = csls.diagonal(dim1=1, dim2=2)
    others = csls.clone()
    others.diagonal(dim1=1, dim2=2).fill_(float("-inf"))
    return own - (others.amax(dim=2) + others.amax(dim=1)) / 2
