"""The callback: a Trainer's events, each handed to the run that it belongs to."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator, PairsLike
from neuronxa_callback.alignment.settings import AlignmentSettings
from neuronxa_callback.launcher import is_first
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.quality.metrics import Metric
from neuronxa_callback.quality.settings import Quality
from neuronxa_callback.ranks import warn_on_first_alone
from neuronxa_callback.training.checks import check_alone, check_floor, check_one_trainer
from neuronxa_callback.training.metric_names import is_read_by_trainer, named_for, prefix_of
from neuronxa_callback.training.run import Run
from neuronxa_callback.training.schedule import interval, is_interval
from neuronxa_callback.training.settings import StoppingRule
from neuronxa_callback.training.step_scores import StepScores
from neuronxa_callback.training.trainer import FalseAlarm, Moment, is_in_front, move_to_front
from neuronxa_callback.training.watch import Watch
from neuronxa_callback.vocabulary import Method, TokenPooling

logger = logging.getLogger(__name__)


class NeuronXACallback(TrainerCallback):
    """Score cross-lingual alignment during training and log it like any other evaluation metric.

    Usage:
        ```python
        from neuronxa_callback import NeuronXACallback

        trainer = SFTTrainer(model=model, args=args, train_dataset=dataset, callbacks=[NeuronXACallback()])
        trainer.train()
        ```

    The callback scores at the start (step 0), at every evaluation of the Trainer and at the end. If the Trainer never
    evaluates (`eval_strategy="no"`), it scores every `eval_steps`. The scores are `eval_nasca` (mean over the language
    pairs), `eval_nasca_eng_Latn-isl_Latn` (one language pair) and `eval_neuronxa_runtime` (seconds). They reach
    `state.log_history`, every tracker of `report_to`, `OUTPUT_DIR/neuronxa/scores.jsonl`, and the metrics that
    `metric_for_best_model`, `load_best_model_at_end` and `EarlyStoppingCallback` read. An `evaluate()` with another
    prefix, such as "test", and `predict()` return the scores with that prefix: `test_nasca`. In training `predict()`
    returns those that the step already has.

    With quality metrics the model also translates the held-out sources at each evaluation. This adds `eval_comet`,
    `eval_cometkiwi`, `eval_chrf` and `eval_bleu` (with the same suffixes), and `eval_translation_empty` and
    `eval_translation_truncated` (numbers of translations). It adds `eval_translation_copied`,
    `eval_translation_off_target` and `eval_translation_length` (also with these suffixes), which say how much of the
    sources the translations copy, how many are in another language, and how long they are. From three evaluations on it
    adds `eval_pearson_nasca_comet`, and then `eval_pearson_diff_nasca_comet` and `eval_pearson_partial_nasca_comet`
    over the run. At each evaluation it adds
    `eval_over_sentences_nasca_comet_eng_Latn-isl_Latn` over the sentences. COMET scores in the background while
    training goes on. Its scores are logged when they come, with the step that they belong to.

    The callback does not change training: weights are bit-identical with and without it.

    Args:
        pairs: Held-out pairs of one language pair or several: a file, or two codes such as eng_Latn-isl_Latn for the
            embedded set. It takes whatever `ParallelPairs.load` takes. Several language pairs are a list. Never train
            on them. Default: the embedded 100 English-Icelandic pairs.
        methods: One or several of nasca, nasca_rank, navca, mexa, cka, svcca, anc and sads. All methods share one
            forward pass per sentence. SADS alone takes a second one if the tokenizer adds special tokens. See `scores`.
        eval_steps: Steps between two evaluations if the Trainer never evaluates. A number below 1 is a share of all
            steps, as in TrainingArguments. Default: a tenth of the run. It has no effect if the Trainer evaluates.
        token_pooling: How tokens become a sentence: weighted (Eq. 3 of the paper), average or last.
        token_budget: Padded tokens in a batch at most; a smaller budget needs less memory. See `encode`.
        layers: Which layers to read, such as 8,16,24; the forward pass ends after the deepest. FFNs count from 1. None
            reads all layers.
        tokenizer: The tokenizer. It is needed only if the Trainer was given no `processing_class`.
        quality: Any of comet, cometkiwi, chrf, bleu and objects with a method score(sources, translations,
            references); () for none. auto: COMET and CometKiwi if their environment and models are on this machine.
            `neuronxa comet setup` makes the environment, and `neuronxa comet check MODEL` fetches a model. A `Quality`
            also takes the prompt that the model is trained on, the direction, the pairs to translate, and COMET's
            models and device.
        early_stopping_patience: Evaluations over which the metric must rise; training stops if it does not. The metric
            is the first method's score, and a line through the evaluations must rise. See docs/explanation/stopping.md
            for how often that is too early, and take 15 of 50. Default: never stop.
        stopping: A `StoppingRule` in place of the patience, with another metric, or with languages that must not be
            forgotten.
        train_texts: The training text as it was before it was tokenised: a data set, one of its columns, or a list of
            texts. It is searched for the held-out sentences before training. `OUTPUT_DIR/neuronxa/overlap.json` holds
            what was found, and a warning says so if anything was. See `overlap.drop`.
        max_overhead: The share of the run's time that evaluations may take. Above it a warning says by how much they
            would have to be rarer. 1 never warns.
        on_error: "warn" logs an evaluation that failed and goes on with training. "raise" ends the run with the error.

    Raises:
        PairsError: held-out pairs that cannot be used.
        ValueError: an argument that cannot be used. Faults that only the model can show (an FFN that cannot be read, a
            sentence beyond its context) are raised when training begins, whatever `on_error` says.
    """

    def __init__(
        self,
        pairs: PairsLike = AlignmentSettings.pairs,
        *,
        methods: Method | Sequence[Method] = AlignmentSettings.methods,
        eval_steps: float = 0.1,
        token_pooling: TokenPooling = AlignmentSettings.token_pooling,
        token_budget: int | None = AlignmentSettings.token_budget,
        layers: Sequence[int] | None = AlignmentSettings.layers,
        tokenizer: Any = None,
        quality: Literal["auto"] | Metric | Sequence[Metric] | Quality = "auto",
        early_stopping_patience: int | None = None,
        stopping: StoppingRule | None = None,
        train_texts: Iterable[Any] | None = None,
        max_overhead: float = 0.1,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        warn_on_first_alone(is_first())
        if not is_interval(eval_steps):
            raise ValueError(f"eval_steps={eval_steps!r} must be a whole number of steps, or below 1 a share of all.")
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error={on_error!r} is unknown; choose warn or raise.")
        if not 0 < max_overhead <= 1:
            raise ValueError(f"max_overhead={max_overhead!r} must be a share of the run such as 0.1; 1 never warns.")
        self.evaluator = NeuronXAEvaluator(pairs, methods, token_pooling, token_budget, layers=layers)
        self.stopping = _stopping_rule(early_stopping_patience, stopping, self.evaluator)
        self.quality_settings = quality if isinstance(quality, Quality) else Quality(quality)
        self.quality = QualityEvaluator.of_settings(self.quality_settings, self.evaluator.pairs)
        self.eval_steps = eval_steps
        self.tokenizer = tokenizer
        self.train_texts = train_texts
        self.max_overhead = max_overhead
        self.on_error = on_error
        self._metrics: tuple[str, ...] | None = None if self.quality.local_only else tuple(self.quality.metrics)
        self._run: Run | None = None
        # The scores of the evaluations that are under way; one may come from within another one's turns.
        self._turns: list[tuple[Mapping[str, float], StepScores]] = []
        self.false_alarm = FalseAlarm()

    @property
    def missing(self) -> tuple[str, ...]:
        """The metrics that the last evaluation should have given and did not."""
        return self._run.scores.missing if self._run else ()

    def take_scores(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the scores of an evaluation with their names among its metrics; NaN if one is missing.

        There are none if this callback had no turn at the evaluation, as after its removal.

        Args:
            metrics: the metrics of the evaluation: the same object that `on_evaluate` got.
        """
        scores = next((scores for of, scores in self._turns if of is metrics), StepScores())
        self._turns = [turn for turn in self._turns if turn[0] is not metrics]
        return named_for(prefix_of(metrics), scores.complete)

    # ------------------------------------------------------------------------------------------ Trainer events

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move in front of the callbacks that read this callback's metrics."""
        warn_on_first_alone(args.process_index == 0)
        move_to_front(self)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin a run, and refuse what cannot be measured before training starts."""
        moment = Moment.of(self, control, kwargs)
        check_alone(NeuronXACallback, moment.trainer.callback_handler.callbacks)
        check_one_trainer(self, moment)
        move_to_front(self)
        self.false_alarm.let_through(all_of_them=True)
        self._turns.clear()
        if self._run is not None:
            self._run.close()  # an earlier run was interrupted
        self._run = Run.begin(self._watch(moment), moment)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score at the start, after every tracker has begun its run and after an `eval_on_start` evaluation.

        A resumed run has a score at its start already. It gets a new one only if its curves begin there, because no
        callback was with the run before or because that callback measured something else.
        """
        moment = Moment.of(self, control, kwargs)
        run = self._current_run(moment)
        run.log_late(moment)
        if run.schedule.due_at_start():
            run.score(moment)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log the scores that COMET has finished. Score every `eval_steps` if the Trainer never evaluates."""
        moment = Moment.of(self, control, kwargs)
        run = self._current_run(moment)
        run.remember_weights(moment)
        run.log_finished(moment)
        if run.schedule.stopped:
            run.stop_again(moment)
        elif args.eval_strategy == "no" and state.global_step % interval(self.eval_steps, state.max_steps) == 0:
            run.score(moment)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Score, and add the scores to the metrics that the Trainer and later callbacks read.

        A step is measured once, and each of its evaluations gets the scores (see `named_for`). If the Trainer evaluates
        several sets, the callbacks behind this one find the scores with the first: an EarlyStoppingCallback that found
        them with each set would count one step several times. `LastTurn` adds them for the Trainer.
        """
        moment, metrics = Moment.of(self, control, kwargs), {} if metrics is None else metrics
        scores, prefix = self._evaluated(moment, metrics), prefix_of(metrics)
        if is_in_front(self):
            self._turns.append((metrics, scores))
            if self._watch(moment).chooses_best_model(moment):
                self.false_alarm.hold_back(moment.args.metric_for_best_model)
        else:
            move_to_front(self)
        is_counted = is_read_by_trainer(prefix) and self._is_in_run(moment)
        if not is_counted or scores.is_turn(moment.is_nested):
            metrics.update(named_for(prefix, scores.values))

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any
    ) -> None:
        """Add the scores to the metrics that `Trainer.predict` returns.

        In training they are those that the step has, and nothing is measured: a user's callback may predict at any
        step.
        """
        moment = Moment.of(self, control, kwargs)
        if not self._is_in_run(moment):
            scores = self._evaluated(moment, metrics)
        else:
            scores = self._run.known(moment) if self._run else StepScores()
        metrics.update(named_for(prefix_of(metrics), scores.complete))

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget the scores of the weights before."""
        if self._run is not None:
            self._run.forget()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score the last step if it has no score, wait for COMET, print the summary and end COMET's process."""
        moment = Moment.of(self, control, kwargs)
        run = self._current_run(moment)
        run.log_late(moment)
        try:
            run.end(moment)
        finally:
            run.close()

    # ------------------------------------------------------------------------------------------ runs

    def _is_in_run(self, moment: Moment) -> bool:
        """Return whether the event belongs to a training run that has not ended.

        Its end comes before that of `train()`, when the Trainer may have loaded its best checkpoint.
        """
        return moment.is_training and (self._run is None or self._run.in_training)

    def _evaluated(self, moment: Moment, others: Mapping[str, float]) -> StepScores:
        """Return the scores of the present weights for an evaluation with these other metrics.

        Outside training it waits for COMET and keeps no history. Within the training of another Trainer there are none,
        because that one's run must not be lost.
        """
        if moment.is_within_another_training(self):
            if self._run is not None:
                self._run.warn_of_another_trainer()
            return StepScores()
        if self._is_in_run(moment):
            return self._current_run(moment).evaluate(moment, others)
        self._run = run = Run(self._watch(moment), prefix=prefix_of(others))
        try:
            run.score(moment)
            return run.scores
        finally:
            run.close()

    def _current_run(self, moment: Moment) -> Run:
        if self._run is None or not self._run.in_training:  # the callback joined when training was under way
            self._run = Run.begin(self._watch(moment), moment)
        return self._run

    def _watch(self, moment: Moment) -> Watch:
        return Watch(
            evaluator=self.evaluator,
            quality=self.quality,
            metrics=self._chosen_metrics(moment),
            rule=self.stopping,
            eval_steps=self.eval_steps,
            wait=self.quality_settings.wait,
            tokenizer=self.tokenizer,
            train_texts=self.train_texts,
            max_overhead=self.max_overhead,
            raises=self.on_error == "raise",
        )

    def _chosen_metrics(self, moment: Moment) -> tuple[str, ...]:
        """Return the metrics that the user named, or else those that need no download. The choice is made once."""
        if self._metrics is None:
            names, left_out = self.quality.without_downloads()
            # The first process chooses, because it alone scores and the caches of the others may differ.
            self._metrics = tuple(moment.ranks.first_value(names))
            if left_out and moment.is_first_process:
                logger.warning("NeuronXA: %s Alignment is logged all the same; quality=() leaves this out.", left_out)
        return self._metrics


def _stopping_rule(patience: int | None, rule: StoppingRule | None, evaluator: NeuronXAEvaluator) -> StoppingRule:
    """Return the stopping rule, whichever form was given, with the metric by which it judges.

    Raises:
        ValueError: both forms were given, or a floor cannot be tested.
    """
    if patience is not None and rule is not None:
        raise ValueError(
            "early_stopping_patience and stopping were both given; give the patience to StoppingRule(patience=...)."
        )
    rule = rule or StoppingRule(patience)
    rule = replace(rule, metric=rule.key if rule.metric else evaluator.methods[0])
    check_floor(rule, evaluator)
    return rule
