"""The schedule that decides which steps of a training run are scored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from transformers import TrainerState, TrainingArguments


@dataclass
class Schedule:
    """The steps that a run has scored, and those that it must not score.

    Attributes:
        first: whether the run's first score begins its curves. It does not if a resumed run continues earlier curves.
        resumed_at: the step that the run was resumed at, if it continues earlier curves. It already has its score.
        stopped: the reason why the run had stopped before it was resumed. transformers then makes one step before it
            ends again, and that step gets no score.
        scored: the last step that was scored. It counts even if the evaluation failed.
    """

    first: bool = True
    resumed_at: int | None = None
    stopped: str | None = None
    scored: int | None = None

    def due(self, step: int) -> bool:
        """Return whether to score an evaluation of the Trainer at this step. A step is scored only once."""
        return self.stopped is None and step not in (self.scored, self.resumed_at)

    def due_at_start(self) -> bool:
        """Return whether to score the model before its first training step."""
        return self.first and self.scored is None

    def due_at_end(self, step: int) -> bool:
        """Return whether the last step still lacks a score."""
        return step != self.scored


def is_interval(eval_steps: Any) -> bool:
    """Return whether this is a number of steps, or a share of all steps (below 1), as in TrainingArguments."""
    if isinstance(eval_steps, bool) or not isinstance(eval_steps, int | float) or not math.isfinite(eval_steps):
        return False
    return 0 < eval_steps < 1 or (eval_steps >= 1 and eval_steps == int(eval_steps))


def interval(eval_steps: float, max_steps: int) -> int:
    """Return the steps between two scores if the Trainer never evaluates. A share is rounded up, as in the Trainer."""
    return int(eval_steps) if eval_steps >= 1 else math.ceil(eval_steps * max_steps)


def evaluations_before_the_end(args: TrainingArguments, state: TrainerState, eval_steps: float) -> int:
    """Return how many evaluations a run makes before its last step, with the one at the start.

    Args:
        args: the Trainer's arguments.
        state: the Trainer's state, as it is when training begins.
        eval_steps: the callback's own interval. It counts if the Trainer never evaluates.
    """
    if args.eval_strategy == "epoch":
        return max(1, math.ceil(float(state.num_train_epochs)))
    steps = interval(eval_steps, state.max_steps) if args.eval_strategy == "no" else int(state.eval_steps)
    return 1 + (int(state.max_steps) - 1) // max(1, steps)
