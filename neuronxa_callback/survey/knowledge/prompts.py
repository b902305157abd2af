"""Read factual prompts with candidate answers in many languages, in the layout of BMLAMA's authors.

Each language has a file such as `is.tsv` with the columns Prompt, Ans and Candidate Ans. Line i of every file is the
same fact. A prompt holds `<mask>`, and a comma and a space part answers and candidates
(github.com/Betswish/Cross-Lingual-Consistency, 1_easyrun/BMLAMA17 and BMLAMA53).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neuronxa_callback.text.corpora import HUB_NAME
from neuronxa_callback.text.hub import refusal
from neuronxa_callback.text.languages import check_language, code_of, harness_languages
from neuronxa_callback.text.pairs import PairsError
from neuronxa_callback.text.readers.content import lines_of, read_text

PROMPT, ANSWER, CANDIDATES = "Prompt", "Ans", "Candidate Ans"
MASK = "<mask>"
SEPARATOR = ", "
LAYOUT = "a folder with a file such as is.tsv for each language, as BMLAMA's authors have it"


class PromptsError(ValueError):
    """Prompts that cannot be used. The message names the file, the line and the remedy."""


@dataclass(frozen=True)
class Fact:
    """A prompt with its candidates.

    Attributes:
        number: the fact's number in its file, from 1. It is the same in every language.
        prompt: text with `<mask>` in it.
        candidates: what may stand for the mask, each once.
        answers: the place of each right answer among the candidates. None where it is no candidate; BMLAMA-53 has 16
            such answers in Hebrew. They count as wrong.
    """

    number: int
    prompt: str
    candidates: tuple[str, ...]
    answers: tuple[int | None, ...]

    @property
    def sentences(self) -> list[str]:
        """The prompt with each candidate in the place of the mask."""
        return [self.prompt.replace(MASK, candidate) for candidate in self.candidates]


@dataclass(frozen=True)
class Prompts:
    """Prompts in many languages. A file is read when its facts are asked for.

    Attributes:
        name: the name in tables.
        files: FLORES-200 code -> the language's file.
    """

    name: str
    files: dict[str, Path]

    @property
    def languages(self) -> list[str]:
        """The FLORES-200 codes, in the order of the files' names."""
        return list(self.files)

    def chosen(self, languages: Sequence[str]) -> list[str]:
        """Return these languages, each once, or all if none is named.

        Raises:
            PromptsError: there is no such language, or no file of it.
        """
        for code in languages:
            try:
                check_language(code)
            except PairsError as error:
                raise PromptsError(str(error)) from None
            if code not in self.files:
                raise PromptsError(f"{self.name} has no prompts in {code}; it has {', '.join(self.files)}.")
        return list(dict.fromkeys(languages)) or self.languages

    def facts(self, languages: Sequence[str], n: int | None = None) -> dict[str, list[Fact]]:
        """Return the facts of each language.

        Args:
            languages: FLORES-200 codes.
            n: how many facts, from the first on; None takes all.

        Raises:
            PromptsError: a file cannot be read, two files have different numbers of lines, or there are fewer than `n`.
        """
        read = {code: _facts(self.files[code], n) for code in languages}
        first = next(iter(languages))
        for code, facts in read.items():
            if len(facts) != len(read[first]):
                raise PromptsError(
                    f"{self.files[first]} has {len(read[first])} facts and {self.files[code]} has {len(facts)}; line i "
                    "of every file must be the same fact, so add the missing lines or leave the language out."
                )
        if n is not None and len(read[first]) < n:
            raise PromptsError(f"{self.files[first]} has {len(read[first])} facts; ask for no more (--n).")
        return read


def fingerprint(facts: Sequence[Fact]) -> str:
    """Return a digest of the facts' text, as `ParallelPairs.fingerprint` is one of sentences."""
    text = [(fact.prompt, fact.candidates, fact.answers) for fact in facts]
    return hashlib.sha256(repr(text).encode()).hexdigest()[:12]


def open_prompts(name: str) -> Prompts:
    """Open the prompts of a folder or of a data set of the hub.

    Args:
        name: a folder in the authors' layout, or one that holds one such folder; or the name of a data set of the hub
            with such files, and behind it a folder in it if it has several ("owner/name/BMLAMA53").

    Raises:
        PromptsError: there are no such files, or the hub cannot give them.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _of_folder(folder, folder.resolve().name)
    owner, _, rest = name.partition("/")
    dataset, _, inside = rest.partition("/")
    if not HUB_NAME.fullmatch(f"{owner}/{dataset}"):
        raise PromptsError(f"{name} does not exist; give {LAYOUT}, or a data set of the hub.")
    return _of_folder(_downloaded(f"{owner}/{dataset}", inside) / inside, name)


def _downloaded(dataset: str, inside: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = f"{inside}/*.tsv" if inside else "*.tsv"
    try:
        return Path(snapshot_download(dataset, repo_type="dataset", allow_patterns=patterns))
    except Exception as error:  # the hub's library raises many kinds, also those of its HTTP library
        raise PromptsError(refusal(dataset, dataset, error, "cannot be had", f"give {LAYOUT}")) from None


def _of_folder(folder: Path, name: str) -> Prompts:
    files = _by_language(folder)
    if files:
        return Prompts(name, files)
    inner = [path for path in sorted(folder.glob("*/")) if _by_language(path)] if folder.is_dir() else []
    if len(inner) == 1:
        return Prompts(inner[0].name, _by_language(inner[0]))
    hint = f"; choose one of {', '.join(path.name for path in inner)} in it" if inner else f"; give {LAYOUT}"
    raise PromptsError(f"{name} holds no files of prompts{hint}.")


def _by_language(folder: Path) -> dict[str, Path]:
    """Return the .tsv file of each language. Files with other names are left alone."""
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.tsv")):
        code = harness_languages().get(path.stem) or code_of(path.stem)  # "zh" is Chinese in the harness's tasks, too
        if code in files:
            raise PromptsError(f"{folder} has two files of {code}, {files[code].name} and {path.name}; move one away.")
        if code is not None:
            files[code] = path
    return files


def _facts(path: Path, n: int | None) -> list[Fact]:
    try:
        header, *rows = [line.split("\t") for line in lines_of(read_text(path)) or [""]]
    except PairsError as error:
        raise PromptsError(str(error)) from None
    lacking = [name for name in (PROMPT, ANSWER, CANDIDATES) if name not in map(str.strip, header)]
    if lacking:
        raise PromptsError(
            f"{path}, line 1, has no column {lacking[0]}; its first line must hold {PROMPT}, {ANSWER} and "
            f"{CANDIDATES}, with tabs between."
        )
    places = [[name.strip() for name in header].index(name) for name in (PROMPT, ANSWER, CANDIDATES)]
    return [_fact(path, number, row, places) for number, row in enumerate(rows[:n], start=1)]


def _fact(path: Path, number: int, row: Sequence[str], places: Sequence[int]) -> Fact:
    where = f"{path}, line {number + 1},"
    if len(row) <= max(places):
        raise PromptsError(f"{where} has {len(row)} of the columns in line 1; write the missing ones.")
    prompt, answers, candidates = (row[place].strip() for place in places)
    if MASK not in prompt:
        raise PromptsError(f"{where} has no {MASK} in its prompt; put it where the answer belongs.")
    offered = [candidate.strip() for candidate in candidates.split(SEPARATOR)]
    right = [answer.strip() for answer in answers.split(SEPARATOR)]
    if not all(offered) or not all(right):
        raise PromptsError(
            f"{where} has an empty answer or candidate; write it, with a comma and a space between it and the next."
        )
    unique = tuple(dict.fromkeys(offered))
    found = tuple(unique.index(answer) if answer in unique else None for answer in right)
    return Fact(number, prompt, unique, found)
