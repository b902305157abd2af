"""Trainer events to evaluations, and their scores into the Trainer's own log."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, Literal, TypeVar, get_args

from tqdm.auto import tqdm
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
from neuronxa_callback.alignment.evaluator import DEFAULT_PAIRS, AlignmentReport, NeuronXAEvaluator, PairsLike
from neuronxa_callback.quality.comet.process import QualityError
from neuronxa_callback.quality.evaluator import (
    COMET_MODEL,
    COMETKIWI_MODEL,
    Metric,
    PendingQuality,
    QualityEvaluator,
    QualityReport,
    same_random_state,
)
from neuronxa_callback.quality.translation import Prompt
from neuronxa_callback.significance import Correlation
from neuronxa_callback.text.overlap import search, texts_of
from neuronxa_callback.training.history import (
    History,
    awaited,
    other_choices,
    quality_metrics_in,
    record_of,
    take_up,
    translations_in,
)
from neuronxa_callback.training.overhead import Overhead
from neuronxa_callback.training.page import summarise, tell_stop
from neuronxa_callback.training.stopping import StoppingRule, Verdict, still_stops
from neuronxa_callback.vocabulary import OVER_PAIRS, Direction, Method, MetricName, TokenPooling

logger = logging.getLogger(__name__)

T = TypeVar("T")


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

    With quality metrics the model also translates the held-out sources at each of these, and `eval_comet`,
    `eval_cometkiwi`, `eval_chrf`, `eval_bleu` (with the same suffixes), `eval_translation_empty` and
    `eval_translation_truncated` (translations) and, from three evaluations on, `eval_pearson_nasca_comet` and the like
    join them. COMET scores in the background while training goes on; its scores are logged when they come, with the
    step that they belong to.

    Training is not changed: weights are bit-identical with and without the callback.

    Args:
        pairs: held-out pairs, or a list of them for several languages: what `ParallelPairs.load` takes. Never train
            on them. Default: the embedded 100 English-Icelandic pairs.
        methods: one or several of "nasca", "navca", "mexa", "cka", "svcca", "anc" and "sads", from one forward pass per
            sentence for all of them; see `scores`.
        eval_steps: steps between two scores where the Trainer never evaluates; below 1 a share of all steps, as in
            TrainingArguments. Default: a tenth of the run. Not used where the Trainer evaluates.
        token_pooling: "weighted" (Eq. 3 of the paper), "average" or "last".
        token_budget: padded tokens in a batch at most; smaller needs less memory. See `encode`.
        layers: which layers to score, such as (8, 16, 24); all for None. The pass ends after the deepest of them.
        tokenizer: needed only where the Trainer was given no `processing_class`.
        quality: one or several of "comet", "cometkiwi", "chrf" and "bleu", and objects with a method
            `score(sources, translations, references)`; `()` for none. Default "auto": COMET and CometKiwi where
            their environment (`neuronxa comet setup`) and models (`neuronxa comet check MODEL`) are on this machine.
        direction: what to translate: "source->target", "target->source" or "both".
        prompt: the prompt that the model is trained on, as a template with `{source}` in it or a
            function; see `translation.translate`. Default: the chat template where there is one, else a plain prompt.
        comet_model: hub name or checkpoint of the COMET model that sees references.
        cometkiwi_model: hub name or checkpoint of the COMET model that sees none.
        comet_device: where COMET runs: "cpu", "cuda" or "cuda:1".
        comet_batch_size: segments that COMET judges at once.
        comet_timeout: seconds that COMET may take for one language pair with one model.
        wait: have training wait for COMET at every evaluation. It waits anyway where `metric_for_best_model` is one of
            COMET's, and in an `evaluate()` outside training.
        early_stopping_patience: evaluations without an improvement after which training stops. An evaluation improves
            where its paired permutation test over the held-out pairs, against the last one that improved, is
            significant. 5 is what docs/stopping.md finds; below it noise alone stops a run. Default: never stop.
        early_stopping_metric: a logged key without "eval_": an alignment score ("nasca", the default,
            "nasca_eng_Latn-isl_Latn"), or another ("comet", "loss"), which improves by any rise (a loss by a fall), as
            CKA, SVCCA and ANC do, which have no value a pair to test.
        significance: of that test.
        min_delta: where given, an improvement is a rise above this, and no test is made.
        warmup_evals: evaluations after the first that do not count towards the patience.
        floor: FLORES-200 code -> how far the alignment of this watched language may fall below its start; a fall that
            is significantly larger (p < 0.05) means that it is being forgotten.
        on_floor: "stop" ends training then, "warn" says so and goes on.
        train_texts: what is trained on, as it was before it was tokenised (a data set, one of its columns, a list of
            texts): it is searched for the held-out sentences before training, `OUTPUT_DIR/neuronxa/overlap.json` says
            what was found, and a warning if anything was. See `overlap.drop`.
        max_overhead: the share of the run's time that evaluations may take before a warning says so, with how much
            rarer they would have to be; 1 never warns.
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
        layers: Sequence[int] | None = None,
        tokenizer: Any = None,
        quality: Literal["auto"] | Metric | Sequence[Metric] = "auto",
        direction: Direction = "source->target",
        prompt: Prompt | None = None,
        comet_model: str = COMET_MODEL,
        cometkiwi_model: str = COMETKIWI_MODEL,
        comet_device: str = "cpu",
        comet_batch_size: int = 8,
        comet_timeout: float = 1200,
        wait: bool = False,
        early_stopping_patience: int | None = None,
        early_stopping_metric: str | None = None,
        significance: float = 0.2,
        min_delta: float | None = None,
        warmup_evals: int = 0,
        floor: Mapping[str, float] | None = None,
        on_floor: Literal["stop", "warn"] = "stop",
        train_texts: Iterable[Any] | None = None,
        max_overhead: float = 0.1,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        if not _is_interval(eval_steps):
            raise ValueError(f"eval_steps={eval_steps!r} must be a whole number of steps, or below 1 a share of all.")
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error={on_error!r} is unknown; choose warn or raise.")
        if on_floor not in ("stop", "warn"):
            raise ValueError(f"on_floor={on_floor!r} is unknown; choose stop or warn.")
        if not 0 < max_overhead <= 1:
            raise ValueError(f"max_overhead={max_overhead!r} must be a share of the run such as 0.1; 1 never warns.")
        self.evaluator = NeuronXAEvaluator(pairs, methods, token_pooling, token_budget, layers=layers)
        self.stopping = StoppingRule(
            early_stopping_patience,
            (early_stopping_metric or self.evaluator.methods[0]).removeprefix("eval_"),
            significance,
            min_delta,
            warmup_evals,
            floor,
            on_floor == "stop",
        )
        self._check_floor()
        self.quality = QualityEvaluator(
            ("comet", "cometkiwi") if quality == "auto" else quality,  # type: ignore[arg-type]
            self.evaluator.pairs,
            direction,
            prompt,
            comet_model,
            cometkiwi_model,
            comet_device,
            comet_batch_size,
            comet_timeout,
        )
        self.eval_steps = eval_steps
        self.tokenizer = tokenizer
        self.wait = wait
        self.train_texts = train_texts
        self.max_overhead = max_overhead
        self.on_error = on_error
        self._may_download = quality != "auto"
        self._pending: list[PendingQuality] = []  # evaluations that COMET has not scored to the end, in step order
        self._warned: set[str] = set()
        self._history = History(".", on_disk=False)  # until training begins
        self._scored_step: int | None = None  # the last step of this training run that was scored, or tried to be
        self._resumed_step: int | None = None  # where a series goes on, which an `eval_on_start` would score anew
        self._stops_again: str | None = None  # why the run had stopped at the step that it is resumed from
        self._unlogged: list[tuple[Mapping[str, Any], dict[str, float]]] = []  # what came too late for the checkpoint
        self._without_value = 0  # evaluations on end that lack the metric to stop by
        self._overhead = Overhead(max_overhead)
        self._begins_series = True  # whether this training run's first score is the first of its curves
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
        self._overhead = Overhead(self.max_overhead)
        self._warned.clear()  # of an earlier trial
        self._without_value = 0
        self._end_quality()  # of a run that was interrupted
        trainer = calling_trainer(self)
        if sum(isinstance(callback, NeuronXACallback) for callback in trainer.callback_handler.callbacks) > 1:
            raise ValueError(
                "the Trainer has several NeuronXACallbacks, whose scores would share their names; give one of them all "
                "the pairs (a list), methods and metrics."
            )
        self._choose_quality(trainer)
        self._check_best_metric(args)
        self._check_stopping_metric(args)
        with self._guarded("the check before training failed", let_through=ValueError), trainer.accelerator.autocast():
            self.evaluator.check(kwargs["model"], self._tokenizer_of(kwargs))
            self.quality.check(kwargs["model"], self._tokenizer_of(kwargs))
        if state.is_world_process_zero and self.train_texts is not None:
            with (
                self._guarded("the training text could not be searched for held-out sentences", let_through=ValueError),
                same_random_state(),
            ):  # also where a data set's transform draws
                self._search_train_texts(args)
        self._take_up(trainer, kwargs["model"], self._tokenizer_of(kwargs))

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score at the start, when every tracker has begun its run and an `eval_on_start` evaluation has passed.

        A resumed run's start has its score, unless the curves begin there: no callback was with the run before, or one
        that measured something else.
        """
        self._log_late(calling_trainer(self), control)
        if self._begins_series and self._scored_step is None:
            self._score(args, state, control, kwargs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log what COMET has finished, and score every `eval_steps` where the Trainer never evaluates."""
        self._log_finished(calling_trainer(self), control)
        if self._stops_again:  # transformers lets a resumed run make a step before it can be stopped
            self._scored_step = state.global_step
            control.should_training_stop = True
            control.should_evaluate = control.should_save = False
            if state.is_world_process_zero:
                logger.warning("NeuronXA: training stops, as it had before it was resumed: %s.", self._stops_again)
            return
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
        trainer = calling_trainer(self)
        in_training = _is_training(trainer)
        if in_training and state.global_step in (self._scored_step, self._resumed_step):
            if self._stops_again and state.global_step != self._resumed_step:
                self.missing = tuple(self._metric_names(self._waits(trainer)))  # of the step too many
            return
        try:
            scores = self._score(args, state, control, kwargs, metrics or {})
        finally:
            if not in_training:
                self._end_quality()
        self.missing = tuple(name for name in self._metric_names(self._waits(trainer)) if name not in scores)
        if metrics is not None:
            metrics.update(scores)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score the last step, unless it has its score or the model in memory is an earlier checkpoint by now.

        Then wait for COMET, sum up, and end its process.
        """
        self._log_late(calling_trainer(self), control)
        replaced = args.load_best_model_at_end and state.best_model_checkpoint is not None
        try:
            if self._scored_step != state.global_step and not replaced:
                self._score(args, state, control, kwargs)
            for pending in tqdm(self._pending, "waiting for COMET", disable=args.disable_tqdm or not self._pending):
                pending.report.wait()
            self._log_finished(calling_trainer(self), control)
            if state.is_world_process_zero:
                with self._guarded("the scores could not be summed up"):
                    if self.quality.metrics:
                        summarise(self._history.records)
                    tell_stop(self._history.records)
        finally:
            self._end_quality()

    def _search_train_texts(self, args: TrainingArguments) -> None:
        """Look for the held-out sentences in the training text, and say what was found."""
        assert self.train_texts is not None
        total = len(self.train_texts) if isinstance(self.train_texts, Sized) else None
        texts = texts_of(self.train_texts)
        report = search(
            tqdm(texts, "looking for held-out text", total, disable=args.disable_tqdm), self.evaluator.pairs
        )
        path = Path(args.output_dir) / "neuronxa" / "overlap.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(report), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        if report.whole or report.near:
            logger.warning(
                "NeuronXA: of %d training texts %d hold a held-out sentence and %d nearly one, such as %r; the scores "
                "may say what the model remembers. %s has more, and overlap.drop(dataset, callback.evaluator.pairs) "
                "gives the data set without them.",
                report.texts,
                report.whole,
                report.near,
                report.examples[0]["sentence"],
                path,
            )

    # ------------------------------------------------------------------------------------------ resuming

    def _take_up(self, trainer: Trainer, model: Any, tokenizer: Any) -> None:
        """Begin a series of scores, or go on with the one that the run is resumed in, alike on every process."""
        self._history = History(trainer.args.output_dir)
        self._begins_series, self._stops_again, self._unlogged = True, None, []
        if trainer.is_world_process_zero():
            found = False
            with self._guarded(
                "an earlier run's scores could not be put aside or gone on from; scores.jsonl is left as it is, and "
                "this run's scores are in the Trainer's log alone"
            ):
                self._begins_series = self._find_series(trainer, model, tokenizer)
                found = True
            if not found:
                self._history = History(trainer.args.output_dir, on_disk=False)
        taken_up = self._begins_series, self._scored_step, self._stops_again
        self._begins_series, self._scored_step, self._stops_again = _of_first_process(trainer.args, taken_up)
        self._resumed_step = None if self._begins_series else trainer.state.global_step

    def _find_series(self, trainer: Trainer, model: Any, tokenizer: Any) -> bool:
        """Go back in scores.jsonl to the step that training starts from; whether a new series begins there.

        Scores that this run's own would not be comparable with are put aside, so that no curve mixes two things.
        """
        step, history = trainer.state.global_step, self._history
        if step == 0:
            history.begin()
            return True
        records = [record for record in history.read() if record["step"] <= step]
        with trainer.accelerator.autocast():  # it is part of the signatures
            differ = self._differences(records, model, tokenizer)
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
            return True
        history.rewind(step)
        self._pending = [pending for record in records if (pending := self._awaited(record))]
        self._unlogged = [(record, late) for record in records if (late := _not_in(trainer.state, record))]
        if records:
            self._go_on(step, records[-1])
        return not records

    def _log_late(self, trainer: Trainer, control: TrainerControl) -> None:
        """Log what COMET had finished after the checkpoint that the run is resumed from."""
        for record, metrics in self._unlogged:
            log_metrics(trainer, control, metrics, record["step"], record["epoch"])
        self._unlogged = []

    def _go_on(self, step: int, last: Mapping[str, Any]) -> None:
        """Find out from the last line what the resumed run has behind it."""
        verdict = last.get("stopping")
        if verdict and verdict.get("rule") != self.stopping.said:
            logger.warning(
                "NeuronXA: the run was judged by another rule before it was resumed (%s before, %s now); patience and "
                "best value begin anew.",
                verdict.get("rule"),
                self.stopping.said,
            )
        self._stops_again = still_stops(self.stopping, verdict) if verdict else None
        if last["step"] == step and last["score"]:
            self._scored_step = step

    def _differences(self, records: Sequence[Mapping[str, Any]], model: Any, tokenizer: Any) -> dict[str, Any]:
        """What this callback measures otherwise than an earlier one did."""
        wanted = {pair.name: self.evaluator.signature(pair, model, tokenizer) for pair in self.evaluator.pairs}
        translated = {name: self.quality.signature(name, model, tokenizer) for name in self.quality.jobs}
        differ: dict[str, Any] = {}
        for record in records:
            if record["languages"]:  # none where the evaluation failed
                differ |= other_choices(record, wanted, translated, self.quality)
        return differ

    def _awaited(self, record: Mapping[str, Any]) -> PendingQuality | None:
        """What COMET had not scored of an evaluation when the run before ended, handed to it again."""
        names = [name for name in awaited(record) if name in self.quality.metrics]
        return take_up(self.quality, names, translations_in(record), record["step"], record) if names else None

    # ------------------------------------------------------------------------------------------ scoring

    def _score(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        kwargs: dict[str, Any],
        others: Mapping[str, float] = MappingProxyType({}),
    ) -> dict[str, float]:
        """Evaluate and log; the metrics, those left out whose evaluation failed or is not done yet.

        `others` are the Trainer's own metrics of this evaluation, by which a run may be stopped, too.
        """
        self._scored_step = state.global_step
        trainer = calling_trainer(self)
        start = time.perf_counter()
        metrics = self._score_alignment(trainer, control, kwargs)
        metrics |= self._score_quality(trainer, control, kwargs, is_aligned=bool(metrics))
        if _is_training(trainer):
            metrics |= self._judge(trainer, control, {**others, **metrics})
            too_much = self._overhead.add(state.global_step, start, time.perf_counter())
            if too_much and state.is_world_process_zero:
                logger.warning("NeuronXA: %s", too_much)
        return metrics

    def _judge(self, trainer: Trainer, control: TrainerControl, values: Mapping[str, float]) -> dict[str, float]:
        """Log how this evaluation stands against the best so far, and stop where the rule says so."""
        args, state = trainer.args, trainer.state
        verdict: Verdict | None = None
        if state.is_world_process_zero:
            self._tell_missing_value(values)
            with self._guarded("the evaluation could not be compared with the best so far"):
                verdict = self._history.judge(self.stopping, state.global_step, values)
            if verdict is not None:
                if state.global_step >= state.max_steps:
                    verdict = replace(verdict, reason=None)  # it ends of itself
                with self._guarded("what an evaluation means for stopping was not written to scores.jsonl"):
                    self._history.update(state.global_step, {"stopping": asdict(verdict)})
        verdict = _of_first_process(args, verdict)
        if verdict is None:
            return {}
        metrics = verdict_metrics(verdict, self.stopping.metric)
        log_metrics(trainer, control, metrics)
        for name, fall in verdict.forgotten.items():
            if not self.stopping.stop_at_floor and state.is_world_process_zero:
                self._warn_once(f"{name} fell {fall:.4f} below its start, by more than noise.", f"floor {name}")
        if verdict.reason:
            control.should_training_stop = True
            if state.is_world_process_zero:
                logger.warning("NeuronXA: training stops at step %d: %s.", state.global_step, verdict.reason)
        return metrics

    def _tell_missing_value(self, values: Mapping[str, float]) -> None:
        """Say that nothing stops the run where what it should be stopped by does not come."""
        metric = self.stopping.metric
        self._without_value = 0 if f"eval_{metric}" in values else self._without_value + 1
        if self.stopping.patience is not None and self._without_value == 2:
            there = ", ".join(sorted(name.removeprefix("eval_") for name in values)) or "none"
            self._warn_once(
                f"two evaluations have no {metric!r}, by which training should stop (early_stopping_metric); their "
                f"metrics are {there}.",
                "no value to stop by",
            )

    def _score_alignment(self, trainer: Trainer, control: TrainerControl, kwargs: dict[str, Any]) -> dict[str, float]:
        args, state = trainer.args, trainer.state
        report: AlignmentReport | None = None
        start = time.perf_counter()
        failed = "an evaluation failed, and training goes on without its scores"
        with self._guarded(failed), trainer.accelerator.autocast():  # in the mixed precision that training runs in
            report = self.evaluator(kwargs["model"], self._tokenizer_of(kwargs))
        runtime = time.perf_counter() - start
        metrics = {} if report is None else metrics_of(report) | {"eval_neuronxa_runtime": round(runtime, 4)}
        # One process may fail or round differently; all of them must choose and stop alike.
        metrics = _of_first_process(args, metrics)
        if metrics:
            log_metrics(trainer, control, metrics)
        if report is not None and state.is_world_process_zero:
            if _is_training(trainer):
                with self._guarded("the scores were logged but not written to scores.jsonl"):
                    self._history.append(record_of(report, state.global_step, state.epoch, runtime))
            with self._guarded("the scores were logged but not drawn"):
                _show_layers(trainer, report, min(map(len, self.evaluator.pairs)), state.global_step)
        return metrics

    def _score_quality(
        self, trainer: Trainer, control: TrainerControl, kwargs: dict[str, Any], is_aligned: bool
    ) -> dict[str, float]:
        """Translate on every process, score on the first; what is not done by now is logged later."""
        args, state = trainer.args, trainer.state
        self._choose_quality(trainer)
        if not self.quality.metrics:
            return {}
        translated = None
        start = time.perf_counter()
        with self._guarded("the held-out sources could not be translated"), trainer.accelerator.autocast():
            translated = self.quality.translate(kwargs["model"], self._tokenizer_of(kwargs))
        runtime = time.perf_counter() - start
        metrics: dict[str, float] = {}
        if translated is not None and state.is_world_process_zero:
            report = self.quality.score(translated)
            if not is_aligned and _is_training(trainer):
                # A line of its own: an earlier attempt at this step may have left another.
                nothing = {"step": state.global_step, "epoch": state.epoch, "runtime": None, "score": {}}
                with self._guarded("the quality scores will be logged but not written to scores.jsonl"):
                    self._history.append(nothing | {"languages": {}})
            pending = PendingQuality(state.global_step, state.epoch, report)
            if self._waits(trainer):
                report.wait()
            self._log_finished(trainer, control)  # what belongs to earlier steps comes first
            metrics = translation_metrics(report) | {"eval_translation_runtime": round(runtime, 4)}
            self._pending.append(pending)
            metrics |= self._finished(trainer, pending)
        metrics = _of_first_process(args, metrics)
        if metrics:
            log_metrics(trainer, control, metrics)
        return metrics

    def _choose_quality(self, trainer: Trainer) -> None:
        """Settle, once, on the metrics that can be had without a download, unless the user named some."""
        if self._may_download:
            return
        self._may_download = True
        metrics = self.quality.metrics
        left_out = self.quality.leave_out_downloads()
        # The first process's choice: it alone scores, and the others' caches may differ.
        names = _of_first_process(trainer.args, list(self.quality.metrics))
        self.quality.metrics = {name: metrics[name] for name in names}
        if left_out and trainer.is_world_process_zero():
            logger.warning("NeuronXA: %s Alignment is logged all the same; quality=() leaves this out.", left_out)

    def _check_best_metric(self, args: TrainingArguments) -> None:
        """Refuse to choose the best model by a metric that will not be logged."""
        read = _metric_read(args)
        if read == "pearson":
            raise ValueError(
                f"metric_for_best_model={args.metric_for_best_model!r} is about the run so far and says nothing of how "
                "good a step is; choose an alignment score or a quality metric, such as 'eval_nasca'."
            )
        own = [f"{self.stopping.metric}{ending}" for ending in ("_best", "_gain", "_gain_p")]
        if (args.metric_for_best_model or "").removeprefix("eval_") in own:
            raise ValueError(
                f"metric_for_best_model={args.metric_for_best_model!r} compares a step with those before it; choose "
                f"'eval_{self.stopping.metric}'."
            )
        if read in get_args(MetricName) and read not in self.quality.metrics:
            raise ValueError(
                f"metric_for_best_model={args.metric_for_best_model!r} will not be logged; name {read!r} in "
                "NeuronXACallback(quality=...), and see to it that its environment and its model are there."
            )

    def _check_floor(self) -> None:
        if self.stopping.floor and not set(self.evaluator.methods) & set(OVER_PAIRS):
            raise ValueError(f"floor tests pair by pair; have one of {', '.join(OVER_PAIRS)} among methods.")
        watched = {code for pair in self.evaluator.pairs for code in (pair.source_lang, pair.target_lang)}
        for code in self.stopping.floor or {}:
            if code not in watched:
                raise ValueError(f"floor names {code}, which is not watched; choose of {', '.join(sorted(watched))}.")

    def _check_stopping_metric(self, args: TrainingArguments) -> None:
        """Refuse to stop by a metric that will not be there."""
        names = self._metric_names(waits=True)
        known = self.stopping.patience is None or f"eval_{self.stopping.metric}" in names
        if not known and self.stopping.metric.split("_")[0] in get_args(Method):
            there = ", ".join(name.removeprefix("eval_") for name in names if name.split("_")[1] in get_args(Method))
            raise ValueError(
                f"early_stopping_metric={self.stopping.metric!r} will not be logged; of the alignment scores there are "
                f"{there}."
            )
        if not known and args.eval_strategy == "no":
            raise ValueError(
                f"early_stopping_metric={self.stopping.metric!r} will not be logged: where the Trainer never evaluates "
                "only this callback's own metrics are there; choose one of them, such as 'nasca'."
            )

    def _waits(self, trainer: Trainer) -> bool:
        """Whether an evaluation must have COMET's scores before it ends."""
        read = {_metric_read(trainer.args), self.stopping.metric.split("_")[0]}
        return self.wait or not _is_training(trainer) or not read.isdisjoint(self.quality.slow)

    def _log_finished(self, trainer: Trainer, control: TrainerControl) -> None:
        """Log what COMET has finished since the last time, with the step it belongs to."""
        for pending in list(self._pending):
            if self.quality.news(pending, self._pending):
                metrics = self._finished(trainer, pending)
                if metrics:
                    log_metrics(trainer, control, metrics, pending.step, pending.epoch)

    def _finished(self, trainer: Trainer, pending: PendingQuality) -> dict[str, float]:
        """The metrics that are done by now and were not told before; in a run, scores.jsonl gets them here."""
        news = self.quality.news(pending, self._pending)
        pending.told.update(news)
        metrics = quality_metrics(pending.report, news)
        if _is_training(trainer):
            with self._guarded("the quality scores were logged but not written to scores.jsonl"):
                found = self._history.add_quality(pending.step, pending.report)
                metrics |= pearson_metrics(found, metrics)
        if pending.is_over:
            self._pending.remove(pending)
        for name in news:
            for error in pending.report.errors(name):
                self._tell(f"no {name} at step {pending.step}: {error}", f"{name}: {error}")
        return metrics

    def _tell(self, message: str, what: str) -> None:
        """Raise where the user wants it, else warn, once for what may come at every evaluation."""
        if self.on_error == "raise":
            self._end_quality()
            raise QualityError(message)
        self._warn_once(message, what)

    def _warn_once(self, message: str, what: str) -> None:
        if what not in self._warned:
            logger.warning("NeuronXA: %s", message)
        self._warned.add(what)

    def _end_quality(self) -> None:
        self._pending = []
        self.quality.close()

    @contextmanager
    def _guarded(self, what: str, let_through: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        """Make a failure a warning that says what did not work, unless the user wants it raised."""
        try:
            yield
        except Exception as error:
            if self.on_error == "raise" or isinstance(error, let_through):
                self._end_quality()
                raise
            logger.warning(
                "NeuronXA: %s. %s: %s",
                what,
                type(error).__name__,
                error,
                exc_info=logger.isEnabledFor(logging.DEBUG),
            )

    def _metric_names(self, waits: bool) -> list[str]:
        """What an evaluation should give by its end."""
        metrics = [name for name in self.quality.metrics if waits or name not in self.quality.slow]
        names = [f"eval_{method}" for method in self.evaluator.methods]
        names += [f"eval_{method}_{pair.name}" for method in self.evaluator.methods for pair in self.evaluator.pairs]
        names += [f"eval_{metric}" for metric in metrics]
        names += [f"eval_{metric}_{direction}" for metric in metrics for direction in self.quality.jobs]
        if metrics:
            names += ["eval_translation_empty", "eval_translation_truncated", "eval_translation_runtime"]
        return [*names, "eval_neuronxa_runtime"]

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
        handler = calling_trainer(self).callback_handler
        others = [c for c in handler.callbacks if c is not self and not self._is_our_tail(c)]
        flow = sum(isinstance(callback, DefaultFlowCallback) for callback in others[:1])
        # A new list: the Trainer is walking along the old one.
        handler.callbacks = [*others[:flow], self, *others[flow:], _MissingScores(self)]

    def _is_our_tail(self, callback: TrainerCallback) -> bool:
        return isinstance(callback, _MissingScores) and callback.callback is self


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


def verdict_metrics(verdict: Verdict, metric: str) -> dict[str, float]:
    """`eval_nasca_best`, `eval_nasca_gain` and, where the paired test was made, `eval_nasca_gain_p`."""
    if verdict.best is None or verdict.gain is None:
        return {}
    metrics = {f"eval_{metric}_best": verdict.best, f"eval_{metric}_gain": verdict.gain}
    return metrics if verdict.p_value is None else metrics | {f"eval_{metric}_gain_p": verdict.p_value}


def translation_metrics(report: QualityReport) -> dict[str, float]:
    """How many translations are empty or were cut at their limit, over all directions."""
    made = [direction.translations for direction in report.by_direction.values()]
    return {
        "eval_translation_empty": sum(translations.empty for translations in made),
        "eval_translation_truncated": sum(translations.truncated for translations in made),
    }


def quality_metrics(report: QualityReport, names: Sequence[str]) -> dict[str, float]:
    """Of finished metrics: `eval_comet` over all directions, where each has a score, and that of each."""
    metrics: dict[str, float] = {}
    for name in names:
        mean = report.mean(name)
        if mean is not None:
            metrics[f"eval_{name}"] = mean
        metrics |= {f"eval_{name}_{direction}": score for direction, score in report.system(name).items()}
    return metrics


def pearson_metrics(found: Mapping[str, Correlation], scored: Mapping[str, float]) -> dict[str, float]:
    """`eval_pearson_nasca_comet` and the like, of the quality metrics among those just scored."""
    return {f"eval_pearson_{name}": c.r for name, c in found.items() if f"eval_{name.partition('_')[2]}" in scored}


def _not_in(state: TrainerState, record: Mapping[str, Any]) -> dict[str, float]:
    """A line's quality scores that are not in the log: they came after the checkpoint that the run is resumed from."""
    logged = {name for entry in state.log_history if entry["step"] == record["step"] for name in entry}
    return {name: value for name, value in quality_metrics_in(record).items() if name not in logged}


def _metric_read(args: TrainingArguments) -> str:
    """The metric that the Trainer chooses its best model by, without prefix and suffix."""
    return (args.metric_for_best_model or "").removeprefix("eval_").split("_")[0]


def _of_first_process(args: TrainingArguments, value: T) -> T:
    """The first process's value, on every process."""
    if args.world_size == 1:
        return value
    from accelerate.utils import broadcast_object_list  # there wherever a Trainer trains

    return broadcast_object_list([value])[0]  # type: ignore[no-any-return]


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


def _is_training(trainer: Trainer) -> bool:
    """Whether the event comes from `train()`, and not from an `evaluate()` of the user's before or after it.

    The Trainer's own flag stays up when a run is interrupted, so the frames are asked.
    """
    return any(frame.f_code.co_name == "train" and frame.f_locals.get("self") is trainer for frame in _callers())


def log_metrics(
    trainer: Trainer,
    control: TrainerControl,
    metrics: dict[str, float],
    step: int | None = None,
    epoch: float | None = None,
) -> None:
    """Log as the Trainer itself does, with an earlier step if one is given.

    The base class's log is called, past a subclass's own: SFTTrainer's would average and clear the training metrics it
    has gathered so far. Logging takes back the request to log, which stands for the training loss of this very step.
    """
    should_log, state = control.should_log, trainer.state
    now = state.global_step, state.epoch
    if step is not None:
        state.global_step, state.epoch = step, epoch
    try:
        Trainer.log(trainer, dict(metrics))
    finally:
        state.global_step, state.epoch = now
    control.should_log = trainer.control.should_log = should_log


def _show_layers(trainer: Trainer, report: AlignmentReport, n: int, step: int) -> None:
    """Add the figure of the score per layer to the Trainer's own TensorBoard run, where there is one."""
    writers = [c.tb_writer for c in trainer.callback_handler.callbacks if isinstance(c, TensorBoardCallback)]
    for writer in filter(None, writers):
        for method in report.score:
            per_layer = {name: language.per_layer[method].tolist() for name, language in report.by_language.items()}
            title = f"Alignment per layer at step {step}"
            figure = plots.layer_figure(per_layer, method, n, title, report.signature)
            writer.add_image(f"neuronxa/{method}_per_layer", plots.pixels(figure), step, dataformats="HWC")
            writer.flush()
