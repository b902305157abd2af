from __future__ import annotations

import json
import tempfile
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import PreTrainedTokenizerFast

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.correlation import over_run
from neuronxa_callback.files import FORMAT, OtherRecordError
from neuronxa_callback.quality.comet.process import QualityError, QualityScore
from neuronxa_callback.quality.evaluator import DirectionScores, QualityReport
from neuronxa_callback.quality.faithfulness import Faithfulness
from neuronxa_callback.quality.translation import Translations
from neuronxa_callback.signature import Signature
from neuronxa_callback.training.history import History, correlations
from neuronxa_callback.training.records import Evaluation
from tests.support import raw_lines

PAIRS = ParallelPairs.load("eng_Latn-isl_Latn", n=9)


def line(step: int, **others: Any) -> Evaluation:
    """An evaluation, with keys that this version knows or not."""
    return Evaluation.model_validate({"step": step, "score": {}, "languages": {}} | others)


def marks(evaluations: list[Evaluation]) -> list[tuple[int, Any]]:
    """The step of each, and the key that this version does not know."""
    return [(evaluation.step, (evaluation.model_extra or {}).get("mark")) for evaluation in evaluations]


def test_a_record_is_self_contained(llama: Any, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    report = NeuronXAEvaluator(PAIRS)(llama, tokenizer)
    history = History(tmp_path)
    history.put(Evaluation.of_report(report, 5, 0.5, 1.25))
    (record,) = raw_lines(tmp_path / "neuronxa" / "scores.jsonl")
    assert record["format"] == FORMAT
    assert Evaluation.model_validate({key: value for key, value in record.items() if key != "format"}) == history.at(5)
    assert history.read() == [history.at(5)]
    assert (record["step"], record["epoch"], record["runtime"]) == (5, 0.5, 1.25)
    language = record["languages"]["eng_Latn-isl_Latn"]
    assert language["score"] == report.score == record["score"]
    assert language["ci"]["nasca"] == list(report.ci["nasca"])
    assert language["signature"] == report.signature
    assert len(language["per_layer"]["nasca"]) == 3
    assert len(language["per_pair"]["nasca"]) == 9
    absent = {"per_pair", "quality_score", "quality", "pearson", "over_sentences", "stopping"}
    assert not absent & record.keys()


@pytest.mark.unit
def test_it_is_read_in_step_order_and_the_last_of_a_step_counts(tmp_path: Path) -> None:
    history = History(tmp_path)
    assert history.read() == []
    for step, mark in [(0, "a"), (20, "b"), (10, "c"), (20, "d")]:
        history.put(line(step, mark=mark))
    assert marks(history.read()) == [(0, "a"), (10, "c"), (20, "d")]


@pytest.mark.unit
@given(st.integers(0, 200))
def test_a_line_that_a_crash_cut_short_costs_that_line_alone(cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        history = History(folder)
        for step in (0, 10, 20):
            history.put(line(step, text="þæð"))
        content = history.path.read_bytes()
        history.path.write_bytes(content[: len(content) - cut])
        history = History(folder)
        whole = [evaluation.step for evaluation in history.read()]
        history.put(line(30))
        assert [evaluation.step for evaluation in history.read()] == [*whole, 30]
        assert whole == [0, 10, 20][: len(whole)]


LINES = st.lists(st.tuples(st.integers(0, 40), st.text(max_size=5)), min_size=1, max_size=8)


@pytest.mark.unit
@given(LINES, st.integers(0, 10_000), st.integers(0, 45), st.sampled_from([b"", b"{", b'{"st', b"\x00\x00", b"\xc3"]))
def test_after_any_cut_a_resumed_run_has_the_whole_lines_up_to_its_step(
    written: list[tuple[int, str]], cut: int, step: int, garbage: bytes
) -> None:
    """A file that was cut anywhere, with a few bytes of a next line behind it."""
    with tempfile.TemporaryDirectory() as folder:
        history = History(folder)
        for place, text in written:
            history.put(line(place, text=text))
        content = history.path.read_bytes()[:cut]
        history.path.write_bytes(content + garbage)
        ended = (content + garbage).split(b"\n")
        whole = [json.loads(text) for text in ended if is_record(text)]
        expected = {record["step"]: record for record in whole if record["step"] <= step}
        history.rewind(step)
        assert raw_lines(history.path) == [expected[place] for place in sorted(expected)]
        kept = history.path.read_bytes()
        history.rewind(step)
        assert history.path.read_bytes() == kept
        history.put(line(step + 1))
        assert [record["step"] for record in raw_lines(history.path)] == [
            *sorted(expected),
            step + 1,
        ]


def is_record(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


@pytest.mark.unit
def test_beginning_anew_keeps_what_was_there(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.begin()
    for mark in "ab":
        history.put(line(0, mark=mark))
        history.begin()
    assert history.read() == []
    assert '"a"' in (tmp_path / "neuronxa" / "scores.1.jsonl").read_text()
    assert '"b"' in (tmp_path / "neuronxa" / "scores.2.jsonl").read_text()


@pytest.mark.unit
def test_beginning_anew_overwrites_nothing(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.put(line(0, mark="new"))
    for number in (2, 3):
        history.path.with_name(f"scores.{number}.jsonl").write_text("old")
    history.begin()
    history.put(line(0, mark="newer"))
    history.begin()
    texts = {path.name: path.read_text() for path in history.path.parent.iterdir()}
    assert texts["scores.2.jsonl"] == texts["scores.3.jsonl"] == "old"
    assert '"new"' in texts["scores.1.jsonl"]
    assert '"newer"' in texts["scores.4.jsonl"]


def quality_report(
    score: float | None, directions: tuple[str, ...] = ("eng_Latn-isl_Latn",), copied: float | None = 7.5
) -> QualityReport:
    """Two translations in each direction, with COMET done (or not yet, at None) and CometKiwi failed.

    With None the copying was not measured.
    """
    measured = QualityError("gone") if copied is None else Faithfulness(copied, None, 0.25)
    by_direction = {}
    for name in directions:
        comet: Future[QualityScore] = Future()
        if score is not None:
            comet.set_result(QualityScore(score, (score, score), Signature.of(model="x")))
        kiwi: Future[QualityScore] = Future()
        kiwi.set_exception(QualityError("gone"))
        made = Translations(("ja", ""), empty=1, truncated=0)
        scores = {"comet": comet, "cometkiwi": kiwi}
        by_direction[name] = DirectionScores(made, Signature.of(prompt="plain"), measured, scores)
    return QualityReport(by_direction)


@pytest.mark.unit
class TestQuality:
    def test_it_joins_the_line_of_its_step(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        for step in (0, 10, 20):
            history.put(line(step, score={"nasca": step / 100}, text="þæð"))
        before = raw_lines(history.path)
        history.add_quality(10, quality_report(0.5))
        assert len(raw_lines(history.path)) == 3
        record = raw_lines(history.path)[1]
        assert record["text"] == "þæð"
        assert record["quality_score"] == {"comet": 0.5}
        assert record["quality"]["eng_Latn-isl_Latn"] == {
            "signature": "prompt:plain",
            "empty": 1,
            "truncated": 0,
            "copied": 7.5,
            "off_target": None,
            "length": 0.25,
            "translations": ["ja", ""],
            "metrics": {
                "comet": {"score": 0.5, "segments": [0.5, 0.5], "signature": "model:x"},
                "cometkiwi": {"missing": "gone"},
            },
        }
        assert raw_lines(history.path)[::2] == before[::2]
        assert [path.name for path in history.path.parent.iterdir()] == ["scores.jsonl"]

    def test_what_is_not_there_yet_says_so_until_it_is(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        history.put(line(0, score={"nasca": 0.1}))
        history.add_quality(0, quality_report(None))
        (record,) = raw_lines(history.path)
        assert record["quality"]["eng_Latn-isl_Latn"]["metrics"]["comet"] == {"missing": "not scored yet"}
        assert record["quality_score"] == {}
        history.add_quality(0, quality_report(0.7))
        (record,) = raw_lines(history.path)
        assert record["quality_score"] == {"comet": 0.7}

    def test_the_mean_needs_every_direction(self, tmp_path: Path) -> None:
        report = quality_report(0.5, ("eng_Latn-isl_Latn", "isl_Latn-eng_Latn"))
        assert report.mean("comet") == 0.5
        broken: Future[QualityScore] = Future()
        broken.set_exception(QualityError("gone"))
        report.by_direction["isl_Latn-eng_Latn"].scores["comet"] = broken
        assert report.mean("comet") is None
        assert report.system("comet") == {"eng_Latn-isl_Latn": 0.5}

    def test_of_two_lines_of_a_step_the_later_gets_it_and_a_torn_one_goes(self, tmp_path: Path) -> None:
        path = History(tmp_path).path
        path.parent.mkdir()
        whole = "".join(
            f'{{"step": 0, "score": {{"nasca": 0.1}}, "languages": {{}}, "mark": "{mark}"}}\n' for mark in "ab"
        )
        path.write_text(whole + '{"step": 10, "sco')
        history = History(tmp_path)
        history.add_quality(0, quality_report(0.5))
        (record,) = raw_lines(path)
        assert record["mark"] == "b"
        assert record["quality_score"] == {"comet": 0.5}

    def test_a_step_without_a_line(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        history.put(line(0, score={"nasca": 0.1}))
        with pytest.raises(KeyError, match="has no line of step 5"):
            history.add_quality(5, quality_report(0.5))

    def test_correlations_from_three_evaluations_on_up_to_the_step(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        nasca, comet, copied = [0.1, 0.2, 0.4, 0.3], [0.5, 0.7, 0.6, 0.9], [30.0, 10.0, 20.0, 25.0]
        for step, score in enumerate(nasca):
            history.put(line(step, score={"nasca": score}))
        found = [
            history.add_quality(step, quality_report(comet[step], copied=copied[step])) for step in range(len(comet))
        ]
        assert found[0].pearson == found[1].pearson == {}
        for step in (2, 3):
            expected = over_run(nasca[: step + 1], comet[: step + 1], copied[: step + 1])
            assert expected is not None
            kept = raw_lines(history.path)[step]["pearson"]["nasca_comet"]
            assert kept == asdict(expected)
            assert expected.n == step + 1
            assert (expected.r_partial is None) == (step == 2)
            assert found[step] == history.at(step)
        assert kept["r_diff"] is not None

    def test_an_evaluation_without_a_score_is_left_out_of_the_correlation(self) -> None:
        evaluations = [
            line(step, score={"nasca": step / 10}, quality_score={} if step == 2 else {"chrf": float(step**2)})
            for step in range(5)
        ]
        evaluations.append(line(5, score={"nasca": 0.9}))
        expected = over_run([0, 0.1, 0.3, 0.4], [0, 1, 9, 16])
        assert correlations(evaluations) == {"nasca_chrf": expected}

    def test_copying_is_held_fixed_where_every_evaluation_has_it(self) -> None:
        def at(step: int, **copied: float | None) -> Evaluation:
            made = {"signature": "n:1", "empty": 0, "truncated": 0, "translations": ["ja"], "metrics": {}}
            quality = {name: made | {"copied": value, "length": 1.0} for name, value in copied.items()}
            return line(step, score={"nasca": step**2 / 10}, quality_score={"chrf": float(step % 3)}, quality=quality)

        copied = [[3.0, 5.0], [9.0, 1.0], [2.0, 2.0], [8.0, 9.0], [1.0, 7.0]]
        evaluations = [at(step, there=there, back=back) for step, (there, back) in enumerate(copied)]
        nasca, chrf = [0, 0.1, 0.4, 0.9, 1.6], [0, 1, 2, 0, 1]
        expected = over_run(nasca, chrf, [4.0, 5.0, 2.0, 8.5, 4.0])
        assert expected is not None
        assert expected.r_partial is not None
        assert correlations(evaluations) == {"nasca_chrf": expected}
        one_less = [*evaluations[:4], at(4, there=1.0, back=None)]
        assert correlations(one_less) == {"nasca_chrf": over_run(nasca, chrf)}

    def test_alignment_is_that_of_the_language_pairs_that_are_translated(self) -> None:
        """The control falls while the translated languages rise."""
        isl, fra, deu = (f"eng_Latn-{code}_Latn" for code in ("isl", "fra", "deu"))
        chrf = [1.0, 3.0, 2.0, 5.0, 9.0]
        scores = {isl: [0.1, 0.2, 0.4, 0.3, 0.5], fra: [0.0, 0.3, 0.1, 0.2, 0.9], deu: [0.9, 0.7, 0.8, 0.5, 0.1]}

        def over(directions: dict[str, str]) -> Any:
            """The correlation where these directions are translated, each with the fingerprint of its sentences."""
            made = {"empty": 0, "truncated": 0, "translations": ["ja"], "metrics": {}}
            evaluations = [
                line(
                    step,
                    score={"nasca": mean(isl, fra, deu)[step]},
                    languages={
                        name: {"signature": f"data:{name}", "score": {"nasca": nasca[step]}}
                        for name, nasca in scores.items()
                    },
                    quality={name: made | {"signature": f"data:{data}"} for name, data in directions.items()},
                    quality_score={"chrf": chrf[step]},
                )
                for step in range(5)
            ]
            return correlations(evaluations)["nasca_chrf"]

        def mean(*names: str) -> list[float]:
            return [fmean(nasca) for nasca in zip(*(scores[name] for name in names), strict=True)]

        back = {"isl_Latn-eng_Latn": "another"}  # Icelandic is translated back alone
        assert over(back) == over_run(scores[isl], chrf)
        assert over(back | {fra: fra}) == over_run(mean(isl, fra), chrf)
        assert over(back | {fra: fra, deu: deu}) == over_run(mean(isl, fra, deu), chrf)
        assert over({}) == over_run(mean(isl, fra, deu), chrf)  # nothing tells which were translated

    def test_what_was_not_measured_is_left_out_and_comes_when_it_is(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        history.put(line(0, score={"nasca": 0.1}))
        old = history.add_quality(0, quality_report(0.5, copied=None))
        made = raw_lines(history.path)[0]["quality"]["eng_Latn-isl_Latn"]
        assert not {"copied", "off_target", "length"} & made.keys()
        assert (old.copied, old.faithfulness) == (None, {})
        history.put(old.with_faithfulness({"eng_Latn-isl_Latn": Faithfulness(3.5, 0.25, 1.5)}))
        made = raw_lines(history.path)[0]["quality"]["eng_Latn-isl_Latn"]
        assert (made["copied"], made["off_target"], made["length"]) == (3.5, 0.25, 1.5)
        assert made["translations"] == ["ja", ""]
        assert History(tmp_path).read() == history.evaluations


class TestTheMemoryCounts:
    def test_a_write_that_failed_is_made_up_for_by_the_next(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*arguments: Any) -> None:
            raise OSError(28, "No space left on device")

        history = History(tmp_path)
        history.put(line(0))
        for name in ("append_line", "replace_lines"):
            monkeypatch.setattr(f"neuronxa_callback.training.history.{name}", full)
        with pytest.raises(OSError, match="No space"):
            history.put(line(10))
        with pytest.raises(OSError, match="No space"):
            history.put(line(0, mark="a"))
        assert marks(history.evaluations) == [(0, "a"), (10, None)]
        assert marks(history.read()) == [(0, None)]
        monkeypatch.undo()
        history.put(line(20))
        assert history.read() == history.evaluations
        assert marks(history.read()) == [(0, "a"), (10, None), (20, None)]

    def test_a_file_that_was_taken_away_comes_back_whole(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        history.put(line(0))
        history.path.unlink()
        history.put(line(10))
        assert [evaluation.step for evaluation in history.read()] == [0, 10]

    def test_a_new_line_is_written_behind_the_others_and_a_changed_one_replaces_the_file(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        history.put(line(0))
        node = history.path.stat().st_ino
        history.put(line(10))
        assert history.path.stat().st_ino == node
        history.put(line(0, mark="a"))
        assert history.path.stat().st_ino != node
        assert [path.name for path in history.path.parent.iterdir()] == ["scores.jsonl"]

    def test_where_nothing_goes_to_the_disk_it_is_in_memory(self, tmp_path: Path) -> None:
        history = History(tmp_path, on_disk=False)
        history.put(line(0))
        assert history.evaluations == [line(0)]
        assert not history.path.parent.exists()


@pytest.mark.unit
class TestTheLines:
    def test_a_key_that_this_version_does_not_know_is_kept_wherever_it_stands(self, tmp_path: Path) -> None:
        """A run that was begun with a newer version and is resumed with this one loses nothing."""
        path = History(tmp_path).path
        path.parent.mkdir()
        language = {"signature": "n:9", "score": {"nasca": 0.1}, "new": 1}
        direction = {"signature": "n:9", "empty": 0, "truncated": 0, "translations": ["ja"], "new": 2}
        metrics = {"chrf": {"score": 1.0, "segments": None, "signature": "m:x", "new": 3}, "comet": {"missing": "a"}}
        verdict = {"rule": "r", "best": 0.1, "best_step": 0, "gain": 0.0, "p_value": None, "improved": True}
        record = {
            "format": FORMAT,
            "step": 0,
            "score": {"nasca": 0.1},
            "languages": {"eng_Latn-isl_Latn": language},
            "quality": {"eng_Latn-isl_Latn": direction | {"metrics": metrics}},
            "pearson": {"nasca_chrf": {"r": 0.5, "p_value": 0.1, "ci": [0.1, 0.9], "n": 3, "new": 4}},
            "stopping": verdict | {"waited": 0, "forgotten": {}, "reason": None, "new": 5},
            "new": 6,
        }
        path.write_text(json.dumps(record) + "\n" + json.dumps(record | {"step": 9}) + "\n")
        History(tmp_path).rewind(5)
        (kept,) = raw_lines(path)
        assert_holds(kept, record)

    def test_a_newer_format_is_refused_with_the_remedy(self, tmp_path: Path) -> None:
        path = History(tmp_path).path
        path.parent.mkdir()
        path.write_text(json.dumps({"format": FORMAT + 1, "step": 0, "score": {}, "languages": {}}) + "\n")
        with pytest.raises(
            ValueError, match=rf"scores\.jsonl, line 1, has format {FORMAT + 1}.*install the newer version"
        ):
            History(tmp_path).read()

    def test_another_kind_of_line_is_named_with_its_number(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        history.put(line(0))
        with history.path.open("a") as file:
            file.write('{"step": 5}\n')
        with pytest.raises(OtherRecordError, match=r"line 2, is not an evaluation of a run \(score: Field required\)"):
            history.read()

    def test_a_line_cannot_be_changed(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            line(0).step = 1


def assert_holds(kept: Any, record: Any) -> None:
    """Every key of the record is there with its value, in every part of it."""
    if isinstance(record, dict):
        for key, value in record.items():
            assert_holds(kept[key], value)
    else:
        assert kept == record
