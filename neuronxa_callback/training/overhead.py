"""How much of a run its evaluations take, and what to do where that is too much."""

from __future__ import annotations

import math


class Overhead:
    """The evaluations' share of a run's time, from the end of its first evaluation on.

    The first stands before any training and would count for too much.

    Args:
        limit: the share that is not too much.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._first: tuple[int, float] | None = None  # the first evaluation's step and end
        self._spent = 0.0
        self._evaluations = 0
        self._told = False

    def add(self, step: int, start: float, end: float) -> str | None:
        """Count an evaluation.

        Args:
            step: the Trainer's global step.
            start: when it began, in seconds.
            end: when it ended.

        Returns:
            once, where the evaluations take too much: how much, and what to do.
        """
        if self._first is None:
            self._first = step, end
            return None
        self._spent += end - start
        self._evaluations += 1
        first_step, first_end = self._first
        elapsed = end - first_end
        # Of a single interval, a compilation or a slow minute may be the most.
        if self._told or self._evaluations < 2 or self._spent <= self.limit * elapsed:
            return None
        self._told = True
        interval = (step - first_step) / self._evaluations
        training = max(elapsed - self._spent, 1e-9)
        enough = math.ceil(interval * self._spent * (1 - self.limit) / (self.limit * training))
        return (
            f"evaluations take {self._spent / elapsed:.0%} of the run ({self._spent:.1f} of {elapsed:.1f} s since step "
            f"{first_step}), more than max_overhead={self.limit:g}. Evaluate every {enough} steps instead of every "
            f"{interval:.0f}, or with fewer pairs."
        )
