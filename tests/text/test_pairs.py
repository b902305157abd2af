from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import datasets
import pytest

from neuronxa_callback import ParallelPairs
from neuronxa_callback.text.pairs import PairsError, embedded, language_codes, language_name

ENGLISH = ("The sea is calm.", "A red door opened.", "Nobody laughed.")
ICELANDIC = ("Sjórinn er lygn.", "Rauð hurð opnaðist.", "Enginn hló.")
CODES = ("eng_Latn", "isl_Latn")
EXPECTED = ParallelPairs(ENGLISH, ICELANDIC, *CODES)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def delimited(separator: str, *rows: tuple[str, ...]) -> str:
    return "".join(separator.join(row) + "\n" for row in rows)


ROWS = list(zip(ENGLISH, ICELANDIC, strict=True))


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
    def test_tsv(self, tmp_path: Path) -> None:
        path = write(tmp_path / "pairs.tsv", delimited("\t", CODES, *ROWS))
        assert ParallelPairs.load(path) == EXPECTED
        assert ParallelPairs.load(str(path)) == EXPECTED

    def test_tsv_keeps_quotation_marks(self, tmp_path: Path) -> None:
        rows = [('"Yes" she said.', "„Já“ sagði hún."), ('She said "no', "Hún sagði nei")]
        assert ParallelPairs.load(write(tmp_path / "q.tsv", delimited("\t", CODES, *rows))).source == (
            '"Yes" she said.',
            'She said "no',
        )

    def test_csv_with_quotes_line_ends_and_bom(self, tmp_path: Path) -> None:
        text = '\ufeffisl_Latn,eng_Latn\r\n"Já, hér.","Yes, here."\r\nNei.,No.\r\n'
        pairs = ParallelPairs.load(write(tmp_path / "pairs.csv", text), *CODES)
        assert (pairs.source, pairs.target) == (("Yes, here.", "No."), ("Já, hér.", "Nei."))

    @pytest.mark.parametrize("columns", [CODES, ("source", "target")])
    def test_jsonl(self, columns: tuple[str, str], tmp_path: Path) -> None:
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in ROWS]
        path = write(tmp_path / "pairs.jsonl", "\n".join(lines))
        assert ParallelPairs.load(path, *CODES) == EXPECTED

    def test_parquet(self, tmp_path: Path) -> None:
        path = tmp_path / "pairs.parquet"
        datasets.Dataset.from_list([dict(zip(CODES, row, strict=True)) for row in ROWS]).to_parquet(path)
        assert ParallelPairs.load(path) == EXPECTED

    def test_two_files_named_as_flores_names_them(self, tmp_path: Path) -> None:
        paths = tuple(
            write(tmp_path / f"{code}.devtest", "\n".join(side) + "\n")
            for code, side in zip(CODES, (ENGLISH, ICELANDIC), strict=True)
        )
        assert ParallelPairs.load(paths) == EXPECTED

    def test_two_files_with_given_languages(self, tmp_path: Path) -> None:
        paths = (write(tmp_path / "a.en", "\n".join(ENGLISH)), write(tmp_path / "a.is", "\n".join(ICELANDIC)))
        assert ParallelPairs.load(paths, *CODES) == EXPECTED

    def test_a_dataset_by_column(self) -> None:
        dataset = datasets.Dataset.from_list([{"en": s, "is": t} for s, t in ROWS])
        assert ParallelPairs.load(dataset, *CODES, columns=("en", "is")) == EXPECTED
        assert (
            ParallelPairs.load(dataset.to_iterable_dataset(), *CODES, columns=("en", "is"), n=2).source == ENGLISH[:2]
        )

    def test_a_dataset_with_the_hubs_translation_column(self) -> None:
        dataset = datasets.Dataset.from_list([{"translation": {"en": s, "is": t}} for s, t in ROWS])
        assert ParallelPairs.load(dataset, *CODES, columns=("en", "is")) == EXPECTED

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
    """One sentence that names the file, the line and the remedy."""

    def refused(self, match: str, spec: Any, *arguments: Any, **options: Any) -> None:
        with pytest.raises(PairsError, match=match) as caught:
            ParallelPairs.load(spec, *arguments, **options)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl", "parquet"])
    def test_a_missing_file(self, suffix: str, tmp_path: Path) -> None:
        self.refused(rf"gone\.{suffix} does not exist; check the path", tmp_path / f"gone.{suffix}")

    def test_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "d.tsv").mkdir()
        self.refused(r"d\.tsv cannot be read .*check the path", tmp_path / "d.tsv")

    def test_unequal_files(self, tmp_path: Path) -> None:
        paths = (write(tmp_path / "eng_Latn.txt", "One.\nTwo.\n"), write(tmp_path / "isl_Latn.txt", "Einn.\n"))
        self.refused(r"eng_Latn\.txt has 2 lines and .*isl_Latn\.txt has 1; line i of one", paths)

    def test_an_empty_line(self, tmp_path: Path) -> None:
        path = write(tmp_path / "e.tsv", delimited("\t", CODES, ROWS[0], ("  ", "Rauð."), ROWS[2]))
        self.refused(r"e\.tsv, line 3, has an empty eng_Latn sentence; fill it in or remove", path)

    def test_an_empty_line_of_two_files(self, tmp_path: Path) -> None:
        paths = (write(tmp_path / "eng_Latn.txt", "One.\nTwo.\n"), write(tmp_path / "isl_Latn.txt", "\nTveir.\n"))
        self.refused(r"line 1 of .*eng_Latn\.txt and .*isl_Latn\.txt has an empty isl_Latn sentence", paths)

    def test_not_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / "latin1.tsv"
        path.write_bytes(delimited("\t", CODES, *ROWS).encode("latin-1"))
        self.refused(r"latin1\.tsv, line 2, is not UTF-8; convert", path)

    def test_a_single_pair(self, tmp_path: Path) -> None:
        path = write(tmp_path / "one.tsv", delimited("\t", CODES, ROWS[0]))
        self.refused(r"one\.tsv, line 2, is the only pair.*give at least two", path)

    @pytest.mark.parametrize("text", ["", "eng_Latn\tisl_Latn\n"])
    def test_no_pair(self, text: str, tmp_path: Path) -> None:
        self.refused(r"none\.tsv holds no pairs; give at least two", write(tmp_path / "none.tsv", text))

    def test_duplicates(self, tmp_path: Path) -> None:
        path = write(tmp_path / "dup.tsv", delimited("\t", CODES, *ROWS, ("Other.", " Enginn hló. ")))
        self.refused(
            r"dup\.tsv, line 5, repeats the isl_Latn sentence of .*dup\.tsv, line 4, .*remove one of the pairs", path
        )

    @pytest.mark.parametrize(
        ("code", "hint"),
        [
            ("isl_Ltn", "; the nearest are isl_Latn"),
            ("is", "; the nearest are isl_Latn"),
            ("qqq", r" language code such as isl_Latn\."),
        ],
    )
    def test_an_unknown_language(self, code: str, hint: str) -> None:
        self.refused(f"{code!r} is not a FLORES-200.*{hint}", [{"source": "a", "target": "b"}] * 2, "eng_Latn", code)

    def test_one_language_twice(self) -> None:
        self.refused("both sides of the pairs are eng_Latn", "eng_Latn-eng_Latn")

    def test_a_ragged_line(self, tmp_path: Path) -> None:
        path = write(tmp_path / "r.tsv", "eng_Latn\tisl_Latn\nOne.\tEinn.\nTwo.\n")
        self.refused(r"r\.tsv, line 3, has 1 columns where the header has 2", path)

    def test_broken_csv_names_the_line_where_its_row_begins(self, tmp_path: Path) -> None:
        path = write(tmp_path / "b.csv", 'eng_Latn,isl_Latn\n"One\nmore.",Einn.\n"Two" x,Tveir.\n')
        self.refused(r"b\.csv, line 4, is not valid CSV", path)

    def test_broken_json(self, tmp_path: Path) -> None:
        self.refused(r"b\.jsonl, line 1, is not JSON", write(tmp_path / "b.jsonl", '{"source": \n'))
        self.refused(r"a\.jsonl, line 1, is not a JSON object", write(tmp_path / "a.jsonl", '["x"]\n'))

    def test_broken_parquet(self, tmp_path: Path) -> None:
        self.refused(r"b\.parquet is not a Parquet file", write(tmp_path / "b.parquet", "nothing"))

    def test_a_missing_value(self) -> None:
        rows = [{"source": "a", "target": "b"}, {"source": "c", "target": None}]
        self.refused("row 2 of the list holds None where the isl_Latn sentence should be", rows, *CODES)

    def test_unknown_columns(self) -> None:
        rows = [{"en": "a", "is": "b"}]
        self.refused(r"columns en, is; name two of them by FLORES-200 codes .*or pass columns", rows, *CODES)
        self.refused(r"columns en, is; name two", rows, *CODES, columns=("en", "xx"))

    def test_unknown_languages(self) -> None:
        self.refused("languages of the list are not known", [{"source": "a", "target": "b"}] * 2)

    def test_a_dataset_dict(self) -> None:
        splits = datasets.DatasetDict({"train": datasets.Dataset.from_list([{"a": "b"}])})
        self.refused("DatasetDict gives str where a row is needed; pass one split", splits)

    def test_an_unknown_kind_of_file(self, tmp_path: Path) -> None:
        self.refused(r"pairs\.xml is neither a pair of FLORES-200 codes", tmp_path / "pairs.xml")

    @pytest.mark.parametrize("n", [1, 0, "5", 2.5])
    def test_too_small_n(self, n: Any) -> None:
        self.refused(f"n={n!r} is no number of pairs", "eng_Latn-isl_Latn", n=n)

    @pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl"])
    def test_a_blank_line(self, suffix: str, tmp_path: Path) -> None:
        separator = {"tsv": "\t", "csv": ","}.get(suffix)
        lines = [json.dumps(dict(zip(CODES, row, strict=True))) for row in (ROWS[0], *ROWS)]
        if separator:
            lines = [separator.join(row) for row in (CODES, *ROWS)]
        path = write(tmp_path / f"blank.{suffix}", "\n".join([*lines[:2], "", *lines[2:]]))
        self.refused(rf"blank\.{suffix}, line 3, is empty; fill it in or remove it", path)

    @pytest.mark.parametrize("suffix", ["tsv", "csv"])
    def test_blank_lines_at_the_end_and_space_in_the_header_do_no_harm(self, suffix: str, tmp_path: Path) -> None:
        separator = {"tsv": "\t", "csv": ","}[suffix]
        text = delimited(separator, ("eng_Latn", " isl_Latn "), *ROWS) + "\n \n"
        assert ParallelPairs.load(write(tmp_path / f"PAIRS.{suffix.upper()}", text)) == EXPECTED

    def test_a_tuple_that_is_not_two_paths(self) -> None:
        for spec in (("a.txt",), (), (None, "x"), ("a", "b", "c")):
            self.refused("is not a tuple of two paths", spec)

    def test_something_that_holds_no_pairs(self) -> None:
        self.refused("None holds no pairs; give two language codes", None)
        self.refused("5 holds no pairs", 5)

    def test_languages_that_contradict_the_text(self) -> None:
        self.refused("names its languages itself", "eng_Latn-isl_Latn", "eng_Latn", "fra_Latn")
        self.refused("names its languages itself", EXPECTED, columns=("a", "b"))
        rows = [dict(zip(CODES, row, strict=True)) for row in ROWS]
        self.refused("the column eng_Latn of the list would be called isl_Latn", rows, *CODES[::-1], columns=CODES)
        self.refused("one column twice", rows, columns=("eng_Latn", "eng_Latn"))

    def test_one_language_follows_from_the_other(self) -> None:
        rows = [dict(zip(CODES, row, strict=True)) for row in ROWS]
        assert ParallelPairs.load(rows, source_lang="isl_Latn").target == ENGLISH
        assert ParallelPairs.load(rows, target_lang="isl_Latn") == EXPECTED

    def test_half_a_surrogate_pair(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "s.jsonl", '{"eng_Latn": "A \\ud83d.", "isl_Latn": "B."}\n{"eng_Latn": "C", "isl_Latn": "D"}'
        )
        self.refused(r"s\.jsonl, line 1, has half a surrogate pair", path)

    def test_a_truncated_parquet_file(self, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        datasets.Dataset.from_list([dict(zip(CODES, row, strict=True)) for row in ROWS]).to_parquet(path)
        content = bytearray(path.read_bytes())
        content[-60:-20] = b"x" * 40
        path.write_bytes(content)
        self.refused(r"t\.parquet is not a Parquet file", path)

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


def test_flores_200_has_204_codes() -> None:
    assert len(language_codes()) == 204


def test_every_language_has_a_name_of_its_own() -> None:
    names = {language_name(code) for code in language_codes()}
    assert len(names) == 204
    assert language_name("isl_Latn") == "Icelandic"
    assert language_name("zho_Hant") == "Chinese (Traditional)"
