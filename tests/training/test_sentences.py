"""Which sentences are correlated with which scores, and why there is sometimes no correlation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuronxa_callback.correlation import spearman
from neuronxa_callback.training.history import History
from neuronxa_callback.training.metric_names import correlation_metrics
from neuronxa_callback.training.records import Evaluation
from neuronxa_callback.training.sentences import correlations_over_sentences, over_sentences
from tests.support import raw_lines

pytestmark = pytest.mark.unit

ALIGNED, OTHERS = [0.1, 0.0, 0.4, 0.3, 0.0], [0.9, 0.8, 0.1, 0.2, 0.3]
SEGMENTS = [20.0, 10.0, 50.0, 30.0, 40.0]


def direction(segments: list[float] | None, data: str = "a", **metrics: Any) -> dict[str, Any]:
    """Translations of the sentences whose fingerprint is `data`."""
    scored = {"score": 1.0, "segments": segments, "signature": "m:x"}
    made = {"signature": f"data:{data}", "empty": 0, "truncated": 0, "translations": ["ja"] * 5}
    return made | {"metrics": {"chrf": scored, **metrics}}


def language(aligned: list[float], data: str = "a", **methods: list[float]) -> dict[str, Any]:
    """The alignment of the pairs whose fingerprint is `data`."""
    per_pair = {"nasca": aligned, **methods}
    return {"signature": f"data:{data}", "score": dict.fromkeys(per_pair, 0.1), "per_pair": per_pair}


def evaluation(languages: dict[str, Any], quality: dict[str, Any]) -> Evaluation:
    line = {"step": 5, "score": {"nasca": 0.1}, "languages": languages, "quality": quality}
    return Evaluation.model_validate(line)


def test_each_pair_is_joined_with_the_score_of_its_translation() -> None:
    languages = {"eng_Latn-isl_Latn": language(ALIGNED, mexa=OTHERS)}
    assert correlations_over_sentences(evaluation(languages, {"eng_Latn-isl_Latn": direction(SEGMENTS)})) == {
        "eng_Latn-isl_Latn": {
            "nasca_chrf": spearman(ALIGNED, SEGMENTS),
            "mexa_chrf": spearman(OTHERS, SEGMENTS),
        }
    }


def test_a_direction_back_has_the_sentences_of_its_language_pair() -> None:
    line = evaluation({"eng_Latn-isl_Latn": language(ALIGNED)}, {"isl_Latn-eng_Latn": direction(SEGMENTS, "b")})
    (row,) = over_sentences(line)
    assert row.direction == "isl_Latn-eng_Latn"
    assert row.found == spearman(ALIGNED, SEGMENTS)


def test_of_two_pairs_of_the_same_languages_that_with_the_translated_sentences_counts() -> None:
    languages = {"eng_Latn-isl_Latn": language(ALIGNED, "a"), "isl_Latn-eng_Latn": language(OTHERS, "b")}
    back = evaluation(languages, {"isl_Latn-eng_Latn": direction(SEGMENTS, "a, the other way round")})
    assert [row.found for row in over_sentences(back)] == [spearman(ALIGNED, SEGMENTS)]
    there = evaluation(languages, {"isl_Latn-eng_Latn": direction(SEGMENTS, "b")})
    assert [row.found for row in over_sentences(there)] == [spearman(OTHERS, SEGMENTS)]


class TestSomeOfTheSources:
    """Pairs 1, 2 and 4 of five are translated."""

    def made(self, of: str) -> dict[str, Any]:
        part = direction(SEGMENTS[:3], "some") | {"places": [1, 2, 4], "translations": ["ja", "nei", "jú"]}
        return part | {"signature": f"data:some|of:{of}"}

    def test_their_pairs_are_joined_with_their_scores(self) -> None:
        languages = {"eng_Latn-isl_Latn": language(OTHERS)}
        (row,) = over_sentences(evaluation(languages, {"eng_Latn-isl_Latn": self.made("a")}))
        assert (row.found, row.n) == (spearman([0.8, 0.1, 0.3], SEGMENTS[:3]), 3)

    def test_the_fingerprint_of_all_pairs_tells_whose_sentences_these_are(self) -> None:
        languages = {"eng_Latn-isl_Latn": language(ALIGNED, "a"), "isl_Latn-eng_Latn": language(OTHERS, "b")}
        line = evaluation(languages, {"isl_Latn-eng_Latn": self.made("b")})
        assert line.language_pair("isl_Latn-eng_Latn") == "isl_Latn-eng_Latn"
        line = evaluation(languages, {"isl_Latn-eng_Latn": self.made("a, the other way round")})
        assert line.language_pair("isl_Latn-eng_Latn") == "eng_Latn-isl_Latn"

    def test_where_a_pairs_translation_is(self) -> None:
        line = evaluation({}, {"some": self.made("a"), "all": direction(SEGMENTS)})
        assert [line.quality["some"].at(place) for place in range(6)] == [None, 0, 1, None, 2, None]
        assert [line.quality["all"].at(place) for place in range(6)] == [0, 1, 2, 3, 4, None]


@pytest.mark.parametrize(
    ("aligned", "segments", "why"),
    [
        ([0.0] * 5, SEGMENTS, "no pair is aligned"),
        ([0.5] * 5, SEGMENTS, "all pairs are aligned alike"),
        (ALIGNED, [3.0] * 5, "all translations have the same score"),
        ([0.1, 0.2], [1.0, 2.0], "fewer than three sentences"),
    ],
)
def test_where_there_is_none_the_row_says_why(aligned: list[float], segments: list[float], why: str) -> None:
    line = evaluation({"eng_Latn-isl_Latn": language(aligned)}, {"eng_Latn-isl_Latn": direction(segments)})
    (row,) = over_sentences(line)
    assert (row.found, row.missing, row.n) == (None, why, len(aligned))
    assert correlations_over_sentences(line) == {}


def test_what_has_no_value_per_sentence_has_no_row() -> None:
    languages = {"eng_Latn-isl_Latn": language(ALIGNED), "eng_Latn-fra_Latn": {"signature": "n:5", "score": {"cka": 1}}}
    quality = {
        "eng_Latn-isl_Latn": direction(None, comet={"missing": "gone"}),
        "eng_Latn-fra_Latn": direction(SEGMENTS),
        "eng_Latn-deu_Latn": direction(SEGMENTS),
    }
    assert over_sentences(evaluation(languages, quality)) == []
    assert over_sentences(evaluation(languages, {"eng_Latn-isl_Latn": direction(SEGMENTS[:4])})) == []


def test_they_are_written_and_logged_with_the_name_of_their_direction(tmp_path: Path) -> None:
    line = evaluation({"eng_Latn-isl_Latn": language(ALIGNED)}, {"eng_Latn-isl_Latn": direction(SEGMENTS)})
    line = line.with_sentence_correlations(correlations_over_sentences(line))
    history = History(tmp_path)
    history.put(line)
    expected = spearman(ALIGNED, SEGMENTS)
    assert expected is not None
    (kept,) = raw_lines(history.path)
    numbers = {"r": expected.r, "p_value": expected.p_value, "ci": None, "n": 5}
    assert kept["over_sentences"] == {"eng_Latn-isl_Latn": {"nasca_chrf": numbers}}
    assert history.read() == [line]
    name = "eval_over_sentences_nasca_chrf_eng_Latn-isl_Latn"
    assert correlation_metrics(line, ["chrf"]) == {name: expected.r}
    assert correlation_metrics(line, ["comet"]) == {}
