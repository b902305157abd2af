"""Cleaned training text on disk, so that a run which goes on reads the text that it began with.

The folder holds text.parquet, and counts.json with the counts and with everything that the text was made from.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow
from datasets import Dataset
from pyarrow import parquet
from text_filters import FILTERS_VERSION
from text_rows import TextError
from tqdm.auto import tqdm

from neuronxa_callback import ParallelPairs

CHUNK = 1000  # rows that are written at once

Rows: TypeAlias = Callable[[Counter[str]], Iterator[dict[str, str]]]  # counts rows while it yields them


def kept(
    rows: Rows,
    columns: Sequence[str],
    text: str,
    held_out: Sequence[ParallelPairs],
    limit: int | None,
    folder: Path,
) -> tuple[Dataset, dict[str, int]]:
    """Return the cleaned text of the folder and its counts.

    The text is made first if the folder has none, if it was made from something else, or if it is incomplete.

    Args:
        rows: yields the cleaned rows and counts what was removed.
        columns: the columns of a row.
        text: the name of the training text, which may have a local file in it.
        held_out: the pairs that `rows` leaves out.
        limit: rows to keep; None for all.
        folder: where the text is kept.

    Raises:
        TextError: the text cannot be read, or cleaning leaves nothing of it.
    """
    made_from = {
        "text": text,
        "columns": list(columns),
        "held_out": [pairs.fingerprint for pairs in held_out],
        "limit": limit,
        "filters": FILTERS_VERSION,
        "changed": _changed(text),
    }
    data, record = folder / "text.parquet", folder / "counts.json"
    counts = _counts_of(record, made_from)
    if counts is None:
        folder.mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)
        counts = _write(rows, columns, text, limit, data)
        # The record is written last and appears in one piece, so the text beside a record is complete.
        written = record.with_name("counts.json.new")
        written.write_text(json.dumps({"made_from": made_from, "counts": counts}, indent=2), encoding="utf-8")
        written.replace(record)
    return Dataset.from_parquet(str(data)), counts


def _changed(text: str) -> int | None:
    """Return when a local file was last changed, in nanoseconds; None if the text is no local file."""
    path = Path(text.partition(":")[2] or text)
    return path.stat().st_mtime_ns if path.is_file() else None


def _counts_of(record: Path, made_from: Mapping[str, Any]) -> dict[str, int] | None:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found["counts"] if found["made_from"] == made_from else None


def _write(rows: Rows, columns: Sequence[str], text: str, limit: int | None, data: Path) -> dict[str, int]:
    """Write the cleaned rows in chunks, so that a corpus of any size needs the memory of one chunk."""
    counts: Counter[str] = Counter()
    progress = tqdm(islice(rows(counts), limit), desc=f"Cleaning {text}", total=limit, unit=" kept")
    schema = pyarrow.schema([(column, pyarrow.string()) for column in columns])
    with parquet.ParquetWriter(data, schema) as writer:
        for chunk in _chunks(progress):
            writer.write_table(pyarrow.Table.from_pylist(chunk, schema))
    if not counts["kept"]:
        summary = ", ".join(f"{count} {name}" for name, count in counts.items()) or "it is empty"
        raise TextError(f"nothing of {text} is left after cleaning ({summary}); check its languages and columns.")
    return dict(counts)


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    items = iter(items)
    while chunk := list(islice(items, CHUNK)):
        yield chunk
