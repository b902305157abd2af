"""The stopping rule against a slow reading of it, on made records and on noise."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from neuronxa_callback.significance import paired_p_value
from neuronxa_callback.training.history import History
from neuronxa_callback.training.judge import verdict_at
from neuronxa_callback.training.records import Evaluation, Verdict
from neuronxa_callback.training.settings import StoppingRule
from neuronxa_callback.training.stopping import curve_of, judge, still_stops
from neuronxa_callback.training.trend import jitter_of_changes, trend

pytestmark = pytest.mark.unit

NAME = "eng_Latn-isl_Latn"


def record(step: int, shares: Any, **others: Any) -> Evaluation:
    """An evaluation in which the held-out pairs have these shares of aligned layers."""
    language = language_of(shares)
    line = {"step": step, "score": language["score"], "languages": {NAME: language}}
    return Evaluation.model_validate(line | others)


def language_of(shares: Any) -> dict[str, Any]:
    shares = [float(share) for share in shares]
    return {"signature": "", "per_pair": {"nasca": shares}, "score": {"nasca": float(np.mean(shares))}}


def reread(evaluation: Evaluation) -> Evaluation:
    """The evaluation as a resumed run finds it on the disk."""
    return Evaluation.model_validate(json.loads(json.dumps(evaluation.model_dump())))


def judged(rule: StoppingRule, curve: list[Any], values: list[float] | None = None) -> list[Verdict]:
    """The verdicts on a run, each made from the records before it, as after a resume."""
    evaluations: list[Evaluation] = []
    verdicts = []
    for step, shares in enumerate(curve):
        line = record(step, shares)
        value = values[step] if values else line.score["nasca"]
        verdict = judge(rule, line, evaluations, {f"eval_{rule.key}": value})
        assert verdict is not None
        verdicts.append(verdict)
        evaluations.append(reread(line.with_verdict(verdict)))
    return verdicts


def rising(k: int, n: int = 100) -> list[float]:
    """k of n pairs are aligned."""
    return [1.0] * k + [0.0] * (n - k)


# ---------------------------------------------------------------------------------------------- the paired test


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=9))
def test_the_p_value_is_the_share_of_exchanges_that_rise_as_much(pairs: list[tuple[int, int]]) -> None:
    now, before = ([pair[side] / 4 for pair in pairs] for side in (0, 1))
    differences = [a - b for a, b in zip(now, before, strict=True)]
    rises = [
        sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in product((1, -1), repeat=len(pairs))
    ]
    expected = np.mean([rise >= sum(differences) - 1e-12 for rise in rises])
    assert paired_p_value(now, before) == pytest.approx(expected, abs=1e-9)


def test_the_false_alarm_rate_is_the_nominal_one() -> None:
    rng = np.random.default_rng(0)
    alarms = [paired_p_value(rng.random(40), rng.random(40)) < 0.05 for _ in range(1000)]
    assert 0.03 <= np.mean(alarms) <= 0.07


def test_the_p_value_is_the_same_each_time_and_disturbs_no_generator() -> None:
    rng = np.random.default_rng(1)
    now, before = rng.random(50), rng.random(50)
    np.random.seed(3)
    state = np.random.get_state()[1].tolist()  # type: ignore[index]
    assert paired_p_value(now, before) == paired_p_value(now, before)
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]


def test_other_numbers_of_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 2 pairs cannot be compared"):
        paired_p_value([0, 1, 1], [0, 1])


# ---------------------------------------------------------------------------------------------- the trend


@given(
    st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=3, max_size=20),
    st.integers(2, 9),
)
def test_the_trend_is_that_of_lines_fitted_one_by_one(values: list[float], intervals: int) -> None:
    span = min(intervals + 1, len(values))
    squares, rises = 0.0, []
    for first in range(len(values) - span + 1):
        window = values[first : first + span]
        fit = stats.linregress(range(span), window)
        squares += sum((y - fit.intercept - fit.slope * x) ** 2 for x, y in enumerate(window))
        rises.append(fit.slope * (span - 1))
    found = trend(values, intervals)
    assert found is not None
    assert found.rise == pytest.approx(rises[-1], abs=1e-9)
    assert found.jitter == pytest.approx(math.sqrt(squares / (len(rises) * (span - 2))), abs=1e-7)


def test_two_values_have_no_trend() -> None:
    assert trend([0.1, 0.2], 8) is None
    assert trend([0.1, 0.2, 0.3], 8) == pytest.approx((0.2, 0.0))


def test_jitter_is_measured_also_on_a_curve_that_rises() -> None:
    """Independent noise of a known size. The line takes the rise away, and the degrees of freedom are counted."""
    rng = np.random.default_rng(0)
    curves = (0.05 * np.arange(40) + rng.normal(scale=0.01, size=40) for _ in range(200))
    jitters = [found.jitter for curve in curves if (found := trend(curve.tolist(), 8))]
    assert np.sqrt(np.mean(np.square(jitters))) == pytest.approx(0.01, rel=0.03)


def test_the_jitter_of_changes_is_not_raised_by_one_of_them() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(scale=0.01, size=4000)
    assert jitter_of_changes(values.tolist()) == pytest.approx(0.01, rel=0.05)
    assert jitter_of_changes([3.0, 2.0, 3.0, 3.0 - 8.0, 3.0 - 7.0]) == pytest.approx(1 / (0.6745 * math.sqrt(2)))


# ---------------------------------------------------------------------------------------------- the rule


def test_it_stops_when_the_line_does_not_rise_and_says_why() -> None:
    verdicts = judged(StoppingRule(patience=3), [rising(k) for k in (10, 30, 31, 29, 30)])
    assert [v.value for v in verdicts] == [0.1, 0.3, 0.31, 0.29, 0.3]
    assert [(v.best, v.best_step) for v in verdicts] == [(0.1, 0), (0.3, 1), (0.31, 2), (0.31, 2), (0.31, 2)]
    assert [v.rise for v in verdicts[:2]] == [None, None]
    assert [v.reason for v in verdicts[:3]] == [None] * 3
    # The lines through the first four values and the last four have the slopes 0.058 and -0.002.
    assert verdicts[3].rise == pytest.approx(3 * 0.058)
    assert verdicts[3].reason is None
    assert verdicts[4].rise == pytest.approx(-0.006)
    reason = "nasca did not rise over 3 evaluations (its line moves by -0.0060, with a jitter of 0.0582)"
    assert verdicts[4].reason == reason


def test_a_curve_that_rises_never_stops() -> None:
    verdicts = judged(StoppingRule(patience=4), [rising(10 + 2 * i) for i in range(10)])
    assert [v.reason for v in verdicts] == [None] * 10
    assert verdicts[-1].rise == pytest.approx(0.08)
    assert verdicts[-1].jitter == pytest.approx(0)


def test_a_curve_that_does_not_move_stops_when_patience_runs_out() -> None:
    """Its jitter is nothing, and so is its rise."""
    verdicts = judged(StoppingRule(patience=5), [rising(10)] * 6)
    assert [v.reason is None for v in verdicts] == [True] * 5 + [False]


def test_a_warm_up_is_left_out() -> None:
    curve = [rising(k) for k in (50, 30, 10, 11, 12, 12, 12)]
    assert [v.reason is None for v in judged(StoppingRule(patience=2), curve)] == [
        True,
        True,
        False,
        False,
        True,
        True,
        False,
    ]
    spared = judged(StoppingRule(patience=2, warmup=2), curve)
    assert [v.reason is None for v in spared] == [True] * 6 + [False]
    assert [v.rise for v in spared[3:5]] == [None, pytest.approx(0.02)]
    assert spared[-1].best_step == 0


def test_a_rise_can_be_asked_to_be_larger() -> None:
    curve = [rising(k) for k in (10, 11, 12, 13)]
    assert judged(StoppingRule(patience=3), curve)[-1].reason is None
    assert judged(StoppingRule(patience=3, min_delta=0.029), curve)[-1].reason is None
    reason = judged(StoppingRule(patience=3, min_delta=0.05), curve)[-1].reason
    assert str(reason).startswith("nasca did not rise by more than 0.05 over 3 evaluations (its line moves")


@pytest.mark.parametrize(("metric", "sign"), [("comet", 1), ("loss", -1)])
def test_any_metric_has_a_trend_and_a_loss_must_fall(metric: str, sign: int) -> None:
    values = [0.5 + sign * change for change in (0, 0.01, 0.02, 0.03, 0.03, 0.03)]
    verdicts = judged(StoppingRule(patience=2, metric=metric), [rising(10)] * 6, values)
    assert [v.reason is None for v in verdicts] == [True] * 5 + [False]
    assert verdicts[3].rise == pytest.approx(sign * 0.02)
    assert verdicts[-1].best_step == 3
    assert str(verdicts[-1].reason).startswith(f"{metric} did not {'fall' if metric == 'loss' else 'rise'} over 2")


def test_another_metric_than_before_begins_anew() -> None:
    """A resumed run may be judged by another metric, with whose values the best so far has nothing to do."""
    lines: list[Evaluation] = []
    for step in range(4):
        verdict = judge(StoppingRule(patience=9, metric="loss"), record(step, rising(10)), lines, {"eval_loss": 3.0})
        assert verdict is not None
        lines.append(record(step, rising(10)).with_verdict(verdict))
    now = judge(StoppingRule(patience=2), record(4, rising(10)), lines, {"eval_nasca": 0.1})
    assert now is not None
    assert (now.metric, now.best, now.best_step, now.rise, now.reason) == ("nasca", 0.1, 4, None, None)


def test_a_metric_that_is_taken_up_again_begins_anew() -> None:
    """Its earlier values are not neighbours of the later ones."""
    lines: list[Evaluation] = []
    for step, metric in enumerate(("nasca", "nasca", "loss", "nasca", "nasca")):
        verdict = judge(StoppingRule(patience=9, metric=metric), record(step, rising(10)), lines, {f"eval_{metric}": 1})
        assert verdict is not None
        lines.append(record(step, rising(10)).with_verdict(verdict))
    assert curve_of(StoppingRule(), lines) == {3: 1, 4: 1}
    assert still_stops(StoppingRule(patience=2), lines) is None
    assert still_stops(StoppingRule(patience=2, metric="loss"), lines) is None


def test_another_patience_than_before_goes_on() -> None:
    lines: list[Evaluation] = []
    for step in range(3):
        verdict = judge(StoppingRule(patience=9), record(step, rising(10)), lines, {"eval_nasca": 0.1})
        assert verdict is not None
        lines.append(record(step, rising(10)).with_verdict(verdict))
    now = judge(StoppingRule(patience=3), record(3, rising(10)), lines, {"eval_nasca": 0.1})
    assert now is not None
    assert now.reason is not None
    lines.append(record(3, rising(10)).with_verdict(now))
    assert still_stops(StoppingRule(patience=3), lines) == now.reason
    assert still_stops(StoppingRule(patience=4), lines) is None
    assert still_stops(StoppingRule(), lines) is None
    assert still_stops(StoppingRule(patience=3), []) is None


def test_a_verdict_of_an_early_version_is_not_gone_on_from() -> None:
    old = {"rule": "nasca, significance 0.2, min_delta None, warmup 0", "best": 0.4, "best_step": 0, "gain": 0.0}
    old |= {"p_value": None, "improved": True, "waited": 2, "forgotten": {}, "reason": None}
    line = Evaluation.model_validate(record(0, rising(40)).model_dump() | {"stopping": old})
    assert still_stops(StoppingRule(patience=2), [line]) is None
    fallen = old | {"forgotten": {NAME: 0.3}}
    line_fallen = Evaluation.model_validate(record(0, rising(40)).model_dump() | {"stopping": fallen})
    assert still_stops(StoppingRule(floor={"isl_Latn": 0.0}), [line_fallen]) is None
    now = judge(StoppingRule(patience=2), record(1, rising(10)), [line], {"eval_nasca": 0.1})
    assert now is not None
    assert (now.best, now.best_step) == (0.1, 1)
    assert line.model_dump()["stopping"]["waited"] == 2  # what this version does not know is kept


def test_no_value_gives_no_verdict() -> None:
    assert judge(StoppingRule(), record(0, rising(1)), [], {}) is None
    assert judge(StoppingRule(), record(0, rising(1)), [], {"eval_nasca": math.nan}) is None


def test_a_language_that_falls_is_forgotten_only_beyond_noise_and_allowance() -> None:
    curve = [rising(k) for k in (30, 29, 28, 5, 4, 3, 3)]
    strict = judged(StoppingRule(floor={"isl_Latn": 0.0}), curve)
    # The changes are 1, 1, 23, 1 and so on: a sudden fall does not raise their median. Four evaluations are too few.
    assert [bool(v.forgotten) for v in strict] == [False] * 4 + [True] * 3
    assert strict[4].forgotten[NAME] == pytest.approx(0.3 - (0.28 + 0.05 + 0.04) / 3)
    assert strict[4].reason == f"nasca of {NAME} fell 0.1767 below its start, by more than noise"
    lenient = judged(StoppingRule(floor={"isl_Latn": 0.26}), curve)
    assert [bool(v.forgotten) for v in lenient] == [False] * 7
    warned = judged(StoppingRule(floor={"isl_Latn": 0.0}, stop_at_floor=False), curve)
    assert warned[4].forgotten
    assert warned[4].reason is None


@pytest.mark.parametrize(("swing", "forgotten"), [(1, True), (4, False)])
def test_a_fall_within_the_jitter_of_checkpoints_is_not_forgotten(swing: int, forgotten: bool) -> None:
    """Ten pairs of a hundred are lost, which no test over the pairs takes for noise."""
    curve = [rising(k + swing * (-1) ** step) for step, k in enumerate((40, 40, 40, 30, 30, 30, 30))]
    verdict = judged(StoppingRule(floor={"isl_Latn": 0.0}), curve)[-1]
    assert bool(verdict.forgotten) == forgotten


def test_a_floor_sees_by_the_rank_score_what_nasca_cannot_show() -> None:
    """Four aligned pairs fall to none: their exchanges decide, and p cannot be below 1/16. Every pair has a rank."""
    rng = np.random.default_rng(0)
    parts = rng.random(100) * 0.6

    def line(step: int, aligned: int, fall: float) -> Evaluation:
        language = language_of(rising(aligned))
        ranks = parts - fall + rng.normal(scale=0.02, size=100)
        language["per_pair"]["nasca_rank"] = ranks.tolist()
        language["score"]["nasca_rank"] = float(ranks.mean())
        return record(step, rising(aligned), score=language["score"], languages={NAME: language})

    lines = [line(step, 0 if step else 4, 0.04 if step else 0.0) for step in range(5)]
    rule = StoppingRule(floor={"isl_Latn": 0.01})
    found = judge(rule, lines[4], lines[:4], {})
    assert found is not None
    assert found.forgotten_by == "nasca_rank"
    assert found.forgotten[NAME] == pytest.approx(0.04, abs=0.01)
    alone = [record(step, rising(0 if step else 4)) for step in range(5)]
    assert judge(rule, alone[4], alone[:4], {}) is None


def test_a_floor_leaves_out_evaluations_that_lack_the_language_or_the_score() -> None:
    """A resumed run may have watched less before, and an evaluation may have failed."""
    failed = Evaluation.model_validate({"step": 2, "score": {}, "languages": {}})
    other = record(1, rising(30), languages={"eng_Latn-fra_Latn": language_of(rising(30))})
    lines = [failed, other, *(record(step, rising(30 if step < 5 else 10)) for step in range(3, 9))]
    rule = StoppingRule(floor={"isl_Latn": 0.0})
    found = judge(rule, lines[-1], lines[:-1], {})
    assert found is not None
    assert found.forgotten == {NAME: pytest.approx(0.2)}
    without = record(9, rising(10), score={"cka": 0.5})
    assert judge(rule, without, lines, {}) is None


@pytest.mark.parametrize(
    ("settings_", "sentence"),
    [
        ({"patience": 0}, "patience=0"),
        ({"patience": 1}, "patience=1 must be 2 evaluations or more"),
        ({"patience": True}, "patience=True"),
        ({"warmup": -1}, "warmup=-1"),
        ({"min_delta": -0.1}, r"min_delta=-0\.1 must be a number of 0 or more"),
        ({"min_delta": None}, "min_delta=None"),
        ({"min_delta": math.inf}, "min_delta=inf"),
        ({"floor": {"isl_Latn": -1}}, "floor="),
        ({"floor": {"isl_Latn": None}}, "floor="),
        ({"floor": {"isl_Latn": math.nan}}, "floor="),
    ],
)
def test_rules_that_make_no_sense_are_refused(settings_: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        StoppingRule(**settings_)


# ---------------------------------------------------------------------------------------------- in scores.jsonl


def keep_verdict(history: History, step: int, value: float) -> None:
    verdict = verdict_at(step, history, StoppingRule(), {"eval_nasca": value})
    assert verdict is not None
    history.put(history.at(step).with_verdict(verdict))


def best_steps(history: History) -> list[int | None]:
    return [line.stopping.best_step if line.stopping else None for line in history.evaluations]


def test_the_verdict_on_the_lines_is_gone_on_from(tmp_path: Path) -> None:
    for step, k in enumerate((10, 40, 41)):
        history = History(tmp_path)  # as after a resume
        history.put(record(step, rising(k)))
        keep_verdict(history, step, k / 100)
    verdicts = [line.stopping for line in History(tmp_path).read()]
    assert verdicts == judged(StoppingRule(), [rising(k) for k in (10, 40, 41)])


def test_a_history_that_cannot_be_written_is_judged_from_memory(tmp_path: Path) -> None:
    (tmp_path / "neuronxa").write_text("a file where the folder should be")
    history = History(tmp_path)
    for step, k in enumerate((10, 40, 41)):
        with pytest.raises(OSError, match="neuronxa"):
            history.put(record(step, rising(k)))
        with pytest.raises(OSError, match="neuronxa"):
            keep_verdict(history, step, k / 100)
    assert best_steps(history) == [0, 1, 2]


def test_what_a_full_disk_refused_is_written_when_there_is_room(tmp_path: Path) -> None:
    history = History(tmp_path)
    blocked = tmp_path / "neuronxa"
    blocked.write_text("in the way")
    with pytest.raises(OSError, match="neuronxa"):
        history.put(record(0, rising(10)))
    with pytest.raises(OSError, match="neuronxa"):
        keep_verdict(history, 0, 0.1)
    blocked.unlink()
    history.put(record(1, rising(40)))
    keep_verdict(history, 1, 0.4)
    assert History(tmp_path).read() == history.evaluations
    assert best_steps(history) == [0, 1]


def test_a_change_that_did_not_reach_the_disk_comes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(tmp_path)
    history.put(record(0, rising(10)))
    with monkeypatch.context() as full:
        place = "neuronxa_callback.training.history.replace_lines"
        full.setattr(place, lambda path, records: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            keep_verdict(history, 0, 0.1)
    history.put(history.at(0).model_copy(update={"quality_score": {"chrf": 1.0}}))
    assert History(tmp_path).read() == history.evaluations
    assert best_steps(history) == [0]


def test_a_language_is_forgotten_also_where_the_metric_has_no_value() -> None:
    rule = StoppingRule(metric="comet", floor={"isl_Latn": 0.0})
    lines = [record(step, rising(0 if step else 60)) for step in range(5)]
    found = judge(rule, lines[4], lines[:4], {})
    assert found is not None
    assert found.forgotten == {NAME: pytest.approx(0.6)}
    assert found.reason == f"nasca of {NAME} fell 0.6000 below its start, by more than noise"
    assert (found.value, found.best, found.best_step) == (None, None, None)
    after = judge(rule, record(5, rising(60)), lines, {"eval_comet": 0.7})
    assert after is not None
    assert (after.best, after.best_step) == (0.7, 5)


def test_lines_after_the_step_do_not_count(tmp_path: Path) -> None:
    """A run that was resumed from an older checkpoint judges as it would have then."""
    history = History(tmp_path)
    for step, k in enumerate((10, 40, 80)):
        history.put(record(step, rising(k)))
        keep_verdict(history, step, k / 100)
    before = history.read()[1].stopping
    history.put(record(1, rising(40)))
    keep_verdict(history, 1, 0.4)
    assert history.read()[1].stopping == before


def test_a_step_without_a_score_has_no_verdict(tmp_path: Path) -> None:
    assert verdict_at(0, History(tmp_path), StoppingRule(), {"eval_nasca": 0.1}) is None
