"""Training text: corpora streamed or local, cleaned with counts of what each filter removed, never the held-out pairs.

Where a corpus is from (none has been downloaded on the machine these recipes were made on):

* nllb: the file that allenai/nllb on the hub reads, nine columns without a header, as far as we know sorted by LASER
  score from the best down. The data set itself is a loading script, which datasets no longer runs.
* paracrawl: release 9, two columns without a header.
* opus100: Helsinki-NLP/opus-100 on the hub, a column "translation" with "en" and "is".
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

import py3langid
import pyarrow
from datasets import Dataset, IterableDataset, load_dataset
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub.errors import HfHubHTTPError
from pyarrow import parquet
from tqdm.auto import tqdm

from neuronxa_callback import ParallelPairs
from neuronxa_callback.text.overlap import Sentences
from neuronxa_callback.text.pairs import embedded

# English in the first column, Icelandic in the second.
TAB_SEPARATED = {
    "nllb": "https://storage.googleapis.com/allennlp-data-bucket/nllb/eng_Latn-isl_Latn.gz",
    "paracrawl": "https://s3.amazonaws.com/web-language-models/paracrawl/release9/en-is/en-is.txt.gz",
}
OPUS_100 = ("Helsinki-NLP/opus-100", "en-is")
CORPORA = (*TAB_SEPARATED, "opus100")
COLUMNS = (("eng_Latn", "isl_Latn"), ("en", "is"))
LANGUAGES = {"eng_Latn": "en", "isl_Latn": "is"}  # as py3langid calls them

MAX_LENGTH_RATIO = 2.5  # in characters: a translation that is much longer than its source is none
MIN_CHARACTERS = 20  # a shorter text is too little to tell its language from
JUDGED_CHARACTERS = 1000  # of a document
CHUNK = 1000  # rows written at once
FILTERS_VERSION = 2  # text that was cleaned by other filters is cleaned anew

Pair: TypeAlias = tuple[str, str]
Rows: TypeAlias = Callable[[Counter[str]], Iterator[dict[str, str]]]  # counts as it goes


class TextError(ValueError):
    """Training text that cannot be used; the message names it and the remedy."""


# ---------------------------------------------------------------------------------------------- what a recipe calls


def training_pairs(
    text: str, held_out: Sequence[ParallelPairs], limit: int | None, folder: Path
) -> tuple[Dataset, dict[str, int]]:
    """Clean sentence pairs as a data set with columns eng_Latn and isl_Latn, and what was removed.

    They are kept in the folder, which a second call with the same arguments reads.

    Args:
        text: "nllb", "paracrawl", "opus100", one of these with a local copy ("nllb:eng_Latn-isl_Latn.gz"), "embedded",
            or a .tsv, .jsonl or .parquet file, also with .gz, with columns eng_Latn and isl_Latn, or en and is.
        held_out: pairs that must not be among them.
        limit: pairs to keep; None for all.
        folder: where to keep them.

    Raises:
        TextError: the text cannot be had or read, or nothing of it is left.
    """

    def rows(counts: Counter[str]) -> Iterator[dict[str, str]]:
        for english, icelandic in clean_pairs(pair_rows(text), held_out, counts):
            yield {"eng_Latn": english, "isl_Latn": icelandic}

    return _kept(rows, COLUMNS[0], text, held_out, limit, folder)


def training_documents(
    text: str, code: str, held_out: Sequence[ParallelPairs], limit: int | None, folder: Path
) -> tuple[Dataset, dict[str, int]]:
    """Clean documents as a data set with a column text, and what was removed; otherwise as `training_pairs`.

    Args:
        text: a .txt file of one document a line, a .jsonl or .parquet file with a column text, a data set of the hub
            with such a column ("HuggingFaceFW/fineweb-2:isl_Latn"), or "embedded".
        code: their language.
        held_out: pairs whose sentences must not be in them.
        limit: documents to keep; None for all.
        folder: where to keep them.

    Raises:
        TextError: the text cannot be had or read, or nothing of it is left.
    """

    def rows(counts: Counter[str]) -> Iterator[dict[str, str]]:
        for document in clean_documents(document_rows(text, code), code, held_out, counts):
            yield {"text": document}

    return _kept(rows, ["text"], f"{text} {code}", held_out, limit, folder)


def check_pairs(text: str) -> None:
    """Read the first pair, so that a text that cannot be had fails before anything long; see `training_pairs`."""
    next(pair_rows(text), None)


def check_documents(text: str, code: str) -> None:
    """Read the first document; see `check_pairs`."""
    next(document_rows(text, code), None)


# ---------------------------------------------------------------------------------------------- reading


def pair_rows(text: str) -> Iterator[Pair | None]:
    """English and Icelandic of each row as they come, None for a row without both; see `training_pairs`."""
    corpus, _, copy = text.partition(":")
    if text == "embedded":
        columns = embedded("demo_train.tsv")
        return iter(zip(columns["eng_Latn"], columns["isl_Latn"], strict=True))
    if corpus in TAB_SEPARATED:
        lines = _stream(text, "text", data_files=copy or TAB_SEPARATED[corpus], encoding_errors="replace")
        return (_first_two(row["text"]) for row in lines)
    if text == "opus100":
        return _pairs_in(_stream(text, *OPUS_100), text)
    path = Path(copy if corpus == "opus100" else text)
    if _format(path) == ".tsv":
        return _pairs_in(_tsv_rows(path), text)
    if _format(path) in (".jsonl", ".parquet"):
        return _pairs_in(_file_rows(path), text)
    raise TextError(
        f"{text} is no training text; give {', '.join(CORPORA)}, embedded, or a .tsv, .jsonl or .parquet file."
    )


def document_rows(text: str, code: str) -> Iterator[str]:
    """Documents as they come; see `training_documents`."""
    if text == "embedded":
        return iter(embedded("demo_train.tsv")[code])
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


def _tsv_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    # Not read as CSV: there a quotation mark, "NA" and a number would be more than a part of the sentence.
    lines = (row["text"] for row in _file_rows(path))
    header = next(lines, "").split("\t")
    for line in lines:
        cells = line.split("\t")
        yield dict(zip(header, cells, strict=True)) if len(cells) == len(header) else dict.fromkeys(header)


def _stream(text: str, *where: str | None, **settings: Any) -> Iterator[Mapping[str, Any]]:
    """The rows of a data set as they come, nothing downloaded ahead."""
    try:
        rows = load_dataset(*where, split="train", streaming=True, **settings)
        assert isinstance(rows, IterableDataset)
        yield from rows
    except DatasetNotFoundError as error:
        if "gated" in str(error):
            raise TextError(
                f"{text} is gated: accept its terms on https://huggingface.co/datasets/{where[0]} and run "
                "`hf auth login`."
            ) from None
        raise TextError(f"{text} cannot be found ({_line(error)}); check its name, or give a local file.") from None
    except UnicodeDecodeError as error:
        raise TextError(
            f"{text} is not UTF-8 ({error.reason}, byte {error.object[error.start]:#x}); convert it."
        ) from None
    except (HfHubHTTPError, OSError, DatasetsError, ValueError) as error:
        remedy = "check the connection and try again, or give a local file"
        if "data_files" in settings and "://" not in settings["data_files"]:
            remedy = "check the path" if isinstance(error, FileNotFoundError) else "mend it or write it anew"
        raise TextError(f"{text} cannot be read ({_line(error)}); {remedy}.") from None


def _line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def _first_two(line: str) -> Pair | None:
    cells = line.split("\t", 2)
    return (cells[0], cells[1]) if len(cells) > 1 else None


def _pairs_in(rows: Iterator[Mapping[str, Any]], text: str) -> Iterator[Pair | None]:
    rows, names = _with_columns(rows)
    columns = next((pair for pair in COLUMNS if set(pair) <= set(names)), None)
    if columns is None:
        raise TextError(
            f"{text} has the columns {', '.join(names)}; name two of them eng_Latn and isl_Latn, or en and is."
        )
    for row in rows:
        flat = _flat(row)
        english, icelandic = (flat.get(column) for column in columns)
        yield (english, icelandic) if isinstance(english, str) and isinstance(icelandic, str) else None


def _texts_in(rows: Iterator[Mapping[str, Any]], text: str) -> Iterator[str]:
    rows, names = _with_columns(rows)
    if "text" not in names:
        raise TextError(f"{text} has the columns {', '.join(names)}; name the one with the documents text.")
    return (row["text"] or "" for row in rows)


def _with_columns(rows: Iterator[Mapping[str, Any]]) -> tuple[Iterator[Mapping[str, Any]], list[str]]:
    first = list(islice(rows, 1))
    return chain(first, rows), [name for row in first for name in _flat(row)] or ["(none: it is empty)"]


def _flat(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with the languages of a "translation" column among its columns."""
    translation = row.get("translation")
    return {**row, **translation} if isinstance(translation, Mapping) else row


# ---------------------------------------------------------------------------------------------- cleaning


def clean_pairs(
    pairs: Iterable[Pair | None], held_out: Sequence[ParallelPairs], counts: Counter[str]
) -> Iterator[Pair]:
    """The pairs that pass each filter; one that does not counts under the first that removes it.

    Args:
        pairs: English and Icelandic, None for a row that has not both.
        held_out: pairs of which no sentence may stand in the text, whole or nearly.
        counts: gets "read", what each filter removed, and "kept".
    """
    seen: set[bytes] = set()
    leaks = Sentences(held_out)
    for pair in pairs:
        fault = _fault_of_pair(pair, seen) or ("held-out" if leaks.find("\n".join(pair or ())) else None)
        counts["read"] += 1
        counts[fault or "kept"] += 1
        if pair is not None and fault is None:
            yield pair[0].strip(), pair[1].strip()


def clean_documents(
    documents: Iterable[str], code: str, held_out: Sequence[ParallelPairs], counts: Counter[str]
) -> Iterator[str]:
    """The documents that pass each filter, counted as by `clean_pairs`."""
    seen: set[bytes] = set()
    leaks = Sentences(held_out)
    for document in documents:
        fault = _fault_of_document(document.strip(), code, seen) or ("held-out" if leaks.find(document) else None)
        counts["read"] += 1
        counts[fault or "kept"] += 1
        if fault is None:
            yield document.strip()


def _fault_of_pair(pair: Pair | None, seen: set[bytes]) -> str | None:
    if pair is None:
        return "malformed"
    english, icelandic = (side.strip() for side in pair)
    shorter, longer = sorted((len(english), len(icelandic)))
    if not shorter:
        return "empty"
    if longer > MAX_LENGTH_RATIO * shorter:
        return "length ratio"
    if _repeated(f"{english}\t{icelandic}", seen):
        return "duplicate"
    if _wrong_language(english, "eng_Latn") or _wrong_language(icelandic, "isl_Latn"):
        return "wrong language"
    return None


def _fault_of_document(document: str, code: str, seen: set[bytes]) -> str | None:
    if not document:
        return "empty"
    if _repeated(document, seen):
        return "duplicate"
    return "wrong language" if _wrong_language(document[:JUDGED_CHARACTERS], code) else None


def _wrong_language(text: str, code: str) -> bool:
    return len(text) >= MIN_CHARACTERS and py3langid.classify(text)[0] != LANGUAGES[code]


def _repeated(text: str, seen: set[bytes]) -> bool:
    """Whether it was there before, whatever its case and spacing; eight bytes a text are remembered."""
    key = hashlib.blake2b(" ".join(text.casefold().split()).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    if key in seen:
        return True
    seen.add(key)
    return False


# ---------------------------------------------------------------------------------------------- keeping


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    items = iter(items)
    while chunk := list(islice(items, CHUNK)):
        yield chunk


def _kept(
    rows: Rows,
    columns: Sequence[str],
    text: str,
    held_out: Sequence[ParallelPairs],
    limit: int | None,
    folder: Path,
) -> tuple[Dataset, dict[str, int]]:
    """The cleaned text of the folder; made first where it was made from something else or not to the end."""
    made_from = {
        "text": text,
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
        # Written last, and at once: where it stands, the text beside it is whole.
        written = record.with_name("counts.json.new")
        written.write_text(json.dumps({"made_from": made_from, "counts": counts}, indent=2), encoding="utf-8")
        written.replace(record)
    return Dataset.from_parquet(str(data)), counts


def _changed(text: str) -> int | None:
    """When a local file was last changed, in nanoseconds."""
    path = Path(text.partition(":")[2] or text)
    return path.stat().st_mtime_ns if path.is_file() else None


def _counts_of(record: Path, made_from: Mapping[str, Any]) -> dict[str, int] | None:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found["counts"] if found["made_from"] == made_from else None


def _write(rows: Rows, columns: Sequence[str], text: str, limit: int | None, data: Path) -> dict[str, int]:
    """Write the cleaned rows a chunk at a time, so that a corpus of any size needs the memory of one."""
    counts: Counter[str] = Counter()
    progress = tqdm(islice(rows(counts), limit), desc=f"Cleaning {text}", total=limit, unit=" kept")
    schema = pyarrow.schema([(column, pyarrow.string()) for column in columns])
    with parquet.ParquetWriter(data, schema) as writer:
        for chunk in _chunks(progress):
            writer.write_table(pyarrow.Table.from_pylist(chunk, schema))
    if not counts["kept"]:
        raise TextError(f"nothing of {text} is left after cleaning ({_told(counts)}); check its languages and columns.")
    return dict(counts)


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "it is empty"
