"""Everything that touches the Trainer: finding it, its log, its processes, its callbacks and their order."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

from transformers import (
    DefaultFlowCallback,
    EarlyStoppingCallback,
    ProcessorMixin,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from neuronxa_callback.model import engine
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.ranks import Ranks
from neuronxa_callback.training.trackers import Tracker, trackers_among

KNOWN_PACKAGES = ("transformers", "trl", "neuronxa_callback")  # it is known which metrics their evaluations give


@dataclass(frozen=True)
class Moment:
    """One event of a Trainer.

    Attributes:
        trainer: the Trainer that sends the event.
        control: the flags that the Trainer reads after the event.
        model: the model in its present state.
        processing_class: the Trainer's tokenizer or processor; None if it has none.
    """

    trainer: Trainer
    control: TrainerControl
    model: Any = None
    processing_class: Any = None

    @classmethod
    def of(cls, callback: TrainerCallback, control: TrainerControl, kwargs: dict[str, Any]) -> Moment:
        """Make a Moment from the arguments that the Trainer passes to an event of a callback."""
        return cls(calling_trainer(callback), control, kwargs.get("model"), kwargs.get("processing_class"))

    @property
    def args(self) -> TrainingArguments:
        """The Trainer's arguments."""
        return self.trainer.args

    @property
    def state(self) -> TrainerState:
        """The Trainer's state."""
        return self.trainer.state

    @property
    def is_first_process(self) -> bool:
        """Whether this process writes, logs and warns for all processes."""
        return bool(self.trainer.is_world_process_zero())

    @property
    def is_training(self) -> bool:
        """Whether the event comes from `train()`, and not from an `evaluate()` that the user calls before or after it.

        The call stack decides, because the Trainer's own flag stays set when a run is interrupted.
        """
        callers = _callers()
        return any(frame.f_code.co_name == "train" and frame.f_locals.get("self") is self.trainer for frame in callers)

    def is_within_another_training(self, callback: TrainerCallback) -> bool:
        """Return whether the event comes from within the `train()` of another Trainer that has this callback too."""
        trainers = [frame.f_locals.get("self") for frame in _callers() if frame.f_code.co_name == "train"]
        others = [other for other in trainers if isinstance(other, Trainer) and other is not self.trainer]
        return any(callback in other.callback_handler.callbacks for other in others)

    @property
    def is_nested(self) -> bool:
        """Whether the event comes from within another: a callback of the user's evaluates, and not the Trainer."""
        events = [f for f in _callers() if f.f_code.co_name == "call_event" and "callback" in f.f_locals]
        return len(events) > 1

    @property
    def evaluation_sets(self) -> tuple[str, ...]:
        """The names of the Trainer's evaluation sets. There are none unless it has a dictionary of sets."""
        sets = self.trainer.eval_dataset
        return tuple(sets) if isinstance(sets, dict) else ()

    @property
    def has_metrics_of_others(self) -> bool:
        """Whether the user's own code may give metrics: `compute_metrics`, an `evaluate`, or another callback."""
        code = [self.trainer.evaluate, self.trainer.evaluation_loop]
        code += [callback.on_evaluate for callback in self.trainer.callback_handler.callbacks]
        foreign = any(function.__module__.partition(".")[0] not in KNOWN_PACKAGES for function in code)
        return foreign or self.trainer.compute_metrics is not None

    def tokenizer(self, own: Any = None) -> Any:
        """Return the model's tokenizer: the user's own, or the Trainer's. A processor gives the tokenizer it holds.

        Raises:
            ValueError: there is no tokenizer.
        """
        tokenizer = own or self.processing_class
        if tokenizer is None:
            raise ValueError(
                "NeuronXA needs the model's tokenizer: pass processing_class=tokenizer to the Trainer, "
                "or tokenizer=tokenizer to NeuronXACallback."
            )
        return tokenizer.tokenizer if isinstance(tokenizer, ProcessorMixin) else tokenizer

    @property
    def trackers(self) -> list[Tracker]:
        """The trackers that the Trainer reports to, on the first process; the others have none."""
        return trackers_among(self.trainer.callback_handler.callbacks) if self.is_first_process else []

    def log(
        self,
        metrics: dict[str, float],
        step: int | None = None,
        epoch: float | None = None,
        apart: Sequence[TrainerCallback] = (),
    ) -> None:
        """Log metrics as the Trainer itself does.

        This calls the base class's log and not a subclass's, because SFTTrainer's log would average and clear the
        training metrics that it has gathered so far. Trainer.log also takes back the request to log the training loss
        of this step, so the request is set again.

        Args:
            metrics: the metrics.
            step: the step to log them at; None takes the present step and epoch.
            epoch: the epoch that belongs to `step`.
            apart: the callbacks that are not told, because something else logs the metrics for them.
        """
        should_log, state = self.control.should_log, self.state
        now = state.global_step, state.epoch
        if step is not None:
            state.global_step, state.epoch = step, epoch
        try:
            with self._without(apart):
                Trainer.log(self.trainer, dict(metrics))
        finally:
            state.global_step, state.epoch = now
        self.control.should_log = self.trainer.control.should_log = should_log

    @contextmanager
    def _without(self, apart: Sequence[TrainerCallback]) -> Iterator[None]:
        """Take some callbacks out of the Trainer for a time. What the others change meanwhile stays changed."""
        handler = self.trainer.callback_handler
        places = [(place, one) for place, one in enumerate(handler.callbacks) if any(one is other for other in apart)]
        if places:
            out = [callback for _, callback in places]
            # This is a new list because the Trainer is iterating over the old one.
            handler.callbacks = [one for one in handler.callbacks if not any(one is other for other in out)]
        try:
            yield
        finally:
            for place, callback in places:
                handler.callbacks.insert(place, callback)

    @property
    def ranks(self) -> Ranks:
        """The processes of the training."""
        return Ranks(self.args.process_index, self.args.world_size)

    def decoder(self, tokenizer: Any = None) -> Decoder:
        """Find the decoder of the model on every process, for an evaluation that the processes share.

        Args:
            tokenizer: the user's own tokenizer, or None to take the Trainer's.

        Raises:
            UnreadableFFNError: the model cannot be read.
            ValueError: there is no tokenizer.
            RankError: another process failed.
        """
        with self.ranks.together():
            # An engine may keep the embeddings on another device than it computes on.
            device = self.args.device if self.ranks.size > 1 or engine.is_sharded(self.model) else None
            return Decoder.find(self.model, self.tokenizer(tokenizer), self.ranks, device)


def calling_trainer(callback: TrainerCallback) -> Trainer:
    """Return the Trainer whose event is being handled.

    A callback gets everything but the Trainer, and only the Trainer's own log reaches `log_history` and every tracker.
    The Trainer is the `self` of one of the frames on the call stack.

    Raises:
        RuntimeError: no Trainer on the call stack has this callback.
    """
    for frame in _callers():
        trainer = frame.f_locals.get("self")
        if isinstance(trainer, Trainer) and callback in trainer.callback_handler.callbacks:
            return trainer
    raise RuntimeError("NeuronXACallback's events must come from a transformers Trainer that it was added to.")


def _callers() -> Iterator[FrameType]:
    """Yield the frames of the call stack, the nearest first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


# ------------------------------------------------------------------------------------------ the order of callbacks


class FalseAlarm(logging.Filter):
    """Hold back EarlyStoppingCallback's warning that it is disabled, while the callbacks take their turns.

    It warns so at each evaluation that lacks its metric. If the metric is one of our scores, that is not true: the
    score is there at one evaluation of each step.
    """

    def __init__(self) -> None:
        super().__init__()
        self._metrics: list[str] = []  # an evaluation may come from within another one's turns

    def hold_back(self, metric: str | None) -> None:
        """Hold the warning back until `let_through`.

        Args:
            metric: the metric for the best model, with or without "eval_".
        """
        self._metrics.append(f"eval_{(metric or '').removeprefix('eval_')}")
        logging.getLogger(EarlyStoppingCallback.__module__).addFilter(self)

    def let_through(self, all_of_them: bool = False) -> None:
        """End the latest `hold_back`, or all of them, as when a callback's error ended the turns too early."""
        del self._metrics[0 if all_of_them else -1 :]
        if not self._metrics:
            logging.getLogger(EarlyStoppingCallback.__module__).removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to show a warning."""
        told = record.getMessage()
        return not any(f"did not find {metric} so early stopping is disabled" in told for metric in self._metrics)


class Scoring(Protocol):
    """A callback that has the scores of evaluations."""

    false_alarm: FalseAlarm

    def take_scores(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the scores of the evaluation that has these metrics, with their names among them."""


def move_to_front(callback: Any) -> None:
    """Move a callback right behind the Trainer's own flow control, wherever the user put it.

    An EarlyStoppingCallback reads the metrics when its turn comes, so our callback must come before it. At the end of
    training our callback must log before the trackers close their files.
    """
    handler = calling_trainer(callback).callback_handler
    others = [c for c in handler.callbacks if c is not callback and not _is_tail_of(c, callback)]
    flow = sum(isinstance(c, DefaultFlowCallback) for c in others[:1])
    # This is a new list because the Trainer is iterating over the old one.
    handler.callbacks = [*others[:flow], callback, *others[flow:], LastTurn(callback)]


def is_in_front(callback: Any) -> bool:
    """Return whether a callback was moved to the front. The Trainer tells it of no event when it is added later.

    A callback that was removed and added again comes behind the `LastTurn` that it left.
    """
    callbacks = calling_trainer(callback).callback_handler.callbacks
    return any(_is_tail_of(other, callback) for other in callbacks[callbacks.index(callback) :])


def _is_tail_of(other: TrainerCallback, callback: Any) -> bool:
    return isinstance(other, LastTurn) and other.scoring is callback


class LastTurn(TrainerCallback):
    """The last callback. It gives every evaluation the step's scores, and NaN for those that could not be measured.

    Without them a Trainer that chooses its best model by such a score would end the run with a KeyError. An
    EarlyStoppingCallback that saw them at each evaluation of a step would count the step several times, and a NaN as a
    step without improvement. Its turn comes before, so it finds no score and waits.

    It stays when the user removes its callback, and then it has nothing to give.
    """

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the scores."""
        self.scoring.false_alarm.let_through()
        if metrics is not None:
            metrics.update(self.scoring.take_scores(metrics))
