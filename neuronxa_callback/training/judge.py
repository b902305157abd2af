"""The stopping rule at work in a run: it judges each evaluation, logs the verdict and stops the Trainer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import isfinite, nan

from neuronxa_callback.training.faults import Faults
from neuronxa_callback.training.history import History
from neuronxa_callback.training.metric_names import verdict_metrics
from neuronxa_callback.training.records import Verdict
from neuronxa_callback.training.settings import StoppingRule
from neuronxa_callback.training.stopping import Forgotten, judge
from neuronxa_callback.training.trainer import Moment

logger = logging.getLogger(__name__)


class Judge:
    """Judge a run's evaluations by its stopping rule.

    Args:
        rule: the stopping rule.
        history: the evaluations of the run. The verdicts are written into it.
        faults: how the run takes what fails.
    """

    def __init__(self, rule: StoppingRule, history: History, faults: Faults) -> None:
        self._rule = rule
        self._history = history
        self._faults = faults
        self._without_value = 0  # evaluations in a row that lack the rule's metric

    def judge(self, moment: Moment, values: Mapping[str, float]) -> dict[str, float]:
        """Log the best value so far and where the curve goes, and stop the Trainer if the rule says so.

        Args:
            moment: the event of the evaluation.
            values: its metrics, with "eval_" in front.

        Returns:
            the metrics of the verdict, such as `eval_nasca_best`.
        """
        verdict = None
        if moment.is_first_process:
            self._warn_without_value(values)
            verdict = self._verdict(moment, values)
        verdict = moment.first_process_value(verdict)
        if verdict is None:
            return {}
        metrics = verdict_metrics(verdict)
        moment.log(metrics)
        if not self._rule.stop_at_floor and moment.is_first_process:
            for name, fall in verdict.forgotten.items():
                forgotten = Forgotten({name: fall}, verdict.forgotten_by)
                self._faults.warn_once(f"{forgotten}, by more than noise.", f"floor {name}")
        if verdict.reason:
            moment.control.should_training_stop = True
            if moment.is_first_process:
                logger.warning("NeuronXA: training stops at step %d: %s.", moment.state.global_step, verdict.reason)
        return metrics

    def _verdict(self, moment: Moment, values: Mapping[str, float]) -> Verdict | None:
        step, verdict = moment.state.global_step, None
        with self._faults.guarded("the stopping rule could not judge the evaluation"):
            verdict = verdict_at(step, self._history, self._rule, values)
        if verdict is None:
            return None
        if step >= moment.state.max_steps:
            verdict = verdict.model_copy(update={"reason": None})  # the run ends here anyway
        with self._faults.guarded("the stopping rule's verdict was not written to scores.jsonl"):
            self._history.put(self._history.at(step).with_verdict(verdict))
        return verdict

    def _warn_without_value(self, values: Mapping[str, float]) -> None:
        """Warn that nothing can stop the run because the rule's metric is missing."""
        metric = self._rule.key
        has_value = isfinite(values.get(f"eval_{metric}", nan))
        self._without_value = 0 if has_value else self._without_value + 1
        if self._rule.patience is not None and self._without_value == 2:
            there = ", ".join(sorted(name.removeprefix("eval_") for name in values)) or "none"
            self._faults.warn_once(
                f"two evaluations have no {metric!r}, by which training should stop (StoppingRule's metric); their "
                f"metrics are {there}.",
                "no value to stop by",
            )


def verdict_at(step: int, history: History, rule: StoppingRule, values: Mapping[str, float]) -> Verdict | None:
    """Return what a stopping rule says about the evaluation of a step.

    Args:
        step: the step of the evaluation.
        history: the evaluations of the run. Those after the step do not count.
        rule: the stopping rule.
        values: the metrics of the evaluation, with "eval_" in front.

    Returns:
        the verdict. It is None if the step has no alignment score, or if the rule's metric has no value and no
        language is forgotten.
    """
    evaluations = history.until(step)
    if not evaluations or evaluations[-1].step != step or not evaluations[-1].score:
        return None
    return judge(rule, evaluations[-1], evaluations[:-1], values)
