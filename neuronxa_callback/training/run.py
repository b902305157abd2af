"""One run of a Trainer: it makes the evaluations, logs them, keeps them and has them judged."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from neuronxa_callback.alignment.report import AlignmentReport
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.state import TokenBudget, same_random_state
from neuronxa_callback.quality.queue import PendingScores, ScoreQueue
from neuronxa_callback.training import checks
from neuronxa_callback.training.faults import Faults
from neuronxa_callback.training.history import History
from neuronxa_callback.training.judge import Judge
from neuronxa_callback.training.metric_checks import Logged, check_best_metric, check_stopping_metric
from neuronxa_callback.training.metric_names import (
    certainty_metrics,
    correlation_metrics,
    is_read_by_trainer,
    metrics_of,
    named_for,
    prefix_of,
    quality_metrics,
    translation_metrics,
)
from neuronxa_callback.training.overhead import Overhead
from neuronxa_callback.training.pictures import layer_pictures, map_pictures, run_facts
from neuronxa_callback.training.records import UNMEASURED, Evaluation
from neuronxa_callback.training.resume import Series, find_series, logged_at
from neuronxa_callback.training.schedule import Schedule, values_before_the_end
from neuronxa_callback.training.step_scores import StepScores
from neuronxa_callback.training.summary import print_stop, summarise
from neuronxa_callback.training.trackers import Fact
from neuronxa_callback.training.trainer import Moment
from neuronxa_callback.training.watch import Watch
from neuronxa_callback.training.weights import Weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

FAILED = "an evaluation failed, and training goes on without its scores"
FAILED_OUTSIDE = "the model could not be scored"


class Run:
    """The evaluations of one `train()`, or of an `evaluate()` outside training, which keeps no history.

    Args:
        watch: what to do at each evaluation.
        series: what the run begins with. With None it begins with nothing and writes nothing to the disk.
        prefix: the prefix of the metrics of an evaluation outside training.

    Attributes:
        in_training: whether it is the run of a `train()` that has not ended.
        scores: the scores of the present step. They are empty when the weights have changed.
    """

    def __init__(self, watch: Watch, series: Series | None = None, prefix: str = "eval") -> None:
        self.in_training = series is not None
        series = series or Series(History(".", on_disk=False), Schedule())
        self.watch = watch
        self.history = series.history
        self.schedule = series.schedule
        self.scores = StepScores()
        self._prefix = prefix
        self._failed = FAILED if self.in_training else FAILED_OUTSIDE
        self._late = series.late
        self._queue = ScoreQueue(watch.slow)
        for pending in series.pending:
            self._queue.put(pending)
        self._faults = Faults(watch.raises, self.close)
        self._overhead = Overhead(watch.max_overhead)
        # When memory runs out, a budget is halved. The later evaluations keep the smaller one.
        self._budget = TokenBudget(watch.evaluator.token_budget)
        self._translation_budget = TokenBudget()
        self._judge = Judge(watch.rule, self.history, self._faults)
        self._trained: Weights | None = None
        self._mapped = 0  # how many evaluations the last maps showed
        self._noted: dict[str, dict[str, Fact]] = {}  # tracker -> what it knows about the whole run
        self._arranged: set[str] = set()  # the trackers that have their charts

    # ------------------------------------------------------------------------------------------ begin and end

    @classmethod
    def begin(cls, watch: Watch, moment: Moment) -> Run:
        """Refuse what cannot be measured, and find the series that this training run begins or continues.

        Raises:
            ValueError: settings, a model or training text that cannot be used. It is raised whatever `on_error` says.
        """
        args = moment.args
        names = watch.possible(moment)
        logged = Logged(names, watch.metrics, moment.evaluation_sets, moment.has_metrics_of_others)
        checks.check_engine(moment)
        check_best_metric(args, watch.rule, logged)
        check_stopping_metric(args, watch.rule, logged)
        if moment.is_first_process:
            is_ours = f"eval_{watch.rule.key}" in names
            values = values_before_the_end(args, moment.state, watch.eval_steps, at_start=is_ours)
            checks.warn_of_patience(watch.rule, values)
            checks.warn_of_plateau(args, names)
        faults = Faults(watch.raises, watch.quality.close)
        with faults.guarded("the check before training failed", ValueError), moment.trainer.accelerator.autocast():
            decoder = moment.decoder(watch.tokenizer)
            with moment.ranks.together():
                watch.evaluator.check(decoder)
                if watch.metrics:
                    watch.quality.check(decoder)
                    if moment.is_first_process:
                        watch.quality.check_device()
        if watch.train_texts is not None:
            failed = "the training text could not be searched for held-out sentences"
            # A data set's transform may draw random numbers.
            with faults.guarded(failed, ValueError), same_random_state(), moment.ranks.together():
                if moment.is_first_process:
                    checks.search_train_texts(watch.train_texts, watch.evaluator.pairs, args)
        series = Series(History(str(args.output_dir), on_disk=False), Schedule())
        if moment.is_first_process:
            failed = (
                "an earlier run's scores could not be put aside or gone on from; scores.jsonl is left as it is, and "
                "this run's scores are in the Trainer's log alone"
            )
            with faults.guarded(failed):
                series = find_series(watch, moment)
        run = cls(watch, replace(series, schedule=moment.ranks.first_value(series.schedule)))
        run._trained = weights = Weights.of(moment.model)
        if run.schedule.resumed_at is not None:
            run.scores = StepScores.resumed(logged_at(run.schedule.resumed_at, moment.state, names), weights)
        return run

    def end(self, moment: Moment) -> None:
        """Score the last step, wait for COMET and print the summary.

        The last step is not scored again, and not if the Trainer has put its best checkpoint into memory by now.
        """
        replaced = moment.args.load_best_model_at_end and moment.state.best_model_checkpoint is not None
        if self.schedule.due_at_end(moment.state.global_step) and not replaced:
            self.score(moment)
        waiting = list(self._queue)
        for pending in tqdm(waiting, "waiting for COMET", disable=moment.args.disable_tqdm or not waiting):
            pending.report.wait()
        self.log_finished(moment)
        if moment.is_first_process:
            self._show_maps(moment, self._mapped + 1)
            with self._faults.guarded("the scores could not be summed up"):
                if self.watch.metrics:
                    summarise(self.history.evaluations)
                print_stop(self.history.evaluations)

    def close(self) -> None:
        """Give up the scores that COMET has not finished, and end its process. The run has ended."""
        self.in_training = False
        self.scores, self._trained = StepScores(missing=self.scores.missing), None
        self._queue.clear()
        self.watch.quality.close()

    # ------------------------------------------------------------------------------------------ an evaluation

    def evaluate(self, moment: Moment, others: Mapping[str, float]) -> StepScores:
        """Return the scores of the step for an evaluation in training. A step is measured once, at its first one.

        An evaluation of other weights gets none: of the model without its adapter, of another adapter, of an average
        that was swapped in. The Trainer's own measures whatever it evaluates, because it chooses the best model by it.

        Args:
            moment: the event of the evaluation.
            others: the Trainer's own metrics of this evaluation. The stopping rule may use one of them.
        """
        step = moment.state.global_step
        is_due = self.schedule.due(step)
        is_own = not moment.is_nested and is_read_by_trainer(prefix_of(others))
        expected_weights = self._trained if is_due else self.scores.weights
        if not (is_due and is_own) and self._has_other_weights(moment, expected_weights):
            if moment.is_first_process:
                self._faults.warn_once(
                    f"an evaluation at step {step} is of other weights or adapters than the step's scores, so it does "
                    "not get them.",
                    "other weights",
                )
            return StepScores(missing=tuple(self.watch.expected(moment, self.in_training)) if is_own else ())
        if is_due:
            self.score(moment, others)
        elif step not in (self.schedule.scored, self.schedule.resumed_at):
            self.forget()
        elif self.scores.values and step != self.schedule.resumed_at:
            verdict = self._judge.judge_again(moment, {**others, **self.scores.values})
            self._note(moment)
            self._log(moment, verdict)
            self.scores.values |= verdict
        return self.scores

    def known(self, moment: Moment) -> StepScores:
        """Return the scores of the step if it has any, and nothing is measured."""
        return StepScores() if self._has_other_weights(moment, self.scores.weights) else self.scores

    def remember_weights(self, moment: Moment) -> None:
        """Remember the weights that are trained, before a callback of the user's has its turn to swap them."""
        self._trained = Weights.of(moment.model)

    @staticmethod
    def _has_other_weights(moment: Moment, weights: Weights | None) -> bool:
        """Return whether the model has other weights than these. The processes must agree, so the first one decides."""
        return moment.ranks.first_value(weights is not None and not weights.are_in(moment.model))

    def forget(self) -> None:
        """Forget the scores, because they are not those of the present weights."""
        self.scores = StepScores()

    def score(self, moment: Moment, others: Mapping[str, float] = MappingProxyType({})) -> None:
        """Evaluate and log. A score is missing if its evaluation failed or is not finished.

        Args:
            moment: the event.
            others: the Trainer's own metrics of this evaluation. The stopping rule may use one of them.
        """
        step = self.schedule.scored = moment.state.global_step
        weights = Weights.of(moment.model) if self.in_training else None
        start = time.perf_counter()
        decoder: Decoder | None = None
        # The decoder is found in the mixed precision of the training, because it records that precision.
        with self._faults.guarded(self._failed), moment.trainer.accelerator.autocast():
            decoder = moment.decoder(self.watch.tokenizer)
        report, metrics = self._score_alignment(moment, decoder)
        # All processes must log alike. Only the scores are metrics of the evaluation.
        logged = moment.ranks.first_value({} if report is None else certainty_metrics(report))
        metrics |= self._score_quality(moment, decoder, is_aligned=bool(metrics))
        if self.in_training:
            metrics |= self._judge.judge(moment, {**others, **metrics})
            self._note(moment, report, logged)
        self._log(moment, named_for(self._prefix, metrics | logged))
        if report is not None and moment.is_first_process:
            self._draw(moment, report)
        if self.in_training:
            too_much = self._overhead.add(step, start, time.perf_counter())
            if too_much and moment.is_first_process:
                logger.warning("NeuronXA: %s", too_much)
        self.scores = StepScores.measured(metrics, self.watch.expected(moment, self.in_training), weights)

    def _score_alignment(
        self, moment: Moment, decoder: Decoder | None
    ) -> tuple[AlignmentReport | None, dict[str, float]]:
        report: AlignmentReport | None = None
        start = time.perf_counter()
        if decoder is not None:
            with self._faults.guarded(self._failed), moment.trainer.accelerator.autocast():
                report = self.watch.evaluator.score(decoder, self._budget)
        runtime = time.perf_counter() - start
        metrics = {} if report is None else metrics_of(report) | {"eval_neuronxa_runtime": round(runtime, 4)}
        # The time differs, and all processes must log, choose and stop alike.
        metrics = moment.ranks.first_value(metrics)
        if report is not None and moment.is_first_process:
            with self._faults.guarded("the scores are logged but not written to scores.jsonl"):
                state, pairs = moment.state, self.watch.evaluator.pairs
                evaluation = Evaluation.of_report(report, state.global_step, state.epoch, runtime, pairs)
                if self.in_training:
                    self.history.put(evaluation)
                self._warn_of_few_carriers(evaluation)
        return report, metrics

    def _warn_of_few_carriers(self, evaluation: Evaluation) -> None:
        """Warn once of each language pair whose score comes from fewer than 10 sentence pairs."""
        for name, language in evaluation.languages.items():
            if few := language.few_carriers(name):
                self._faults.warn_once(few, f"few carriers of {name}")

    def _show_maps(self, moment: Moment, fewest: int) -> None:
        """Draw the maps of the run so far if it has this many evaluations.

        They show all evaluations, so each drawing repeats the one before, and it costs some tenths of a second
        (benchmarks/maps.py). They are drawn of two evaluations, then when the number has doubled, and at the end: 6
        times in a run of 40 evaluations.
        """
        evaluations = self.history.evaluations
        if len(evaluations) < fewest:
            return
        self._mapped = len(evaluations)
        with self._faults.guarded("the maps of the run were not drawn"):
            self._show(moment, map_pictures(evaluations), evaluations[-1].step)

    def _score_quality(self, moment: Moment, decoder: Decoder | None, is_aligned: bool) -> dict[str, float]:
        """Translate on all processes and score on the first. Scores that are not finished are logged later."""
        if not self.watch.metrics:
            return {}
        quality, state = self.watch.quality, moment.state
        translated = None
        start = time.perf_counter()
        if decoder is not None:
            failed = "the held-out sources could not be translated"
            with self._faults.guarded(failed), moment.trainer.accelerator.autocast():
                translated = quality.translate(decoder, self._translation_budget)
        runtime = time.perf_counter() - start
        metrics: dict[str, float] = {}
        if translated is not None and moment.is_first_process:
            waits = self.watch.waits(moment, self.in_training)
            if waits:
                quality.make_room()
            report = quality.score(translated, self.watch.metrics)
            if not is_aligned and self.in_training:
                # The scores get a line of their own, because an earlier attempt at this step may have left another.
                unaligned = Evaluation(step=state.global_step, epoch=state.epoch, runtime=None, score={}, languages={})
                with self._faults.guarded("the quality scores will be logged but not written to scores.jsonl"):
                    self.history.put(unaligned)
            pending = PendingScores(state.global_step, state.epoch, report)
            if waits:
                report.wait()
            self.log_finished(moment)  # the scores of earlier steps come first
            metrics = translation_metrics(report) | {"eval_translation_runtime": round(runtime, 4)}
            self._queue.put(pending)
            metrics |= self._kept(moment, pending, self._queue.take(pending))
            for error in report.unmeasured:
                self._faults.no_score(f"{UNMEASURED} at step {state.global_step}: {error}", f"{UNMEASURED}: {error}")
        return moment.ranks.first_value(metrics)

    def warn_of_another_trainer(self) -> None:
        """Warn once that the callback is in another Trainer, which evaluates while this run goes on."""
        self._faults.warn_once(
            "another Trainer with the same NeuronXACallback evaluates during this training and gets no scores; give "
            "each Trainer a NeuronXACallback of its own.",
            "another Trainer",
        )

    # ------------------------------------------------------------------------------------------ COMET's scores

    def log_finished(self, moment: Moment) -> None:
        """Log the scores that COMET has finished since the last time, with the steps that they belong to."""
        for pending, names in self._queue.finished():
            self._log(moment, self._kept(moment, pending, names), pending.step, pending.epoch)

    def log_late(self, moment: Moment) -> None:
        """Log the scores that COMET had finished after the checkpoint that the run is resumed from."""
        for late in self._late:
            self._log(moment, late.metrics, late.step, late.epoch)
        self._late = []

    def _kept(self, moment: Moment, pending: PendingScores, names: list[str]) -> dict[str, float]:
        """Return the metrics of some finished scores. In training they are also written to scores.jsonl."""
        metrics = quality_metrics(pending.report, names)
        if self.in_training:
            with self._faults.guarded("the quality scores were logged but not written to scores.jsonl"):
                evaluation = self.history.add_quality(pending.step, pending.report)
                metrics |= correlation_metrics(evaluation, names)
        for name in names:
            for error in pending.report.errors(name):
                self._faults.no_score(f"no {name} at step {pending.step}: {error}", f"{name}: {error}")
        return metrics

    # ------------------------------------------------------------------------------------------ the log and trackers

    def _log(
        self, moment: Moment, metrics: dict[str, float], step: int | None = None, epoch: float | None = None
    ) -> None:
        """Log metrics at the present step, or at the step that they belong to. Without metrics nothing is logged."""
        if not metrics:
            return
        if step is None:
            step, epoch = moment.state.global_step, moment.state.epoch
        trackers = moment.trackers  # before the log, which may begin a tracker's run
        moment.log(metrics, step, epoch, [tracker.callback for tracker in trackers if tracker.logs_itself])
        for tracker in trackers:
            with self._faults.guarded(f"{tracker.name} did not take the scores", once=True):
                tracker.log(metrics, step, epoch)

    def _note(
        self, moment: Moment, report: AlignmentReport | None = None, certain: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        """Write what is new about the whole run into its trackers, and the charts into those that have none.

        Args:
            moment: the event.
            report: the report of the evaluation, None if there is none.
            certain: what is logged of its intervals and chance.
        """
        facts = run_facts(self._judge.verdict, report)
        for tracker in moment.trackers:
            known = self._noted.setdefault(tracker.name, {})
            if new := {name: value for name, value in facts.items() if known.get(name) != value}:
                with self._faults.guarded(f"{tracker.name} did not take the best step and the signature", once=True):
                    tracker.note(new, moment.state.global_step)
                    known |= new
            if report is not None and tracker.name not in self._arranged:
                with self._faults.guarded(f"{tracker.name} did not take the layout of its charts", once=True):
                    tracker.arrange(list(certain), list(report.score), self.watch.metrics)
                    self._arranged.add(tracker.name)

    def _draw(self, moment: Moment, report: AlignmentReport) -> None:
        """Show the layers of an evaluation and, at some evaluations, the maps of the run so far."""
        with self._faults.guarded("the scores were logged but not drawn"):
            step, n = moment.state.global_step, min(map(len, self.watch.evaluator.pairs))
            self._show(moment, layer_pictures(report, n, step), step)
        if self.in_training:
            self._show_maps(moment, max(2, 2 * self._mapped))

    def _show(self, moment: Moment, pictures: Iterator[tuple[str, Figure]], step: int) -> None:
        """Add pictures to the trackers. Without any tracker nothing is drawn."""
        if not (trackers := moment.trackers):
            return
        from neuronxa_callback import plots  # matplotlib, for which a run without trackers need not wait

        for name, figure in pictures:
            image = plots.pixels(figure)
            for tracker in trackers:
                with self._faults.guarded(f"{tracker.name} did not take the pictures", once=True):
                    tracker.show(name, image, step)

    # ------------------------------------------------------------------------------------------ stopping

    def stop_again(self, moment: Moment) -> None:
        """End a resumed run that had been stopped before. transformers makes one step of it, which gets no score."""
        self.schedule.scored = moment.state.global_step
        self.scores = StepScores.measured({}, self.watch.expected(moment, self.in_training))
        moment.control.should_training_stop = True
        moment.control.should_evaluate = moment.control.should_save = False
        if moment.is_first_process:
            stopped = self.schedule.stopped
            logger.warning("NeuronXA: training stops by its evaluations before it was resumed: %s.", stopped)
