"""Everything that touches the Trainer: which one it is, its log, its processes, its callbacks and their order."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol, TypeVar

from transformers import (
    DefaultFlowCallback,
    ProcessorMixin,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import TensorBoardCallback

from neuronxa_callback import plots
from neuronxa_callback.alignment.pair_scores import layer_numbers
from neuronxa_callback.alignment.report import AlignmentReport

T = TypeVar("T")


@dataclass(frozen=True)
class Moment:
    """One event of a Trainer: what it hands over, and the Trainer itself.

    Attributes:
        trainer: whose event it is.
        control: the flags that the Trainer reads after the event.
        model: as it is now.
        processing_class: the Trainer's tokenizer or processor, None where it has none.
    """

    trainer: Trainer
    control: TrainerControl
    model: Any = None
    processing_class: Any = None

    @classmethod
    def of(cls, callback: TrainerCallback, control: TrainerControl, kwargs: dict[str, Any]) -> Moment:
        """What an event of a callback is handed."""
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
        """Whether this process writes, logs and warns for all."""
        return bool(self.trainer.is_world_process_zero())

    @property
    def is_training(self) -> bool:
        """Whether the event comes from `train()`, and not from an `evaluate()` of the user's before or after it.

        The Trainer's own flag stays up when a run is interrupted, so the frames are asked.
        """
        callers = _callers()
        return any(frame.f_code.co_name == "train" and frame.f_locals.get("self") is self.trainer for frame in callers)

    def tokenizer(self, own: Any = None) -> Any:
        """The model's tokenizer: the user's own, or the Trainer's, taken out of a processor.

        Raises:
            ValueError: there is none.
        """
        tokenizer = own or self.processing_class
        if tokenizer is None:
            raise ValueError(
                "NeuronXA needs the model's tokenizer: pass processing_class=tokenizer to the Trainer, "
                "or tokenizer=tokenizer to NeuronXACallback."
            )
        return tokenizer.tokenizer if isinstance(tokenizer, ProcessorMixin) else tokenizer

    def log(self, metrics: dict[str, float], step: int | None = None, epoch: float | None = None) -> None:
        """Log as the Trainer itself does, with an earlier step if one is given; nothing is logged of no metrics.

        The base class's log is called, past a subclass's own: SFTTrainer's would average and clear the training
        metrics it has gathered so far. Logging takes back the request to log, which stands for the training loss of
        this very step.
        """
        if not metrics:
            return
        should_log, state = self.control.should_log, self.state
        now = state.global_step, state.epoch
        if step is not None:
            state.global_step, state.epoch = step, epoch
        try:
            Trainer.log(self.trainer, dict(metrics))
        finally:
            state.global_step, state.epoch = now
        self.control.should_log = self.trainer.control.should_log = should_log

    def first_process_value(self, value: T) -> T:
        """The first process's value, on every process."""
        if self.args.world_size == 1:
            return value
        from accelerate.utils import broadcast_object_list  # there wherever a Trainer trains

        return broadcast_object_list([value])[0]  # type: ignore[no-any-return]

    def show_layers(self, report: AlignmentReport, n: int) -> None:
        """Add the figure of the score per layer to the Trainer's own TensorBoard run, where there is one."""
        callbacks = self.trainer.callback_handler.callbacks
        writers = [callback.tb_writer for callback in callbacks if isinstance(callback, TensorBoardCallback)]
        step = self.state.global_step
        for writer in filter(None, writers):
            for method in report.score:
                per_layer = {name: language.per_layer[method].tolist() for name, language in report.by_language.items()}
                layers = layer_numbers(report.signatures[0], method, len(report.per_layer[method]))
                figure = plots.layer_figure(per_layer, method, n, f"Alignment per layer at step {step}", layers)
                writer.add_image(f"neuronxa/{method}_per_layer", plots.pixels(figure), step, dataformats="HWC")
                writer.flush()


def calling_trainer(callback: TrainerCallback) -> Trainer:
    """The Trainer whose event is being handled.

    A callback is handed everything but the Trainer, and only the Trainer's own log reaches `log_history` and every
    tracker. It is the `self` of one of the frames that led here.
    """
    for frame in _callers():
        trainer = frame.f_locals.get("self")
        if isinstance(trainer, Trainer) and callback in trainer.callback_handler.callbacks:
            return trainer
    raise RuntimeError("NeuronXACallback's events must come from a transformers Trainer that it was added to.")


def _callers() -> Iterator[FrameType]:
    """The frames that led here, the nearest first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


# ------------------------------------------------------------------------------------------ the order of callbacks


class Scoring(Protocol):
    """A callback that knows which metrics an evaluation should have given and did not."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Their names."""


def move_to_front(callback: Any) -> None:
    """Put a callback right behind the Trainer's own flow control, wherever the user put it.

    An EarlyStoppingCallback reads the metrics when its turn comes, so ours has to come first. At the end of training
    we log before the trackers close their files.
    """
    handler = calling_trainer(callback).callback_handler
    others = [c for c in handler.callbacks if c is not callback and not _is_tail_of(c, callback)]
    flow = sum(isinstance(c, DefaultFlowCallback) for c in others[:1])
    # A new list: the Trainer is walking along the old one.
    handler.callbacks = [*others[:flow], callback, *others[flow:], MissingScores(callback)]


def _is_tail_of(other: TrainerCallback, callback: Any) -> bool:
    return isinstance(other, MissingScores) and other.scoring is callback


class MissingScores(TrainerCallback):
    """Stands last and marks the scores of an evaluation that failed as NaN.

    Without them a Trainer that chooses its best model by one would end the run with a KeyError. With them from the
    start an EarlyStoppingCallback would count the failure as a step without improvement; now it sees no score, says
    so and waits.
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
        """Fill in what is missing."""
        if metrics is not None:
            metrics.update(dict.fromkeys(self.scoring.missing, math.nan))
