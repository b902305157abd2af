"""Where a curve goes: the rise of its last evaluations, and how far its values jitter about such a rise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


class Trend(NamedTuple):
    """The direction of a curve.

    Attributes:
        rise: how far the line of least squares through the last evaluations rises from the first to the last of them.
        jitter: the standard deviation of the values about such lines. All evaluations so far count: a line is fitted
            through each run of as many neighbouring evaluations, and the squared residuals are averaged over the lines.
    """

    rise: float
    jitter: float


def trend(values: Sequence[float], intervals: int) -> Trend | None:
    """Return the trend of a curve over its last intervals between evaluations.

    Evaluations count, and not steps, so they should be evenly spaced. Each checkpoint has luck of its own, which moves
    all held-out pairs alike. So a test over the pairs cannot see it, and the residuals between evaluations can. They
    are correlated from one evaluation to the next, so no p-value of the rise is given. docs/explanation/stopping.md has
    how often the rule is wrong.

    Args:
        values: the curve, one value for each evaluation.
        intervals: the number of intervals, 2 or more. Fewer are taken where the curve is shorter.

    Returns:
        the trend, or None for fewer than three values.
    """
    if len(values) < 3:
        return None
    span = min(intervals + 1, len(values))
    windows = sliding_window_view(np.asarray(values, dtype=float), span)
    windows = windows - windows.mean(axis=1, keepdims=True)
    time = np.arange(span) - (span - 1) / 2
    slopes = windows @ time / (time @ time)
    residuals = windows - np.outer(slopes, time)
    jitter = np.sqrt(np.square(residuals).sum() / (len(windows) * (span - 2)))
    return Trend(rise=float(slopes[-1] * (span - 1)), jitter=float(jitter))


def jitter_of_changes(values: Sequence[float]) -> float:
    """Return how far a curve's values jitter, by the median of its changes from one evaluation to the next.

    A sudden fall is one change among many, so it does not hide itself, as it does from the residuals of a line. Values
    that jitter independently give their standard deviation (the median absolute value of a normal variable is 0.6745
    of its standard deviation, and a change has two such values). Jitter is correlated from one evaluation to the next,
    which makes this too small.

    Args:
        values: the curve, two values or more.
    """
    return float(np.median(np.abs(np.diff(values))) / (0.6745 * np.sqrt(2)))
