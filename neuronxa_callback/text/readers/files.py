"""Open parallel text: choose the reader by the kind of the spec, and by a file's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from neuronxa_callback.text.languages import (
    PairsError,
    code_in_name,
    code_of,
    doubtful_columns,
    language_columns,
    with_region,
)
from neuronxa_callback.text.readers.archives import zip_rows
from neuronxa_callback.text.readers.content import FILES, kind_of, lines_of, read_bytes, read_text, without_blank_end
from neuronxa_callback.text.readers.delimited import Codes, cells_as_long_as, csv_rows, tsv_rows
from neuronxa_callback.text.readers.json_files import json_rows
from neuronxa_callback.text.readers.rows import Located, Rows, flat, rows_of, usable
from neuronxa_callback.text.readers.sacrebleu_sets import is_test_set, set_rows
from neuronxa_callback.text.readers.tables import dataset_rows, parquet_rows

_XML = (".tmx", ".xlf", ".xliff", ".xml")


def is_readable(spec: Any) -> bool:
    """Return whether `open_rows` reads this: a file, by its name, or a test set of sacrebleu."""
    return kind_of(Path(spec)) in FILES or is_test_set(spec)


def open_rows(spec: Any, n: int | None, codes: Codes = (None, None), reference: str | None = None) -> Rows:
    """Open the rows of a file or a data set.

    Args:
        spec: the path of a file with one of the endings `FILES`, a test set of sacrebleu ("wmt21:en-is"), a
            `datasets.Dataset`, a `pandas.DataFrame` or a list of dicts.
        n: how many rows of a file to read; None reads all. A TMX file is read whole, and a data set only as far as its
            rows are used.
        codes: the languages that the user names. A TSV or CSV file without a header needs both. The columns of a TMX
            file are named by them.
        reference: which of several references to read; None takes the first.

    Raises:
        PairsError: the rows cannot be read; the message says why and what to do.
    """
    if not isinstance(spec, str | Path):
        _refuse_reference(f"the {type(spec).__name__}", reference)
        return dataset_rows(spec)
    path = Path(spec).expanduser()
    if is_test_set(spec):
        return _first(set_rows(str(spec), reference), str(spec), n)
    kind = kind_of(path)
    if kind in _XML:
        return _xml_rows(path, kind, n, codes, reference)
    _refuse_reference(str(path), reference)
    if kind in (".zip", ".parquet"):
        return _first(zip_rows(path) if kind == ".zip" else parquet_rows(path, n), str(path), n)
    if kind not in FILES:
        raise PairsError(_unknown(str(spec), kind))
    text = without_blank_end(read_text(path))
    readers: dict[str, Callable[[], Located]] = {
        ".tsv": lambda: tsv_rows(path, text, codes),
        ".csv": lambda: csv_rows(path, text, codes),
    }
    with cells_as_long_as(len(text)):
        return _first(readers.get(kind, lambda: json_rows(path, text.rstrip()))(), str(path), n)


def _first(located: Located, origin: str, n: int | None) -> Rows:
    """Read the first `n` rows now, so that a fault is found where the file is opened."""
    return rows_of(iter(list(islice(usable(located, origin), n))), origin)


def _xml_rows(path: Path, kind: str, n: int | None, codes: Codes, reference: str | None) -> Rows:
    from neuronxa_callback.text.readers import memories, wmt, xml_files

    root = xml_files.parse(path, read_bytes(path))
    name = xml_files.name_of(root).lower()
    if name == "dataset":
        return _first(wmt.wmt_rows(path, root, reference), str(path), n)
    _refuse_reference(str(path), reference)
    if name == "tmx":  # read whole: the first n units need not have the two languages
        return replace(_first(memories.tmx_rows(path, root, codes), str(path), None), partial=True)
    if name == "xliff":
        return _first(memories.xliff_rows(path, root), str(path), n)
    if name in ("srcset", "refset", "tstset", "mteval"):
        raise PairsError(f"{path} holds one side of a test set; give a tuple of two paths, the source's and another.")
    expected = {".tmx": "TMX", ".xml": "TMX, XLIFF or a test set of WMT"}.get(kind, "XLIFF")
    raise PairsError(f"{path} has the root element {name}, and so is no {expected}; give it in another format.")


def _refuse_reference(origin: str, reference: str | None) -> None:
    if reference is not None:
        raise PairsError(f"{origin} has no references to choose from; leave out reference={reference!r}.")


def _unknown(spec: str, kind: str) -> str:
    if kind in (".sgm", ".sgml"):
        return f"{spec} holds one side of a test set; give a tuple of two paths, the source's and the reference's."
    return (
        f"{spec} is neither a pair of FLORES-200 codes (eng_Latn-isl_Latn), nor a test set of sacrebleu (wmt21:en-is), "
        f"nor a {', '.join(FILES[:-1])} or {FILES[-1]} file; for two aligned text files pass a tuple of two paths."
    )


# ---------------------------------------------------------------------------------------------------- two files


def open_two_files(source: Path, target: Path, reference: str | None = None) -> tuple[Codes, Rows]:
    """Open two aligned files as rows with the columns "source" and "target": line or segment i of each is row i.

    Args:
        source: text with a sentence a line, or WMT's .sgm.
        target: the same for the other side.
        reference: which of several references in a .sgm file to read; None takes the first.

    Returns:
        the languages that the files state, or their names; and the rows.

    Raises:
        PairsError: a file cannot be read, or the files do not correspond.
    """
    from neuronxa_callback.text.readers import wmt

    texts = read_text(source), read_text(target)
    named = code_in_name(source), code_in_name(target)
    marked = [wmt.is_sgm(text) for text in texts]
    if all(marked):
        first, second = wmt.read_sgm(source, texts[0], None), wmt.read_sgm(target, texts[1], reference)
        wmt.check_same_segments(source, first, target, second)
        stated = [code_of(with_region(side.language or "")) for side in (first, second)]
        codes = stated[0] or named[0], stated[1] or named[1]
        return codes, rows_of(_segments(source, first, target, second), f"{source} and {target}")
    if any(marked):
        one, other = (source, target) if marked[0] else (target, source)
        raise PairsError(f"{one} is in WMT's .sgm format and {other} is not; give both sides in one format.")
    origin = f"{source} and {target}"
    _refuse_reference(origin, reference)
    return named, rows_of(_lines(source, lines_of(texts[0]), target, lines_of(texts[1])), origin)


def _segments(source: Path, first: Any, target: Path, second: Any) -> Located:
    for one, other in zip(first.segments, second.segments, strict=True):
        row = {"source": one.text, "target": other.text}
        yield f"{source}, line {one.line}, and {target}, line {other.line} ({one.name}),", row


def _lines(source: Path, first: list[str], target: Path, second: list[str]) -> Located:
    if len(first) != len(second):
        raise PairsError(
            f"{source} has {len(first)} lines and {target} has {len(second)}; "
            "line i of one must translate line i of the other."
        )
    for number, (one, other) in enumerate(zip(first, second, strict=True), start=1):
        yield f"line {number} of {source} and {target}", {"source": one, "target": other}


# ---------------------------------------------------------------------------------------------------- languages


def languages_in(spec: Any, n: int | None) -> list[str]:
    """Return the codes of the languages of a file's columns that `ParallelPairs.load` can read, among its first rows.

    Raises:
        PairsError: the file cannot be read, or fewer than two of its columns are languages.
    """
    read = open_rows(spec, n)
    names = list(dict.fromkeys(name for row in read.rows for name in flat(row)))
    codes = language_columns(names)
    if len(set(codes.values())) < 2 or doubtful_columns(names):
        raise PairsError(
            f"{read.origin} has the columns {', '.join(map(str, names))}; name at least two by FLORES-200 codes."
        )
    return list(dict.fromkeys(codes.values()))
