"""What a callback was told to do at each evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.training.metric_names import expected_names, metric_read
from neuronxa_callback.training.stopping import StoppingRule
from neuronxa_callback.training.trainer import Moment


@dataclass(frozen=True)
class Watch:
    """The choices of a callback, which no run changes.

    Attributes:
        evaluator: what scores alignment.
        quality: what translates, and scores the translations.
        metrics: the names of the quality metrics that are used; nothing is translated where there are none.
        rule: when to stop.
        wait: have training wait for COMET at every evaluation.
        tokenizer: the user's own, where the Trainer was given none.
        train_texts: what is trained on, to be searched for held-out sentences.
        max_overhead: the share of the run's time that evaluations may take before a warning.
        raises: whether a failed evaluation ends the run.
    """

    evaluator: NeuronXAEvaluator
    quality: QualityEvaluator
    metrics: tuple[str, ...]
    rule: StoppingRule
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
        """Whether an evaluation must have COMET's scores before it ends."""
        read = {metric_read(moment.args), self.rule.key.split("_")[0]}
        return self.wait or not moment.is_training or not read.isdisjoint(self.slow)

    def names(self, waits: bool) -> list[str]:
        """The metrics that an evaluation should give by its end, COMET's only where it waits for them."""
        metrics = [name for name in self.metrics if waits or name not in self.slow]
        return expected_names(self.evaluator, self.quality, metrics)
