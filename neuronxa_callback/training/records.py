"""The lines of a run's scores.jsonl: an evaluation to its line, and back to what can be gone on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from neuronxa_callback.alignment.report import AlignmentReport
from neuronxa_callback.quality.comet.process import QualityError, QualityScore
from neuronxa_callback.quality.evaluator import DirectionScores, QualityEvaluator, QualityReport
from neuronxa_callback.quality.queue import PendingScores
from neuronxa_callback.quality.translation import Translations
from neuronxa_callback.signature import Signature

NOT_YET = "not scored yet"  # where a metric's score will be, if the run lives to see it


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
