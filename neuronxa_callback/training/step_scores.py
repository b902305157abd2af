"""The scores of the present step: a step is measured once, and each of its evaluations gets them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from neuronxa_callback.training.weights import Weights


@dataclass
class StepScores:
    """The scores of the present weights, as far as they are known.

    Attributes:
        values: the scores, with "eval_" in front.
        missing: the scores that the step should have and has not.
        weights: the weights that the scores belong to; None without scores.
    """

    values: dict[str, float] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    weights: Weights | None = None
    _turns: set[bool] = field(default_factory=set)

    @classmethod
    def measured(cls, values: dict[str, float], expected: Sequence[str], weights: Weights | None = None) -> StepScores:
        """Return the scores of a step that was just measured."""
        return cls(values, tuple(name for name in expected if name not in values), weights)

    @classmethod
    def resumed(cls, values: dict[str, float], weights: Weights) -> StepScores:
        """Return the scores of the step that a run is resumed at. Its evaluations were counted before."""
        return cls(values, (), weights, {False, True})

    @property
    def complete(self) -> dict[str, float]:
        """The scores, and NaN for those that are missing."""
        return dict.fromkeys(self.missing, math.nan) | self.values

    def is_turn(self, is_nested: bool) -> bool:
        """Return whether an EarlyStoppingCallback should count this evaluation.

        It counts how often it is called. So it should see one evaluation of a step, however many sets the Trainer has.
        An evaluation that another callback makes is counted beside the Trainer's own, as that of a loss is.

        Args:
            is_nested: whether another callback evaluates, and not the Trainer itself.
        """
        is_first = is_nested not in self._turns
        self._turns.add(is_nested)
        return is_first
