"""Parallel text in many languages, of which any two make a `ParallelPairs`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neuronxa_callback.pairs import (
    DEFAULT_SIZE,
    PairsError,
    ParallelPairs,
    check_language,
    code_in_name,
    embedded,
    languages_in,
)

EMBEDDED = "embedded"


@dataclass(frozen=True)
class Corpus:
    """Sentences that correspond line by line in several languages.

    Attributes:
        name: what it is called in tables.
        languages: their FLORES-200 codes.
        load: the pairs of two of them, read when asked for; of one language always the same sentences.
    """

    name: str
    languages: tuple[str, ...]
    load: Callable[[str, str], ParallelPairs]

    def pairs(self, pivot: str, lang: str) -> ParallelPairs:
        """The pairs of two languages.

        Raises:
            PairsError: a language that is not here, or text that cannot be used.
        """
        for code in (pivot, lang):
            check_language(code)
            if code not in self.languages:
                raise PairsError(f"{self.name} has no {code}; it has {', '.join(self.languages)}.")
        return self.load(pivot, lang)


def open_corpus(spec: str | Path, n: int | None = DEFAULT_SIZE) -> Corpus:
    """Parallel text from the embedded set, a file or a folder; the first `n` sentences of it.

    Args:
        spec: one of
            * "embedded": the held-out set of this package in five languages;
            * the path of a .tsv, .csv, .jsonl or .parquet file with a column a language, named by FLORES-200 codes;
            * a folder with a file a language, named by its code and line by line the same sentences: FLORES-200's
              release ("flores200_dataset/devtest" with "isl_Latn.devtest"), or "isl_Latn.txt" and the like.
        n: sentences to keep, 100 as in the paper; None for all.

    Raises:
        PairsError: what is wrong and what to do.
    """
    if spec == EMBEDDED:
        return Corpus(EMBEDDED, tuple(embedded("heldout.tsv")), lambda a, b: ParallelPairs.load(f"{a}-{b}", n=n))
    path = Path(spec).expanduser()
    if not path.is_dir():
        return Corpus(path.name, tuple(languages_in(path)), lambda a, b: ParallelPairs.load(path, a, b, n=n))
    files = _by_language(path)
    name = f"{path.resolve().parent.name}/{path.resolve().name}"
    return Corpus(name, tuple(files), lambda a, b: ParallelPairs.load((files[a], files[b]), a, b, n=n))


def _by_language(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        code = code_in_name(path)
        if code is None or not path.is_file():
            continue
        if code in files:
            raise PairsError(f"{folder} has two files of {code}, {files[code].name} and {path.name}; move one away.")
        files[code] = path
    if len(files) < 2:
        inner = next((path for path in sorted(folder.iterdir()) if path.is_dir() and _has_language(path)), None)
        hint = f"; did you mean {inner}?" if inner else "; name two at least by FLORES-200 codes, as isl_Latn.txt."
        raise PairsError(f"{folder} holds {len(files)} files named by a language{hint}")
    return files


def _has_language(folder: Path) -> bool:
    return any(code_in_name(path) for path in folder.iterdir())
