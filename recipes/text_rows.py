"""The rows of training text as they are streamed from a corpus, the hub or a local file.

The corpora come from these places. None of them has been downloaded on the machine on which the recipes were written.

* nllb: the file that allenai/nllb on the hub reads. It is named by its two languages in alphabetical order, has nine
  columns in that order and no header. As far as we know it is sorted by LASER score, best first. The data set itself is
  a loading script, which datasets no longer runs.
* paracrawl: release 9, English beside another language. It has two columns, English first, and no header.
* opus100: Helsinki-NLP/opus-100 on the hub. It has a configuration for each pair, named by its languages in
  alphabetical order, and a column "translation" with both languages, such as "en" and "is".
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

from datasets import IterableDataset, load_dataset
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub.errors import HfHubHTTPError
from languages import short

from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.text.hub import refusal
from neuronxa_callback.text.readers import cells_as_long_as, flat

# What the two languages of a file are called in its address: "eng_Latn-isl_Latn", "en-is".
TAB_SEPARATED = {
    "nllb": "https://storage.googleapis.com/allennlp-data-bucket/nllb/{pair}.gz",
    "paracrawl": "https://s3.amazonaws.com/web-language-models/paracrawl/release9/{pair}/{pair}.txt.gz",
}
OPUS_100 = "Helsinki-NLP/opus-100"
CORPORA = (*TAB_SEPARATED, "opus100")
ENGLISH = "eng_Latn"

Pair: TypeAlias = tuple[str, str]
Codes: TypeAlias = tuple[str, str]  # FLORES-200 codes of the source and the target


class TextError(ValueError):
    """Training text that cannot be used. The message names the text and the remedy."""


def pair_rows(text: str, codes: Codes) -> Iterator[Pair | None]:
    """Return the source and the target of each row, in the order of the text.

    A row that lacks one of them is None.

    Args:
        text: as in `training_text.training_pairs`.
        codes: the two languages.

    Raises:
        TextError: the text cannot be reached or read, or lacks the columns.
    """
    corpus, _, copy = text.partition(":")
    if text == "embedded":
        source, target = (_embedded(code) for code in codes)
        return iter(zip(source, target, strict=True))
    if corpus in TAB_SEPARATED:
        order = _order(corpus, codes)
        file = copy or TAB_SEPARATED[corpus].format(pair="-".join(_named(corpus, code) for code in order))
        lines = _stream(text, "text", data_files=file, encoding_errors="replace")
        return (_first_two(row["text"], swapped=order != codes) for row in lines)
    if text == "opus100":
        configuration = "-".join(sorted(map(short, codes)))
        return _pairs_in(_stream(text, OPUS_100, configuration), text, codes)
    path = Path(copy if corpus == "opus100" else text)
    if _format(path) == ".tsv":
        return _pairs_in(_tsv_rows(path), text, codes)
    if _format(path) in (".jsonl", ".parquet"):
        return _pairs_in(_file_rows(path), text, codes)
    raise TextError(
        f"{text} is no training text; give {', '.join(CORPORA)}, embedded, or a .tsv, .jsonl or .parquet file."
    )


def document_rows(text: str, code: str) -> Iterator[str]:
    """Return the documents in the order of the text.

    Args:
        text: as in `training_text.training_documents`.
        code: the language of the documents.

    Raises:
        TextError: the text cannot be reached or read, or lacks a column "text".
    """
    if text == "embedded":
        return iter(_embedded(code))
    path = Path(text)
    if _format(path) in (".txt", ".jsonl", ".parquet"):
        return _texts_in(_file_rows(path), text)
    name, _, config = text.partition(":")
    if name.count("/") != 1 or path.suffix:
        raise TextError(
            f"{text} is no training text; give a .txt, .jsonl or .parquet file, embedded, or a data set of the hub "
            "(owner/name, or owner/name:config)."
        )
    return _texts_in(_stream(text, name, config or None), text)


# ---------------------------------------------------------------------------------------------- corpora


def _embedded(code: str) -> tuple[str, ...]:
    columns = embedded("demo_train.tsv")
    if code not in columns:
        raise TextError(f"the embedded training text has no {code}; it has {', '.join(columns)}. Give another text.")
    return columns[code]


def _order(corpus: str, codes: Codes) -> Codes:
    """Return the two languages in the order in which the corpus has them."""
    if corpus == "nllb":
        return min(codes), max(codes)
    if ENGLISH not in codes:
        raise TextError(
            f"{corpus} has pairs with {ENGLISH} alone, and none of {' and '.join(codes)}; give another text."
        )
    return codes if codes[0] == ENGLISH else (codes[1], codes[0])


def _named(corpus: str, code: str) -> str:
    return code if corpus == "nllb" else short(code)


# ---------------------------------------------------------------------------------------------- files and streams


def _format(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _file_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    builder = {".txt": "text", ".tsv": "text", ".jsonl": "json", ".parquet": "parquet"}[_format(path)]
    if not path.is_file():
        raise TextError(f"{path} does not exist; check the path of the training text.")
    return _stream(str(path), builder, data_files=str(path))


def _cells(line: str) -> list[str]:
    with cells_as_long_as(len(line)):
        # A quotation mark is a part of its sentence.
        return next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE))


def _tsv_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    # The package's reader of .tsv files holds a whole file in memory and refuses a row with a missing cell. A corpus
    # is too large for that, and such a row is only counted. The csv builder of datasets would turn "NA" and numbers
    # into something other than text.
    rows = (_cells(row["text"]) for row in _file_rows(path))
    header = next(rows, [])
    for cells in rows:
        yield dict(zip(header, cells, strict=True)) if len(cells) == len(header) else dict.fromkeys(header)


def _stream(text: str, *where: str | None, **settings: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a data set one after another, without downloading the data set first."""
    try:
        rows = load_dataset(*where, split="train", streaming=True, **settings)
        assert isinstance(rows, IterableDataset)
        yield from rows
    except UnicodeDecodeError as error:
        raise TextError(
            f"{text} is not UTF-8 ({error.reason}, byte {error.object[error.start]:#x}); convert it."
        ) from None
    except (HfHubHTTPError, OSError, DatasetsError, ValueError) as error:
        remedy = _remedy(error, settings.get("data_files", ""))
        raise TextError(refusal(text, str(where[0]), error, "cannot be read", remedy)) from None


def _remedy(error: Exception, file: str) -> str:
    if file and "://" not in file:
        return "check the path" if isinstance(error, FileNotFoundError) else "correct it or write it again"
    if isinstance(error, DatasetNotFoundError):
        return "check its name, or give a local file"
    return "check the connection and try again, or give a local file"


# ---------------------------------------------------------------------------------------------- columns


def _first_two(line: str, swapped: bool) -> Pair | None:
    first, *rest = line.split("\t", 2)
    if not rest:
        return None
    return (rest[0], first) if swapped else (first, rest[0])


def _pairs_in(rows: Iterator[Mapping[str, Any]], text: str, codes: Codes) -> Iterator[Pair | None]:
    rows, names = _with_columns(rows)
    two_letters = short(codes[0]), short(codes[1])
    columns = next((pair for pair in (codes, two_letters) if set(pair) <= set(names)), None)
    if columns is None:
        raise TextError(
            f"{text} has the columns {', '.join(names)}; name two of them {' and '.join(codes)}, or "
            f"{' and '.join(two_letters)}."
        )
    for row in rows:
        cells = flat(row)
        source, target = (cells.get(column) for column in columns)
        yield (source, target) if isinstance(source, str) and isinstance(target, str) else None


def _texts_in(rows: Iterator[Mapping[str, Any]], text: str) -> Iterator[str]:
    rows, names = _with_columns(rows)
    if "text" not in names:
        raise TextError(f'{text} has the columns {", ".join(names)}; name the one that holds the documents "text".')
    return (row["text"] or "" for row in rows)


def _with_columns(rows: Iterator[Mapping[str, Any]]) -> tuple[Iterator[Mapping[str, Any]], list[str]]:
    """Return all rows again, and the names of the columns in the first one."""
    first = list(islice(rows, 1))
    return chain(first, rows), [name for row in first for name in flat(row)] or ["(none: it is empty)"]
