"""Held-out parallel pairs: load, check, fingerprint."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.text.languages import PairsError, check_language, code_in_name, is_language, is_language_pair
from neuronxa_callback.text.overlap import HeldOut, Overlap, Sentences
from neuronxa_callback.text.readers import Row, Rows, flat, open_rows, open_two_files
from neuronxa_callback.text.surface import equal_sides, plain

__all__ = ["DEFAULT_SIZE", "PairsError", "ParallelPairs"]

logger = logging.getLogger(__name__)

DEFAULT_SIZE = 100
MOST_EQUAL = 0.5  # share of pairs with equal sides above which they are refused


@dataclass(frozen=True)
class ParallelPairs:
    """Parallel sentences in two languages: `target[i]` translates `source[i]`.

    Attributes:
        source: sentences in the pivot language.
        target: the same sentences in the other language.
        source_lang: FLORES-200 code of the source, such as "eng_Latn".
        target_lang: FLORES-200 code of the target.
        corpus: name of the corpus that the pairs are from, for tables. Comparisons and the fingerprint ignore it.

    Raises:
        PairsError: unequal lengths, fewer than two pairs, an empty or repeated sentence, an unknown code, or equal
            sides in more than half of the pairs. Equal sides in fewer pairs are named in a warning.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    source_lang: str
    target_lang: str
    corpus: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.source, str) or isinstance(self.target, str):
            raise PairsError("source and target must be sequences of sentences, not one string each.")
        object.__setattr__(self, "source", tuple(self.source))
        object.__setattr__(self, "target", tuple(self.target))
        _check_languages(self.source_lang, self.target_lang)
        if len(self.source) != len(self.target):
            raise PairsError(
                f"{self.name} has {len(self.source)} source and {len(self.target)} target sentences; "
                "parallel text needs one target for each source."
            )
        for code, side in ((self.source_lang, self.source), (self.target_lang, self.target)):
            _check_sentences(code, side, self._place)
        _check_sides(self, self.name, self._place)

    def __len__(self) -> int:
        return len(self.source)

    def _place(self, pair: int) -> str:
        return f"pair {pair + 1} of {self.name}"

    @property
    def name(self) -> str:
        """The suffix of this pair's metrics: "eng_Latn-isl_Latn"."""
        return f"{self.source_lang}-{self.target_lang}"

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change if a language code, a sentence or the order of the sentences changes."""
        content = json.dumps([self.source_lang, self.target_lang, self.source, self.target], ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8")).hexdigest()[:12]

    @classmethod
    def load(
        cls,
        spec: Any,
        source_lang: str | None = None,
        target_lang: str | None = None,
        *,
        columns: tuple[str, str] | None = None,
        n: int | None = DEFAULT_SIZE,
    ) -> ParallelPairs:
        """Load the first `n` pairs from the embedded set, a file, two aligned files or a dataset.

        Args:
            spec: one of
                * two codes, "eng_Latn-isl_Latn": the embedded held-out set (English, Icelandic, German, French and
                  Spanish);
                * the path of a .tsv, .csv, .jsonl or .parquet file;
                * a tuple of two paths: text files whose lines correspond;
                * a `datasets.Dataset` (also streamed) or a list of dicts.
            source_lang: FLORES-200 code. Without it, the code comes from the name of the column or file.
            target_lang: FLORES-200 code, or None as for `source_lang`.
            columns: names of the source and the target column, or keys of a "translation" column (the layout of many
                datasets of the hub). Without it, the columns are named by the codes, or "source" and "target".
            n: how many pairs to keep, 100 as in the paper; None keeps all. It does not shorten a `ParallelPairs`.

        Raises:
            PairsError: the pairs cannot be used; the message names the fault, the file and line, and the remedy.
        """
        if n is not None and (not isinstance(n, int) or n < 2):
            raise PairsError(f"n={n!r} is not a usable number of pairs; give at least two, or None for all.")
        if isinstance(spec, ParallelPairs) or is_language_pair(spec):
            if source_lang or target_lang or columns:
                raise PairsError(
                    f"{spec!s:.60} names its languages itself; leave out source_lang, target_lang and columns."
                )
            return spec if isinstance(spec, ParallelPairs) else cls._embedded(spec, n)
        if isinstance(spec, tuple):
            source_lang, target_lang, read = _two_files(spec, source_lang, target_lang)
            return _checked(read, ("source", "target"), source_lang, target_lang, n)
        read = open_rows(spec, n)
        first = next(read.rows, None)
        if first is None:
            raise PairsError(f"{read.origin} holds no pairs; give at least two, 100 as in the paper.")
        chosen = _choose_columns(first, columns, source_lang, target_lang, read.origin)
        _check_columns(chosen, source_lang, target_lang, read.origin)
        source_lang, target_lang = _languages_of(chosen, source_lang, target_lang)
        return _checked(replace(read, rows=chain([first], read.rows)), chosen, source_lang, target_lang, n)

    @classmethod
    def _embedded(cls, name: str, n: int | None) -> ParallelPairs:
        source_lang, target_lang = name.split("-")
        columns = embedded("heldout.tsv")
        _check_languages(source_lang, target_lang)
        for code in (source_lang, target_lang):
            if code not in columns:
                raise PairsError(
                    f"the embedded set has no {code}; it has {', '.join(columns)}. Load your own file or dataset."
                )
        return cls(columns[source_lang][:n], columns[target_lang][:n], source_lang, target_lang)

    def overlap(self, texts: Iterable[str]) -> list[Overlap]:
        """Find held-out sentences in training text, whole or nearly whole; see `overlap.Sentences`.

        Args:
            texts: the training texts. They are read once, one at a time.

        Returns:
            one entry for each held-out sentence in each text, in the order of the texts.
        """
        sentences = Sentences([self])
        return [Overlap(position, *found) for position, text in enumerate(texts) for found in sentences.find(text)]


# ---------------------------------------------------------------------------------------------------- checking


def _checked(
    read: Rows, columns: tuple[str, str], source_lang: str | None, target_lang: str | None, n: int | None
) -> ParallelPairs:
    """Return the first `n` pairs of two columns; an error names the place of a bad pair."""
    kept = [_cells(row, columns) for row in islice(read.rows, n)]
    if source_lang is None or target_lang is None:
        raise PairsError(
            f"the languages of {read.origin} are not known; name columns or files by FLORES-200 codes, "
            "or pass source_lang and target_lang."
        )
    _check_languages(source_lang, target_lang)
    source, target = [s for s, _ in kept], [t for _, t in kept]
    for code, side in ((source_lang, source), (target_lang, target)):
        _check_sentences(code, side, read.place)
    sides = Sides(tuple(sentence.strip() for sentence in source), tuple(sentence.strip() for sentence in target))
    _check_sides(sides, f"{source_lang}-{target_lang}", read.place)
    return ParallelPairs(sides.source, sides.target, source_lang, target_lang)


def _check_languages(source_lang: str, target_lang: str) -> None:
    check_language(source_lang)
    check_language(target_lang)
    if source_lang == target_lang:
        raise PairsError(f"both sides of the pairs are {source_lang}; a pair needs two languages.")


def _check_sentences(code: str, sentences: Sequence[Any], place: Callable[[int], str]) -> None:
    if len(sentences) < 2:
        raise PairsError(
            f"{place(0)} is the only pair, so there is nothing to compare it with; give at least two, 100 as in the "
            "paper."
        )
    first_seen: dict[str, int] = {}
    for pair, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise PairsError(f"{place(pair)} holds {sentence!r} where the {code} sentence should be; correct it.")
        sentence = sentence.strip()
        if not sentence.isprintable() and any("\ud800" <= character <= "\udfff" for character in sentence):
            raise PairsError(f"{place(pair)} has half a surrogate pair in its {code} sentence; replace that character.")
        if not sentence:
            raise PairsError(f"{place(pair)} has an empty {code} sentence; fill it in or remove the pair.")
        if sentence in first_seen:
            raise PairsError(
                f"{place(pair)} repeats the {code} sentence of {place(first_seen[sentence])} ({sentence[:60]!r}); "
                "equal sentences cannot be told apart, so remove one of the pairs."
            )
        first_seen[sentence] = pair


class Sides(NamedTuple):
    """The two sides of pairs whose languages and sentences are checked."""

    source: tuple[str, ...]
    target: tuple[str, ...]


# Pairs are copied on their way (a corpus adds its name, translation swaps the sides). What a warning has named, by its
# file and line, is not named again in a copy.
_named: set[tuple[frozenset[str], tuple[str, ...]]] = set()


def _check_sides(pairs: HeldOut, name: str, place: Callable[[int], str]) -> None:
    """Warn of pairs whose two sides are equal, once for each text, or refuse them if they are more than half."""
    equal = equal_sides(pairs)
    if not equal:
        return
    found = (
        f"in {len(equal)} of the {len(pairs.source)} pairs of {name}, both sides are equal but for case, spacing and "
        f"punctuation; the first: {place(equal[0])} holds {pairs.source[equal[0]][:60]!r} and "
        f"{pairs.target[equal[0]][:60]!r}."
    )
    if len(equal) > MOST_EQUAL * len(pairs.source):
        raise PairsError(f"{found} Give sentences and their translations.")
    key = (frozenset(name.split("-")), tuple(plain(pairs.source[pair]) for pair in equal))
    if key not in _named:
        _named.add(key)
        logger.warning(
            "NeuronXA: %s A model aligns such pairs without knowing the languages, and each adds up to %.2g to NASCA, "
            "NAVCA and MEXA; remove them.",
            found,
            1 / len(pairs.source),
        )


# ---------------------------------------------------------------------------------------------------- choosing


def _two_files(
    spec: tuple[Any, ...], source_lang: str | None, target_lang: str | None
) -> tuple[str | None, str | None, Rows]:
    """Return the languages and the rows of two files. A language that is not given comes from the file's name."""
    if len(spec) != 2 or not all(isinstance(path, str | Path) for path in spec):
        raise PairsError(f"{spec!r} is not a tuple of two paths; give the source file and the target file.")
    source, target = (Path(path).expanduser() for path in spec)
    return source_lang or code_in_name(source), target_lang or code_in_name(target), open_two_files(source, target)


def _choose_columns(
    row: Row, columns: tuple[str, str] | None, source_lang: str | None, target_lang: str | None, origin: str
) -> tuple[str, str]:
    names = list(flat(row))
    codes = [name for name in names if is_language(name)]
    if columns is None and source_lang in codes and target_lang in codes:
        columns = (str(source_lang), str(target_lang))
    if columns is None and len(codes) == 2 and not (source_lang and target_lang):
        first, second = codes if source_lang != codes[1] and target_lang != codes[0] else reversed(codes)
        columns = (first, second)
    if columns is None and {"source", "target"} <= set(names):
        columns = ("source", "target")
    if columns is None and len(codes) > 2:
        raise PairsError(f"{origin} holds {len(codes)} languages; choose two with source_lang and target_lang.")
    if columns is None or not set(columns) <= set(names):
        raise PairsError(
            f"{origin} has the columns {', '.join(names)}; name two of them by FLORES-200 codes "
            "(in the first line of a TSV or CSV file), or pass columns=(source, target)."
        )
    return columns


def _check_columns(columns: tuple[str, str], source_lang: str | None, target_lang: str | None, origin: str) -> None:
    """Refuse columns that would compare a text with itself or call it by another language's name."""
    if columns[0] == columns[1]:
        raise PairsError(f"columns={columns} of {origin} is one column twice; a pair needs two.")
    for column, code in zip(columns, (source_lang, target_lang), strict=True):
        if is_language(column) and code is not None and code != column:
            raise PairsError(f"the column {column} of {origin} would be called {code}; give it its own code.")


def _languages_of(
    columns: tuple[str, str], source_lang: str | None, target_lang: str | None
) -> tuple[str | None, str | None]:
    named = [column if is_language(column) else None for column in columns]
    return source_lang or named[0], target_lang or named[1]


def _cells(row: Row, columns: tuple[str, str]) -> tuple[Any, Any]:
    cells = flat(row)
    return cells.get(columns[0]), cells.get(columns[1])
