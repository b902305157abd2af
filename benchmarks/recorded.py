"""The recorded runs (benchmarks/record_runs.py): their curves, and how far those jitter about a smooth course."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RECORDED = Path(__file__).parent / "results" / "recorded"
ALL = "all"  # the mean over a run's language pairs
BANDWIDTH = 4  # evaluations: what lasts longer belongs to a curve's course, what is shorter is jitter
SETTLING = 5  # evaluations at the beginning, where curves rise too steeply to tell jitter from course
BEFORE, AFTER = 3, 5  # evaluations that are the beginning and the end of a run

Parts = NDArray[np.float64]  # (evaluations, pairs): each pair's part of a score


class Curve(NamedTuple):
    """A score over a recorded run.

    Attributes:
        run: the name of the run.
        language: the language that is aligned with English, or `ALL`.
        score: the name of the score.
        steps: the Trainer's step of each evaluation.
        parts: each pair's part of the score.
    """

    run: str
    language: str
    score: str
    steps: list[int]
    parts: Parts

    @property
    def values(self) -> NDArray[np.float64]:
        """The score at each evaluation."""
        return np.asarray(self.parts.mean(axis=1))

    def jitter(self, bandwidth: float = BANDWIDTH) -> Parts:
        """Return each pair's part less a smooth course of it, after the first evaluations."""
        return (self.parts - smoother(len(self.parts), bandwidth) @ self.parts)[SETTLING:]

    @property
    def rise(self) -> Parts:
        """How far each pair's part rises from the beginning to the end: (pairs,)."""
        return np.asarray(self.parts[-AFTER:].mean(axis=0) - self.parts[:BEFORE].mean(axis=0))


@cache
def curves(score: str) -> tuple[Curve, ...]:
    """Return the curves of a score: of every run that has it, each language pair and the mean over them."""
    found = []
    for path in sorted(RECORDED.glob("*.json")):
        evaluations = json.loads(path.read_text(encoding="utf-8"))["evaluations"]
        steps = [line["step"] for line in evaluations]
        names = [name for name, scores in evaluations[0]["per_pair"].items() if score in scores]
        by_language = {
            name.rpartition("-")[2]: np.array([line["per_pair"][name][score] for line in evaluations]) for name in names
        }
        if len(by_language) > 1:
            by_language[ALL] = np.mean(list(by_language.values()), axis=0)
        found += [Curve(path.stem, language, score, steps, parts) for language, parts in by_language.items()]
    return tuple(found)


@cache
def smoother(count: int, bandwidth: float = BANDWIDTH) -> NDArray[np.float64]:
    """Return the matrix that smooths a curve by local lines with a Gaussian kernel of so many evaluations."""
    time = np.arange(count, dtype=float)
    rows = []
    for now in time:
        design = np.column_stack([np.ones(count), time - now])
        weights = np.exp(-0.5 * ((time - now) / bandwidth) ** 2)
        rows.append(np.linalg.solve(design.T @ (weights[:, None] * design), design.T * weights)[0])
    return np.array(rows)
