"""How much of a score the surface of the text explains: names, numbers and words that are spelled alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

from neuronxa_callback.text.pairs import ParallelPairs
from neuronxa_callback.text.surface import ngram_cosines, shared_forms

FEWEST_CARRIERS = 10
TEXTS = 256  # language pairs whose surface is kept; it is the same at every evaluation


@dataclass(frozen=True)
class SurfaceControl:
    """What the surface of the text has to do with a score.

    Attributes:
        n: number of pairs.
        n_without_shared: number of pairs whose two sides share no word form; see `text.surface.shared_forms`.
        without_shared: the score of these pairs alone, the mean of their parts. They compete with all other sentences,
            as in the score. None if every pair shares a form.
        carriers: number of pairs that carry the score: those whose part is above 0.
        carriers_sharing: number of carriers whose two sides share a word form.
        ngram_baseline: what the text scores by Eq. 4 with no model; see `ngram_alignment`.
    """

    n: int
    n_without_shared: int
    without_shared: float | None
    carriers: int
    carriers_sharing: int
    ngram_baseline: float


def surface_control(pairs: ParallelPairs, per_pair: Sequence[float]) -> SurfaceControl:
    """Return what the surface of the text has to do with a score.

    Args:
        pairs: the pairs that were scored.
        per_pair: each pair's part of the score, as in `AlignmentReport.per_pair`. The number of carriers is of use for
            NASCA, NAVCA and MEXA, where a part of 0 means that the pair is aligned at no layer.

    Raises:
        ValueError: there are not as many parts as pairs.
    """
    shares, baseline = _surface(pairs)
    if len(per_pair) != len(shares):
        raise ValueError(f"{len(per_pair)} parts of a score do not belong to {len(shares)} pairs; give one a pair.")
    parts = list(map(float, per_pair))
    others = [part for part, sharing in zip(parts, shares, strict=True) if not sharing]
    carriers = [sharing for part, sharing in zip(parts, shares, strict=True) if part > 0]
    return SurfaceControl(
        n=len(parts),
        n_without_shared=len(others),
        without_shared=fmean(others) if others else None,
        carriers=len(carriers),
        carriers_sharing=sum(carriers),
        ngram_baseline=baseline,
    )


@lru_cache(maxsize=TEXTS)
def _surface(pairs: ParallelPairs) -> tuple[tuple[bool, ...], float]:
    """Return which pairs share a word form, and the baseline. Both depend on the text alone."""
    return tuple(map(bool, shared_forms(pairs))), ngram_alignment(pairs)


def ngram_alignment(pairs: ParallelPairs) -> float:
    """Return the share of weakly aligned pairs (Eq. 4) by the cosines of character 4-gram counts, with no model."""
    import torch  # reading what was measured needs none

    from neuronxa_callback.alignment.cosines import contributions

    aligned = contributions(torch.from_numpy(ngram_cosines(pairs)).unsqueeze(0), "both")
    return aligned[0].diagonal().mean().item()


def few_carriers(name: str, n: int, carriers: int, sharing: int) -> str | None:
    """Return a warning if fewer than 10 pairs carry a score by Eq. 4 (NASCA, NAVCA or MEXA).

    Args:
        name: the name of the language pair.
        n: its number of pairs.
        carriers: how many of them carry the score.
        sharing: how many of the carriers share a word form.
    """
    if carriers >= FEWEST_CARRIERS:
        return None
    if not carriers:
        return f"none of the {n} pairs of {name} is aligned at any layer that the score reads."
    return (
        f"the score of {name} comes from {carriers} of {n} pairs alone, {sharing} of "
        "which share a word form, such as a name or a number; so few pairs say little about the language."
    )
