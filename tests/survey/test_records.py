"""A survey's lines: written in today's form, read in that and in version 0.1's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronxa_callback.files import FORMAT, OtherRecordError, append_record, read_records
from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.measure import ModelChoice
from neuronxa_callback.survey.records import (
    IDENTITY,
    RetrievalLine,
    RetrievalNumbers,
    ScoreLine,
    key_of_version_0_1,
)
from neuronxa_callback.survey.results import read_scores
from tests.support import raw_lines

pytestmark = pytest.mark.unit

SIGNATURE = "method:nasca|n:30|pair:eng_Latn-isl_Latn|data:ab|tokens:weighted|layers:mean|version:0.1.0"
CHOICES = Signature.parse(SIGNATURE)


def model(**changed: str) -> Signature:
    return Signature.of(dict.fromkeys(IDENTITY, "") | {"model": "runs/one", "load": "auto", "weights": "aa"} | changed)


def score_line(**changed: Any) -> ScoreLine:
    fields: dict[str, Any] = {
        "model": "one",
        "lang": "isl_Latn",
        "pivot": "eng_Latn",
        "corpus": "devtest",
        "signature": CHOICES,
        "key": model().joined(CHOICES),
        "score": {"nasca": 0.25, "cka": 0.1},
        "ci": {"nasca": (0.1, 0.4)},
        "p_value": {"nasca": 0.01},
        "per_layer": {"nasca": [0.5, 0.0], "cka": [float("inf"), 0.2]},
        "per_pair": {"nasca": [0.0, 1 / 3]},
    }
    return ScoreLine(**fields | changed)


def old_line(model: str = "runs/one", **changed: Any) -> dict[str, Any]:
    """A line as `neuronxa score` wrote it in version 0.1."""
    line = {"model": "one", "lang": "isl_Latn", "pivot": "eng_Latn", "corpus": "devtest", "signature": SIGNATURE}
    return line | {"scores": {"nasca": 0.25}, "key": f"{model}||auto||aa|{SIGNATURE}"} | changed


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    lines = [score_line(), score_line(lang="deu_Latn", key=model(model="my|runs/100% one").joined(CHOICES))]
    for line in lines:
        append_record(path, line)
    assert list(read_records(path, ScoreLine)) == lines
    raw = raw_lines(path)
    assert [line["format"] for line in raw] == [FORMAT] * 2
    assert raw[0]["score"] == {"nasca": 0.25, "cka": 0.1}
    assert raw[0]["signature"] == SIGNATURE
    assert raw[1]["key"].startswith("model:my%7Cruns/100%25 one|adapter:|load:auto|quantised:|weights:aa|method:")


def test_retrieval_is_read_in_its_own_types(tmp_path: Path) -> None:
    numbers = RetrievalNumbers(accuracy=0.5, p_value=0.1, ci=(0.2, 0.7), per_layer=[0.5, 0.25])
    place = score_line().model_dump(include={"model", "lang", "pivot", "corpus", "signature", "key"})
    line = RetrievalLine(**place, retrieval={"nas": {"both": numbers}})
    append_record(tmp_path / "retrieval.jsonl", line)
    (read,) = read_records(tmp_path / "retrieval.jsonl", RetrievalLine)
    assert read == line
    assert read.retrieval["nas"]["both"].ci == (0.2, 0.7)
    assert read.n == 30


def test_a_key_that_is_not_known_is_kept(tmp_path: Path) -> None:
    append_record(tmp_path / "one.jsonl", score_line(families={"isl_Latn": "Germanic"}))
    (read,) = read_records(tmp_path / "one.jsonl", ScoreLine)
    append_record(tmp_path / "two.jsonl", read)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert raw_lines(tmp_path / "two.jsonl")[0]["families"] == {"isl_Latn": "Germanic"}


def test_a_line_of_version_0_1_is_read(tmp_path: Path) -> None:
    (read,) = read_records(write(tmp_path / "scores.jsonl", old_line()), ScoreLine)
    assert read.score == {"nasca": 0.25}
    assert read.signature == CHOICES
    assert read.key == model().joined(CHOICES)
    assert "scores" not in read.model_dump()


@given(st.text().filter(lambda text: "|method:" not in text), st.text("abc/"), st.sampled_from(["nf4", ""]))
def test_a_model_path_with_a_bar_in_a_key_of_version_0_1(path: str, adapter: str, quantised: str) -> None:
    key = key_of_version_0_1(f"{path}|{adapter}|bfloat16|{quantised}|d4be|{SIGNATURE}")
    assert key.only(IDENTITY) == Signature.of(
        model=path, adapter=adapter, load="bfloat16", quantised=quantised, weights="d4be"
    )
    assert key.without(IDENTITY) == CHOICES


def test_the_key_of_a_choice_is_that_which_version_0_1_wrote(tmp_path: Path) -> None:
    """So that a survey that 0.1 began goes on."""
    folder = str(tmp_path / "my|model")
    choice = ModelChoice(folder, dtype="float32", load_in_4bit=True)
    assert key_of_version_0_1(f"{folder}||float32|nf4|hub|{SIGNATURE}").only(IDENTITY) == choice.identity
    assert Signature.parse(str(choice.identity)) == choice.identity


def test_models_with_a_bar_in_their_paths_are_told_apart(tmp_path: Path) -> None:
    """By the whole path: the newest weights count, and two models of one name are refused."""
    lines = [old_line("a|b/one"), old_line("a|b/one", lang="deu_Latn", scores={"nasca": 0.5})]
    found = read_scores(write(tmp_path / "scores.jsonl", *lines))
    assert [(score.lang, score.score) for score in found] == [("isl_Latn", 0.25), ("deu_Latn", 0.5)]
    write(tmp_path / "scores.jsonl", old_line("a|b/one"), old_line("a|c/one"))
    with pytest.raises(ValueError, match=r"holds two models named one \(a\|b/one, a\|c/one\)"):
        read_scores(tmp_path)


def test_a_line_of_a_newer_format_is_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "scores.jsonl", old_line(), {"format": FORMAT + 1, "new": []})
    for read in (lambda: list(read_records(path, ScoreLine)), lambda: read_scores(path)):
        with pytest.raises(
            ValueError, match=rf"scores\.jsonl, line 2, has format {FORMAT + 1}, .* install the newer version"
        ):
            read()


@pytest.mark.parametrize(
    "line",
    [
        {"step": 0, "score": {"nasca": 0.1}},
        {"format": FORMAT, "step": 0, "score": {"nasca": 0.1}},
        {"format": "two"},
        old_line(key="one"),
        old_line(lang=None),
        old_line(scores={"nasca": "high"}),
        [1],
    ],
)
def test_another_record_is_one_sentence(line: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "scores.jsonl", line)
    with pytest.raises(
        OtherRecordError, match=r"scores\.jsonl, line 1, is not a line of a survey \(.*\); move this file away"
    ) as e:
        list(read_records(path, ScoreLine))
    assert "\n" not in str(e.value)
