"""The training text of a recipe: streamed or local, cleaned, kept on disk, and free of the held-out pairs.

`text_rows.py` reads a text, `text_filters.py` cleans it, and `kept_text.py` keeps what is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets import Dataset
from kept_text import kept
from text_filters import clean_documents, clean_pairs
from text_rows import COLUMNS, document_rows, pair_rows

from neuronxa_callback import ParallelPairs


def training_pairs(
    text: str, held_out: Sequence[ParallelPairs], limit: int | None, folder: Path
) -> tuple[Dataset, dict[str, int]]:
    """Return clean sentence pairs, with columns eng_Latn and isl_Latn, and how many rows each filter removed.

    The pairs are kept in the folder. A second call with the same arguments reads them there.

    Args:
        text: "nllb", "paracrawl", "opus100", one of these with a local copy ("nllb:eng_Latn-isl_Latn.gz"), "embedded",
            or a .tsv, .jsonl or .parquet file, also with .gz, with columns eng_Latn and isl_Latn, or en and is.
        held_out: pairs that must not be among them.
        limit: pairs to keep; None for all.
        folder: where to keep them.

    Raises:
        TextError: the text cannot be reached or read, or cleaning leaves nothing of it.
    """

    def rows(counts: Counter[str]) -> Iterator[dict[str, str]]:
        for english, icelandic in clean_pairs(pair_rows(text), held_out, counts):
            yield {"eng_Latn": english, "isl_Latn": icelandic}

    return kept(rows, COLUMNS[0], text, held_out, limit, folder)


def training_documents(
    text: str, code: str, held_out: Sequence[ParallelPairs], limit: int | None, folder: Path
) -> tuple[Dataset, dict[str, int]]:
    """Return clean documents, with a column text, and how many each filter removed.

    The documents are kept in the folder, as those of `training_pairs` are.

    Args:
        text: a .txt file with one document on each line, a .jsonl or .parquet file with a column text, a data set of
            the hub with such a column ("HuggingFaceFW/fineweb-2:isl_Latn"), or "embedded".
        code: the language of the documents.
        held_out: pairs whose sentences must not be in the documents.
        limit: documents to keep; None for all.
        folder: where to keep them.

    Raises:
        TextError: the text cannot be reached or read, or cleaning leaves nothing of it.
    """

    def rows(counts: Counter[str]) -> Iterator[dict[str, str]]:
        for document in clean_documents(document_rows(text, code), code, held_out, counts):
            yield {"text": document}

    return kept(rows, ["text"], f"{text} {code}", held_out, limit, folder)


def check_pairs(text: str) -> None:
    """Read the first pair, so that a text that cannot be read fails before anything long starts.

    Args:
        text: as in `training_pairs`.

    Raises:
        TextError: the text cannot be reached or read.
    """
    next(pair_rows(text), None)


def check_documents(text: str, code: str) -> None:
    """Read the first document, for the reason that `check_pairs` has.

    Args:
        text: as in `training_documents`.
        code: the language of the documents.

    Raises:
        TextError: the text cannot be reached or read.
    """
    next(document_rows(text, code), None)
