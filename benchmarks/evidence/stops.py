"""Early stopping for what it is for: how many steps a rule saves, and how much translation it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuronxa_callback.significance import ROUNDING
from neuronxa_callback.training.trend import trend

Values = NDArray[np.float64]


class Outcome(NamedTuple):
    """What a rule gives.

    Attributes:
        stop: the step at which the run stops; its last step if the rule never stops it.
        saved: the share of the run's steps that are not made.
        chosen: the step of the checkpoint that is kept: the one with the highest value of the metric until then.
        quality: the quality of that checkpoint.
        lost: how far that is below the best checkpoint of the whole run.
    """

    stop: int
    saved: float
    chosen: int
    quality: float
    lost: float


def outcome(metric: Values, quality: Values, steps: Sequence[int], patience: int | None) -> Outcome:
    """Return what stopping and choosing by a metric gives.

    Step 0 is no checkpoint, so it is never chosen.

    Args:
        metric: the metric, the higher the better, at each evaluation.
        quality: the quality metric, likewise.
        steps: the step of each evaluation.
        patience: the patience of `StoppingRule`; None never stops.
    """
    last = _stop(metric, patience)
    chosen = 1 + int(np.argmax(metric[1 : last + 1]))
    return Outcome(
        stop=steps[last],
        saved=1 - steps[last] / steps[-1],
        chosen=steps[chosen],
        quality=float(quality[chosen]),
        lost=float(quality.max() - quality[chosen]),
    )


def _stop(metric: Values, patience: int | None) -> int:
    """Return the place of the evaluation at which the rule stops the run, the last one if it never does."""
    if patience is not None:
        for now in range(patience, len(metric)):
            found = trend(metric[: now + 1].tolist(), patience)
            if found is not None and found.rise <= ROUNDING:
                return now
    return len(metric) - 1
