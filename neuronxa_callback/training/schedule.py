"""Which steps of a training run are due to be scored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass
class Schedule:
    """The steps that a run has scored, and those that it must not.

    Attributes:
        first: whether the run's first score begins its curves. It does not where a resumed run goes on with them.
        resumed_at: the step that the run was resumed at, where its curves go on. Its score is there.
        stopped: why the run had stopped before it was resumed. transformers makes one step before it ends again, and
            that step gets no score.
        scored: the last step that was scored, or tried to be.
    """

    first: bool = True
    resumed_at: int | None = None
    stopped: str | None = None
    scored: int | None = None

    def due(self, step: int) -> bool:
        """Whether an evaluation of the Trainer at this step is to be scored: once, and not where it has its score."""
        return self.stopped is None and step not in (self.scored, self.resumed_at)

    def due_at_start(self) -> bool:
        """Whether the run begins with a score of the model as it comes."""
        return self.first and self.scored is None

    def due_at_end(self, step: int) -> bool:
        """Whether the last step still lacks a score."""
        return step != self.scored


def is_interval(eval_steps: Any) -> bool:
    """Whether this is a number of steps, or below 1 a share of all, as TrainingArguments takes them."""
    if isinstance(eval_steps, bool) or not isinstance(eval_steps, int | float) or not math.isfinite(eval_steps):
        return False
    return 0 < eval_steps < 1 or (eval_steps >= 1 and eval_steps == int(eval_steps))


def interval(eval_steps: float, max_steps: int) -> int:
    """Steps between two scores where the Trainer never evaluates; a share is rounded up as the Trainer does."""
    return int(eval_steps) if eval_steps >= 1 else math.ceil(eval_steps * max_steps)
