"""Trainer events to evaluations, and their scores into the Trainer's own log."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Sequence
from typing import Any, Literal

from transformers import DefaultFlowCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
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
        methods: any of "nasca", "navca" and "mexa".
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
        methods: Sequence[Method] = ("nasca",),
        eval_steps: float = 0.1,
        token_pooling: TokenPooling = "weighted",
        token_budget: int | None = None,
        tokenizer: Any = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        if eval_steps <= 0:
            raise ValueError(f"eval_steps={eval_steps} must be positive: a number of steps, or below 1 a share of all.")
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error={on_error!r} is unknown; choose warn or raise.")
        self.evaluator = NeuronXAEvaluator(pairs, methods, token_pooling, token_budget)
        self.eval_steps = eval_steps
        self.tokenizer = tokenizer
        self.on_error = on_error
        self._training = False
        # The scores at the current step of training: weights do not change within a step, so neither do they.
        self._scored_step: int | None = None
        self._metrics: dict[str, float] = {}

    # ------------------------------------------------------------------------------------------ Trainer events

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move in front of the callbacks that read our metrics."""
        self._move_to_front()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse what cannot be measured before training starts."""
        self._move_to_front()
        self.evaluator.check(kwargs["model"], self._tokenizer_of(kwargs))
        self._training = True
        self._scored_step = None
        if state.is_world_process_zero and state.global_step == 0:
            self._guarded(History(args.output_dir).begin)

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
        """Score, and add the scores to the metrics that the Trainer and later callbacks read."""
        if not self._training or self._scored_step != state.global_step:
            self._score(args, state, control, kwargs)
        if metrics is not None:
            metrics.update(self._metrics)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score the last step, unless it has its score or the model in memory is an earlier checkpoint by now."""
        replaced = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if self._scored_step != state.global_step and not replaced:
            self._score(args, state, control, kwargs)
        self._training = False

    # ------------------------------------------------------------------------------------------ scoring

    def _score(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, kwargs: dict[str, Any]
    ) -> None:
        self._scored_step = state.global_step
        # What stands if the evaluation fails: a Trainer whose best-model metric is missing would end the run.
        self._metrics = dict.fromkeys(self._metric_names(), math.nan)
        self._guarded(self._score_and_log, args, state, control, kwargs)

    def _guarded(self, step: Any, *arguments: Any) -> None:
        """Run a step of an evaluation; its failure is a warning unless the user wants it raised."""
        try:
            step(*arguments)
        except Exception as error:
            if self.on_error == "raise":
                raise
            logger.warning(
                "NeuronXA: an evaluation failed, and training goes on without its scores. %s: %s",
                type(error).__name__,
                error,
                exc_info=logger.isEnabledFor(logging.DEBUG),
            )

    def _score_and_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, kwargs: dict[str, Any]
    ) -> None:
        trainer = _calling_trainer(self)
        start = time.perf_counter()
        # The mixed precision that training runs in, where it does.
        with trainer.accelerator.autocast():
            report = self.evaluator(kwargs["model"], self._tokenizer_of(kwargs))
        runtime = time.perf_counter() - start
        self._metrics = metrics_of(report) | {"eval_neuronxa_runtime": round(runtime, 4)}
        _log(trainer, control, self._metrics)
        if state.is_world_process_zero:
            History(args.output_dir).append(record_of(report, state.global_step, state.epoch, runtime))
            _show_layers(trainer, report, state.global_step)

    def _metric_names(self) -> list[str]:
        suffixes = ["", *(f"_{pair.name}" for pair in self.evaluator.pairs)]
        names = [f"eval_{method}{suffix}" for method in self.evaluator.methods for suffix in suffixes]
        return [*names, "eval_neuronxa_runtime"]

    def _interval(self, max_steps: int) -> int:
        return max(1, int(self.eval_steps if self.eval_steps >= 1 else self.eval_steps * max_steps))

    def _tokenizer_of(self, kwargs: dict[str, Any]) -> Any:
        tokenizer = self.tokenizer or kwargs.get("processing_class")
        if tokenizer is None:
            raise ValueError(
                "NeuronXA needs the model's tokenizer: pass processing_class=tokenizer to the Trainer, "
                "or tokenizer=tokenizer to NeuronXACallback."
            )
        return getattr(tokenizer, "tokenizer", tokenizer)  # a multimodal processor holds one

    def _move_to_front(self) -> None:
        """Stand right behind the Trainer's own flow control, wherever the user put us.

        An EarlyStoppingCallback reads the metrics when its turn comes, so ours has to come first; and at the end of
        training we log before the trackers close their files.
        """
        handler = _calling_trainer(self).callback_handler
        others = [callback for callback in handler.callbacks if callback is not self]
        flow = sum(isinstance(callback, DefaultFlowCallback) for callback in others[:1])
        # A new list: the Trainer is walking along the old one.
        handler.callbacks = [*others[:flow], self, *others[flow:]]


def metrics_of(report: AlignmentReport) -> dict[str, float]:
    """The Trainer's metrics: `eval_nasca` over all language pairs and `eval_nasca_SOURCE-TARGET` of each."""
    metrics: dict[str, float] = {f"eval_{method}": score for method, score in report.score.items()}
    for name, language in report.by_language.items():
        metrics |= {f"eval_{method}_{name}": score for method, score in language.score.items()}
    return metrics


def _calling_trainer(callback: TrainerCallback) -> Trainer:
    """The Trainer whose event is being handled.

    A callback is handed everything but the Trainer, and only the Trainer's own log reaches `log_history` and every
    tracker. It is the `self` of one of the frames that led here.
    """
    frame = sys._getframe(1)
    while frame is not None:
        trainer = frame.f_locals.get("self")
        if isinstance(trainer, Trainer) and callback in trainer.callback_handler.callbacks:
            return trainer
        frame = frame.f_back  # type: ignore[assignment]
    raise RuntimeError("NeuronXACallback's events must come from a transformers Trainer that it was added to.")


def _log(trainer: Trainer, control: TrainerControl, metrics: dict[str, float]) -> None:
    """Log as the Trainer itself does.

    The base class's log is called because SFTTrainer's would average and clear the training metrics it has gathered
    so far. Logging takes back the request to log, which stands for the training loss of this very step.
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
