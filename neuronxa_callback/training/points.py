"""The evaluations of a run as points, alignment beside translation quality, and their correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from neuronxa_callback.correlation import OverRun, over_run
from neuronxa_callback.training.records import Evaluation
from neuronxa_callback.vocabulary import Method


class Point(NamedTuple):
    """An evaluation that has an alignment score and a quality metric's score.

    Attributes:
        step: the Trainer's global step.
        alignment: the alignment score, the mean over the language pairs whose sentences are translated.
        quality: the quality metric's mean over the directions.
        copied: chrF of the translations against their sources, the mean over the directions. None if it is not known.
    """

    step: int
    alignment: float
    quality: float
    copied: float | None


# Alignment score -> quality metric -> the evaluations that have both, in step order; their correlation.
Points: TypeAlias = Mapping[Method, Mapping[str, Sequence[Point]]]
Correlations: TypeAlias = Mapping[Method, Mapping[str, OverRun | None]]


def points_of(evaluations: Sequence[Evaluation], method: Method) -> dict[str, list[Point]]:
    """Return the points of each quality metric and an alignment score."""
    found: dict[str, list[Point]] = {}
    for evaluation in evaluations:
        alignment = evaluation.alignment_of_translated(method)
        if alignment is None:
            continue
        for metric, quality in evaluation.quality_score.items():
            point = Point(evaluation.step, alignment, quality, evaluation.copied)
            found.setdefault(metric, []).append(point)
    return found


def correlations_of(points: Mapping[str, Sequence[Point]]) -> dict[str, OverRun | None]:
    """Return each quality metric's correlation with alignment over the points, None if there is none.

    Copying is held fixed if it is known at every point, so that both correlations are over the same points.
    """
    return {metric: _correlation(drawn) for metric, drawn in points.items()}


def copying_is_known(points: Sequence[Point]) -> bool:
    """Return whether it was measured at every point how much of the source the translations copy."""
    return all(point.copied is not None for point in points)


def _correlation(points: Sequence[Point]) -> OverRun | None:
    copied = [point.copied for point in points if point.copied is not None]
    held_fixed = copied if copying_is_known(points) else None
    return over_run([point.alignment for point in points], [point.quality for point in points], held_fixed)
