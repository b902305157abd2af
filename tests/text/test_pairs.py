from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest

from neuronxa_callback import ParallelPairs
from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.text.pairs import PairsError
from tests.text.samples import CODES, ENGLISH, EXPECTED, ICELANDIC, ROWS, delimited, refused, write

pytestmark = pytest.mark.unit


class TestEmbedded:
    @pytest.mark.parametrize("target", ["isl_Latn", "deu_Latn", "fra_Latn", "spa_Latn"])
    def test_a_hundred_pairs_with_english(self, target: str) -> None:
        pairs = ParallelPairs.load(f"eng_Latn-{target}")
        assert len(pairs) == 100
        assert (pairs.source_lang, pairs.target_lang, pairs.name) == ("eng_Latn", target, f"eng_Latn-{target}")

    def test_any_two_of_its_languages(self) -> None:
        assert ParallelPairs.load("deu_Latn-fra_Latn").source == ParallelPairs.load("eng_Latn-deu_Latn").target

    def test_english_is_as_long_as_promised(self) -> None:
        words = [len(sentence.split()) for sentence in embedded("heldout.tsv")["eng_Latn"]]
        assert min(words) >= 6
        assert max(words) <= 20
        assert 11 <= sum(words) / len(words) <= 13

    @pytest.mark.parametrize(("name", "count"), [("heldout.tsv", 100), ("demo_train.tsv", 240)])
    def test_the_sets_are_complete_and_clean(self, name: str, count: int) -> None:
        columns = embedded(name)
        assert set(columns) >= {"eng_Latn", "isl_Latn", "fra_Latn", "spa_Latn"}
        for sentences in columns.values():
            assert len({sentence.casefold() for sentence in sentences}) == count
            assert all(s and s == s.strip() and s == unicodedata.normalize("NFC", s) for s in sentences)

    def test_no_held_out_sentence_is_in_the_training_set(self) -> None:
        texts = [sentence for column in embedded("demo_train.tsv").values() for sentence in column]
        for target in ("isl_Latn", "fra_Latn", "spa_Latn"):
            assert ParallelPairs.load(f"eng_Latn-{target}").overlap(texts) == []

    def test_a_language_it_does_not_have(self) -> None:
        with pytest.raises(PairsError, match="embedded set has no fao_Latn; it has eng_Latn, isl_Latn, deu_Latn"):
            ParallelPairs.load("eng_Latn-fao_Latn")


class TestLoad:
    def test_two_of_several_languages(self, tmp_path: Path) -> None:
        rows = [(s, t, s.upper()) for s, t in ROWS]
        path = write(tmp_path / "many.tsv", delimited("\t", ("eng_Latn", "isl_Latn", "deu_Latn"), *rows))
        assert ParallelPairs.load(path, "isl_Latn", "eng_Latn").source == ICELANDIC
        with pytest.raises(PairsError, match="holds 3 languages; choose two with source_lang and target_lang"):
            ParallelPairs.load(path)

    def test_the_first_hundred_by_default(self) -> None:
        rows = [{"source": f"Sentence {i}.", "target": f"Setning {i}."} for i in range(150)]
        assert len(ParallelPairs.load(rows, *CODES)) == 100
        assert len(ParallelPairs.load(rows, *CODES, n=None)) == 150

    def test_loaded_pairs_pass_through(self) -> None:
        assert ParallelPairs.load(EXPECTED) is EXPECTED


class TestBadInput:
    """An error is one sentence that names the file, the line and the remedy."""

    def test_a_single_pair(self, tmp_path: Path) -> None:
        path = write(tmp_path / "one.tsv", delimited("\t", CODES, ROWS[0]))
        refused(r"one\.tsv, line 2, is the only pair.*give at least two", path)

    @pytest.mark.parametrize("text", ["", "eng_Latn\tisl_Latn\n"])
    def test_no_pair(self, text: str, tmp_path: Path) -> None:
        refused(r"none\.tsv holds no pairs; give at least two", write(tmp_path / "none.tsv", text))

    def test_duplicates(self, tmp_path: Path) -> None:
        path = write(tmp_path / "dup.tsv", delimited("\t", CODES, *ROWS, ("Other.", " Enginn hló. ")))
        refused(
            r"dup\.tsv, line 5, repeats the isl_Latn sentence of .*dup\.tsv, line 4, .*remove one of the pairs", path
        )

    @pytest.mark.parametrize(
        ("code", "hint"),
        [
            ("isl_Ltn", "; the nearest are isl_Latn"),
            ("zh", "; the nearest are zho_Hans, zho_Hant"),
            ("qqq", r" language code such as isl_Latn\."),
        ],
    )
    def test_an_unknown_language(self, code: str, hint: str) -> None:
        refused(f"{code!r} is not a FLORES-200.*{hint}", [{"source": "a", "target": "b"}] * 2, "eng_Latn", code)

    def test_one_language_twice(self) -> None:
        refused("both sides of the pairs are eng_Latn", "eng_Latn-eng_Latn")

    def test_unknown_columns(self) -> None:
        rows = [{"english": "a", "icelandic": "b"}]
        refused(r"columns english, icelandic; name two of them by FLORES-200 codes .*or pass columns", rows, *CODES)
        refused(r"columns english, icelandic; name two", rows, *CODES, columns=("english", "xx"))

    def test_unknown_languages(self) -> None:
        refused("languages of the list are not known", [{"source": "a", "target": "b"}] * 2)

    @pytest.mark.parametrize("n", [1, 0, "5", 2.5])
    def test_too_small_n(self, n: Any) -> None:
        refused(f"n={n!r} is not a usable number of pairs", "eng_Latn-isl_Latn", n=n)

    def test_a_tuple_that_is_not_two_paths(self) -> None:
        for spec in (("a.txt",), (), (None, "x"), ("a", "b", "c")):
            refused("is not a tuple of two paths", spec)

    def test_something_that_holds_no_pairs(self) -> None:
        refused("None holds no pairs; give two language codes", None)
        refused("5 holds no pairs", 5)

    def test_languages_that_contradict_the_text(self) -> None:
        refused("names its languages itself", "eng_Latn-isl_Latn", "eng_Latn", "fra_Latn")
        refused("names its languages itself", EXPECTED, columns=("a", "b"))
        rows = [dict(zip(CODES, row, strict=True)) for row in ROWS]
        refused("the column eng_Latn of the list would be called isl_Latn", rows, *CODES[::-1], columns=CODES)
        refused("one column twice", rows, columns=("eng_Latn", "eng_Latn"))

    def test_one_language_follows_from_the_other(self) -> None:
        rows = [dict(zip(CODES, row, strict=True)) for row in ROWS]
        assert ParallelPairs.load(rows, source_lang="isl_Latn").target == ENGLISH
        assert ParallelPairs.load(rows, target_lang="isl_Latn") == EXPECTED

    def test_the_constructor_checks_too(self) -> None:
        with pytest.raises(PairsError, match="3 source and 2 target"):
            ParallelPairs(ENGLISH, ICELANDIC[:2], *CODES)
        with pytest.raises(PairsError, match="pair 2 of eng_Latn-isl_Latn repeats the eng_Latn sentence of pair 1"):
            ParallelPairs(("a", "a"), ("b", "c"), *CODES)
        with pytest.raises(PairsError, match="sequences of sentences, not one string"):
            ParallelPairs("abc", "def", *CODES)  # type: ignore[arg-type]
        with pytest.raises(PairsError, match="None is not a FLORES-200"):
            ParallelPairs(ENGLISH, ICELANDIC, None, "isl_Latn")  # type: ignore[arg-type]


class TestFingerprint:
    def test_it_depends_on_everything(self) -> None:
        others = [
            ParallelPairs(ENGLISH, (*ICELANDIC[:2], "Enginn hlær."), *CODES),
            ParallelPairs(ENGLISH[::-1], ICELANDIC[::-1], *CODES),
            ParallelPairs(ENGLISH, ICELANDIC, "eng_Latn", "fao_Latn"),
            ParallelPairs(ENGLISH[:2], ICELANDIC[:2], *CODES),
        ]
        assert len({EXPECTED.fingerprint, *(other.fingerprint for other in others)}) == 5

    def test_it_does_not_change_between_versions(self) -> None:
        assert EXPECTED.fingerprint == "00bd28835abf"


class TestWhatAReaderSees:
    """Sentences that look alike are one sentence, and one that shows nothing is empty."""

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            pytest.param("Tvö kúlulegir.", unicodedata.normalize("NFD", "Tvö kúlulegir."), id="NFC and NFD"),
            pytest.param("Tvö hér.", "Tvö hér.\u200b", id="zero-width space"),
            pytest.param("Tvö hér.", "Tvö\u00a0hér.", id="no-break space"),
            pytest.param("Tvö hér.", "\ufeffTvö  hér.", id="byte order mark and two spaces"),
            pytest.param("شكرا", "\u200fشكرا\u200f", id="marks of direction"),
        ],
    )
    def test_one_sentence_twice(self, one: str, other: str) -> None:
        with pytest.raises(PairsError, match="pair 2 of eng_Latn-isl_Latn repeats the isl_Latn sentence of pair 1"):
            ParallelPairs(ENGLISH[:2], (one, other), *CODES)

    @pytest.mark.parametrize("sentence", ["\u200b", "\ufeff", " \u200d\u00a0", "\u00ad"])
    def test_a_sentence_that_shows_nothing(self, sentence: str) -> None:
        with pytest.raises(PairsError, match="pair 2 of eng_Latn-isl_Latn has an empty isl_Latn sentence"):
            ParallelPairs(ENGLISH[:2], (ICELANDIC[0], sentence), *CODES)

    def test_the_text_itself_stays_as_it_is(self) -> None:
        kept = (unicodedata.normalize("NFD", "Tvö."), "Me\u200bira.")
        assert ParallelPairs(ENGLISH[:2], kept, *CODES).target == kept
