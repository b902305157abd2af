from __future__ import annotations

import csv
import json
from pathlib import Path

import datasets
import pandas
import pytest

from neuronxa_callback import ParallelPairs
from tests.text.samples import CODES, ENGLISH, EXPECTED, ICELANDIC, ROWS, delimited, refused, write

pytestmark = pytest.mark.unit


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

    @pytest.mark.parametrize("suffix", ["tsv", "csv"])
    def test_a_cell_may_be_longer_than_csv_has_them_and_lines_count_on(self, suffix: str, tmp_path: Path) -> None:
        limit = csv.field_size_limit()
        long = "a" * (limit + 1)
        separator = {"tsv": "\t", "csv": ","}[suffix]
        text = delimited(separator, CODES, (long, "Löng."), *ROWS)
        assert ParallelPairs.load(write(tmp_path / f"long.{suffix}", text)).source == (long, *ENGLISH)
        refused(rf"more\.{suffix}, line 6, has 1 columns", write(tmp_path / f"more.{suffix}", text + "One.\n"))
        assert csv.field_size_limit() == limit

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


class TestTwoFiles:
    @pytest.mark.parametrize("character", ["\u2028", "\x85", "\x0b", "\x0c", "\r"])
    def test_only_a_line_feed_ends_a_line(self, character: str, tmp_path: Path) -> None:
        sentence = f"The sea{character}is calm."
        paths = (
            write(tmp_path / "a.en", "\n".join([sentence, *ENGLISH[1:]]) + "\n"),
            write(tmp_path / "a.is", "\r\n".join(ICELANDIC) + "\r\n"),
        )
        assert ParallelPairs.load(paths).source == (sentence, *ENGLISH[1:])

    def test_carriage_returns_alone_end_lines(self, tmp_path: Path) -> None:
        paths = (write(tmp_path / "a.en", "\r".join(ENGLISH)), write(tmp_path / "a.is", "\r".join(ICELANDIC) + "\r"))
        assert ParallelPairs.load(paths) == EXPECTED

    def test_empty_lines_at_the_end_of_one_do_no_harm(self, tmp_path: Path) -> None:
        paths = (write(tmp_path / "a.en", "\n".join(ENGLISH) + "\n\n"), write(tmp_path / "a.is", "\n".join(ICELANDIC)))
        assert ParallelPairs.load(paths) == EXPECTED

    def test_empty_files(self, tmp_path: Path) -> None:
        paths = (write(tmp_path / "a.en", ""), write(tmp_path / "a.is", "\n"))
        refused(r"a\.en and .*a\.is holds no pairs; give at least two", paths)


class TestBadInput:
    """An error is one sentence that names the file, the line and the remedy."""

    @pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl", "parquet"])
    def test_a_missing_file(self, suffix: str, tmp_path: Path) -> None:
        refused(rf"gone\.{suffix} does not exist; check the path", tmp_path / f"gone.{suffix}")

    def test_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "d.tsv").mkdir()
        refused(r"d\.tsv cannot be read .*check the path", tmp_path / "d.tsv")

    def test_unequal_files(self, tmp_path: Path) -> None:
        paths = (write(tmp_path / "eng_Latn.txt", "One.\nTwo.\n"), write(tmp_path / "isl_Latn.txt", "Einn.\n"))
        refused(r"eng_Latn\.txt has 2 lines and .*isl_Latn\.txt has 1; line i of one", paths)

    def test_an_empty_line(self, tmp_path: Path) -> None:
        path = write(tmp_path / "e.tsv", delimited("\t", CODES, ROWS[0], ("  ", "Rauð."), ROWS[2]))
        refused(r"e\.tsv, line 3, has an empty eng_Latn sentence; fill it in or remove", path)

    def test_an_empty_line_of_two_files(self, tmp_path: Path) -> None:
        paths = (write(tmp_path / "eng_Latn.txt", "One.\nTwo.\n"), write(tmp_path / "isl_Latn.txt", "\nTveir.\n"))
        refused(r"line 1 of .*eng_Latn\.txt and .*isl_Latn\.txt has an empty isl_Latn sentence", paths)

    def test_not_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / "latin1.tsv"
        path.write_bytes(delimited("\t", CODES, *ROWS).encode("latin-1"))
        refused(r"latin1\.tsv, line 2, is not UTF-8; convert", path)

    def test_a_ragged_line(self, tmp_path: Path) -> None:
        path = write(tmp_path / "r.tsv", "eng_Latn\tisl_Latn\nOne.\tEinn.\nTwo.\n")
        refused(r"r\.tsv, line 3, has 1 columns where the header has 2", path)

    def test_lines_count_on_after_an_open_quotation_mark_and_other_separators(self, tmp_path: Path) -> None:
        rows = (('"Yes, she said.', "a\u2028b"), ("c\x85d", "e\x0cf"), ("One.",))
        refused(r"q\.tsv, line 4, has 1 columns", write(tmp_path / "q.tsv", delimited("\t", CODES, *rows)))

    def test_a_carriage_return_inside_a_line_of_tsv(self, tmp_path: Path) -> None:
        path = tmp_path / "cr.tsv"
        path.write_bytes(delimited("\t", CODES, ROWS[0], ("One\rmore.", "Einn.")).encode())
        refused(r"cr\.tsv, line 3, is not valid TSV \(new-line character", path)

    def test_broken_csv_names_the_line_where_its_row_begins(self, tmp_path: Path) -> None:
        path = write(tmp_path / "b.csv", 'eng_Latn,isl_Latn\n"One\nmore.",Einn.\n"Two" x,Tveir.\n')
        refused(r"b\.csv, line 4, is not valid CSV", path)

    def test_broken_json(self, tmp_path: Path) -> None:
        refused(r"b\.jsonl, line 1, is not JSON", write(tmp_path / "b.jsonl", '{"source": \n'))
        refused(r"a\.jsonl, line 1, is not a JSON object", write(tmp_path / "a.jsonl", '["x"]\n'))

    def test_broken_parquet(self, tmp_path: Path) -> None:
        refused(r"b\.parquet is not a Parquet file", write(tmp_path / "b.parquet", "nothing"))

    def test_a_missing_value(self) -> None:
        rows = [{"source": "a", "target": "b"}, {"source": "c", "target": None}]
        refused("row 2 of the list holds None where the isl_Latn sentence should be", rows, *CODES)

    @pytest.mark.parametrize("word", ["null", "None", "NA", "nan"])
    def test_a_word_that_others_take_for_a_missing_value(self, word: str, tmp_path: Path) -> None:
        path = write(tmp_path / "m.csv", delimited(",", CODES, *ROWS, ("Nothing.", word)))
        assert ParallelPairs.load(path).target[-1] == word
        told = "row 4 of the {} holds {} where the isl_Latn sentence should be; fill it in, or, if it was a word"
        refused(told.format("DataFrame", "nan"), pandas.read_csv(path))
        read = datasets.load_dataset("csv", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
        refused(told.format("Dataset", "None"), read)

    def test_a_dataset_dict(self) -> None:
        splits = datasets.DatasetDict({"train": datasets.Dataset.from_list([{"a": "b"}])})
        refused("DatasetDict gives str where a row is needed; pass one split", splits)

    def test_an_unknown_kind_of_file(self, tmp_path: Path) -> None:
        refused(r"pairs\.docx is neither a pair of FLORES-200 codes", tmp_path / "pairs.docx")

    @pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl"])
    def test_a_blank_line(self, suffix: str, tmp_path: Path) -> None:
        separator = {"tsv": "\t", "csv": ","}.get(suffix)
        lines = [json.dumps(dict(zip(CODES, row, strict=True))) for row in (ROWS[0], *ROWS)]
        if separator:
            lines = [separator.join(row) for row in (CODES, *ROWS)]
        path = write(tmp_path / f"blank.{suffix}", "\n".join([*lines[:2], "", *lines[2:]]))
        refused(rf"blank\.{suffix}, line 3, is empty; fill it in or remove it", path)

    @pytest.mark.parametrize("suffix", ["tsv", "csv"])
    def test_blank_lines_at_the_end_and_space_in_the_header_do_no_harm(self, suffix: str, tmp_path: Path) -> None:
        separator = {"tsv": "\t", "csv": ","}[suffix]
        text = delimited(separator, ("eng_Latn", " isl_Latn "), *ROWS) + "\n \n"
        assert ParallelPairs.load(write(tmp_path / f"PAIRS.{suffix.upper()}", text)) == EXPECTED

    def test_half_a_surrogate_pair(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "s.jsonl", '{"eng_Latn": "A \\ud83d.", "isl_Latn": "B."}\n{"eng_Latn": "C", "isl_Latn": "D"}'
        )
        refused(r"s\.jsonl, line 1, has half a surrogate pair", path)

    def test_a_truncated_parquet_file(self, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        datasets.Dataset.from_list([dict(zip(CODES, row, strict=True)) for row in ROWS]).to_parquet(path)
        content = bytearray(path.read_bytes())
        content[-60:-20] = b"x" * 40
        path.write_bytes(content)
        refused(r"t\.parquet is not a Parquet file", path)
