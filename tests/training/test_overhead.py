from __future__ import annotations

from neuronxa_callback.training.overhead import Overhead


def told(limit: float, evaluation: float, training: float, steps: int = 10, evaluations: int = 6) -> list[str | None]:
    """What is said of a run that trains so long between evaluations of such a length."""
    overhead, now = Overhead(limit), 0.0
    said = []
    for number in range(evaluations):
        said.append(overhead.add(number * steps, now, now + evaluation))
        now += evaluation + training
    return said


def test_little_is_not_told() -> None:
    assert told(0.1, evaluation=1, training=9.1) == [None] * 6


def test_too_much_is_told_once_with_the_interval_that_would_do() -> None:
    said = told(0.1, evaluation=3, training=12)
    assert [sentence is not None for sentence in said] == [False, False, True, False, False, False]
    assert said[2] == (
        "evaluations take 20% of the run (6.0 of 30.0 s since step 0), more than max_overhead=0.1. Evaluate every 23 "
        "steps instead of every 10, or with fewer pairs."
    )
    # Twelve seconds for ten steps: 23 steps take 27.6 s, and three of 30.6 are below a tenth.
    assert told(0.1, evaluation=3, training=12 * 2.3, steps=23) == [None] * 6


def test_the_first_evaluation_does_not_count() -> None:
    overhead = Overhead(0.1)
    assert overhead.add(0, 0.0, 1000.0) is None
    assert overhead.add(10, 1100.0, 1101.0) is None
    assert overhead.add(20, 1200.0, 1201.0) is None


def test_at_one_nothing_is_too_much() -> None:
    assert told(1, evaluation=10, training=0) == [None] * 6
