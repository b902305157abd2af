"""Evaluations whose translations are being scored, in step order: what is finished of them, and what was passed on."""

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
        report: the scores that are there and those that will be.
        passed_on: metrics whose scores, or whose failure, were passed on already.
    """

    step: int
    epoch: float | None
    report: QualityReport
    passed_on: set[str] = field(default_factory=set)


class ScoreQueue:
    """Passes on the scores of evaluations once, those of slow metrics in the order of the steps.

    Curves and correlations over the run need an earlier step's first.

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
        """Add an evaluation, whose step is behind those of the others."""
        self._pending.append(pending)

    def take(self, pending: PendingScores) -> list[str]:
        """The finished metrics of an evaluation that were not passed on; from now on they count as passed on.

        An evaluation leaves the queue when all its metrics were taken.
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
        """Each evaluation that has scores to pass on, with their names."""
        for pending in self:
            if names := self.take(pending):
                yield pending, names

    def clear(self) -> None:
        """Give up what is not finished."""
        self._pending.clear()
