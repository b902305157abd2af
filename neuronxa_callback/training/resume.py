"""Where a run's series of scores begins: anew, or where an earlier run of its output_dir left it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality.queue import PendingScores
from neuronxa_callback.training.history import History
from neuronxa_callback.training.metric_names import quality_metrics_in
from neuronxa_callback.training.records import awaited, other_choices, scored_again, translations_in
from neuronxa_callback.training.schedule import Schedule
from neuronxa_callback.training.stopping import still_stops
from neuronxa_callback.training.trainer import Moment
from neuronxa_callback.training.watch import Watch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LateScores:
    """Quality scores that came too late for the checkpoint that a run is resumed from.

    Attributes:
        step: of their evaluation.
        epoch: of their evaluation.
        metrics: as the Trainer's log has them.
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
        pending: evaluations that COMET had not scored when the run before ended, handed to it again.
        late: scores that are in scores.jsonl and not in the Trainer's log.
    """

    history: History
    schedule: Schedule
    pending: list[PendingScores] = field(default_factory=list)
    late: list[LateScores] = field(default_factory=list)


def find_series(watch: Watch, moment: Moment) -> Series:
    """Begin a series of scores, or go on with the one that the run is resumed in.

    Scores that this run's own would not be comparable with are put aside, so that no curve mixes two things.
    """
    step, history = moment.state.global_step, History(str(moment.args.output_dir))
    if step == 0:
        history.begin()
        return Series(history, Schedule())
    records = [record for record in history.read() if record["step"] <= step]
    differ = _differences(records, watch, moment)
    if differ:
        told = "; ".join(f"{name} {theirs} before, {ours} now" for name, (theirs, ours) in differ.items())
        kept = history.begin()
        logger.warning(
            "NeuronXA: the run is resumed at step %d with other pairs or options (%s), whose scores cannot be "
            "compared. A new series begins; the earlier scores are in %s.",
            step,
            told,
            kept,
        )
        return Series(history, Schedule())
    history.rewind(step)
    if not records:
        return Series(history, Schedule())
    pending = [awaiting for record in records if (awaiting := _awaited(record, watch))]
    late = [found for record in records if (found := _late(record, moment))]
    return Series(history, _schedule(step, records[-1], watch), pending, late)


def _schedule(step: int, last: Mapping[str, Any], watch: Watch) -> Schedule:
    """What the last line says that the resumed run has behind it."""
    verdict = last.get("stopping")
    if verdict and verdict.get("rule") != watch.rule.criterion:
        logger.warning(
            "NeuronXA: the run was judged by another rule before it was resumed (%s before, %s now); patience and "
            "best value begin anew.",
            verdict.get("rule"),
            watch.rule.criterion,
        )
    stopped = still_stops(watch.rule, verdict) if verdict else None
    scored = step if last["step"] == step and last["score"] else None
    return Schedule(first=False, resumed_at=step, stopped=stopped, scored=scored)


def _differences(records: Sequence[Mapping[str, Any]], watch: Watch, moment: Moment) -> dict[str, tuple[str, str]]:
    """What this run measures otherwise than the earlier one did."""
    evaluator, quality = watch.evaluator, watch.quality
    with moment.trainer.accelerator.autocast():  # it is part of the signatures
        decoder = Decoder.find(moment.model, moment.tokenizer(watch.tokenizer))
        wanted = {pair.name: evaluator.signature(pair, decoder) for pair in evaluator.pairs}
        jobs = quality.jobs if watch.metrics else {}
        translated = {name: quality.signature(name, decoder) for name in jobs}
    models = {name: quality.models[name] for name in watch.slow}
    differ: dict[str, tuple[str, str]] = {}
    for record in records:
        if record["languages"]:  # none where the evaluation failed
            differ |= other_choices(record, wanted, translated, models)
    return differ


def _awaited(record: Mapping[str, Any], watch: Watch) -> PendingScores | None:
    """What COMET had not scored of an evaluation when the run before ended, handed to it again."""
    names = [name for name in awaited(record) if name in watch.metrics]
    return scored_again(watch.quality, names, translations_in(record), record["step"], record) if names else None


def _late(record: Mapping[str, Any], moment: Moment) -> LateScores | None:
    """A line's quality scores that are not in the Trainer's log."""
    step = record["step"]
    logged = {name for entry in moment.state.log_history if entry["step"] == step for name in entry}
    metrics = {name: value for name, value in quality_metrics_in(record).items() if name not in logged}
    return LateScores(step, record["epoch"], metrics) if metrics else None
