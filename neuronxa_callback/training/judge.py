"""The stopping rule at work in a run: it judges each evaluation and stops the Trainer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import isfinite

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
        self._step: int | None = None  # the step that was judged last
        self._seen: set[str] = set()  # the metrics of its evaluations
        self._without_value = 0  # steps in a row that lack the rule's metric at each of their evaluations
        self._verdict: Verdict | None = None  # the last one, on every process

    @property
    def verdict(self) -> Verdict | None:
        """The last verdict, None if there is none."""
        return self._verdict

    def judge(self, moment: Moment, values: Mapping[str, float]) -> dict[str, float]:
        """Find the best value so far and where the curve goes, and stop the Trainer if the rule says so.

        Args:
            moment: the event of the evaluation.
            values: its metrics, with "eval_" in front.

        Returns:
            the metrics of the verdict, such as `eval_nasca_best`.
        """
        verdict = None
        if moment.is_first_process:
            self._begin_step(moment.state.global_step)
            self._see(values)
            verdict = self._judged(moment, values)
        self._verdict = verdict = moment.ranks.first_value(verdict)
        if verdict is None:
            return {}
        metrics = verdict_metrics(verdict)
        if not self._rule.stop_at_floor and moment.is_first_process:
            for name, fall in verdict.forgotten.items():
                forgotten = Forgotten({name: fall}, verdict.forgotten_by)
                self._faults.warn_once(f"{forgotten}, by more than noise.", f"floor {name}")
        if verdict.reason:
            moment.control.should_training_stop = True
            if moment.is_first_process:
                logger.warning("NeuronXA: training stops at step %d: %s.", moment.state.global_step, verdict.reason)
        return metrics

    def judge_again(self, moment: Moment, values: Mapping[str, float]) -> dict[str, float]:
        """Judge a further evaluation of the step, which may bring the rule's metric: a loss comes with its own set.

        A stop that was said is said again, because a user's callback that evaluates may give the Trainer the flags that
        it had before.

        Args:
            moment: the event of the evaluation.
            values: its metrics and the step's scores, with "eval_" in front.

        Returns:
            the metrics of the verdict. There are none if the step was judged by its value before.
        """
        self._see(values)
        if self._verdict is not None and self._verdict.reason:
            moment.control.should_training_stop = True
        has_value = self._verdict is not None and self._verdict.value is not None
        return {} if has_value or f"eval_{self._rule.key}" not in values else self.judge(moment, values)

    def _judged(self, moment: Moment, values: Mapping[str, float]) -> Verdict | None:
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

    def _see(self, values: Mapping[str, float]) -> None:
        # A user's metric may be no number.
        self._seen |= {name for name, value in values.items() if isinstance(value, int | float) and isfinite(value)}

    def _begin_step(self, step: int) -> None:
        """Warn that nothing can stop the run because the rule's metric was missing at the two steps before.

        A further evaluation of a step may still bring it, so this is known when the next step is judged.
        """
        if step == self._step:
            return
        metric, seen = self._rule.key, self._seen
        if self._step is not None:
            self._without_value = 0 if f"eval_{metric}" in seen else self._without_value + 1
        self._step, self._seen = step, set()
        if self._rule.patience is not None and self._without_value == 2:
            there = ", ".join(sorted(name.removeprefix("eval_") for name in seen)) or "none"
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
