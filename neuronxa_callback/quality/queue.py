"""The evaluations whose translations are being scored, in step order, and which of their scores were passed on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from neuronxa_callback.quality.evaluator import QualityReport


@dataclass
class PendingScores:
    """An evaluation whose translations are being scored.

    Attributes:
        step: the Trainer's global step.
        epoch: the Trainer's epoch.
        report: the scores, finished or not.
        passed_on: the metrics whose scores or failure were already passed on.
    """

    step: int
    epoch: float | None
    report: QualityReport
    passed_on: set[str] = field(default_factory=set)


class ScoreQueue:
    """Passes each score on once, and the scores of slow metrics in step order.

    Curves and correlations over the run need the scores of earlier steps first.

    Args:
        slow: the metrics that are scored in the background.
    """

    def __init__(self, slow: Collection[str] = ()) -> None:
        self.slow = frozenset(slow)
        self._pending: list[PendingScores] = []

    def __iter__(self) -> Iterator[PendingScores]:
        return iter(list(self._pending))

    def __len__(self) -> int:
        return len(self._pending)

    def put(self, pending: PendingScores) -> None:
        """Add an evaluation. Its step must come after the steps in the queue."""
        self._pending.append(pending)

    def take(self, pending: PendingScores) -> list[str]:
        """Return an evaluation's finished metrics that were not passed on yet, and mark them as passed on.

        A slow metric is returned only for the first evaluation in the queue. An evaluation leaves the queue when all
        its metrics have been taken.
        """
        is_next = pending is self._pending[0]
        report = pending.report
        names = [
            name
            for name in report.metrics
            if name not in pending.passed_on and report.done(name) and (is_next or name not in self.slow)
        ]
        pending.passed_on.update(names)
        if len(pending.passed_on) == len(report.metrics):
            self._pending.remove(pending)
        return names

    def finished(self) -> Iterator[tuple[PendingScores, list[str]]]:
        """Yield each evaluation that has scores to pass on, with the names of their metrics."""
        for pending in self:
            if names := self.take(pending):
                yield pending, names

    def clear(self) -> None:
        """Drop the evaluations that are not finished."""
        self._pending.clear()
