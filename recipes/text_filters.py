"""The filters that clean training text. They count what they remove, and keep the held-out pairs out of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from text_rows import Pair

from neuronxa_callback import ParallelPairs
from neuronxa_callback.text.overlap import Sentences
from neuronxa_callback.text.recognition import can_recognise, is_in_language

MAX_LENGTH_RATIO = 2.5  # in characters; a text that is much longer than its source is no translation of it
MIN_CHARACTERS = 20  # the language of a shorter text cannot be recognised
CLASSIFIED_CHARACTERS = 1000  # the part of a document, from its start, by which its language is recognised
FILTERS_VERSION = 3  # text that other filters have cleaned is cleaned anew


def clean_pairs(
    pairs: Iterable[Pair | None], codes: tuple[str, str], held_out: Sequence[ParallelPairs], counts: Counter[str]
) -> Iterator[Pair]:
    """Yield the pairs that pass every filter. A pair counts under the first filter that removes it.

    A language that py3langid does not know is not checked.

    Args:
        pairs: sentences in the source and the target language; None for a row that lacks one of them.
        codes: the two languages.
        held_out: pairs whose sentences must not be in the text, neither whole nor nearly whole.
        counts: receives "read", the number that each filter removed, and "kept".
    """
    seen: set[bytes] = set()
    leaks = Sentences(held_out)
    for pair in pairs:
        fault = _fault_of_pair(pair, codes, seen) or ("held-out" if leaks.find("\n".join(pair or ())) else None)
        counts["read"] += 1
        counts[fault or "kept"] += 1
        if pair is not None and fault is None:
            yield pair[0].strip(), pair[1].strip()


def clean_documents(
    documents: Iterable[str], code: str, held_out: Sequence[ParallelPairs], counts: Counter[str]
) -> Iterator[str]:
    """Yield the documents that pass every filter, and count them as `clean_pairs` does."""
    seen: set[bytes] = set()
    leaks = Sentences(held_out)
    for document in documents:
        fault = _fault_of_document(document.strip(), code, seen) or ("held-out" if leaks.find(document) else None)
        counts["read"] += 1
        counts[fault or "kept"] += 1
        if fault is None:
            yield document.strip()


def _fault_of_pair(pair: Pair | None, codes: tuple[str, str], seen: set[bytes]) -> str | None:
    if pair is None:
        return "malformed"
    source, target = (side.strip() for side in pair)
    shorter, longer = sorted((len(source), len(target)))
    if not shorter:
        return "empty"
    if longer > MAX_LENGTH_RATIO * shorter:
        return "length ratio"
    if _repeated(f"{source}\t{target}", seen):
        return "duplicate"
    wrong = any(_wrong_language(side, code) for side, code in zip((source, target), codes, strict=True))
    return "wrong language" if wrong else None


def _fault_of_document(document: str, code: str, seen: set[bytes]) -> str | None:
    if not document:
        return "empty"
    if _repeated(document, seen):
        return "duplicate"
    return "wrong language" if _wrong_language(document[:CLASSIFIED_CHARACTERS], code) else None


def _wrong_language(text: str, code: str) -> bool:
    return len(text) >= MIN_CHARACTERS and can_recognise(code) and not is_in_language(text, code)


def _repeated(text: str, seen: set[bytes]) -> bool:
    """Return whether the text was seen before, in any case and spacing, and remember eight bytes of its hash."""
    key = hashlib.blake2b(" ".join(text.casefold().split()).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    if key in seen:
        return True
    seen.add(key)
    return False
