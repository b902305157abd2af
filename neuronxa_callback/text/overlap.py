"""Search training text for held-out sentences, whole or nearly whole."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, Protocol, TypeVar

import regex

WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")
PREFIX = 8  # characters by which whole sentences are looked up
# Two sentences of one language share few runs of 8 characters by chance, and 8 is short enough for Chinese.
NGRAM = 8
# A text nearly holds a sentence if it holds this share of its n-grams: one word may differ. See benchmarks/overlap.py.
NEAR = 0.6
LEAST_NGRAMS = 12  # a sentence with fewer n-grams shares most of them with many others
WINDOW = 1000  # a sentence's n-grams must stand within this many characters, or more for long sentences
BATCH = 1000

T = TypeVar("T")


class HeldOut(Protocol):
    """The two sides of held-out text, as in `ParallelPairs`."""

    @property
    def source(self) -> Sequence[str]:
        """The sentences of one side."""

    @property
    def target(self) -> Sequence[str]:
        """The sentences of the other side."""


class Overlap(NamedTuple):
    """A held-out sentence found in a training text."""

    text: int
    """Position of the text among the searched texts, from 0."""
    pair: int
    """Position of the held-out pair, from 0."""
    sentence: str
    share: float = 1.0
    """Share of the sentence's n-grams that the text holds; exactly 1 if, and only if, it holds the whole sentence."""


class Sentences:
    """Held-out sentences, prepared for the search in text.

    Case, spacing and punctuation do not count. A sentence is also found inside a longer text (a prompt, a document) if
    it begins and ends at word boundaries. A text nearly holds a sentence if 60 % of the sentence's n-grams of 8
    letters stand close together in it.

    Args:
        pairs: the held-out pairs. Memory grows with these alone, not with the searched text.
    """

    def __init__(self, pairs: Sequence[HeldOut]) -> None:
        sides = [
            (number, sentence)
            for pair in pairs
            for side in (pair.source, pair.target)
            for number, sentence in enumerate(side)
        ]
        self.sentences: list[tuple[int, str]] = list(dict.fromkeys(sides))
        self._normal = ["".join(words_of(sentence)) for _, sentence in self.sentences]
        self._by_prefix: dict[str, list[int]] = {}
        self._by_ngram: dict[str, list[int]] = {}
        for place, normal in enumerate(self._normal):
            if normal:
                self._by_prefix.setdefault(normal[:PREFIX], []).append(place)
            for ngram in _ngrams(normal):
                self._by_ngram.setdefault(ngram, []).append(place)
        self._prefix_lengths = {len(prefix) for prefix in self._by_prefix}
        self._all_ngrams = frozenset(self._by_ngram)
        self._sizes = [len(_ngrams(normal)) for normal in self._normal]
        self._window = max(WINDOW, 4 * max(map(len, self._normal), default=0))

    def find(self, text: str) -> list[tuple[int, str, float]]:
        """Return (position of the pair, sentence, share of it in the text) for each held-out sentence in a text."""
        words = words_of(text)
        normal = "".join(words)
        found: dict[int, float] = {}
        for place, share in (*self._near(normal), *((place, 1.0) for place in self._whole(words, normal))):
            found[place] = max(share, found.get(place, 0.0))
        return sorted((*self.sentences[place], share) for place, share in found.items())

    def _whole(self, words: Sequence[str], normal: str) -> Iterator[int]:
        ends = list(accumulate(map(len, words)))
        boundaries = set(ends)
        for start in [0, *ends[:-1]]:
            for length in self._prefix_lengths:
                for place in self._by_prefix.get(normal[start : start + length], ()):
                    sentence = self._normal[place]
                    if start + len(sentence) in boundaries and normal.startswith(sentence, start):
                        yield place

    def _near(self, normal: str) -> Iterator[tuple[int, float]]:
        for begin in range(0, max(1, len(normal) - self._window // 2), self._window // 2):
            shared = _ngrams(normal[begin : begin + self._window]) & self._all_ngrams
            counts = Counter(place for ngram in shared for place in self._by_ngram[ngram])
            for place, count in counts.items():
                if self._sizes[place] >= LEAST_NGRAMS and count >= NEAR * self._sizes[place]:
                    yield place, min(count / self._sizes[place], 0.99)  # all n-grams can be there without the sentence


def words_of(text: str) -> list[str]:
    """Return a text's words and numbers in their order; case, compatibility forms and punctuation do not count."""
    return list(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _ngrams(normal: str) -> set[str]:
    return {normal[start : start + NGRAM] for start in range(len(normal) - NGRAM + 1)}


# ---------------------------------------------------------------------------------------------- training sets


@dataclass(frozen=True)
class Finding:
    """A training text that holds a held-out sentence, whole or nearly whole.

    Attributes:
        text: the number of the text, from 0.
        begins: the beginning of the text.
        pair: the number of the held-out pair, from 0.
        sentence: the held-out sentence.
        share: the share of the sentence that was found.
    """

    text: int
    begins: str
    pair: int
    sentence: str
    share: float


@dataclass(frozen=True)
class OverlapReport:
    """The held-out sentences that were found in a training set.

    Attributes:
        texts: number of searched texts.
        whole: number of texts that hold a whole held-out sentence.
        near: number of other texts that nearly hold one.
        examples: the first findings, each with the beginning of its text.
    """

    texts: int
    whole: int
    near: int
    examples: list[Finding]


EXAMPLES = 100


def search(rows: Iterable[Any], pairs: Sequence[HeldOut]) -> OverlapReport:
    """Look for the held-out sentences in a training set, one row at a time.

    Args:
        rows: a data set, one of its columns, or texts; see `texts_of`.
        pairs: the held-out pairs.

    Raises:
        ValueError: there are no rows, or they hold no text.
    """
    sentences = Sentences(pairs)
    kinds: Counter[str] = Counter()
    examples: list[Finding] = []
    for number, text in enumerate(texts_of(rows)):
        kinds["texts"] += 1
        kinds["empty"] += not text
        found = sentences.find(text)
        if not found:
            continue
        kinds["whole" if any(share == 1 for *_, share in found) else "near"] += 1
        if len(examples) < EXAMPLES:
            pair, sentence, share = max(found, key=lambda finding: finding[2])
            examples.append(Finding(number, text[:200], pair, sentence, round(share, 3)))
    if not kinds["texts"]:
        raise ValueError(
            "train_texts gives no row: it is empty, or an iterator that was read before; give a data set or a list."
        )
    if kinds["empty"] == kinds["texts"]:
        raise ValueError(
            f"train_texts holds no text in {kinds['texts']} rows; give the data set as it was before it was tokenised, "
            "or its column with the text."
        )
    return OverlapReport(kinds["texts"], kinds["whole"], kinds["near"], examples)


def drop(dataset: T, pairs: Sequence[HeldOut]) -> T:
    """Return the data set without the rows that hold a held-out sentence, whole or nearly whole.

    Args:
        dataset: a `datasets.Dataset` or `IterableDataset`, or a list of texts or rows.
        pairs: the held-out pairs.
    """
    sentences = Sentences(pairs)
    if isinstance(dataset, list):
        return [row for row, text in zip(dataset, texts_of(dataset), strict=True) if not sentences.find(text)]  # type: ignore[return-value]

    def is_clean(row: Any) -> bool:
        return not sentences.find("\n".join(_strings(row)))

    return dataset.filter(is_clean)  # type: ignore[attr-defined, no-any-return]


def texts_of(rows: Iterable[Any]) -> Iterator[str]:
    """Yield each row's text: all its strings (columns, messages, both sides of a translation), one per line.

    Args:
        rows: a `datasets.Dataset`, streamed or not, one of its columns, or any other iterable of rows or strings.

    Raises:
        ValueError: `rows` is one string, several data sets or a data frame. Their parts are not rows.
    """
    if isinstance(rows, str | Mapping) or hasattr(rows, "iterrows"):
        raise ValueError(
            f"training text in a {type(rows).__name__} cannot be searched; give one data set (dataset['train']), one "
            "of its columns, or a list of texts."
        )
    if hasattr(rows, "with_format"):
        rows = rows.with_format(None)  # the format that a user set for training may hold no strings
    if hasattr(rows, "iter"):  # a data set; reading it row by row would take several times as long
        for batch in rows.iter(batch_size=BATCH):
            for row in zip(*batch.values(), strict=True):
                yield "\n".join(_strings(row))
        return
    for row in rows:
        yield "\n".join(_strings(row))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list | tuple) and not (value and isinstance(value[0], int | float)):  # skip token ids
        for part in value:
            yield from _strings(part)
