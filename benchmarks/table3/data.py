"""The text of the table: the languages of BMLAMA-53 that NTREX-128 has, and their sentences, the same in each."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.table3.records import ENGLISH, OTHER_PIVOTS, SIZES
from neuronxa_callback.text.corpora import files_by_language
from neuronxa_callback.text.pairs import PairsError
from neuronxa_callback.text.readers.content import lines_of, read_text

MOST = max(SIZES)


@dataclass(frozen=True)
class Text:
    """Sentences that correspond in every language.

    Attributes:
        sentences: FLORES-200 code -> its sentences.
        left_out: the numbers of the lines, from 1, that hold no word or are repeated in some language.
    """

    sentences: Mapping[str, tuple[str, ...]]
    left_out: tuple[int, ...]

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change with any sentence, language or order."""
        return hashlib.sha256(repr(sorted(self.sentences.items())).encode()).hexdigest()[:12]


def shared_text(folder: Path, languages: Sequence[str]) -> Text:
    """Return the first 300 sentences of the languages that the folder has, without lines that one of them cannot use.

    Args:
        folder: a file for each language, named by it, as in NTREX-128.
        languages: FLORES-200 codes.

    Raises:
        PairsError: there is no such folder, it lacks English or another pivot, or its files have different numbers of
            lines.
    """
    if not folder.is_dir():
        raise PairsError(f"{folder} does not exist; name the folder with NTREX-128's files (--ntrex).")
    files = files_by_language(folder)
    shared = [code for code in languages if code in files]
    lacking = [code for code in (ENGLISH, *OTHER_PIVOTS) if code not in shared]
    if lacking:
        raise PairsError(f"{folder} and the prompts do not share {lacking[0]}, which is a pivot; add its file.")
    lines = {code: [line.strip() for line in lines_of(read_text(files[code]))] for code in shared}
    for code, its in lines.items():
        if len(its) != len(lines[ENGLISH]):
            raise PairsError(
                f"{files[ENGLISH]} has {len(lines[ENGLISH])} lines and {files[code]} has {len(its)}; line i of every "
                "file must be the same sentence, so add the missing lines or take the file away."
            )
    bad = sorted({place for its in lines.values() for place in _unusable(its[:MOST])})
    kept = [place for place in range(min(MOST, len(lines[ENGLISH]))) if place not in bad]
    return Text(
        {code: tuple(its[place] for place in kept) for code, its in lines.items()}, tuple(place + 1 for place in bad)
    )


def _unusable(lines: Sequence[str]) -> set[int]:
    """Return the places of sentences without a letter or digit, and of all but the first of equal ones."""
    first = {line: place for place, line in reversed(list(enumerate(lines)))}
    counts = Counter(lines)
    return {
        place
        for place, line in enumerate(lines)
        if not any(map(str.isalnum, line)) or (counts[line] > 1 and first[line] != place)
    }
