"""Rows of TSV and CSV files, as people and programs write them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from neuronxa_callback.text.languages import PairsError, code_of
from neuronxa_callback.text.readers.rows import Located, Row, say_once

Codes = tuple[str | None, str | None]

_SEPARATORS = (",", ";", "\t")  # Excel writes CSV with ";" where "," is the decimal mark
_EXCEL_HINT = re.compile(r"sep=(.)\r?\n")  # a first line by which a program tells Excel the separator
# A cell of a TSV file in which cells may be quoted. In a plain one, a mark that does not begin it is a mark.
_CELL = re.compile(r'("[^"]*(?:""[^"]*)*"|(?!")[^\t\r\n]*)(\t|\r?\n|\Z)')
_AS_PROGRAMS_QUOTE = re.compile(r'"[^"]*(?:""[^"]*)+"')
# What a program leaves unquoted where it quotes all but numbers.
_NUMBER = re.compile(r"[-+\d.,]*(e[-+]?\d+)?|[-+]?(nan|inf|infinity)|na|true|false", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?:;…。！？।؟۔።]['\"”’»)\]]*\Z")
LEAST_WORDS = 4  # of a cell that is a sentence rather than a column's name


@contextmanager
def cells_as_long_as(length: int) -> Iterator[None]:
    """Let csv read cells longer than its limit of 131072 characters, and restore this process-wide limit at the end."""
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, length))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def tsv_rows(path: Path, text: str, codes: Codes) -> Located:
    """Yield the rows of a TSV file.

    A quotation mark is part of its sentence, unless the file is one whose writer quotes cells (`is_quoted`).

    Args:
        path: the file's path, for errors.
        text: the file's text.
        codes: the languages that the user names. A file of two columns without a header needs both.
    """
    if is_quoted(text):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
        return _rows(path, "TSV", reader, codes)
    # Only a line feed ends a line.
    lines = io.StringIO(text, newline="\n")
    return _doubted(path, _rows(path, "TSV", csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), codes))


def csv_rows(path: Path, text: str, codes: Codes) -> Located:
    """Yield the rows of a CSV file, separated by commas, semicolons or tabs. The arguments are those of `tsv_rows`."""
    hint = _EXCEL_HINT.match(text)
    separator = hint[1] if hint else _separator(text)
    body = text[hint.end() :] if hint else text
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=separator, strict=True)
    return _rows(path, "CSV", reader, codes, skipped=1 if hint else 0)


# ---------------------------------------------------------------------------------------------------- quoting


def is_quoted(text: str) -> bool:
    r"""Return whether a TSV file is one whose writer quotes cells, as pandas and Excel do.

    Raw TSV has no quoting, and a sentence there may begin and end with a quotation mark. The file is quoted if each
    cell that begins with a mark is well quoted ("a ""b"" c"), if all its rows then have the header's number of columns,
    and if the writer had a reason to quote just these cells:

    * each of them holds a quotation mark, a tab or a line feed or is empty (pandas, csv), and no more other
      cells hold a mark: a few may have been typed by hand,
    * or also all the cells that hold a comma are quoted, and no others (Excel), and no other cell holds a mark,
    * or all cells but numbers are quoted, the header among them.

    A cell "Yes." in a file without such a reason is a sentence in quotation marks. Where a quoted cell would span
    lines that have the right number of columns as they stand, they are lines of raw TSV: a quotation that begins in one
    sentence and ends in another.
    """
    cells = _cells(text) if '"' in text else None
    if cells is None or len({len(row) for row in cells}) != 1:
        return False
    every = [cell for row in cells for cell in row]
    quoted = [cell for cell in every if cell.startswith('"')]
    if not quoted or (any("\n" in cell for cell in quoted) and _is_rectangular(text)):
        return False
    plain = [cell for cell in every if not cell.startswith('"')]
    marked = sum('"' in cell for cell in plain)
    unneeded = [cell for cell in quoted if not re.search(r'["\t\n\r]|\A\Z', cell[1:-1])]
    if not unneeded:
        return marked <= len(quoted)
    as_excel = all("," in cell for cell in unneeded) and not marked and not any("," in cell for cell in plain)
    return as_excel or all(map(_NUMBER.fullmatch, plain))


def _doubted(path: Path, located: Located) -> Located:
    """Yield the rows of raw TSV; a log line names the first one that looks as if a program had quoted a cell."""
    said = False
    for place, row in located:
        if not said and any(map(_AS_PROGRAMS_QUOTE.fullmatch, row.values())):
            said = True
            say_once(
                f"{place} holds a cell that a program seems to have quoted, but other cells of {path} are not quoted "
                "as programs do, so all quotation marks are read as part of the text; write .csv or .jsonl."
            )
        yield place, row


def _cells(text: str) -> list[list[str]] | None:
    """Return the cells of quoted TSV with their quotation marks, or None where a cell is not well quoted."""
    rows: list[list[str]] = [[]]
    place = 0
    while True:
        cell = _CELL.match(text, place)
        if cell is None:
            return None
        rows[-1].append(cell[1])
        place = cell.end()
        if not cell[2]:
            return rows
        if cell[2] != "\t":
            rows.append([])


def _is_rectangular(text: str) -> bool:
    return len({line.count("\t") for line in text.split("\n")}) == 1


# ---------------------------------------------------------------------------------------------------- separators


def _separator(text: str) -> str:
    """Return the separator by which a CSV file's header names two columns, or else all its rows have as many cells."""
    named = [separator for separator in _SEPARATORS if _names_columns(_first_row(text, separator))]
    return next(iter(named), None) or next((s for s in _SEPARATORS if _is_table(text, s)), _SEPARATORS[0])


def _first_row(text: str, separator: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True), [])
    except csv.Error:
        return []


def _is_table(text: str, separator: str) -> bool:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        lengths = {len(row) for row in reader}
    except csv.Error:
        return False
    return len(lengths) == 1 and lengths.pop() > 1


# ---------------------------------------------------------------------------------------------------- rows


def _names_columns(cells: Sequence[str]) -> bool:
    names = [cell.strip() for cell in cells]
    return {"source", "target"} <= {*names} or sum(code_of(name) is not None for name in names) > 1


def _is_header(cells: Sequence[str], codes: Codes) -> bool:
    """Return whether a first line has names of columns, and not a pair of sentences in the languages of a user."""
    if len(cells) != 2 or None in codes or _names_columns(cells):
        return True
    return not any(_SENTENCE_END.search(cell.strip()) or len(cell.split()) >= LEAST_WORDS for cell in cells)


def _rows(path: Path, kind: str, reader: Iterable[list[str]], codes: Codes, skipped: int = 0) -> Located:
    """Yield the rows below the header. A row of several lines has the number of its first line."""
    number = 1 + skipped
    names: list[str] | None = None
    try:
        for cells in reader:
            if names is None and _is_header(cells, codes):
                names = _names(path, number, cells)
            else:
                names = names or ["source", "target"]
                yield f"{path}, line {number},", _row(path, number, names, cells)
            number = reader.line_num + 1 + skipped  # type: ignore[attr-defined]
    except csv.Error as error:
        raise PairsError(f"{path}, line {number}, is not valid {kind} ({error}); correct that line.") from None


def _names(path: Path, number: int, cells: Sequence[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice:
        raise PairsError(f"{path}, line {number}, names two columns {twice}; give each a name of its own.")
    return names


def _row(path: Path, number: int, names: list[str], cells: list[str]) -> Row:
    if not "".join(cells).strip():
        raise PairsError(f"{path}, line {number}, is empty; fill it in or remove it.")
    if len(cells) != len(names):
        raise PairsError(
            f"{path}, line {number}, has {len(cells)} columns where the header has {len(names)}; correct that line."
        )
    return dict(zip(names, cells, strict=True))
