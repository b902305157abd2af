"""The share of a run's time that its evaluations take, and advice if that is too much."""

from __future__ import annotations

import math


class Overhead:
    """The evaluations' share of a run's time, counted from the end of the first evaluation.

    The first evaluation comes before any training and would count for too much.

    Args:
        limit: the largest share that is acceptable.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._first: tuple[int, float] | None = None  # the first evaluation's step and end
        self._spent = 0.0
        self._evaluations = 0
        self._has_warned = False

    def add(self, step: int, start: float, end: float) -> str | None:
        """Count an evaluation.

        Args:
            step: the Trainer's global step.
            start: the time at which it began, in seconds.
            end: the time at which it ended, in seconds.

        Returns:
            a text with the evaluations' share and the remedy, the first time that the share is too large. Otherwise
            None.
        """
        if self._first is None:
            self._first = step, end
            return None
        self._spent += end - start
        self._evaluations += 1
        first_step, first_end = self._first
        elapsed = end - first_end
        # A compilation or a slow minute may take most of a single interval.
        if self._has_warned or self._evaluations < 2 or self._spent <= self.limit * elapsed:
            return None
        self._has_warned = True
        interval = (step - first_step) / self._evaluations
        training = max(elapsed - self._spent, 1e-9)
        enough = math.ceil(interval * self._spent * (1 - self.limit) / (self.limit * training))
        return (
            f"evaluations take {self._spent / elapsed:.0%} of the run ({self._spent:.1f} of {elapsed:.1f} s since step "
            f"{first_step}), more than max_overhead={self.limit:g}. Evaluate every {enough} steps instead of every "
            f"{interval:.0f}, or with fewer pairs."
        )
