"""Lightning's callback: alignment at every validation, logged so that ModelCheckpoint and EarlyStopping can read it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator, PairsLike
from neuronxa_callback.alignment.report import AlignmentReport
from neuronxa_callback.alignment.settings import AlignmentSettings
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.state import TokenBudget
from neuronxa_callback.ranks import Ranks
from neuronxa_callback.training.continuation import other_choices
from neuronxa_callback.training.faults import Faults
from neuronxa_callback.training.history import History
from neuronxa_callback.training.metric_names import metrics_of
from neuronxa_callback.training.records import Evaluation
from neuronxa_callback.vocabulary import Method, TokenPooling

logger = logging.getLogger(__name__)


class NeuronXALightning(Callback):
    """Score cross-lingual alignment at the start of a Lightning training and at every validation.

    Usage:
        ```python
        from lightning.pytorch import Trainer
        from lightning.pytorch.callbacks import ModelCheckpoint
        from neuronxa_callback.integrations.lightning import NeuronXALightning

        best = ModelCheckpoint(monitor="eval_nasca", mode="max")
        trainer = Trainer(callbacks=[NeuronXALightning(tokenizer), best])
        trainer.fit(module, train, validation)
        ```

    The scores are `eval_nasca`, `eval_nasca_eng_Latn-isl_Latn` and `eval_neuronxa_runtime`, as with `NeuronXACallback`.
    Those of a validation reach the loggers and `trainer.callback_metrics`. Those of the start reach the loggers alone,
    so no checkpoint is chosen by them. `trainer.validate(...)` returns scores, too. Every evaluation of `fit` is a line
    of `neuronxa/scores.jsonl`. The sanity check is not scored. Training stays as it is: weights are bit-identical with
    and without the callback.

    Lightning's loggers count steps from 0: a validation after 10 steps stands at step 9 there, and at step 10 in
    scores.jsonl.

    A failed evaluation gives NaN. EarlyStopping ends a training at a NaN unless it has `check_finite=False`, so `fit`
    begins with a warning where one without it monitors a score.

    The callback translates nothing and has no stopping rule of its own.

    Args:
        tokenizer: the tokenizer of the model.
        pairs: Held-out pairs of one language pair or several: a file, or two codes such as eng_Latn-isl_Latn for the
            embedded set. See `NeuronXACallback`.
        model: the attribute of the LightningModule that holds the transformers model, such as "model" or "net.decoder".
        methods: One or several of nasca, nasca_rank, navca, mexa, cka, svcca, anc and sads.
        token_pooling: How tokens become a sentence: weighted (Eq. 3 of the paper), average or last.
        token_budget: Padded tokens in a batch at most; a smaller budget needs less memory. See `encode`.
        layers: Which layers to read, such as 8,16,24; the forward pass ends after the deepest. FFNs count from 1. None
            reads all layers.
        output_dir: the folder that gets `neuronxa/scores.jsonl`. None takes the folder of Lightning's first logger.
        on_error: "warn" logs an evaluation that failed and goes on with training. "raise" ends the run with the error.

    Raises:
        PairsError: held-out pairs that cannot be used.
        ValueError: an argument that cannot be used. Faults that only the model can show are raised when `fit` begins.
    """

    def __init__(
        self,
        tokenizer: Any,
        pairs: PairsLike = AlignmentSettings.pairs,
        *,
        model: str = "model",
        methods: Method | Sequence[Method] = AlignmentSettings.methods,
        token_pooling: TokenPooling = AlignmentSettings.token_pooling,
        token_budget: int | None = AlignmentSettings.token_budget,
        layers: Sequence[int] | None = AlignmentSettings.layers,
        output_dir: str | None = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__()
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error={on_error!r} is unknown; choose warn or raise.")
        self.evaluator = NeuronXAEvaluator(pairs, methods, token_pooling, token_budget, layers=layers)
        self.tokenizer = tokenizer
        self.model = model
        self.output_dir = output_dir
        self._faults = Faults(on_error == "raise", lambda: None)
        self._budget = TokenBudget(token_budget)
        self._history = History(".", on_disk=False)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a model that cannot be measured, before the sanity check.

        Raises:
            ValueError: the module has no such model, or the evaluator cannot read it.
        """
        ranks = Ranks.of_group()
        with trainer.precision_plugin.forward_context():
            decoder = self._decoder(pl_module)
            with ranks.together():
                self.evaluator.check(decoder)
        if ranks.is_first:
            self._warn_of_early_stopping(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the model before its first step. A resumed training goes on with the scores that it has."""
        step = trainer.global_step
        folder = self.output_dir or trainer.log_dir or trainer.default_root_dir
        self._history = History(folder, on_disk=False)
        if trainer.is_global_zero:
            failed = (
                "an earlier run's scores could not be put aside or gone on from; scores.jsonl is left as it is, and "
                "this run's scores are in Lightning's loggers alone"
            )
            with self._faults.guarded(failed), trainer.precision_plugin.forward_context():
                self._history = self._series(History(folder), step, pl_module)
        if step == 0:
            scores = self._scores(trainer, pl_module)
            for its_logger in trainer.loggers:
                its_logger.log_metrics(scores, step=0)
                its_logger.save()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the model, before ModelCheckpoint and EarlyStopping have their turns at the validation's end."""
        if not trainer.sanity_checking:
            pl_module.log_dict(self._scores(trainer, pl_module), sync_dist=True)

    # ------------------------------------------------------------------------------------------ an evaluation

    def _decoder(self, pl_module: LightningModule) -> Decoder:
        try:
            model = attrgetter(self.model)(pl_module)
        except AttributeError:
            raise ValueError(
                f"{type(pl_module).__name__} has no attribute {self.model}; name the one that holds the transformers "
                "model with NeuronXALightning(model=...)."
            ) from None
        return Decoder.find(model, self.tokenizer, Ranks.of_group())

    def _score_names(self) -> list[str]:
        names = ("", *(f"_{pair.name}" for pair in self.evaluator.pairs))
        return [f"eval_{method}{name}" for method in self.evaluator.methods for name in names]

    def _warn_of_early_stopping(self, trainer: Trainer) -> None:
        """Warn where a failed evaluation, which is NaN, would end the training."""
        if self._faults.raises:  # a failed evaluation ends the training as it is
            return
        for stopping in trainer.early_stopping_callbacks:
            if stopping is not None and stopping.check_finite and stopping.monitor in self._score_names():
                logger.warning(
                    "NeuronXA: EarlyStopping(monitor=%r) ends the training if an evaluation fails, because the score "
                    "is NaN then; give it check_finite=False.",
                    stopping.monitor,
                )

    def _series(self, history: History, step: int, pl_module: LightningModule) -> History:
        """Return the scores on the disk, gone back to a step if the training goes on with them, else begun anew."""
        if step > 0 and self._goes_on(history, pl_module):
            history.rewind(step)
        else:
            history.begin()
        return history

    def _goes_on(self, history: History, pl_module: LightningModule) -> bool:
        """Return whether this training measures what the scores on the disk measured."""
        decoder = self._decoder(pl_module)
        wanted = {pair.name: self.evaluator.signature(pair, decoder) for pair in self.evaluator.pairs}
        return not any(other_choices(earlier, wanted, {}, {}) for earlier in history.read())

    def _scores(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Return the scores of the present weights by their names; NaN if the evaluation failed."""
        report: AlignmentReport | None = None
        start = time.perf_counter()
        with (
            self._faults.guarded("an evaluation failed, and training goes on without its scores"),
            trainer.precision_plugin.forward_context(),
        ):
            report = self.evaluator.score(self._decoder(pl_module), self._budget)
        if report is None:
            return dict.fromkeys(self._score_names(), math.nan)
        runtime = time.perf_counter() - start
        if trainer.is_global_zero and trainer.state.fn == TrainerFn.FITTING:
            with self._faults.guarded("the scores were logged but not written to scores.jsonl"):
                step, epoch, pairs = trainer.global_step, float(trainer.current_epoch), self.evaluator.pairs
                self._history.put(Evaluation.of_report(report, step, epoch, runtime, pairs))
        return metrics_of(report) | {"eval_neuronxa_runtime": runtime}
