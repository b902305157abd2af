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

from neuronxa_callback.significance import paired_p_value
from neuronxa_callback.training.history import History
from neuronxa_callback.training.judge import verdict_at
from neuronxa_callback.training.records import Evaluation, Verdict
from neuronxa_callback.training.settings import StoppingRule
from neuronxa_callback.training.stopping import judge

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


# ---------------------------------------------------------------------------------------------- the rule


def test_a_rise_within_the_noise_is_no_improvement_and_a_clear_one_is() -> None:
    first, second, third = judged(StoppingRule(), [rising(10), rising(12), rising(25)])
    assert (first.improved, first.best_step, first.gain, first.p_value) == (True, 0, 0.0, None)
    assert (second.improved, second.best_step, second.waited) == (False, 0, 1)
    assert second.gain == pytest.approx(0.02)
    # Two pairs that differ: a quarter of the exchanges.
    assert second.p_value == pytest.approx(0.25, abs=0.02)
    assert (third.improved, third.best_step, third.waited) == (True, 2, 0)
    assert third.best == pytest.approx(0.25)
    assert third.gain == pytest.approx(0.15)


def test_a_slow_rise_adds_up_to_an_improvement() -> None:
    verdicts = judged(StoppingRule(patience=4), [rising(10 + 2 * i) for i in range(10)])
    assert [v.reason for v in verdicts] == [None] * 10
    assert sum(v.improved for v in verdicts) >= 3


def test_it_stops_when_patience_runs_out_and_says_why() -> None:
    verdicts = judged(StoppingRule(patience=3), [rising(k) for k in (10, 30, 31, 29, 30)])
    assert [v.waited for v in verdicts] == [0, 0, 1, 2, 3]
    assert [v.reason for v in verdicts[:4]] == [None] * 4
    assert verdicts[4].reason == "nasca did not improve significantly (p < 0.2, paired test) in 3 evaluations"
    assert verdicts[4].best_step == 1


def test_a_warm_up_does_not_count() -> None:
    verdicts = judged(StoppingRule(patience=2, warmup=3), [rising(10)] * 6)
    assert [v.waited for v in verdicts] == [0, 0, 0, 0, 1, 2]
    assert [v.reason is None for v in verdicts] == [True] * 5 + [False]


def test_a_difference_can_decide_instead() -> None:
    verdicts = judged(StoppingRule(min_delta=0.02), [rising(k) for k in (10, 12, 13, 16)])
    assert [v.improved for v in verdicts] == [True, False, True, True]
    assert {v.p_value for v in verdicts} == {None}


@pytest.mark.parametrize(("metric", "sign"), [("comet", 1), ("loss", -1)])
def test_another_metric_improves_by_any_rise_and_a_loss_by_a_fall(metric: str, sign: int) -> None:
    values = [0.5, 0.5 + sign * 0.01, 0.5, 0.5 + sign * 0.02]
    verdicts = judged(StoppingRule(patience=5, metric=metric), [rising(10)] * 4, values)
    assert [v.improved for v in verdicts] == [True, True, False, True]


def test_one_language_of_several_can_decide() -> None:
    records = []
    for step, k in enumerate((5, 40)):
        languages = {NAME: language_of(rising(10)), "eng_Latn-deu_Latn": language_of(rising(k))}
        records.append(record(step, rising(10), languages=languages, per_pair={"nasca": rising(10)}))
    rule = StoppingRule(metric="nasca_eng_Latn-deu_Latn")
    first = judge(rule, records[0], [], {"eval_nasca_eng_Latn-deu_Latn": 0.05})
    assert first is not None
    second = judge(rule, records[1], [records[0].with_verdict(first)], {"eval_nasca_eng_Latn-deu_Latn": 0.4})
    assert second is not None
    assert second.improved
    first = judge(StoppingRule(), records[0], [], {"eval_nasca": 0.1})
    assert first is not None
    together = judge(StoppingRule(), records[1], [records[0].with_verdict(first)], {"eval_nasca": 0.1})
    assert together is not None
    assert not together.improved


def test_another_metric_than_before_begins_anew() -> None:
    """A resumed run may be judged by another metric, with whose values the best so far has nothing to do."""
    first = judge(StoppingRule(patience=1, metric="loss"), record(0, rising(10)), [], {"eval_loss": 3.0})
    assert first is not None
    line = record(0, rising(10)).with_verdict(first)
    now = judge(StoppingRule(patience=1), record(1, rising(10)), [line], {"eval_nasca": 0.1})
    assert now is not None
    assert (now.best, now.best_step, now.reason) == (0.1, 1, None)
    assert str(now.rule).startswith("nasca, significance 0.2")


def test_no_value_gives_no_verdict() -> None:
    assert judge(StoppingRule(), record(0, rising(1)), [], {}) is None
    assert judge(StoppingRule(), record(0, rising(1)), [], {"eval_nasca": math.nan}) is None


def test_a_language_that_falls_is_forgotten_only_beyond_noise_and_allowance() -> None:
    curve = [rising(30), rising(28), rising(22), rising(5)]
    strict = judged(StoppingRule(floor={"isl_Latn": 0.0}), curve)
    assert [list(v.forgotten) for v in strict] == [[], [], [NAME], [NAME]]
    assert strict[3].forgotten[NAME] == pytest.approx(0.25)
    assert strict[3].reason == f"{NAME} fell 0.2500 below its start, by more than noise"
    lenient = judged(StoppingRule(floor={"isl_Latn": 0.2}), curve)
    assert [bool(v.forgotten) for v in lenient[:3]] == [False] * 3
    warned = judged(StoppingRule(floor={"isl_Latn": 0.0}, stop_at_floor=False), curve)
    assert warned[3].forgotten
    assert warned[3].reason is None


def test_noise_alone_improves_no_more_often_than_the_test_allows() -> None:
    """On a plateau of independent evaluations a false improvement comes about once in twenty."""
    rng = np.random.default_rng(5)
    probability = rng.random(100) * 0.4
    improved = 0
    for _ in range(300):
        first, second = judged(StoppingRule(significance=0.05), [rng.random(100) < probability for _ in range(2)])
        assert first.improved
        improved += second.improved
    assert 0.02 <= improved / 300 <= 0.08


@pytest.mark.parametrize(
    ("settings_", "sentence"),
    [
        ({"patience": 0}, "patience=0"),
        ({"patience": True}, "patience=True"),
        ({"warmup": -1}, "warmup=-1"),
        ({"significance": 1.0}, r"significance=1\.0"),
        ({"min_delta": -0.1}, r"min_delta=-0\.1"),
        ({"floor": {"isl_Latn": -1}}, "floor="),
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
    assert best_steps(history) == [0, 1, 1]


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


def test_another_rule_than_before_begins_anew() -> None:
    """Patience that was used up by one rule says nothing about another."""
    lines: list[Evaluation] = []
    for step, k in enumerate((10, 10, 10)):
        line = record(step, rising(k))
        verdict = judge(StoppingRule(patience=9), line, lines, {"eval_nasca": k / 100})
        assert verdict is not None
        lines.append(line.with_verdict(verdict))
    assert [line.stopping.waited for line in lines if line.stopping] == [0, 1, 2]
    now = judge(StoppingRule(patience=3, min_delta=0.5), record(3, rising(10)), lines, {"eval_nasca": 0.1})
    assert now is not None
    assert (now.best_step, now.waited, now.reason) == (3, 0, None)
    same = judge(StoppingRule(patience=3), record(3, rising(10)), lines, {"eval_nasca": 0.1})  # more patience alone
    assert same is not None
    assert (same.best_step, same.waited) == (0, 3)


def test_a_language_is_forgotten_also_where_the_metric_has_no_value() -> None:
    rule = StoppingRule(metric="comet", floor={"isl_Latn": 0.0})
    found = judge(rule, record(1, rising(0)), [record(0, rising(60))], {})
    assert found is not None
    assert found.forgotten == {NAME: pytest.approx(0.6)}
    assert found.reason == f"{NAME} fell 0.6000 below its start, by more than noise"
    assert (found.best, found.best_step, found.gain) == (None, None, None)
    after = judge(rule, record(2, rising(60)), [record(0, rising(60)), record(1, rising(0))], {"eval_comet": 0.7})
    assert after is not None
    assert (after.best, after.best_step) == (0.7, 2)


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


def test_language_pairs_of_unequal_numbers_count_equally_in_the_test() -> None:
    """Their own sentences: 4 pairs and 2 pairs. The mean of the scaled parts is the mean of the two scores."""
    many, few = language_of([1.0, 0.5, 0.0, 0.5]), language_of([0.25, 0.75])
    line = {"step": 0, "score": {"nasca": 0.5}, "languages": {NAME: many, "eng_Latn-fra_Latn": few}}
    evaluation = Evaluation.model_validate(line)
    parts = evaluation.pair_shares("nasca")
    assert parts == [0.75, 0.375, 0.0, 0.375, 0.375, 1.125]
    assert np.mean(parts) == np.mean([0.5, 0.5])
    assert evaluation.pair_shares("nasca", "eng_Latn-fra_Latn") == [0.25, 0.75]


def test_a_floor_sees_by_the_rank_score_what_nasca_cannot_show() -> None:
    """Four aligned pairs fall to none: four exchanges decide, and their p cannot be below 1/16."""

    def line(step: int, nasca: list[float], ranks: list[float]) -> Evaluation:
        scores = {"nasca": float(np.mean(nasca)), "nasca_rank": float(np.mean(ranks))}
        language = {"signature": "", "score": scores, "per_pair": {"nasca": nasca, "nasca_rank": ranks}}
        return Evaluation.model_validate({"step": step, "score": scores, "languages": {NAME: language}})

    start, later = line(0, rising(4), [0.5] * 100), line(1, rising(0), [0.45] * 100)
    rule = StoppingRule(floor={"isl_Latn": 0.01})
    by_rank = judge(rule, later, [start], {"eval_nasca": 0.0})
    assert by_rank is not None
    assert by_rank.forgotten == {NAME: pytest.approx(0.05)}
    alone = [record(0, rising(4)), record(1, rising(0))]
    by_nasca = judge(rule, alone[1], alone[:1], {"eval_nasca": 0.0})
    assert by_nasca is not None
    assert by_nasca.forgotten == {}
