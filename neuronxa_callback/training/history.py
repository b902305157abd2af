"""Scores over steps: `OUTPUT_DIR/neuronxa/scores.jsonl`, one self-contained line for each evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from operator import is_
from pathlib import Path
from typing import TYPE_CHECKING

from neuronxa_callback.correlation import OverRun
from neuronxa_callback.files import append_line, line_of, read_records, replace_lines
from neuronxa_callback.training.points import correlations_of, points_of
from neuronxa_callback.training.records import Evaluation, methods_of
from neuronxa_callback.training.sentences import correlations_over_sentences

if TYPE_CHECKING:  # pages and reports read a history without importing torch
    from neuronxa_callback.quality.evaluator import QualityReport


class History:
    """The evaluations of a run, in memory and on the disk.

    The memory is the truth, so the stopping rule works even if the disk is full. The next `save` makes up for a write
    that failed.

    Args:
        output_dir: the Trainer's `output_dir`.
        on_disk: whether to write the evaluations, and to go on from those that the file has.
    """

    def __init__(self, output_dir: str | Path, on_disk: bool = True) -> None:
        self.path = Path(output_dir) / "neuronxa" / "scores.jsonl"
        self._on_disk = on_disk
        self._by_step: dict[int, Evaluation] | None = None  # the file is read when somebody asks for the first time
        self._written: list[Evaluation] = []  # the file's lines, as far as this object knows them
        self._lines: dict[int, tuple[Evaluation, bytes]] = {}  # each line as it is written, made once

    @property
    def evaluations(self) -> list[Evaluation]:
        """All evaluations in step order, with those that could not be written."""
        return [evaluation for _, evaluation in sorted(self._known().items())]

    def read(self) -> list[Evaluation]:
        """Return all evaluations on the disk in step order. If two have the same step, the later line counts.

        Raises:
            RecordError: a line cannot be read.
        """
        by_step = {evaluation.step: evaluation for evaluation in read_records(self.path, Evaluation)}
        return [by_step[step] for step in sorted(by_step)]

    def _known(self) -> dict[int, Evaluation]:
        if self._by_step is None:
            self._written = list(read_records(self.path, Evaluation)) if self._on_disk else []
            self._by_step = {evaluation.step: evaluation for evaluation in self._written}
        return self._by_step

    def begin(self) -> Path | None:
        """Start a new run. The file of an earlier run gets another name, so that two runs never mix.

        Returns:
            the earlier file's new name, None if there was no file.
        """
        self._by_step, self._written = {}, []
        if not self.path.exists():
            return None
        names = (self.path.with_name(f"scores.{number}.jsonl") for number in count(1))
        return self.path.rename(next(name for name in names if not name.exists()))

    def put(self, evaluation: Evaluation) -> None:
        """Add an evaluation, or replace the one of the same step, and save.

        Raises:
            OSError: see `save`.
        """
        self._known()[evaluation.step] = evaluation
        self.save()

    def at(self, step: int) -> Evaluation:
        """Return the evaluation of a step.

        Raises:
            KeyError: there is none.
        """
        known = self._known()
        if step not in known:
            raise KeyError(f"{self.path} has no line of step {step}.")
        return known[step]

    def until(self, step: int) -> list[Evaluation]:
        """Return the evaluations up to a step, that step included."""
        return [evaluation for evaluation in self.evaluations if evaluation.step <= step]

    def rewind(self, step: int) -> None:
        """Go back to the checkpoint that a run is resumed from. The run makes the later evaluations anew.

        A line that was cut short is left out, too.

        Args:
            step: the checkpoint's step.
        """
        self._by_step = {evaluation.step: evaluation for evaluation in self.read() if evaluation.step <= step}
        if self.path.exists():
            replace_lines(self.path, map(self._line, self.evaluations))
        self._written = self.evaluations

    def save(self) -> None:
        """Write what is not on the disk yet. New lines are appended; if a line changed, all lines are replaced at once.

        Raises:
            OSError: the disk takes nothing. The evaluations stay in memory, and the next `save` writes them.
        """
        if not self._on_disk:
            return
        evaluations = self.evaluations
        if not self.path.exists():
            self._written = []
        there = len(self._written)
        if there <= len(evaluations) and all(map(is_, self._written, evaluations)):
            for evaluation in evaluations[there:]:
                append_line(self.path, self._line(evaluation))
                self._written.append(evaluation)
        else:
            replace_lines(self.path, map(self._line, evaluations))
            self._written = evaluations

    def _line(self, evaluation: Evaluation) -> bytes:
        made_from, line = self._lines.get(evaluation.step, (None, b""))
        if made_from is not evaluation:
            line = line_of(evaluation)
            self._lines[evaluation.step] = evaluation, line
        return line

    def add_quality(self, step: int, report: QualityReport) -> Evaluation:
        """Add what is known by now of an evaluation's translations, and its correlations with alignment.

        Returns:
            the evaluation with its translations, the correlations over the run up to its step, and those over its
            sentences.

        Raises:
            KeyError: there is no evaluation of this step.
            OSError: see `save`.
        """
        evaluation = self.at(step).with_quality(report)
        evaluation = evaluation.with_correlations(correlations([*self.until(step - 1), evaluation]))
        evaluation = evaluation.with_sentence_correlations(correlations_over_sentences(evaluation))
        self.put(evaluation)
        return evaluation


def correlations(evaluations: Sequence[Evaluation]) -> dict[str, OverRun]:
    """Return Pearson's r between each alignment score and each quality metric (appendix B, Fig. 4).

    Alignment is the mean over the language pairs whose sentences are translated.

    Args:
        evaluations: the lines of scores.jsonl in step order. An evaluation counts if it has both scores.

    Returns:
        "nasca_comet" and the like -> the correlation. It needs three evaluations at least and scores that vary.
    """
    found = {
        f"{method}_{metric}": correlation
        for method in methods_of(evaluations[-1:])
        for metric, correlation in sorted(correlations_of(points_of(evaluations, method)).items())
    }
    return {name: correlation for name, correlation in found.items() if correlation is not None}
