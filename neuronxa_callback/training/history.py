"""Scores over steps: `OUTPUT_DIR/neuronxa/scores.jsonl`, one self-contained line per evaluation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from itertools import count
from operator import is_
from pathlib import Path
from typing import Any

from neuronxa_callback.alignment.report import AlignmentReport
from neuronxa_callback.files import append_line, read_lines, replace_lines
from neuronxa_callback.quality.comet.process import QualityError, QualityScore
from neuronxa_callback.quality.evaluator import DirectionScores, QualityEvaluator, QualityReport
from neuronxa_callback.quality.queue import PendingScores
from neuronxa_callback.quality.translation import Translations
from neuronxa_callback.signature import Signature
from neuronxa_callback.significance import Correlation, pearson
from neuronxa_callback.training.stopping import StoppingRule, Verdict, judge

logger = logging.getLogger(__name__)

NOT_YET = "not scored yet"  # where a metric's score will be, if the run lives to see it


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
        self._written = self.records
        if self.path.exists():
            replace_lines(self.path, self._written)

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
        "signature": str(direction.signature),
        "empty": made.empty,
        "truncated": made.truncated,
        "translations": list(made.texts),
        "metrics": {metric: _outcome_of(finished.get(metric)) for metric in direction.scores},
    }


def _outcome_of(outcome: Any) -> dict[str, Any]:
    if isinstance(outcome, QualityScore):
        segments = None if outcome.segments is None else _rounded(outcome.segments)
        return {"score": outcome.system, "segments": segments, "signature": str(outcome.signature)}
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


# --------------------------------------------------------------------------------------- what a line has already


def other_choices(
    record: Mapping[str, Any],
    wanted: Mapping[str, Signature],
    translated: Mapping[str, Signature],
    models: Mapping[str, str],
) -> dict[str, tuple[str, str]]:
    """The choices in which a line is not as wanted: curves over lines that differ in them would mix two things.

    Args:
        record: the line.
        wanted: language pair -> the signature that its scores should have.
        translated: direction -> the signature that its translations should have; none where nothing is translated.
        models: COMET metric -> the model that should have scored them.

    Returns:
        the choice -> what the line has, and what is wanted.
    """
    differ = _differences("languages", record["languages"], wanted)
    if translated and record.get("quality"):
        differ |= _differences("directions", record["quality"], translated) | _other_models(record, models)
    return differ


def _other_models(record: Mapping[str, Any], models: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The COMET metrics whose scores are other models'."""
    differ = {}
    for direction in record["quality"].values():
        for metric, ours in models.items():
            theirs = Signature.parse(direction["metrics"].get(metric, {}).get("signature", "")).get("model")
            if theirs is not None and theirs != ours:
                differ[metric] = (theirs, ours)
    return differ


def _differences(
    what: str, written: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Signature]
) -> dict[str, tuple[str, str]]:
    """The fields of signatures in which a line's part is not as wanted, or the names where these differ."""
    if written.keys() != wanted.keys():
        return {what: (" ".join(written), " ".join(wanted))}
    differ: dict[str, tuple[str, str]] = {}
    for name, signature in wanted.items():
        differ |= Signature.parse(written[name]["signature"]).differences(signature)
    return differ


def scored_metrics(record: Mapping[str, Any]) -> list[str]:
    """The metrics that a line has the score of, in every direction."""
    directions = list(record.get("quality", {}).values())
    done = [{name for name, outcome in direction["metrics"].items() if "score" in outcome} for direction in directions]
    return sorted(set.intersection(*done)) if done else []


def awaited(record: Mapping[str, Any]) -> list[str]:
    """The metrics whose scores were still to come when a run ended."""
    directions = record.get("quality", {}).values()
    missing = [
        name
        for direction in directions
        for name, outcome in direction["metrics"].items()
        if outcome == {"missing": NOT_YET}
    ]
    return list(dict.fromkeys(missing))


def translations_in(record: Mapping[str, Any] | None) -> dict[str, tuple[Translations, Signature]]:
    """A line's translations and their signatures, as `QualityEvaluator.translate` returns them; {} without any."""
    return {
        name: (
            Translations(tuple(direction["translations"]), direction["empty"], direction["truncated"]),
            Signature.parse(direction["signature"]),
        )
        for name, direction in (record or {}).get("quality", {}).items()
    }


def scored_again(
    quality: QualityEvaluator,
    metrics: Sequence[str],
    translated: Mapping[str, tuple[Translations, Signature]],
    step: int,
    record: Mapping[str, Any] | None,
) -> PendingScores:
    """Have translations scored by some metrics, beside what their line has of the others.

    Args:
        quality: what scores them.
        metrics: names of its metrics.
        translated: the translations; see `translations_in`.
        step: theirs.
        record: their line of scores.jsonl, if there is one.

    Returns:
        the evaluation; the metrics that the line had count as passed on.
    """
    report = _with_scores_of(record, quality.score(translated, metrics))
    epoch = record["epoch"] if record else None
    return PendingScores(step, epoch, report, set(report.metrics) - set(metrics))


def _with_scores_of(record: Mapping[str, Any] | None, report: QualityReport) -> QualityReport:
    """The report with what a line has of other metrics, which the report's writing would replace."""
    if record is None:
        return report
    directions = {}
    for name, direction in report.by_direction.items():
        written = record.get("quality", {}).get(name, {"metrics": {}})["metrics"]
        kept = {metric: _future_of(outcome) for metric, outcome in written.items() if metric not in report.metrics}
        directions[name] = replace(direction, scores=kept | direction.scores)
    return QualityReport(directions)


def _future_of(outcome: Mapping[str, Any]) -> Future[QualityScore]:
    future: Future[QualityScore] = Future()
    if "missing" in outcome:
        future.set_exception(QualityError(outcome["missing"]))
        return future
    segments = outcome["segments"]
    score = outcome["score"], None if segments is None else tuple(segments), Signature.parse(outcome["signature"])
    future.set_result(QualityScore(*score))
    return future
