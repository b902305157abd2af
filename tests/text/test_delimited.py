"""TSV and CSV as pandas, csv, Excel and people write them."""

from __future__ import annotations

import csv
import io
import re
import tempfile
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from neuronxa_callback import ParallelPairs
from neuronxa_callback.text.readers import open_rows
from tests.text.samples import CODES, ENGLISH, EXPECTED, ICELANDIC, ROWS, delimited, refused, write

pytestmark = pytest.mark.unit

# Sentences with all that a writer must quote.
SPECIAL = (
    ('He said "no" and left.', 'Hann sagði „nei" og fór.'),
    ('"Yes."', "„Já.“"),
    ("One\ttab.", "Einn\tdálkur."),
    ("Two\nlines.", "Tvær\nlínur."),
    ("A comma, here.", "Komma, hér."),
    ('"Hi," he said.', '„Hæ," sagði hann.'),
)
FRAME = pd.DataFrame([*SPECIAL, *ROWS], columns=list(CODES))


def expected_of(frame: pd.DataFrame) -> ParallelPairs:
    return ParallelPairs(tuple(frame[CODES[0]]), tuple(frame[CODES[1]]), *CODES)


class TestQuotedTsv:
    @pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    @pytest.mark.parametrize("index", [False, True])
    def test_what_pandas_writes_comes_back(self, quoting: int, index: bool, tmp_path: Path) -> None:
        for name, separator in (("p.tsv", "\t"), ("p.csv", ",")):
            FRAME.to_csv(tmp_path / name, sep=separator, index=index, quoting=quoting)
            assert ParallelPairs.load(tmp_path / name) == expected_of(FRAME)

    @pytest.mark.parametrize("dialect", ["excel-tab", "unix"])
    def test_what_csv_writes_comes_back(self, dialect: str, tmp_path: Path) -> None:
        with (tmp_path / "c.tsv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, dialect, delimiter="\t").writerows([CODES, *SPECIAL])
        pairs = ParallelPairs.load(tmp_path / "c.tsv")
        assert list(zip(pairs.source, pairs.target, strict=True)) == list(SPECIAL)

    def test_excel_quotes_cells_with_commas_too(self, tmp_path: Path) -> None:
        text = (
            'eng_Latn\tisl_Latn\r\n"Yes, here."\tJá.\r\n"He said ""no"", twice."\t"Nei, sagði hann."\r\nNo.\tNei.\r\n'
        )
        pairs = ParallelPairs.load(write(tmp_path / "e.tsv", text))
        assert pairs.source == ("Yes, here.", 'He said "no", twice.', "No.")
        assert pairs.target == ("Já.", "Nei, sagði hann.", "Nei.")

    def test_lines_count_on_after_a_cell_of_several_lines(self, tmp_path: Path) -> None:
        text = 'eng_Latn\tisl_Latn\n"Two\nlines."\tTvær.\nOne.\tEin.\n \tTóm.\n'
        refused(r"m\.tsv, line 5, has an empty eng_Latn sentence", write(tmp_path / "m.tsv", text))

    @pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    def test_an_empty_last_cell_and_numbers_of_all_kinds(self, quoting: int, tmp_path: Path) -> None:
        frame = FRAME.assign(score=[1e-07, float("nan"), -1.5, 1e30, 0, 1, 2, 3, 4], good=True, note="")
        frame.to_csv(tmp_path / "p.tsv", sep="\t", index=False, quoting=quoting)
        assert ParallelPairs.load(tmp_path / "p.tsv") == expected_of(FRAME)
        frame.to_csv(tmp_path / "q.tsv", sep="\t", index=False, quoting=quoting, na_rep="NaN")
        assert ParallelPairs.load(tmp_path / "q.tsv") == expected_of(FRAME)

    @pytest.mark.parametrize("number", ["1e-07", "nan", "-inf", "NaN", "1.5E+10", "True", "NA", ""])
    def test_what_is_not_quoted_where_all_but_numbers_are(self, number: str, tmp_path: Path) -> None:
        rows = [("eng_Latn", "isl_Latn", "score"), *((s, t, None) for s, t in ROWS)]
        lines = ["\t".join(number if cell is None else f'"{cell}"' for cell in row) for row in rows]
        assert ParallelPairs.load(write(tmp_path / "n.tsv", "\n".join(lines))) == EXPECTED

    @pytest.mark.parametrize("cell", ['""', '5" pipe', 'A "small" 5"'])
    def test_a_cell_that_pandas_would_have_written_otherwise(self, cell: str, tmp_path: Path) -> None:
        text = f'eng_Latn\tisl_Latn\tnote\n"He said ""no""."\tNei.\t{cell}\nYes.\tJá.\tb\n'
        assert ParallelPairs.load(write(tmp_path / "h.tsv", text)).source == ('He said "no".', "Yes.")

    @pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n", "\n \n\t\n"])
    def test_the_end_of_a_file(self, end: str, tmp_path: Path) -> None:
        text = "eng_Latn\tisl_Latn\tnote\nOne.\tEinn.\t\nTwo.\tTveir.\t"
        assert ParallelPairs.load(write(tmp_path / "e.tsv", text + end)).target == ("Einn.", "Tveir.")


# Whole quotations stand beside other cells with what a writer must quote. No cell holds both a tab and a line feed: see
# TestRawTsv.test_a_quotation_over.
text = st.text('ab" ,;').map(str.strip)
cell = st.one_of(text.map(lambda text: f"{text}."), text.map(lambda text: f'"{text}."'))
tables = st.lists(st.tuples(cell, cell, st.just("")), min_size=2, max_size=5)
NAMES = (*CODES, "note")


def read_file(suffix: str, text: str, n: int) -> list[tuple[str, ...]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{suffix}"
        path.write_text(text, encoding="utf-8", newline="")
        return [tuple(row.values()) for row in open_rows(path, n).rows]


@given(
    tables, st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.sampled_from(["\t", ",", ";"]), st.integers(1, 6)
)
def test_whatever_csv_writes_comes_back(
    rows: list[tuple[str, ...]], quoting: Literal[0, 1], separator: str, n: int
) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator, quoting=quoting).writerows([NAMES, *rows])
    assert read_file("tsv" if separator == "\t" else "csv", file.getvalue(), n) == rows[:n]


@given(tables, st.integers(1, 6))
def test_raw_tsv_comes_back_unless_it_looks_as_a_program_writes_it(rows: list[tuple[str, ...]], n: int) -> None:
    """docs/reference/text-files.md names the exceptions: commas in whole quotations, and doubled marks in them."""
    raw = [tuple(value.replace(",", "") for value in row) for row in rows]
    assume(not any(re.fullmatch('"[^"]*(""[^"]*)+"', value) for row in raw for value in row))
    assert read_file("tsv", delimited("\t", NAMES, *raw), n) == raw[:n]


class TestRawTsv:
    """A quotation mark is part of its sentence where no writer that quotes cells would have written the file."""

    @pytest.mark.parametrize(
        "cells",
        [
            pytest.param(('"Hi," he said.', "„Hæ,“ sagði hann."), id="begins with a quotation"),
            pytest.param(('"Yes."', "„Já.“"), id="is a quotation"),
            pytest.param(('"Yes."', '"Já."'), id="is a quotation in both languages"),
            pytest.param(('She said "no', 'Hún sagði "nei'), id="a mark that is never closed"),
            pytest.param(('"Yes, she said.', "Já, sagði hún."), id="begins with a mark that is never closed"),
            pytest.param(('"Yes", "no"', "„Já“, „nei“"), id="two quotations"),
        ],
    )
    def test_marks_stay(self, cells: tuple[str, str], tmp_path: Path) -> None:
        rows = [cells, *ROWS]
        pairs = ParallelPairs.load(write(tmp_path / "raw.tsv", delimited("\t", CODES, *rows)))
        assert list(zip(pairs.source, pairs.target, strict=True)) == rows

    def test_a_quotation_over_two_sentences(self, tmp_path: Path) -> None:
        """Read as quoted cells, these two lines would be one row with two lines in its first cell."""
        rows = [('"I came.', "„Ég kom."), ('I saw."', "Ég sá.“"), *ROWS]
        pairs = ParallelPairs.load(write(tmp_path / "raw.tsv", delimited("\t", CODES, *rows)))
        assert list(zip(pairs.source, pairs.target, strict=True)) == rows

    def test_a_quotation_with_a_comma_beside_other_commas(self, tmp_path: Path) -> None:
        rows = [('"Hi, Bob."', "Hæ."), ("No, Ann.", "Nei.")]
        assert ParallelPairs.load(write(tmp_path / "raw.tsv", delimited("\t", CODES, *rows))).source[0] == '"Hi, Bob."'

    def test_more_cells_with_a_mark_that_no_program_has_quoted(self, tmp_path: Path) -> None:
        rows = [('"Yes""No"', "Já."), ('He said "no".', "Nei."), ('A 5" pipe.', "Rör."), *ROWS]
        assert ParallelPairs.load(write(tmp_path / "raw.tsv", delimited("\t", CODES, *rows))).source[0] == '"Yes""No"'

    @pytest.mark.parametrize(
        ("cell", "read"),
        [
            pytest.param('"Hi, Bob."', "Hi, Bob.", id="Excel would have quoted just the cells with a comma"),
            pytest.param('"Yes""No"', 'Yes"No', id="pandas would have doubled a mark and quoted the cell"),
        ],
    )
    def test_the_raw_files_that_are_read_wrongly(self, cell: str, read: str, tmp_path: Path) -> None:
        """docs/reference/text-files.md names them."""
        rows = [(cell, "Hæ."), ("No.", "Nei.")]
        assert ParallelPairs.load(write(tmp_path / "raw.tsv", delimited("\t", CODES, *rows))).source[0] == read

    @pytest.mark.parametrize("other", ['"Yes."', '"Hi," he said.'])
    def test_a_quoted_file_that_is_read_as_raw_is_named(
        self, other: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """docs/reference/text-files.md names them: a cell quoted without need, and one that begins with a mark."""
        rows = [("One.", "Einn."), ('"He said ""no""."', "Nei."), ('"A ""b""."', "B."), (other, "Já.")]
        path = write(tmp_path / "q.tsv", delimited("\t", CODES, *rows))
        for _ in range(2):
            assert ParallelPairs.load(path).source == tuple(source for source, _ in rows)
        assert caplog.messages == [
            f"NeuronXA: {path}, line 3, holds a cell that a program seems to have quoted, but other cells of {path} "
            "are not quoted as programs do, so all quotation marks are read as part of the text; write .csv or .jsonl."
        ]


class TestExcel:
    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_csv_with_any_of_its_separators(self, separator: str, encoding: str, tmp_path: Path) -> None:
        path = tmp_path / "e.csv"
        FRAME.to_csv(path, sep=separator, index=False, encoding=encoding, lineterminator="\r\n")
        assert ParallelPairs.load(path) == expected_of(FRAME)

    def test_the_separator_when_the_header_says_nothing(self, tmp_path: Path) -> None:
        text = "Well, hello there.;Jæja, halló þarna.\nYes, here it is.;Já, hér er það.\n"
        assert ParallelPairs.load(write(tmp_path / "s.csv", "x;y\n" + text), *CODES, columns=("x", "y")).target == (
            "Jæja, halló þarna.",
            "Já, hér er það.",
        )

    def test_its_hint(self, tmp_path: Path) -> None:
        text = "sep=|\n" + delimited("|", CODES, *ROWS)
        assert ParallelPairs.load(write(tmp_path / "h.csv", text)) == EXPECTED
        refused(r"h2\.csv, line 6, has 1 columns", write(tmp_path / "h2.csv", text + "One.\n"))

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
    def test_unicode_text(self, encoding: str, tmp_path: Path) -> None:
        text = delimited("\t", CODES, *ROWS).replace("\n", "\r\n")
        mark = "" if encoding == "utf-16" else "\ufeff"
        (tmp_path / "u.tsv").write_bytes((mark + text).encode(encoding))
        assert ParallelPairs.load(tmp_path / "u.tsv") == EXPECTED

    @pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
    def test_utf_16_without_its_mark(self, encoding: str, tmp_path: Path) -> None:
        """English in it is valid UTF-8, with a NUL beside each letter."""
        rows = [("eng_Latn", "swh_Latn"), ("The sea is calm.", "Bahari imetulia."), ("A door.", "Mlango.")]
        sides = ["\n".join(side).encode(encoding) for side in zip(*rows[1:], strict=True)]
        (tmp_path / "u.tsv").write_bytes(delimited("\t", *rows).encode(encoding))
        refused(r"u\.tsv, line 1, holds a NUL character, as UTF-16 .*; convert the file to UTF-8", tmp_path / "u.tsv")
        paths = tmp_path / "x.eng_Latn", tmp_path / "x.swh_Latn"
        for path, side in zip(paths, sides, strict=True):
            path.write_bytes(side)
        refused(r"x\.eng_Latn, line 1, holds a NUL character", paths)

    def test_a_nul_in_a_sentence(self, tmp_path: Path) -> None:
        path = write(tmp_path / "n.tsv", delimited("\t", CODES, ROWS[0], ("A\0.", "B.")))
        refused(r"n\.tsv, line 3, holds a NUL character, .* or remove that character", path)

    def test_other_encodings(self, tmp_path: Path) -> None:
        text = delimited(";", CODES, *ROWS)
        (tmp_path / "old.csv").write_bytes(text.encode("cp1252"))
        refused(r"old\.csv, line 2, is not UTF-8; convert the file to UTF-8", tmp_path / "old.csv")
        (tmp_path / "cut.csv").write_bytes(text.encode("utf-16")[:-1])
        refused(r"cut\.csv, line 4, is not UTF-16, though it begins as such; convert", tmp_path / "cut.csv")


class TestHeader:
    @pytest.mark.parametrize(("suffix", "separator"), [("tsv", "\t"), ("csv", ","), ("csv", ";")])
    def test_two_columns_without_a_header(self, suffix: str, separator: str, tmp_path: Path) -> None:
        path = write(tmp_path / f"n.{suffix}", delimited(separator, *ROWS))
        assert ParallelPairs.load(path, *CODES) == EXPECTED
        assert ParallelPairs.load(path, "en", "is") == EXPECTED

    def test_names_of_columns_are_no_sentence(self, tmp_path: Path) -> None:
        path = write(tmp_path / "n.tsv", delimited("\t", ("English text", "Icelandic text"), *ROWS))
        refused(r"has the columns English text, Icelandic text; name two of them.*in the first line", path, *CODES)
        named = ("English text", "Icelandic text")
        assert ParallelPairs.load(path, *CODES, columns=named) == EXPECTED

    def test_without_languages_the_first_line_is_the_header(self, tmp_path: Path) -> None:
        path = write(tmp_path / "n.tsv", delimited("\t", *ROWS))
        refused(r"has the columns The sea is calm\., Sjórinn er lygn\.; name two of them", path)

    def test_the_unnamed_column_of_an_index(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"source": ENGLISH, "target": ICELANDIC})
        frame.to_csv(tmp_path / "i.csv")
        frame.to_csv(tmp_path / "i.tsv", sep="\t")
        for name in ("i.csv", "i.tsv"):
            assert ParallelPairs.load(tmp_path / name, *CODES) == EXPECTED

    def test_one_name_twice(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.tsv", delimited("\t", ("eng_Latn", "eng_Latn"), *ROWS))
        refused(r"t\.tsv, line 1, names two columns eng_Latn; give each a name of its own", path)
