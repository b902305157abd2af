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


def values_before_the_end(args: TrainingArguments, state: TrainerState, eval_steps: float, at_start: bool) -> int:
    """Return how many values a metric has in a run before its last step.

    Args:
        args: the Trainer's arguments.
        state: the Trainer's state, as it is when training begins.
        eval_steps: the callback's own interval. It counts if the Trainer never evaluates.
        at_start: whether the metric has a value at step 0, as this callback's own have. The Trainer's, such as its
            loss, have one with `eval_on_start` alone.
    """
    first = int(at_start or args.eval_on_start)
    if args.eval_strategy == "no":
        return first + _multiples(interval(eval_steps, state.max_steps), 0, state.max_steps)
    if args.eval_strategy == "epoch":
        return first + _multiples(1, args.eval_delay, float(state.num_train_epochs))
    return first + _multiples(int(state.eval_steps), args.eval_delay, state.max_steps)


def _multiples(interval: int, delay: float, end: float) -> int:
    """Return how many multiples of an interval, from 1 on, are `delay` or more and below `end`."""
    interval = max(1, interval)
    until = math.ceil(end / interval) - 1
    return max(0, until - max(1, math.ceil(delay / interval)) + 1)
