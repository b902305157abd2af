"""Scores over steps: `OUTPUT_DIR/neuronxa/scores.jsonl`, one self-contained line per evaluation."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from neuronxa_callback.comet_process import QualityScore
from neuronxa_callback.evaluator import AlignmentReport
from neuronxa_callback.quality import DirectionScores, QualityReport
from neuronxa_callback.statistics import Correlation, pearson

logger = logging.getLogger(__name__)

NOT_YET = "not scored yet"  # where a metric's score will be, if the run lives to see it


class History:
    """The evaluations of a run, on disk as they come.

    Args:
        output_dir: the Trainer's `output_dir`.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.path = Path(output_dir) / "neuronxa" / "scores.jsonl"

    def begin(self) -> None:
        """Start a new run: an earlier run's file is kept under another name, so that two runs never mix."""
        if not self.path.exists():
            return
        names = (self.path.with_name(f"scores.{number}.jsonl") for number in count(1))
        self.path.rename(next(name for name in names if not name.exists()))

    def append(self, record: dict[str, Any]) -> None:
        """Write one evaluation and see it onto the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n"
        with self.path.open("ab+") as file:
            if not _ends_with_newline(file):  # a crash cut the last line short: keep it from swallowing this one
                line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def update(self, step: int, changes: Mapping[str, Any]) -> None:
        """Add to an evaluation what came later than its line was written.

        The whole file is replaced at once, so that a crash leaves it as it was before or as it is after.

        Args:
            step: of the evaluation, whose line is there.
            changes: what its line gets, or gets anew.

        Raises:
            KeyError: there is no line of this step.
        """
        lines = self.path.read_bytes().split(b"\n")
        number = max((number for number, line in enumerate(lines) if _step_of(line) == step), default=None)
        if number is None:
            raise KeyError(f"{self.path} has no line of step {step}.")
        record = json.loads(lines[number]) | changes
        lines[number] = json.dumps(record, ensure_ascii=False).encode("utf-8")
        written = self.path.with_name(f"{self.path.name}.new")
        with written.open("wb") as file:
            file.write(b"\n".join(lines))
            file.flush()
            os.fsync(file.fileno())
        written.replace(self.path)

    def add_quality(self, step: int, report: QualityReport) -> dict[str, Correlation]:
        """Add what is known by now of an evaluation's translations, and the correlations up to its step.

        Returns:
            these correlations; see `correlations`.

        Raises:
            KeyError: there is no line of this step.
        """
        changes = quality_of(report)
        records = [record for record in self.read() if record["step"] <= step]
        found = correlations([record | changes if record["step"] == step else record for record in records])
        self.update(step, changes | {"pearson": {name: asdict(correlation) for name, correlation in found.items()}})
        return found

    def read(self) -> list[dict[str, Any]]:
        """All evaluations in step order; of two at one step (a resumed run repeats some) the later written.

        A line that a crash cut short is left out with a warning.
        """
        if not self.path.exists():
            return []
        by_step: dict[int, dict[str, Any]] = {}
        for number, line in enumerate(self.path.read_bytes().split(b"\n"), start=1):
            try:
                record = json.loads(line) if line else None
            except ValueError:
                logger.warning("NeuronXA: %s, line %d, is cut short and left out.", self.path, number)
                continue
            if record is not None:
                by_step[record["step"]] = record
        return [by_step[step] for step in sorted(by_step)]


def _step_of(line: bytes) -> int | None:
    """The step of a line, None for one that is empty or cut short."""
    try:
        return json.loads(line)["step"]  # type: ignore[no-any-return]
    except ValueError:
        return None


def _ends_with_newline(file: BinaryIO) -> bool:
    """Whether the file is empty or its last line is complete; leaves the position at the end."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def record_of(report: AlignmentReport, step: int, epoch: float | None, runtime: float) -> dict[str, Any]:
    """One evaluation as a line of scores.jsonl.

    Args:
        report: the evaluation.
        step: the Trainer's global step.
        epoch: the Trainer's epoch.
        runtime: seconds that the evaluation took.
    """
    return {
        "step": step,
        "epoch": epoch,
        "runtime": runtime,
        "score": report.score,
        "languages": {name: _numbers(language) for name, language in report.by_language.items()},
    }


def _numbers(report: AlignmentReport) -> dict[str, Any]:
    return {
        "signature": report.signature,
        "score": report.score,
        "ci": report.ci,
        "p_value": report.p_value,
        "per_layer": {method: _rounded(shares.tolist()) for method, shares in report.per_layer.items()},
        "per_pair": {method: _rounded(shares.tolist()) for method, shares in report.per_pair.items()},
    }


def quality_of(report: QualityReport) -> dict[str, Any]:
    """What is known by now of an evaluation's translations, for its line of scores.jsonl.

    Returns:
        "quality_score", the finished metrics' means over directions, and "quality", each direction's translations
        and scores; a metric that gives none has the reason under "missing".
    """
    means = {metric: report.mean(metric) for metric in report.metrics if report.done(metric)}
    return {
        "quality_score": {metric: mean for metric, mean in means.items() if mean is not None},
        "quality": {name: _direction(direction) for name, direction in report.by_direction.items()},
    }


def _direction(direction: DirectionScores) -> dict[str, Any]:
    made, finished = direction.translations, direction.finished()
    return {
        "signature": direction.signature,
        "empty": made.empty,
        "truncated": made.truncated,
        "translations": list(made.texts),
        "metrics": {metric: _judgement(finished.get(metric)) for metric in direction.scores},
    }


def _judgement(outcome: Any) -> dict[str, Any]:
    if isinstance(outcome, QualityScore):
        segments = None if outcome.segments is None else _rounded(outcome.segments)
        return {"score": outcome.system, "segments": segments, "signature": outcome.signature}
    return {"missing": NOT_YET if outcome is None else str(outcome)}


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


def _rounded(shares: Sequence[float]) -> list[float]:
    """Seven digits hold shares of a few thousand and float32 scores exactly enough, and keep the file small."""
    return [round(share, 7) for share in shares]
