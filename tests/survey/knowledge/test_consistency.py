"""RankC against a second implementation that follows its definition with sets."""

from __future__ import annotations

from math import exp, log, nan
from typing import Any

import numpy as np
import pytest

from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.knowledge.consistency import consistency, rank_consistency
from neuronxa_callback.survey.knowledge.records import KnowledgeLine

pytestmark = pytest.mark.unit


def slowly(first: list[list[int]], second: list[list[int]]) -> float:
    """Section 4 of Qi, Fernandez and Bisazza (2023), word for word."""
    total = 0.0
    for one, other in zip(first, second, strict=True):
        n = len(one)
        weights = [exp(n - j + 1) / sum(exp(k) for k in range(1, n + 1)) for j in range(1, n + 1)]
        for j in range(1, n + 1):
            total += weights[j - 1] * len(set(one[:j]) & set(other[:j])) / j
    return total / len(first)


def line(lang: str, facts: list[int], rankings: list[list[int]], answers: Any = None) -> KnowledgeLine:
    return KnowledgeLine(
        model="one",
        lang=lang,
        signature=Signature.of(n=len(facts)),
        key=Signature.of(lang=lang),
        data="BMLAMA53",
        accuracy=nan,
        ci=(0.0, 1.0),
        chance=nan,
        facts=facts,
        rankings=rankings,
        answers=answers or [[0] for _ in facts],
    )


def test_rankings_at_random() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = rng.integers(1, 13, size=8)
        first, second = ([rng.permutation(size).tolist() for size in sizes] for _ in range(2))
        assert rank_consistency(first, second) == pytest.approx(slowly(first, second), abs=1e-12)
        assert rank_consistency(first, first) == pytest.approx(1.0)


def test_two_candidates_by_hand() -> None:
    """Of two candidates in opposite orders the first ranks share nothing, and the first two everything."""
    assert rank_consistency([[0, 1]], [[1, 0]]) == pytest.approx(exp(1) / (exp(1) + exp(2)))
    assert rank_consistency([[0]], [[0]]) == 1.0


def test_many_candidates_do_not_overflow() -> None:
    order = list(range(2000))
    assert rank_consistency([order], [order]) == pytest.approx(1.0)
    assert rank_consistency([order], [order[::-1]]) < 1e-9 * log(2000) + 0.01


def test_facts_are_joined_by_their_numbers() -> None:
    first = line("isl_Latn", [1, 2, 3, 4], [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 1]])
    second = line("eng_Latn", [2, 3, 4, 5], [[2, 0, 1], [1, 0, 2], [0, 1, 2], [0, 1]])
    assert consistency(first, second) == pytest.approx(slowly([[2, 1, 0], [1, 0, 2]], [[2, 0, 1], [1, 0, 2]]))
    with pytest.raises(ValueError, match="isl_Latn and fra_Latn have no fact"):
        consistency(first, line("fra_Latn", [7], [[0]]))


def test_what_is_known_of_each_fact() -> None:
    known = line("isl_Latn", [1, 2, 3], [[2, 0, 1], [1, 0], [0, 2, 1]], [[2, 1], [None], [0]]).known
    assert known == [0.5, 0.0, 1.0]
