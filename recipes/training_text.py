"""The training text of a recipe: streamed or local, cleaned, kept on disk, and free of the held-out pairs.

`text_rows.py` reads a text, `text_filters.py` cleans it, and `kept_text.py` keeps what is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets import Dataset
from kept_text import kept
from languages import Languages, filled
from text_filters import clean_documents, clean_pairs
from text_rows import Codes, document_rows, pair_rows

from neuronxa_callback import ParallelPairs


def training_pairs(
    text: str, codes: Codes, held_out: Sequence[ParallelPairs], limit: int | None, folder: Path
) -> tuple[Dataset, dict[str, int]]:
    """Return clean sentence pairs, with a column for each language, and how many rows each filter removed.

    The pairs are kept in the folder. A second call with the same arguments reads them there.

    Args:
        text: "nllb", "paracrawl", "opus100", one of these with a local copy ("nllb:eng_Latn-isl_Latn.gz"), "embedded",
            or a .tsv, .jsonl or .parquet file, also with .gz, with two columns named by the codes (eng_Latn, isl_Latn)
            or by the languages' short codes (en, is).
        codes: the source and the target language.
        held_out: pairs that must not be among them.
        limit: pairs to keep; None for all.
        folder: where to keep them.

    Raises:
        TextError: the text cannot be reached or read, or cleaning leaves nothing of it.
    """

    def rows(counts: Counter[str]) -> Iterator[dict[str, str]]:
        for pair in clean_pairs(pair_rows(text, codes), codes, held_out, counts):
            yield dict(zip(codes, pair, strict=True))

    return kept(rows, codes, text, held_out, limit, folder)


def pairs_of_targets(
    text: str, languages: Languages, held_out: Sequence[ParallelPairs], limit: int | None, folder: Path
) -> tuple[list[Dataset], dict[str, dict[str, int]]]:
    """Return the clean sentence pairs of each target, and what cleaning removed from each text.

    Args:
        text: as in `training_pairs`, with {lang} for the target's code.
        languages: the languages of the run.
        held_out: pairs that must not be among them.
        limit: pairs of each target to keep; None for all.
        folder: where to keep them, in a folder for each target.

    Raises:
        TextError: as `training_pairs` raises it.
    """
    pairs, counts = [], {}
    for target, name in zip(languages.targets, languages.trained_pairs, strict=True):
        of_target, codes = filled(text, target), (languages.source, target)
        kept_pairs, counts[f"{name}, {of_target}"] = training_pairs(of_target, codes, held_out, limit, folder / name)
        pairs.append(kept_pairs)
    return pairs, counts


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


def check_pairs(text: str, codes: Codes) -> None:
    """Read the first pair, so that a text that cannot be read fails before anything long starts.

    Args:
        text: as in `training_pairs`.
        codes: the source and the target language.

    Raises:
        TextError: the text cannot be reached or read.
    """
    next(pair_rows(text, codes), None)


def check_documents(text: str, code: str) -> None:
    """Read the first document, for the reason that `check_pairs` has.

    Args:
        text: as in `training_documents`.
        code: the language of the documents.

    Raises:
        TextError: the text cannot be reached or read.
    """
    next(document_rows(text, code), None)
