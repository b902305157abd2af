"""RankC: how alike a model ranks the candidates of the same facts in two languages (Qi, Fernandez and Bisazza 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neuronxa_callback.survey.knowledge.records import KnowledgeLine


def consistency(first: KnowledgeLine, second: KnowledgeLine) -> float:
    """Return RankC of two languages, in [0, 1]; see `rank_consistency`.

    A fact counts if both languages have it with as many candidates. In BMLAMA-53 all do.

    Raises:
        ValueError: no fact counts.
    """
    others = dict(zip(second.facts, second.rankings, strict=True))
    both = [
        (ranking, others[fact])
        for fact, ranking in zip(first.facts, first.rankings, strict=True)
        if len(others.get(fact, ())) == len(ranking)
    ]
    if not both:
        raise ValueError(f"{first.lang} and {second.lang} have no fact with as many candidates in common.")
    return rank_consistency(*zip(*both, strict=True))


def rank_consistency(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> float:
    """Return RankC (section 4 of its paper): the mean over facts of the weighted overlaps of the two best j candidates.

    The weights are softmax(N), softmax(N - 1), ..., softmax(1) for j = 1 to N candidates. A fact with one candidate
    counts 1, as it does in the authors' code.

    Args:
        first: of each fact the places of its candidates, the most likely first.
        second: the same facts in another language.
    """
    return float(np.mean([_of_fact(one, other) for one, other in zip(first, second, strict=True)]))


def _of_fact(first: Sequence[int], second: Sequence[int]) -> float:
    sizes = np.arange(1, len(first) + 1)
    weights = np.exp(1.0 - sizes)  # a constant changes no softmax, and e^N may be large
    # A candidate is among the best j of both from the worse of its two ranks on.
    worse = np.maximum(np.argsort(first), np.argsort(second))
    shared = np.cumsum(np.bincount(worse, minlength=len(first)))
    return float(weights @ (shared / sizes) / weights.sum())
