"""The settings of a callback: what it does at each evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.training.metric_names import (
    OF_TRANSLATIONS,
    expected_names,
    metric_read,
    translation_names,
    uncertain_names,
)
from neuronxa_callback.training.settings import StoppingRule
from neuronxa_callback.training.trainer import Moment
from neuronxa_callback.vocabulary import split_method


@dataclass(frozen=True)
class Watch:
    """The settings of a callback. No run changes them.

    Attributes:
        evaluator: the evaluator that scores alignment.
        quality: the evaluator that translates and scores the translations.
        metrics: the names of the quality metrics in use. If there are none, nothing is translated.
        rule: the stopping rule.
        eval_steps: the steps between two evaluations if the Trainer never evaluates; below 1 a share of all steps.
        wait: whether training waits for COMET at every evaluation.
        tokenizer: the user's own tokenizer, or None to take the Trainer's.
        train_texts: the training text that is searched for held-out sentences; None searches nothing.
        max_overhead: the share of the run's time that evaluations may take before the callback warns.
        raises: whether a failed evaluation ends the run.
    """

    evaluator: NeuronXAEvaluator
    quality: QualityEvaluator
    metrics: tuple[str, ...]
    rule: StoppingRule
    eval_steps: float
    wait: bool
    tokenizer: Any
    train_texts: Iterable[Any] | None
    max_overhead: float
    raises: bool

    @property
    def slow(self) -> list[str]:
        """The metrics that are scored in the background."""
        return [name for name in self.metrics if name in self.quality.models]

    def waits(self, moment: Moment, in_training: bool) -> bool:
        """Return whether an evaluation must have COMET's scores before it ends."""
        read = {metric_read(moment.args), split_method(self.rule.key)[0] or self.rule.key.split("_")[0]}
        return self.wait or not in_training or not read.isdisjoint(self.slow)

    def expected(self, moment: Moment, in_training: bool) -> list[str]:
        """Return the metrics that an evaluation should give by its end.

        It gives COMET's only if it waits for them. A metric that an evaluation may rightly lack counts only if the
        Trainer chooses its best model by it, because without a value the Trainer would end the run.
        """
        best = _best_metric(moment)
        return self._certain(self.waits(moment, in_training)) + [
            name for name in self._uncertain(best) if name == f"eval_{best}"
        ]

    def possible(self, moment: Moment) -> list[str]:
        """Return the metrics that an evaluation may give, with those of COMET."""
        return self._certain(waits=True) + self._uncertain(_best_metric(moment), self.rule.key)

    def chooses_best_model(self, moment: Moment) -> bool:
        """Return whether the Trainer chooses its best model by a metric of this callback."""
        return f"eval_{_best_metric(moment)}" in self.possible(moment)

    def _certain(self, waits: bool) -> list[str]:
        metrics = [name for name in self.metrics if waits or name not in self.slow]
        names = expected_names(self.evaluator, self.quality, metrics)
        return [*names, *translation_names(self.quality)] if self.metrics else names

    def _uncertain(self, *asked: str) -> list[str]:
        """Return the metrics that an evaluation may rightly lack.

        There are none unless one of the asked names is of their kind, so that py3langid is not loaded for nothing.
        """
        wanted = any(name.startswith(OF_TRANSLATIONS) for name in asked)
        return uncertain_names(self.quality) if self.metrics and wanted else []


def _best_metric(moment: Moment) -> str:
    """Return the metric by which the Trainer chooses its best model, without "eval_"."""
    return (moment.args.metric_for_best_model or "").removeprefix("eval_")
