"""Scores over steps: `OUTPUT_DIR/neuronxa/scores.jsonl`, one self-contained line per evaluation."""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

from neuronxa_callback.alignment.evaluator import AlignmentReport
from neuronxa_callback.files import append_line, read_lines
from neuronxa_callback.quality.comet.process import QualityError, QualityScore
from neuronxa_callback.quality.evaluator import DirectionScores, PendingQuality, QualityEvaluator, QualityReport
from neuronxa_callback.quality.translation import Translations
from neuronxa_callback.signature import Signature
from neuronxa_callback.significance import Correlation, pearson
from neuronxa_callback.training.stopping import StoppingRule, Verdict, judge

logger = logging.getLogger(__name__)

NOT_YET = "not scored yet"  # where a metric's score will be, if the run lives to see it


class History:
    """The evaluations of a run, on disk as they come.

    They are kept in memory, too: a run is judged by them also where the disk is full.

    Args:
        output_dir: the Trainer's `output_dir`.
        on_disk: write them, and go on from those that are there.
    """

    def __init__(self, output_dir: str | Path, on_disk: bool = True) -> None:
        self.path = Path(output_dir) / "neuronxa" / "scores.jsonl"
        self._on_disk = on_disk
        self._known: dict[int, dict[str, Any]] | None = None  # step -> record, from the first time they are asked for
        self._unwritten: set[int] = set()

    @property
    def records(self) -> list[dict[str, Any]]:
        """All evaluations in step order, those that could not be written among them."""
        return [record for _, record in sorted(self._by_step().items())]

    def _by_step(self) -> dict[int, dict[str, Any]]:
        if self._known is None:
            self._known = {record["step"]: record for record in self.read()} if self._on_disk else {}
        return self._known

    def begin(self) -> Path | None:
        """Start a new run: an earlier run's file is kept under another name, so that two runs never mix.

        Returns:
            that name; None where there was no file.
        """
        self._known = {}
        if not self.path.exists():
            return None
        names = (self.path.with_name(f"scores.{number}.jsonl") for number in count(1))
        return self.path.rename(next(name for name in names if not name.exists()))

    def append(self, record: dict[str, Any]) -> None:
        """Write one evaluation and see it onto the disk."""
        step = record["step"]
        self._by_step()[step] = dict(record)
        if not self._on_disk:
            return
        self._unwritten.add(step)
        for waiting in sorted(self._unwritten):  # what a full disk had refused comes with the next
            append_line(self.path, self._by_step()[waiting])
            self._unwritten.discard(waiting)

    def update(self, step: int, changes: Mapping[str, Any]) -> None:
        """Add to an evaluation what came later than its line was written.

        Args:
            step: of the evaluation, whose line is there.
            changes: what its line gets, or gets anew.

        Raises:
            KeyError: there is no line of this step.
        """
        known = self._by_step()
        if step in known:
            known[step] = {**known[step], **changes}
        if not self._on_disk or step in self._unwritten:
            return
        if not self.path.exists():
            raise KeyError(f"{self.path} has no line of step {step}.")
        lines = self.path.read_bytes().split(b"\n")
        number = max((number for number, line in enumerate(lines) if _step_of(line) == step), default=None)
        if number is None:
            raise KeyError(f"{self.path} has no line of step {step}.")
        # The whole: an earlier change may not have reached the disk.
        record = json.loads(lines[number]) | known.get(step, {}) | changes
        lines[number] = json.dumps(record, ensure_ascii=False).encode("utf-8")
        self._replace(b"\n".join(lines))

    def rewind(self, step: int) -> None:
        """Go back to where a resumed run goes on: later steps, which it makes anew, and a line cut short are left out.

        Args:
            step: of the checkpoint that the run is resumed from.
        """
        self._known = None
        if not self.path.exists():
            return
        kept = [record for record in self.read() if record["step"] <= step]
        content = b"".join(json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n" for record in kept)
        if content != self.path.read_bytes():
            self._replace(content)

    def _replace(self, content: bytes) -> None:
        """Replace the file at once, so that a crash leaves it as it was before or as it is after."""
        written = self.path.with_name(f"{self.path.name}.new")
        with written.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        written.replace(self.path)

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

    def read(self) -> list[dict[str, Any]]:
        """All evaluations in step order; of two at one step (a resumed run repeats some) the later written.

        A line that a crash cut short is left out with a warning.
        """
        by_step = {record["step"]: record for record in read_lines(self.path)}
        return [by_step[step] for step in sorted(by_step)]


def _step_of(line: bytes) -> int | None:
    """The step of a line, None for one that is empty or cut short."""
    try:
        return json.loads(line)["step"]  # type: ignore[no-any-return]
    except (ValueError, TypeError):
        return None


def record_of(report: AlignmentReport, step: int, epoch: float | None, runtime: float) -> dict[str, Any]:
    """One evaluation as a line of scores.jsonl.

    Args:
        report: the evaluation.
        step: the Trainer's global step.
        epoch: the Trainer's epoch.
        runtime: seconds that the evaluation took.
    """
    record: dict[str, Any] = {
        "step": step,
        "epoch": epoch,
        "runtime": runtime,
        "score": report.score,
        "languages": {name: _numbers(language) for name, language in report.by_language.items()},
    }
    if len(report.by_language) > 1:
        record["per_pair"] = _per_pair(report)
    return record


def _per_pair(report: AlignmentReport) -> dict[str, list[float]]:
    return {method: _rounded(shares.tolist()) for method, shares in report.per_pair.items()}


def _numbers(report: AlignmentReport) -> dict[str, Any]:
    return {
        "signature": report.signature,
        "score": report.score,
        "ci": report.ci,
        "p_value": report.p_value,
        "per_layer": {method: _rounded(shares.tolist()) for method, shares in report.per_layer.items()},
        "per_pair": _per_pair(report),
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


def quality_metrics_in(record: Mapping[str, Any]) -> dict[str, float]:
    """What a line's finished quality scores are called in the Trainer's log."""
    metrics = {f"eval_{metric}": mean for metric, mean in record.get("quality_score", {}).items()}
    for name, direction in record.get("quality", {}).items():
        for metric, outcome in direction["metrics"].items():
            if outcome.get("score") is not None:
                metrics[f"eval_{metric}_{name}"] = outcome["score"]
    return metrics


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


# --------------------------------------------------------------------------------------- what a line has already


def other_choices(
    record: Mapping[str, Any], wanted: Mapping[str, str], translated: Mapping[str, str], quality: QualityEvaluator
) -> dict[str, tuple[str, str]]:
    """The choices in which a line is not as wanted: curves over lines that differ in them would mix two things.

    Args:
        record: the line.
        wanted: language pair -> the signature that its scores should have.
        translated: direction -> the signature that its translations should have.
        quality: the judge; where it has no metrics, translations do not matter.

    Returns:
        the choice -> what the line has, and what is wanted.
    """
    differ = _differences("languages", record["languages"], wanted)
    if quality.metrics and record.get("quality"):
        differ |= _differences("directions", record["quality"], translated) | _other_models(record, quality)
    return differ


def _other_models(record: Mapping[str, Any], quality: QualityEvaluator) -> dict[str, tuple[str, str]]:
    """The COMET metrics that other models have judged."""
    differ = {}
    for direction in record["quality"].values():
        for metric in quality.slow:
            theirs = Signature.parse(direction["metrics"].get(metric, {}).get("signature", "")).get("model")
            if theirs not in (None, quality.models[metric]):
                differ[metric] = (theirs, quality.models[metric])
    return differ


def _differences(
    what: str, written: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """The fields of signatures in which a line's part is not as wanted, or the names where these differ."""
    if written.keys() != wanted.keys():
        return {what: (" ".join(written), " ".join(wanted))}
    differ: dict[str, tuple[str, str]] = {}
    for name, signature in wanted.items():
        differ |= Signature.parse(written[name]["signature"]).differences(Signature.parse(signature))
    return differ


def judged(record: Mapping[str, Any]) -> list[str]:
    """The metrics that a line has the score of, in every direction."""
    directions = list(record.get("quality", {}).values())
    done = [
        {name for name, judgement in direction["metrics"].items() if "score" in judgement} for direction in directions
    ]
    return sorted(set.intersection(*done)) if done else []


def awaited(record: Mapping[str, Any]) -> list[str]:
    """The metrics whose scores were still to come when a run ended."""
    directions = record.get("quality", {}).values()
    missing = [
        name
        for direction in directions
        for name, judgement in direction["metrics"].items()
        if judgement == {"missing": NOT_YET}
    ]
    return list(dict.fromkeys(missing))


def translations_in(record: Mapping[str, Any] | None) -> dict[str, tuple[Translations, str]]:
    """A line's translations and their signatures, as `QualityEvaluator.translate` returns them; {} without any."""
    return {
        name: (
            Translations(tuple(direction["translations"]), direction["empty"], direction["truncated"]),
            direction["signature"],
        )
        for name, direction in (record or {}).get("quality", {}).items()
    }


def take_up(
    quality: QualityEvaluator,
    metrics: Sequence[str],
    translated: Mapping[str, tuple[Translations, str]],
    step: int,
    record: Mapping[str, Any] | None,
) -> PendingQuality:
    """Have translations judged by some metrics, beside what their line has of the others.

    Args:
        quality: the judge.
        metrics: names of its metrics.
        translated: the translations; see `translations_in`.
        step: theirs.
        record: their line of scores.jsonl, if there is one.

    Returns:
        the evaluation; the metrics that the line had are told already.
    """
    judge = copy.copy(quality)  # with the same COMET process
    judge.metrics = {name: quality.metrics[name] for name in metrics}
    fresh = judge.score(translated)
    report = _with_judged(fresh, record)
    epoch = record["epoch"] if record else None
    return PendingQuality(step, epoch, report, set(report.metrics) - set(fresh.metrics))


def _with_judged(report: QualityReport, record: Mapping[str, Any] | None) -> QualityReport:
    """The report with what a line has of other metrics, which the report's writing would replace."""
    if record is None:
        return report
    directions = {}
    for name, direction in report.by_direction.items():
        written = record.get("quality", {}).get(name, {"metrics": {}})["metrics"]
        kept = {metric: _future_of(judgement) for metric, judgement in written.items() if metric not in report.metrics}
        directions[name] = replace(direction, scores=kept | direction.scores)
    return QualityReport(directions)


def _future_of(judgement: Mapping[str, Any]) -> Future[QualityScore]:
    future: Future[QualityScore] = Future()
    if "missing" in judgement:
        future.set_exception(QualityError(judgement["missing"]))
        return future
    segments = judgement["segments"]
    score = judgement["score"], None if segments is None else tuple(segments), judgement["signature"]
    future.set_result(QualityScore(*score))
    return future
