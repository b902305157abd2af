"""Rows of Parquet files, data sets, data frames and lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from neuronxa_callback.text.languages import PairsError
from neuronxa_callback.text.readers.rows import Located, Rows, rows_of, usable


def parquet_rows(path: Path, n: int | None) -> Located:
    """Yield the rows of a Parquet file, read in batches of `n`."""
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
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield f"{path}, row {number},", row
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise PairsError(f"{path} is not a Parquet file ({reason}); write the file again.") from None


def dataset_rows(dataset: Any) -> Rows:
    """Return the rows of a `datasets.Dataset`, a `pandas.DataFrame` or a list of dicts. They are read as asked for."""
    origin = f"the {type(dataset).__name__}"
    if hasattr(dataset, "iterrows"):
        dataset = dataset.to_dict("records")
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
    located = ((f"row {number} of {origin}", row) for number, row in enumerate(chained, start=1))
    return rows_of(usable(located, origin), origin)
