"""What a pair's two sides share on the surface, by which a model can find a translation without its meaning."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import regex
from numpy.typing import NDArray

from neuronxa_callback.text.overlap import HeldOut, words_of

if TYPE_CHECKING:
    from scipy import sparse

SIZE = 4  # characters of an n-gram
LEAST_LETTERS = 2  # "a" is a word of both English and French and tells nothing; a single digit does tell
# Words run together in scripts without spaces, and a name or a number may stand inside such a run ("在2027年").
_LATIN_OR_NUMBER = regex.compile(r"\p{Latin}[\p{Latin}\p{M}]*|\p{N}+")


def shared_forms(pairs: HeldOut) -> tuple[frozenset[str], ...]:
    """Return the word forms that each pair's two sides share: names, numbers and words that are spelled alike.

    Case does not count. A form has at least two characters or a digit. The runs of Latin letters and of digits inside
    a word are forms, too. Nothing else looks inside a word, so two scripts without spaces seldom share a form.
    """
    return tuple(_forms(source) & _forms(target) for source, target in zip(pairs.source, pairs.target, strict=True))


def _forms(sentence: str) -> frozenset[str]:
    words = words_of(sentence)
    found = chain(words, *(_LATIN_OR_NUMBER.findall(word) for word in words))
    return frozenset(form for form in found if len(form) >= LEAST_LETTERS or form.isnumeric())


def equal_sides(pairs: HeldOut) -> tuple[int, ...]:
    """Return the places, from 0, of the pairs whose two sides are equal.

    Case, spacing and punctuation do not count. They do in a sentence that has no letter and no digit.
    """
    sides = zip(pairs.source, pairs.target, strict=True)
    return tuple(place for place, (source, target) in enumerate(sides) if plain(source) == plain(target))


def plain(sentence: str) -> str:
    """Return the sentence's words without the space between them, or the sentence itself if it has no word."""
    return "".join(words_of(sentence)) or sentence.strip()


def ngram_cosines(pairs: HeldOut, size: int = SIZE) -> NDArray[np.float64]:
    """Return the cosines of each source with each target, by how often each run of `size` characters stands in them.

    Case does not count. Spaces and punctuation do. A sentence begins and ends with a space here, so that the edges of
    its first and last word count as those of the others.

    Returns:
        (sentences, sentences). The cosine with a sentence that is too short for one run is 0.
    """
    source, target = ([Counter(_ngrams(sentence, size)) for sentence in side] for side in (pairs.source, pairs.target))
    columns = {ngram: column for column, ngram in enumerate(dict.fromkeys(chain(*source, *target)))}
    cosines: NDArray[np.float64] = (_unit_rows(source, columns) @ _unit_rows(target, columns).T).toarray()
    return cosines


def _ngrams(sentence: str, size: int) -> list[str]:
    text = f" {unicodedata.normalize('NFKC', sentence).casefold().strip()} "
    return [text[start : start + size] for start in range(len(text) - size + 1)]


def _unit_rows(counts: Sequence[Counter[str]], columns: dict[str, int]) -> sparse.csr_array:
    """Return the counts as sparse rows of length 1; a row of no counts is 0."""
    from scipy import sparse  # only the control of the surface needs it, not the reading of text

    norms = [np.sqrt(sum(count**2 for count in row.values())) for row in counts]
    data = [count / norm for row, norm in zip(counts, norms, strict=True) for count in row.values()]
    indices = [columns[ngram] for row in counts for ngram in row]
    ends = np.cumsum([0, *map(len, counts)])
    return sparse.csr_array((np.array(data, dtype=np.float64), indices, ends), shape=(len(counts), len(columns)))


def is_number(sentence: str) -> bool:
    """Return whether a sentence is a number, a time or the like: digits and no letter, or what Python reads as one."""
    try:
        float(sentence)
    except ValueError:
        return any(map(str.isdigit, sentence)) and not any(map(str.isalpha, sentence))
    return True
