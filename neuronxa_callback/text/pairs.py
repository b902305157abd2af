"""Held-out parallel pairs: load, check, fingerprint."""

from __future__ import annotations

import hashlib
import json
import logging
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from neuronxa_callback.text.columns import cells, choose_columns, languages_of
from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.text.languages import PairsError, check_language, code_of, is_language_pair, with_region
from neuronxa_callback.text.overlap import HeldOut, Overlap, Sentences
from neuronxa_callback.text.readers import Rows, open_rows, open_two_files, with_sides
from neuronxa_callback.text.surface import equal_sides, is_number, plain

__all__ = ["DEFAULT_SIZE", "PairsError", "ParallelPairs"]

logger = logging.getLogger(__name__)

DEFAULT_SIZE = 100
MOST_NUMBERS = 0.5  # share of a side's sentences that are numbers above which the side is refused
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

    def only(self, places: Sequence[int]) -> ParallelPairs:
        """Return the pairs at some places, which count from 0. They are not checked again."""
        part = copy(self)
        for side in ("source", "target"):
            object.__setattr__(part, side, tuple(getattr(self, side)[place] for place in places))
        return part

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
        reference: str | None = None,
        n: int | None = DEFAULT_SIZE,
    ) -> ParallelPairs:
        """Load the first `n` pairs from the embedded set, a file, two aligned files, a test set or a dataset.

        docs/reference/text-files.md lists the formats and says how each is read.

        Args:
            spec: one of
                * two codes, "eng_Latn-isl_Latn": the embedded held-out set (English, Icelandic, German, French and
                  Spanish);
                * the path of a .tsv, .csv, .jsonl, .json, .tmx, .xlf, .xliff, .xml, .parquet or .zip file. The text
                  formats may be compressed (.gz, .bz2, .xz, .zst);
                * a tuple or list of two paths: text files whose lines correspond, or WMT's .sgm files;
                * a test set of sacrebleu, "wmt21:en-is", which sacrebleu downloads;
                * a `datasets.Dataset` (also streamed), a `pandas.DataFrame` or a list of dicts.
            source_lang: FLORES-200 code, or another tag of the language ("is", "en-US"). Without it, the code comes
                from the name of the column or file, or from the file itself.
            target_lang: FLORES-200 code, or None as for `source_lang`.
            columns: names of the source and the target column, or keys of a "translation" column (the layout of many
                datasets of the hub). Without it, the columns are named by the languages, or "source" and "target".
            reference: which of several references to take ("B"), where WMT's XML or .sgm or a test set has several.
                Without it, the first.
            n: how many pairs to keep, 100 as in the paper; None keeps all. It does not shorten a `ParallelPairs`.

        Raises:
            PairsError: the pairs cannot be used; the message names the fault, the file and line, and the remedy.
        """
        if n is not None and (not isinstance(n, int) or n < 2):
            raise PairsError(f"n={n!r} is not a usable number of pairs; give at least two, or None for all.")
        if isinstance(spec, ParallelPairs) or is_language_pair(spec):
            if source_lang or target_lang or columns or reference:
                raise PairsError(
                    f"{spec!s:.60} names its languages itself; leave out source_lang, target_lang, columns and "
                    "reference."
                )
            return spec if isinstance(spec, ParallelPairs) else cls._embedded(spec, n)
        source_lang, target_lang = _code_of_given(source_lang), _code_of_given(target_lang)
        if _is_two_files(spec):
            source, target = (Path(path).expanduser() for path in spec)
            named, read = open_two_files(source, target, reference)
            return _checked(read, ("source", "target"), source_lang or named[0], target_lang or named[1], n)
        read = open_rows(spec, n, (None, None) if columns else (source_lang, target_lang), reference)
        first = next(read.rows, None)
        if first is None:
            raise _no_pairs(read)
        chosen = choose_columns(first, columns, source_lang, target_lang, read.origin)
        languages = languages_of(chosen, source_lang, target_lang)
        whole = with_sides(replace(read, rows=chain([first], read.rows)), chosen)
        return _checked(whole, chosen, *languages, n)

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
    kept = [cells(row, columns) for row in islice(read.rows, n)]
    if not kept:
        raise _no_pairs(read)
    if source_lang is None or target_lang is None:
        raise PairsError(
            f"the languages of {read.origin} are not known; name columns or files by FLORES-200 codes, "
            "or pass source_lang and target_lang."
        )
    _check_languages(source_lang, target_lang)
    source, target = [s for s, _ in kept], [t for _, t in kept]
    for code, side in ((source_lang, source), (target_lang, target)):
        _check_sentences(code, side, read.place)
        numbers = [pair for pair, sentence in enumerate(side) if is_number(sentence)]
        if len(numbers) > MOST_NUMBERS * len(side):
            raise PairsError(
                f"{len(numbers)} of the {len(side)} {code} sentences of {read.origin} are numbers; the first: "
                f"{read.place(numbers[0])} holds {side[numbers[0]].strip()[:60]!r}; give columns or files of sentences."
            )
    sides = Sides(tuple(sentence.strip() for sentence in source), tuple(sentence.strip() for sentence in target))
    _check_sides(sides, f"{source_lang}-{target_lang}", read.place)
    return ParallelPairs(sides.source, sides.target, source_lang, target_lang)


def _code_of_given(tag: str | None) -> str | None:
    return (code_of(with_region(tag)) or tag) if isinstance(tag, str) else tag


def _is_two_files(spec: Any) -> bool:
    if isinstance(spec, list):
        return len(spec) == 2 and all(isinstance(path, str | Path) for path in spec)
    if isinstance(spec, tuple) and (len(spec) != 2 or not all(isinstance(path, str | Path) for path in spec)):
        raise PairsError(f"{spec!r} is not a tuple of two paths; give the source file and the target file.")
    return isinstance(spec, tuple)


def _no_pairs(read: Rows) -> PairsError:
    return PairsError(f"{read.origin} holds no pairs; give at least two, 100 as in the paper.")


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
            remedy = _remedy(sentence, place(pair))
            raise PairsError(f"{place(pair)} holds {sentence!r} where the {code} sentence should be; {remedy}.")
        sentence = sentence.strip()
        if not sentence.isprintable() and any("\ud800" <= character <= "\udfff" for character in sentence):
            raise PairsError(f"{place(pair)} has half a surrogate pair in its {code} sentence; replace that character.")
        seen = _as_seen(sentence)
        if not seen:
            raise PairsError(f"{place(pair)} has an empty {code} sentence; fill it in or remove the pair.")
        if seen in first_seen:
            raise PairsError(
                f"{place(pair)} repeats the {code} sentence of {place(first_seen[seen])} ({sentence[:60]!r}); "
                "equal sentences cannot be told apart, so remove one of the pairs."
            )
        first_seen[seen] = pair


def _remedy(missing: Any, place: str) -> str:
    """Return what to do about a value that is no sentence.

    Reading CSV, pandas takes the words null, None, NA and nan for missing values, and datasets does so too.
    """
    is_table = place.startswith("row ")  # in a file it would be a line
    if is_table and (missing is None or missing != missing):  # NaN alone differs from itself
        return "fill it in, or, if it was a word such as null or NA in a CSV file, give the file itself"
    return "correct it"


def _as_seen(sentence: str) -> str:
    """Return a sentence as a reader sees it: composed (NFC), spaces alike, without characters that leave no mark."""
    if sentence.isascii():
        return " ".join(sentence.split())
    visible = "".join(character for character in sentence if unicodedata.category(character) != "Cf")
    return " ".join(unicodedata.normalize("NFC", visible).split())


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
