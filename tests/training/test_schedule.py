"""Which steps are due, without a Trainer."""

from __future__ import annotations

import pytest

from neuronxa_callback.training.schedule import Schedule, interval, is_interval

pytestmark = pytest.mark.unit


def test_a_new_run_begins_with_a_score_and_scores_each_step_once() -> None:
    schedule = Schedule()
    assert schedule.due_at_start()
    schedule.scored = 0
    assert not schedule.due_at_start()  # at the next epoch
    assert not schedule.due(0)  # a second evaluation set, or eval_on_start
    assert schedule.due(10)
    assert schedule.due_at_end(10)
    schedule.scored = 10
    assert not schedule.due_at_end(10)


def test_a_resumed_run_does_not_score_where_its_curves_go_on() -> None:
    schedule = Schedule(first=False, resumed_at=20)
    assert not schedule.due_at_start()
    assert not schedule.due(20)  # eval_on_start
    assert schedule.due(30)


def test_a_resumed_run_whose_step_lacks_its_score_gets_it_at_the_end() -> None:
    assert Schedule(first=False, resumed_at=20).due_at_end(20)
    assert not Schedule(first=False, resumed_at=20, scored=20).due_at_end(20)


def test_a_run_that_had_been_stopped_scores_nothing_more() -> None:
    schedule = Schedule(first=False, resumed_at=20, stopped="nasca did not rise")
    assert not any(schedule.due(step) for step in (20, 21, 30))


@pytest.mark.parametrize(
    ("eval_steps", "max_steps", "expected"), [(10, 95, 10), (0.1, 95, 10), (0.25, 6, 2), (0.001, 100, 1), (1, 100, 1)]
)
def test_a_share_of_the_steps_is_rounded_up(eval_steps: float, max_steps: int, expected: int) -> None:
    assert is_interval(eval_steps)
    assert interval(eval_steps, max_steps) == expected


@pytest.mark.parametrize("eval_steps", [0, -1, 1.5, True, float("nan"), float("inf"), "10", None])
def test_what_is_no_interval(eval_steps: object) -> None:
    assert not is_interval(eval_steps)
