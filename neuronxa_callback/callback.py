"""Trainer events to evaluations, and their scores into the Trainer's own log."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Literal

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
from neuronxa_callback.encoder import TokenPooling
from neuronxa_callback.evaluator import DEFAULT_PAIRS, AlignmentReport, NeuronXAEvaluator, PairsLike
from neuronxa_callback.history import History, record_of
from neuronxa_callback.scores import Method

logger = logging.getLogger(__name__)


class NeuronXACallback(TrainerCallback):
    """Score cross-lingual alignment during training and log it like any other evaluation metric.

    Usage:
        ```python
        from neuronxa_callback import NeuronXACallback

        trainer = SFTTrainer(model=model, args=args, train_dataset=dataset, callbacks=[NeuronXACallback()])
        trainer.train()
        ```

    It scores at the start (step 0), at every evaluation of the Trainer and at the end. Where the Trainer never
    evaluates (`eval_strategy="no"`) it scores every `eval_steps`. The scores reach `state.log_history`, every tracker
    of `report_to`, `OUTPUT_DIR/neuronxa/scores.jsonl`, and the metrics that `metric_for_best_model`,
    `load_best_model_at_end` and `EarlyStoppingCallback` read, as `eval_nasca` (mean over the language pairs),
    `eval_nasca_eng_Latn-isl_Latn` (one of them) and `eval_neuronxa_runtime` (seconds).

    Training is not changed: weights are bit-identical with and without the callback.

    Args:
        pairs: held-out pairs, or a list of them for several languages: what `ParallelPairs.load` takes. Never train
            on them. Default: the embedded 100 English-Icelandic pairs.
        methods: one or several of "nasca", "navca" and "mexa".
        eval_steps: steps between two scores where the Trainer never evaluates; below 1 a share of all steps, as in
            TrainingArguments. Default: a tenth of the run. Not used where the Trainer evaluates.
        token_pooling: "weighted" (Eq. 3 of the paper), "average" or "last".
        token_budget: padded tokens in a batch at most; smaller needs less memory. See `encode`.
        tokenizer: needed only where the Trainer was given no `processing_class`.
        on_error: "warn" logs an evaluation that failed and goes on training; "raise" ends the run with the error.

    Raises:
        PairsError: held-out pairs that cannot be used.
        ValueError: an argument that cannot be used. What only the model can show (an FFN that cannot be read, a
            sentence beyond its context) is raised when training begins, whatever `on_error` says.
    """

    def __init__(
        self,
        pairs: PairsLike = DEFAULT_PAIRS,
        *,
        methods: Method | Sequence[Method] = ("nasca",),
        eval_steps: float = 0.1,
        token_pooling: TokenPooling = "weighted",
        token_budget: int | None = None,
        tokenizer: Any = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        if not _is_interval(eval_steps):
            raise ValueError(f"eval_steps={eval_steps!r} must be a whole number of steps, or below 1 a share of all.")
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error={on_error!r} is unknown; choose warn or raise.")
        self.evaluator = NeuronXAEvaluator(pairs, methods, token_pooling, token_budget)
        self.eval_steps = eval_steps
        self.tokenizer = tokenizer
        self.on_error = on_error
        self._scored_step: int | None = None  # the last step of this training run that was scored, or tried to be
        self.missing: tuple[str, ...] = ()  # metrics that the evaluation at hand should have given and did not

    # ------------------------------------------------------------------------------------------ Trainer events

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move in front of the callbacks that read our metrics."""
        self._move_to_front()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse what cannot be measured before training starts."""
        self._move_to_front()
        self._scored_step = None
        autocast = _calling_trainer(self).accelerator.autocast
        with self._guarded("the check before training failed", let_through=ValueError), autocast():
            self.evaluator.check(kwargs["model"], self._tokenizer_of(kwargs))
        if state.is_world_process_zero and state.global_step == 0:
            with self._guarded("an earlier run's scores could not be put aside"):
                History(args.output_dir).begin()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score at step 0, when every tracker has begun its run and an `eval_on_start` evaluation has passed."""
        if state.global_step == 0 and self._scored_step is None:
            self._score(args, state, control, kwargs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Score every `eval_steps` where the Trainer never evaluates."""
        if args.eval_strategy == "no" and state.global_step % self._interval(state.max_steps) == 0:
            self._score(args, state, control, kwargs)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Score, and add the scores to the metrics that the Trainer and later callbacks read.

        Of several evaluation sets at one step the first one's metrics get them: the Trainer joins the metrics of all,
        and an EarlyStoppingCallback that read them with each set would count one step several times.
        """
        self.missing = ()
        if _is_training(_calling_trainer(self)) and self._scored_step == state.global_step:
            return
        scores = self._score(args, state, control, kwargs)
        if scores is None:
            self.missing = self._metric_names()
        elif metrics is not None:
            metrics.update(scores)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score the last step, unless it has its score or the model in memory is an earlier checkpoint by now."""
        replaced = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if self._scored_step != state.global_step and not replaced:
            self._score(args, state, control, kwargs)

    # ------------------------------------------------------------------------------------------ scoring

    def _score(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, kwargs: dict[str, Any]
    ) -> dict[str, float] | None:
        """Evaluate and log; the metrics, or None where the evaluation failed."""
        self._scored_step = state.global_step
        trainer = _calling_trainer(self)
        report: AlignmentReport | None = None
        start = time.perf_counter()
        failed = "an evaluation failed, and training goes on without its scores"
        with self._guarded(failed), trainer.accelerator.autocast():  # in the mixed precision that training runs in
            report = self.evaluator(kwargs["model"], self._tokenizer_of(kwargs))
        runtime = time.perf_counter() - start
        metrics = None if report is None else metrics_of(report) | {"eval_neuronxa_runtime": round(runtime, 4)}
        if args.world_size > 1:
            # One process may fail or round differently; all of them must choose and stop alike.
            from accelerate.utils import broadcast_object_list  # there wherever a Trainer trains

            (metrics,) = broadcast_object_list([metrics])
        if metrics is None:
            return None
        _log(trainer, control, metrics)
        if report is not None and state.is_world_process_zero:
            if _is_training(trainer):
                with self._guarded("the scores were logged but not written to scores.jsonl"):
                    History(args.output_dir).append(record_of(report, state.global_step, state.epoch, runtime))
            with self._guarded("the scores were logged but not drawn"):
                _show_layers(trainer, report, state.global_step)
        return metrics

    @contextmanager
    def _guarded(self, what: str, let_through: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        """Make a failure a warning that says what did not work, unless the user wants it raised."""
        try:
            yield
        except Exception as error:
            if self.on_error == "raise" or isinstance(error, let_through):
                raise
            logger.warning(
                "NeuronXA: %s. %s: %s",
                what,
                type(error).__name__,
                error,
                exc_info=logger.isEnabledFor(logging.DEBUG),
            )

    def _metric_names(self) -> tuple[str, ...]:
        suffixes = ["", *(f"_{pair.name}" for pair in self.evaluator.pairs)]
        names = (f"eval_{method}{suffix}" for method in self.evaluator.methods for suffix in suffixes)
        return (*names, "eval_neuronxa_runtime")

    def _interval(self, max_steps: int) -> int:
        """Steps between two scores, a share of all rounded up as the Trainer rounds its own."""
        return int(self.eval_steps) if self.eval_steps >= 1 else math.ceil(self.eval_steps * max_steps)

    def _tokenizer_of(self, kwargs: dict[str, Any]) -> Any:
        tokenizer = self.tokenizer or kwargs.get("processing_class")
        if tokenizer is None:
            raise ValueError(
                "NeuronXA needs the model's tokenizer: pass processing_class=tokenizer to the Trainer, "
                "or tokenizer=tokenizer to NeuronXACallback."
            )
        return tokenizer.tokenizer if isinstance(tokenizer, ProcessorMixin) else tokenizer

    def _move_to_front(self) -> None:
        """Stand right behind the Trainer's own flow control, wherever the user put us.

        An EarlyStoppingCallback reads the metrics when its turn comes, so ours has to come first; and at the end of
        training we log before the trackers close their files.
        """
        handler = _calling_trainer(self).callback_handler
        others = [c for c in handler.callbacks if c is not self and getattr(c, "callback", None) is not self]
        flow = sum(isinstance(callback, DefaultFlowCallback) for callback in others[:1])
        # A new list: the Trainer is walking along the old one.
        handler.callbacks = [*others[:flow], self, *others[flow:], _MissingScores(self)]


class _MissingScores(TrainerCallback):
    """Stands last and marks the scores of an evaluation that failed as NaN.

    Without them a Trainer that chooses its best model by one would end the run with a KeyError. With them from the
    start an EarlyStoppingCallback would count the failure as a step without improvement; now it sees no score, says
    so and waits.
    """

    def __init__(self, callback: NeuronXACallback) -> None:
        self.callback = callback

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
            metrics.update(dict.fromkeys(self.callback.missing, math.nan))


def metrics_of(report: AlignmentReport) -> dict[str, float]:
    """The Trainer's metrics: `eval_nasca` over all language pairs and `eval_nasca_SOURCE-TARGET` of each."""
    metrics: dict[str, float] = {f"eval_{method}": score for method, score in report.score.items()}
    for name, language in report.by_language.items():
        metrics |= {f"eval_{method}_{name}": score for method, score in language.score.items()}
    return metrics


def _is_interval(eval_steps: Any) -> bool:
    """Whether this is a number of steps or a share of all, as TrainingArguments takes them."""
    if isinstance(eval_steps, bool) or not isinstance(eval_steps, int | float) or not math.isfinite(eval_steps):
        return False
    return 0 < eval_steps < 1 or (eval_steps >= 1 and eval_steps == int(eval_steps))


def _callers() -> Iterator[FrameType]:
    """The frames that led here, the nearest first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _calling_trainer(callback: TrainerCallback) -> Trainer:
    """The Trainer whose event is being handled.

    A callback is handed everything but the Trainer, and only the Trainer's own log reaches `log_history` and every
    tracker. It is the `self` of one of the frames that led here.
    """
    for frame in _callers():
        trainer = frame.f_locals.get("self")
        if isinstance(trainer, Trainer) and callback in trainer.callback_handler.callbacks:
            return trainer
    raise RuntimeError("NeuronXACallback's events must come from a transformers Trainer that it was added to.")


def _is_training(trainer: Trainer) -> bool:
    """Whether the event comes from `train()`, and not from an `evaluate()` of the user's before or after it.

    The Trainer's own flag stays up when a run is interrupted, so the frames are asked.
    """
    return any(frame.f_code.co_name == "train" and frame.f_locals.get("self") is trainer for frame in _callers())


def _log(trainer: Trainer, control: TrainerControl, metrics: dict[str, float]) -> None:
    """Log as the Trainer itself does.

    The base class's log is called, past a subclass's own: SFTTrainer's would average and clear the training metrics it
    has gathered so far. Logging takes back the request to log, which stands for the training loss of this very step.
    """
    should_log = control.should_log
    Trainer.log(trainer, dict(metrics))
    control.should_log = trainer.control.should_log = should_log


def _show_layers(trainer: Trainer, report: AlignmentReport, step: int) -> None:
    """Add the figure of the score per layer to the Trainer's own TensorBoard run, where there is one."""
    writers = [c.tb_writer for c in trainer.callback_handler.callbacks if isinstance(c, TensorBoardCallback)]
    for writer in filter(None, writers):
        for method in report.score:
            per_layer = {name: language.per_layer[method].tolist() for name, language in report.by_language.items()}
            n = min(len(language.per_pair[method]) for language in report.by_language.values())
            figure = plots.layer_figure(per_layer, method, n, f"Alignment per layer at step {step}")
            writer.add_image(f"neuronxa/{method}_per_layer", plots.pixels(figure), step, dataformats="HWC")
            writer.flush()
