"""Where a run's series of scores begins: anew, or where the earlier run in its output_dir ended."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from transformers import TrainerState

from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality.queue import PendingScores
from neuronxa_callback.training.continuation import Differences, measured_again, other_choices, scored_again
from neuronxa_callback.training.history import History
from neuronxa_callback.training.metric_names import quality_metrics_in
from neuronxa_callback.training.records import Evaluation
from neuronxa_callback.training.schedule import Schedule
from neuronxa_callback.training.stopping import still_stops
from neuronxa_callback.training.trainer import Moment
from neuronxa_callback.training.watch import Watch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LateScores:
    """Quality scores that came too late for the checkpoint that a run is resumed from.

    Attributes:
        step: the step of their evaluation.
        epoch: the epoch of their evaluation.
        metrics: the scores with their names in the Trainer's log.
    """

    step: int
    epoch: float | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class Series:
    """What a run begins with.

    Attributes:
        history: the evaluations so far.
        schedule: which steps are due.
        pending: evaluations that COMET had not scored when the last run ended. COMET gets them again.
        late: scores that scores.jsonl has and the Trainer's log lacks.
    """

    history: History
    schedule: Schedule
    pending: list[PendingScores] = field(default_factory=list)
    late: list[LateScores] = field(default_factory=list)


def find_series(watch: Watch, moment: Moment) -> Series:
    """Begin a series of scores, or go on with the series of the run that is resumed.

    Earlier scores that cannot be compared with this run's are put aside, so that no curve mixes two things.
    """
    step, history = moment.state.global_step, History(str(moment.args.output_dir))
    if step == 0:
        history.begin()
        return Series(history, Schedule())
    evaluations = [evaluation for evaluation in history.read() if evaluation.step <= step]
    differ = _differences(evaluations, watch, moment)
    if differ:
        choices = "; ".join(f"{name} {theirs} before, {ours} now" for name, (theirs, ours) in differ.items())
        kept = history.begin()
        logger.warning(
            "NeuronXA: the run is resumed at step %d with other pairs or options (%s), whose scores cannot be "
            "compared. A new series begins; the earlier scores are in %s.",
            step,
            choices,
            kept,
        )
        return Series(history, Schedule())
    history.rewind(step)
    if not evaluations:
        return Series(history, Schedule())
    if watch.metrics:
        evaluations = [_measured(evaluation, history, watch) for evaluation in evaluations]
    pending = [awaiting for evaluation in evaluations if (awaiting := _awaited(evaluation, watch))]
    late = [found for evaluation in evaluations if (found := _late(evaluation, moment))]
    return Series(history, _schedule(step, evaluations, watch), pending, late)


def _schedule(step: int, evaluations: Sequence[Evaluation], watch: Watch) -> Schedule:
    """Return the schedule of a resumed run that has made these evaluations."""
    last = evaluations[-1]
    if last.stopping and last.stopping.metric != watch.rule.key:
        logger.warning(
            "NeuronXA: the run was judged by another rule before it was resumed (metric %s before, %s now); patience "
            "and best value begin anew.",
            last.stopping.metric or "of version 0.1",
            watch.rule.key,
        )
    scored = step if last.step == step and last.score else None
    return Schedule(first=False, resumed_at=step, stopped=still_stops(watch.rule, evaluations), scored=scored)


def _differences(evaluations: Sequence[Evaluation], watch: Watch, moment: Moment) -> Differences:
    """Return the choices in which this run differs from the earlier one."""
    evaluator, quality = watch.evaluator, watch.quality
    with moment.trainer.accelerator.autocast():  # it is part of the signatures
        decoder = Decoder.find(moment.model, moment.tokenizer(watch.tokenizer))
        wanted = {pair.name: evaluator.signature(pair, decoder) for pair in evaluator.pairs}
        jobs = quality.jobs if watch.metrics else {}
        translated = {name: quality.signature(name, decoder) for name in jobs}
    comet = {name: quality.comet[name] for name in watch.slow}
    differ: Differences = {}
    for evaluation in evaluations:
        if evaluation.languages:  # there are none if the evaluation failed
            differ |= other_choices(evaluation, wanted, translated, comet)
    return differ


def _measured(evaluation: Evaluation, history: History, watch: Watch) -> Evaluation:
    """Return an evaluation with what an early version did not measure of its translations, and keep it."""
    measured = measured_again(watch.quality, evaluation)
    if measured is not evaluation:
        history.put(measured)
    return measured


def _awaited(evaluation: Evaluation, watch: Watch) -> PendingScores | None:
    """Have COMET score again what it had not scored when the last run ended."""
    names = [name for name in evaluation.awaited_metrics if name in watch.metrics]
    if not names:
        return None
    return scored_again(watch.quality, names, evaluation.translated, evaluation.step, evaluation)


def logged_at(step: int, state: TrainerState, names: Collection[str]) -> dict[str, float]:
    """Return the metrics of these names that the Trainer's log has of a step."""
    entries = [entry for entry in state.log_history if entry["step"] == step]
    return {name: value for entry in entries for name, value in entry.items() if name in names}


def _late(evaluation: Evaluation, moment: Moment) -> LateScores | None:
    """Return an evaluation's quality scores that the Trainer's log lacks."""
    step = evaluation.step
    logged = {name for entry in moment.state.log_history if entry["step"] == step for name in entry}
    metrics = {name: value for name, value in quality_metrics_in(evaluation).items() if name not in logged}
    return LateScores(step, evaluation.epoch, metrics) if metrics else None
