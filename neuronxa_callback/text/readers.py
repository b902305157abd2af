"""Rows of parallel text from files and data sets; an error names the file and the line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

from neuronxa_callback.text.languages import PairsError, is_language

Row: TypeAlias = Mapping[str, Any]
Numbered: TypeAlias = Iterator[tuple[int, Row]]  # each row with the number of its first line, from 1


@dataclass(frozen=True)
class Rows:
    """Rows of parallel text, and the words that errors use for their place.

    Attributes:
        rows: the rows, each of which maps column names to cells. They can be read only once.
        place: returns the words for the place of row i, counted from 0.
        origin: the words for the whole file or data set.
    """

    rows: Iterator[Row]
    place: Callable[[int], str]
    origin: str


def open_rows(spec: Any, n: int | None) -> Rows:
    """Open the rows of a file or a data set.

    Args:
        spec: the path of a .tsv, .csv, .jsonl or .parquet file, a `datasets.Dataset` or a list of dicts.
        n: how many rows of a file to read; None reads all. A data set is read only as far as its rows are used.

    Raises:
        PairsError: the rows cannot be read; the message says why and what to do.
    """
    if not isinstance(spec, str | Path):
        return _dataset_rows(spec)
    path = Path(spec).expanduser()
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(path, n)
    readers = {".tsv": _tsv_rows, ".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if suffix not in readers:
        raise PairsError(
            f"{spec!s} is neither a pair of FLORES-200 codes (eng_Latn-isl_Latn) nor a .tsv, .csv, .jsonl or .parquet "
            "file; for two aligned text files pass a tuple of two paths."
        )
    text = _read_text(path)
    with cells_as_long_as(len(text)):
        numbered = list(islice(readers[suffix](path, text.rstrip()), n))
    return Rows(iter([row for _, row in numbered]), lambda pair: f"{path}, line {numbered[pair][0]},", str(path))


def open_two_files(source: Path, target: Path) -> Rows:
    """Open two aligned files as rows with the columns "source" and "target": line i of each file is row i.

    Raises:
        PairsError: a file cannot be read, or the files have different numbers of lines.
    """
    lines, other = (_lines(_read_text(path)) for path in (source, target))
    if len(lines) != len(other):
        raise PairsError(
            f"{source} has {len(lines)} lines and {target} has {len(other)}; "
            "line i of one must translate line i of the other."
        )
    rows: Iterator[Row] = ({"source": s, "target": t} for s, t in zip(lines, other, strict=True))
    return Rows(rows, lambda pair: f"line {pair + 1} of {source} and {target}", f"{source} and {target}")


def languages_in(path: Path) -> list[str]:
    """Return the language codes among the columns of a file that `ParallelPairs.load` can read.

    Raises:
        PairsError: the file cannot be read, or fewer than two of its columns are language codes.
    """
    read = open_rows(path, 1)
    names = list(flat(next(read.rows, {})))
    codes = [name for name in names if is_language(name)]
    if len(codes) < 2:
        raise PairsError(f"{read.origin} has the columns {', '.join(names)}; name at least two by FLORES-200 codes.")
    return codes


def flat(row: Row) -> Row:
    """Return the row with the languages of a "translation" column (the hub's layout) as further columns."""
    translation = row.get("translation")
    return {**row, **translation} if isinstance(translation, Mapping) else row


# ---------------------------------------------------------------------------------------------------- files


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise PairsError(f"{path} does not exist; check the path of the held-out pairs.") from None
    except OSError as error:
        raise PairsError(f"{path} cannot be read ({error.strerror}); check the path of the held-out pairs.") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PairsError(f"{path}, line {line}, is not UTF-8; convert the file to UTF-8.") from None


def _lines(text: str) -> list[str]:
    """Split text into lines as editors do: only line feeds end a line. A sentence may hold other separators."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


@contextmanager
def cells_as_long_as(length: int) -> Iterator[None]:
    """Let csv read cells longer than its limit of 131072 characters, and restore this process-wide limit at the end."""
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, length))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _tsv_rows(path: Path, text: str) -> Numbered:
    # A quotation mark is part of its sentence, and only a line feed ends a line.
    lines = io.StringIO(text, newline="\n")
    return _delimited_rows(path, "TSV", csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def _csv_rows(path: Path, text: str) -> Numbered:
    return _delimited_rows(path, "CSV", csv.reader(io.StringIO(text, newline=""), strict=True))


def _delimited_rows(path: Path, kind: str, reader: Any) -> Numbered:
    """Yield the rows below the header. A row of several lines has the number of its first line."""
    number = 1
    names: list[str] = []
    try:
        for cells in reader:
            if number == 1:
                names = [name.strip() for name in cells]
            else:
                yield number, _row(path, number, names, cells)
            number = reader.line_num + 1
    except csv.Error as error:
        raise PairsError(f"{path}, line {number}, is not valid {kind} ({error}); correct that line.") from None


def _row(path: Path, number: int, names: list[str], cells: list[str]) -> Row:
    if not "".join(cells).strip():
        raise PairsError(f"{path}, line {number}, is empty; fill it in or remove it.")
    if len(cells) != len(names):
        raise PairsError(
            f"{path}, line {number}, has {len(cells)} columns where the header has {len(names)}; correct that line."
        )
    return dict(zip(names, cells, strict=True))


def _jsonl_rows(path: Path, text: str) -> Numbered:
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip():
            raise PairsError(f"{path}, line {number}, is empty; fill it in or remove it.")
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise PairsError(
                f"{path}, line {number}, is not JSON ({error.msg}); correct or remove that line."
            ) from None
        if not isinstance(row, dict):
            raise PairsError(f"{path}, line {number}, is not a JSON object; write one object per line.")
        yield number, row


def _parquet_rows(path: Path, n: int | None) -> Rows:
    if not path.is_file():
        raise PairsError(f"{path} does not exist; check the path of the held-out pairs.")
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise PairsError(
            f"reading {path} needs pyarrow; install it with: pip install 'neuronxa-callback[train]'."
        ) from None
    try:
        batches = parquet.ParquetFile(path).iter_batches(batch_size=n or 65_536)
        rows = list(islice((row for batch in batches for row in batch.to_pylist()), n))
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise PairsError(f"{path} is not a Parquet file ({reason}); write the file again.") from None
    return Rows(iter(rows), lambda pair: f"{path}, row {pair + 1},", str(path))


# ---------------------------------------------------------------------------------------------------- data sets


def _dataset_rows(dataset: Any) -> Rows:
    origin = f"the {type(dataset).__name__}"
    if not isinstance(dataset, Iterable):
        raise PairsError(f"{dataset!r} holds no pairs; give two language codes, a path, two paths or a dataset.")
    rows = iter(dataset)
    first = next(rows, None)
    if first is not None and not isinstance(first, Mapping):
        raise PairsError(
            f"{origin} gives {type(first).__name__} where a row is needed; "
            "pass one split of a dataset (dataset['train']), a list of dicts, a path or a pair of codes."
        )
    chained = chain([first], rows) if first is not None else rows
    return Rows(chained, lambda pair: f"row {pair + 1} of {origin}", origin)
