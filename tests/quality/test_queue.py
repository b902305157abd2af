"""The queue of pending scores: each passed on once, slow ones in the order of the steps."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from neuronxa_callback.quality.comet.process import QualityError, QualityScore
from neuronxa_callback.quality.evaluator import DirectionScores, QualityReport
from neuronxa_callback.quality.queue import PendingScores, ScoreQueue
from neuronxa_callback.quality.translation import Translations
from neuronxa_callback.signature import Signature

pytestmark = pytest.mark.unit

SCORE = QualityScore(0.5, None, Signature.of(metric="x"))


def pending(step: int, *metrics: str) -> tuple[PendingScores, dict[str, Future[QualityScore]]]:
    """An evaluation, and the futures of its metrics."""
    futures: dict[str, Future[QualityScore]] = {metric: Future() for metric in metrics}
    scores = DirectionScores(Translations(("ja",), 0, 0), Signature.of(prompt="plain"), QualityError("gone"), futures)
    return PendingScores(step, None, QualityReport({"eng_Latn-isl_Latn": scores})), futures


def passed_on(queue: ScoreQueue) -> list[tuple[int, list[str]]]:
    return [(evaluation.step, names) for evaluation, names in queue.finished()]


def test_a_score_is_passed_on_once_when_it_is_there() -> None:
    queue = ScoreQueue(["comet"])
    evaluation, futures = pending(10, "chrf", "comet")
    queue.put(evaluation)
    assert passed_on(queue) == []
    futures["chrf"].set_result(SCORE)
    assert passed_on(queue) == [(10, ["chrf"])]
    assert passed_on(queue) == []
    futures["comet"].set_exception(QualityError("gone"))
    assert passed_on(queue) == [(10, ["comet"])]
    assert len(queue) == 0


def test_a_slow_score_waits_for_those_of_earlier_steps() -> None:
    queue = ScoreQueue(["comet"])
    (first, early), (second, late) = pending(10, "chrf", "comet"), pending(20, "chrf", "comet")
    for evaluation in (first, second):
        queue.put(evaluation)
    for metric in late:
        late[metric].set_result(SCORE)
    assert passed_on(queue) == [(20, ["chrf"])]
    for metric in early:
        early[metric].set_result(SCORE)
    assert passed_on(queue) == [(10, ["chrf", "comet"]), (20, ["comet"])]


def test_what_was_passed_on_before_is_not_again() -> None:
    queue = ScoreQueue()
    evaluation, futures = pending(10, "chrf", "bleu")
    evaluation.passed_on.add("chrf")
    queue.put(evaluation)
    for future in futures.values():
        future.set_result(SCORE)
    assert queue.take(evaluation) == ["bleu"]
    assert not list(queue)


def test_giving_up_empties_it() -> None:
    queue = ScoreQueue()
    queue.put(pending(10, "chrf")[0])
    queue.clear()
    assert passed_on(queue) == []
