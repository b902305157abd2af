"""Scores over steps: `OUTPUT_DIR/neuronxa/scores.jsonl`, one self-contained line per evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import count
from operator import is_
from pathlib import Path
from typing import Any

from neuronxa_callback.files import append_line, read_lines, replace_lines
from neuronxa_callback.quality.evaluator import QualityReport
from neuronxa_callback.significance import Correlation, pearson
from neuronxa_callback.training.records import quality_of
from neuronxa_callback.training.stopping import StoppingRule, Verdict, judge


class History:
    """The evaluations of a run, in memory and, as they come, on the disk.

    The memory is what counts: a run is judged by it also where the disk is full. A write that failed is made up for by
    the next `save`.

    Args:
        output_dir: the Trainer's `output_dir`.
        on_disk: write them, and go on from those that are there.
    """

    def __init__(self, output_dir: str | Path, on_disk: bool = True) -> None:
        self.path = Path(output_dir) / "neuronxa" / "scores.jsonl"
        self._on_disk = on_disk
        self._by_step: dict[int, dict[str, Any]] | None = None  # from the first time that they are asked for
        self._written: list[dict[str, Any]] = []  # the file's lines, as far as this object knows them

    @property
    def records(self) -> list[dict[str, Any]]:
        """All evaluations in step order, those that could not be written among them."""
        return [record for _, record in sorted(self._known().items())]

    def read(self) -> list[dict[str, Any]]:
        """All evaluations that are on the disk by now, in step order; of two at one step the later written."""
        by_step = {record["step"]: record for record in read_lines(self.path)}
        return [by_step[step] for step in sorted(by_step)]

    def _known(self) -> dict[int, dict[str, Any]]:
        if self._by_step is None:
            self._written = list(read_lines(self.path)) if self._on_disk else []
            self._by_step = {record["step"]: record for record in self._written}
        return self._by_step

    def begin(self) -> Path | None:
        """Start a new run: an earlier run's file is kept under another name, so that two runs never mix.

        Returns:
            that name; None where there was no file.
        """
        self._by_step, self._written = {}, []
        if not self.path.exists():
            return None
        names = (self.path.with_name(f"scores.{number}.jsonl") for number in count(1))
        return self.path.rename(next(name for name in names if not name.exists()))

    def append(self, record: dict[str, Any]) -> None:
        """Add one evaluation, in the place of an earlier one of its step, and see it onto the disk."""
        self._known()[record["step"]] = dict(record)
        self.save()

    def update(self, step: int, changes: Mapping[str, Any]) -> None:
        """Add to an evaluation what came later than its line was written, and see it onto the disk.

        Args:
            step: of the evaluation.
            changes: what its line gets, or gets anew.

        Raises:
            KeyError: there is no evaluation of this step.
        """
        known = self._known()
        if step not in known:
            raise KeyError(f"{self.path} has no line of step {step}.")
        known[step] = {**known[step], **changes}
        self.save()

    def rewind(self, step: int) -> None:
        """Go back to where a resumed run goes on: later steps, which it makes anew, and a line cut short are left out.

        Args:
            step: of the checkpoint that the run is resumed from.
        """
        self._by_step = {record["step"]: record for record in self.read() if record["step"] <= step}
        if self.path.exists():
            replace_lines(self.path, self.records)
        self._written = self.records

    def save(self) -> None:
        """See onto the disk what is not there: new lines behind the others, or all lines at once where one changed.

        Raises:
            OSError: the disk takes nothing. The evaluations stay, and the next `save` writes them, too.
        """
        if not self._on_disk:
            return
        records = self.records
        if not self.path.exists():
            self._written = []
        there = len(self._written)
        if there <= len(records) and all(map(is_, self._written, records)):
            for record in records[there:]:
                append_line(self.path, record)
                self._written.append(record)
        else:
            replace_lines(self.path, records)
            self._written = records

    def judge(self, rule: StoppingRule, step: int, values: Mapping[str, float]) -> Verdict | None:
        """Say what the evaluation of a step means for stopping, by it and those before it.

        Args:
            rule: what counts.
            step: of the evaluation.
            values: its metrics, with "eval_" in front.

        Returns:
            the verdict; None where the step has no alignment score, or no value of the rule's metric and no language
            that is forgotten.
        """
        records = [record for record in self.records if record["step"] <= step]
        if not records or records[-1]["step"] != step or not records[-1]["score"]:
            return None
        return judge(rule, records[-1], records[:-1], values)

    def add_quality(self, step: int, report: QualityReport) -> dict[str, Correlation]:
        """Add what is known by now of an evaluation's translations, and the correlations up to its step.

        Returns:
            these correlations; see `correlations`.

        Raises:
            KeyError: there is no line of this step.
        """
        changes = quality_of(report)
        records = [record for record in self.records if record["step"] <= step]
        found = correlations([record | changes if record["step"] == step else record for record in records])
        self.update(step, changes | {"pearson": {name: asdict(correlation) for name, correlation in found.items()}})
        return found


def correlations(records: Sequence[Mapping[str, Any]]) -> dict[str, Correlation]:
    """Pearson's r over the evaluations between each alignment score and each quality metric (appendix B, Fig. 4).

    Args:
        records: the lines of scores.jsonl. An evaluation counts where it has both.

    Returns:
        "nasca_comet" and the like -> the correlation; pairs that have none (three evaluations at least, that vary)
        are left out.
    """
    last = records[-1] if records else {}
    metrics = {metric for record in records for metric in record.get("quality_score", {})}
    found = {}
    for method in last.get("score", {}):
        for metric in sorted(metrics):
            both = [r for r in records if method in r["score"] and metric in r.get("quality_score", {})]
            x = [record["score"][method] for record in both]
            found[f"{method}_{metric}"] = pearson(x, [record["quality_score"][metric] for record in both])
    return {name: correlation for name, correlation in found.items() if correlation is not None}
