"""What a series of evaluations needs to go on: whether its lines fit, and the scores that its lines lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

from neuronxa_callback.quality.comet import signature as comet_signature
from neuronxa_callback.quality.comet.process import QualityError, QualityScore
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.quality.faithfulness import Faithfulness
from neuronxa_callback.quality.metrics import bleu_tokenizer
from neuronxa_callback.quality.queue import PendingScores
from neuronxa_callback.quality.translation import Translations
from neuronxa_callback.signature import Signature
from neuronxa_callback.training.records import DirectionQuality, Evaluation, MetricScore, NoScore

# A choice -> what a line has, and what is wanted.
Differences = dict[str, tuple[str, str]]


def other_choices(
    evaluation: Evaluation,
    wanted: Mapping[str, Signature],
    translated: Mapping[str, Signature],
    comet: Mapping[str, Signature],
) -> Differences:
    """Return the choices in which a line differs from what is wanted. A curve over both would mix two things.

    Args:
        evaluation: the line.
        wanted: language pair -> the signature that its scores should have.
        translated: direction -> the signature that its translations should have; empty if nothing is translated.
        comet: COMET metric -> the model that should have scored the translations, and its precision; see
            `QualityEvaluator.comet`.
    """
    written = {name: language.signature for name, language in evaluation.languages.items()}
    differ = _differences("languages", written, wanted)
    if translated and evaluation.quality:
        made = {name: direction.signature for name, direction in evaluation.quality.items()}
        differ |= _differences("directions", made, translated)
        differ |= _other_comet(evaluation, comet) | _other_words(evaluation)
    return differ


def _differences(what: str, written: Mapping[str, Signature], wanted: Mapping[str, Signature]) -> Differences:
    """Return the fields in which signatures differ, or the names if these differ."""
    if written.keys() != wanted.keys():
        return {what: (" ".join(written), " ".join(wanted))}
    differ: Differences = {}
    for name, signature in wanted.items():
        differ |= written[name].differences(signature)
    return differ


def _other_comet(evaluation: Evaluation, comet: Mapping[str, Signature]) -> Differences:
    """Return the COMET metrics that another model scored, or the same one in another precision.

    COMET's and Python's versions may differ. Earlier versions wrote no precision, which was float32.
    """
    differ: Differences = {}
    for direction in evaluation.quality.values():
        for metric, score in direction.scored.items():
            if metric in comet and "model" in score.signature:
                wanted = comet_signature.choices(comet[metric])
                found = comet_signature.choices(score.signature).differences(wanted)
                names = {"model": metric, "dtype": f"{metric}'s dtype"}
                differ |= {names[name]: values for name, values in found.items()}
    return differ


def _other_words(evaluation: Evaluation) -> Differences:
    """Return BLEU if another tokenizer made its words. Earlier versions split some Chinese at spaces alone."""
    differ: Differences = {}
    for name, direction in evaluation.quality.items():
        score = direction.scored.get("bleu")
        ours, theirs = bleu_tokenizer(name.rpartition("-")[2]), score and score.signature.get("tok")
        if theirs and theirs != ours:
            differ["bleu"] = (f"tok:{theirs}", f"tok:{ours}")
    return differ


def measured_again(quality: QualityEvaluator, evaluation: Evaluation) -> Evaluation:
    """Return a line with how much its translations copy, their language and their length, if they are not there yet.

    Early versions did not measure that. The translations are on the line.

    Args:
        quality: the evaluator that made such translations.
        evaluation: the line.
    """
    lacking = {name: made for name, made in evaluation.quality.items() if made.faithfulness is None}
    found = {name: quality.faithfulness(name, made.translations) for name, made in lacking.items()}
    measured = {name: result for name, result in found.items() if isinstance(result, Faithfulness)}
    return evaluation.with_faithfulness(measured) if measured else evaluation


def scored_again(
    quality: QualityEvaluator,
    metrics: Sequence[str],
    translated: Mapping[str, tuple[Translations, Signature]],
    step: int,
    evaluation: Evaluation | None,
) -> PendingScores:
    """Have translations scored by some metrics, and keep the scores that their line has of the other metrics.

    Args:
        quality: the evaluator that scores them.
        metrics: names of its metrics.
        translated: the translations; see `Evaluation.translated`.
        step: the step of the translations.
        evaluation: their line of scores.jsonl, if there is one.

    Returns:
        the scores. The metrics that the line had count as passed on.
    """
    report = quality.score(translated, metrics)
    if evaluation is None:
        return PendingScores(step, None, report)
    by_direction = {
        name: replace(made, scores=_kept(evaluation.quality.get(name), made.scores))
        for name, made in report.by_direction.items()
    }
    report = replace(report, by_direction=by_direction)
    return PendingScores(step, evaluation.epoch, report, set(report.metrics) - set(metrics))


def _kept(
    written: DirectionQuality | None, scores: Mapping[str, Future[QualityScore]]
) -> dict[str, Future[QualityScore]]:
    """Return the new scores behind those that the line has of other metrics, which the new ones would replace."""
    outcomes = {} if written is None else written.metrics
    return {name: _done(outcome) for name, outcome in outcomes.items() if name not in scores} | dict(scores)


def _done(outcome: MetricScore | NoScore) -> Future[QualityScore]:
    future: Future[QualityScore] = Future()
    if isinstance(outcome, NoScore):
        future.set_exception(QualityError(outcome.missing))
    else:
        segments = None if outcome.segments is None else tuple(outcome.segments)
        future.set_result(QualityScore(outcome.score, segments, outcome.signature))
    return future
