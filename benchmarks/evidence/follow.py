"""How closely a curve follows translation over a run, and whether it says more than that training goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuronxa_callback.correlation import over_run

Values = NDArray[np.float64]

LAGS = range(-3, 4)
SMOOTHED = 3  # evaluations that a curve is averaged over before its half-way step is read


@dataclass(frozen=True)
class Following:
    """How a predictor follows a quality metric over the evaluations of a run.

    A number is None where one of the two curves does not vary.

    Attributes:
        r: Pearson's r over all evaluations.
        r_trained: the same without step 0, where the model has not yet learned to translate at all.
        r_diff: r of the changes from one evaluation to the next.
        r_diff_trained: the same without the change from step 0 to the next evaluation, which is often the greatest.
        r_given_step: r with the step number held fixed: what the curve says beyond that training goes on.
        r_given_copied: r with copying held fixed.
        lag: the number of evaluations by which the predictor's changes come before those of the metric, where their r
            is greatest. Negative: they come after.
        r_lag: that r.
        lead: by how many steps the predictor is half-way through its rise before the metric is. Negative: after it.
            None where one of the two has not risen.
    """

    r: float | None
    r_trained: float | None
    r_diff: float | None
    r_diff_trained: float | None
    r_given_step: float | None
    r_given_copied: float | None
    lag: int
    r_lag: float | None
    lead: float | None


def following(predictor: Values, quality: Values, steps: Sequence[int], copied: Values) -> Following:
    """Return how a predictor follows a quality metric. All curves have a value for each evaluation."""
    whole, trained = over_run(predictor, quality), over_run(predictor[1:], quality[1:])
    by_lag = {lag: _r_at(lag, np.diff(predictor), np.diff(quality)) for lag in LAGS}
    half, of_quality = half_way(predictor, steps), half_way(quality, steps)
    lag = max(LAGS, key=lambda lag: (by_lag[lag] if by_lag[lag] is not None else -1.0, -abs(lag)))
    return Following(
        r=whole.r if whole else None,
        r_trained=trained.r if trained else None,
        r_diff=whole.r_diff if whole else None,
        r_diff_trained=trained.r_diff if trained else None,
        r_given_step=_given(predictor, quality, np.asarray(steps, dtype=float)),
        r_given_copied=_given(predictor, quality, copied),
        lag=lag,
        r_lag=by_lag[lag],
        lead=None if half is None or of_quality is None else of_quality - half,
    )


def _given(x: Values, y: Values, held_fixed: Values) -> float | None:
    found = over_run(x, y, held_fixed)
    return found.r_partial if found else None


def _r_at(lag: int, changes: Values, of_quality: Values) -> float | None:
    """Return r of changes and of those of the quality metric so many evaluations later."""
    count = len(changes) - abs(lag)
    first, second = max(0, -lag), max(0, lag)
    found = over_run(changes[first : first + count], of_quality[second : second + count])
    return found.r if found else None


def half_way(values: Values, steps: Sequence[int]) -> float | None:
    """Return the step at which a smoothed curve has first made half of its way from its start to its highest value.

    None where it ends no higher than it begins, because there is no rise to be half-way through.

    Args:
        values: the curve.
        steps: the step of each value.
    """
    course = smoothed(values)
    return _first_at((course[0] + course.max()) / 2, course, steps) if course[-1] > course[0] else None


def _first_at(level: float, course: Values, steps: Sequence[int]) -> float:
    """Return the step, between two evaluations, at which a course first reaches a level."""
    after = int(np.argmax(course >= level))
    if after == 0:
        return float(steps[0])
    share = (level - course[after - 1]) / (course[after] - course[after - 1])
    return float(steps[after - 1] + share * (steps[after] - steps[after - 1]))


class Turn(NamedTuple):
    """Where a smoothed curve turns.

    Attributes:
        step: the step of its highest value.
        left: the share of its rise that is left at the end of the run: 1 where it never falls again, below 0 where it
            ends below its start. None where it never rises above its start.
        half_lost: the step at which it has first made half of its way from its highest value to its lowest one after
            that. None where the run ends at its highest value.
    """

    step: int
    left: float | None
    half_lost: float | None


def turn(values: Values, steps: Sequence[int]) -> Turn:
    """Return where a curve turns, once it is averaged over the last three evaluations.

    Args:
        values: the curve.
        steps: the step of each value.
    """
    course = smoothed(values)
    top = int(np.argmax(course))
    rise, down = course[top] - course[0], course[top:]
    return Turn(
        step=steps[top],
        left=float((course[-1] - course[0]) / rise) if top else None,
        half_lost=_first_at(-(down[0] + down.min()) / 2, -down, steps[top:]) if len(down) > 1 else None,
    )


def smoothed(values: Values, count: int = SMOOTHED) -> Values:
    """Return the mean of the last values at each evaluation; the first ones have fewer."""
    return np.array([values[max(0, now - count + 1) : now + 1].mean() for now in range(len(values))])
