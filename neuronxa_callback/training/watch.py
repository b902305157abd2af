"""The settings of a callback: what it does at each evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.training.metric_names import expected_names, metric_read
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

    def waits(self, moment: Moment) -> bool:
        """Return whether an evaluation must have COMET's scores before it ends."""
        read = {metric_read(moment.args), split_method(self.rule.key)[0] or self.rule.key.split("_")[0]}
        return self.wait or not moment.is_training or not read.isdisjoint(self.slow)

    def names(self, waits: bool) -> list[str]:
        """Return the metrics that an evaluation should give by its end. It gives COMET's only if it waits for them."""
        metrics = [name for name in self.metrics if waits or name not in self.slow]
        return expected_names(self.evaluator, self.quality, metrics)
