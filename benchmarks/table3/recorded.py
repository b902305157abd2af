"""What is recorded of a model, checked: its knowledge, tokens, loss and alignment in every language."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.table3.measure import SCORES, TEXT
from benchmarks.table3.records import ENGLISH, SETTINGS, AlignmentLine, Setting, TextLine
from neuronxa_callback.files import read_records
from neuronxa_callback.survey.knowledge.records import FILE as KNOWLEDGE
from neuronxa_callback.survey.knowledge.records import KnowledgeLine

WEIGHTS = ("load", "quantised", "weights")  # the fields of a key that say which numbers the model has

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class RecordedError(ValueError):
    """What is recorded cannot be used. The message names the file and says what to do."""


@dataclass(frozen=True)
class Recorded:
    """What is recorded of a model.

    Attributes:
        name: the name of the model's folder.
        knowledge: FLORES-200 code -> the answers.
        text: FLORES-200 code -> the tokens and the loss.
        alignment: language and setting -> the scores.
    """

    name: str
    knowledge: Mapping[str, KnowledgeLine]
    text: Mapping[str, TextLine]
    alignment: Mapping[tuple[str, Setting], AlignmentLine]

    @property
    def languages(self) -> list[str]:
        """The languages but English, in the order of their codes."""
        return sorted(code for code in self.knowledge if code != ENGLISH)

    @property
    def prompts(self) -> int:
        """How many facts each language was asked."""
        return len(self.knowledge[ENGLISH].facts)


def models_in(results: Path) -> list[Recorded]:
    """Return the models that are recorded in a folder, in the order of their names.

    Raises:
        RecordedError: nothing is recorded, or a model's files cannot be used; see `read`.
    """
    found = [read(path.parent) for path in sorted(results.glob(f"*/{KNOWLEDGE}"))]
    if not found:
        raise RecordedError(f"{results} holds no model's {KNOWLEDGE}; measure one first (--model, --bmlama, --ntrex).")
    return found


def read(folder: Path) -> Recorded:
    """Read what is recorded of a model.

    Raises:
        RecordedError: a language is there twice or is lacking, or the lines are not of the same facts, sentences and
            weights.
        RecordError: a line cannot be read.
    """
    knowledge = list(read_records(folder / KNOWLEDGE, KnowledgeLine))
    text = list(read_records(folder / TEXT, TextLine))
    alignment = list(read_records(folder / SCORES, AlignmentLine))
    _check_one(folder / KNOWLEDGE, "numbers of facts", (len(line.facts) for line in knowledge))
    keys = [line.key for line in knowledge] + [line.key for line in text] + [line.key for line in alignment]
    _check_one(folder, "weights", (str(key.only(WEIGHTS)) for key in keys))
    _check_one(folder, "sentences", (key.get("data") for key in keys[len(knowledge) :]))
    found = Recorded(
        folder.name,
        _by(folder / KNOWLEDGE, [(line.lang, line) for line in knowledge]),
        _by(folder / TEXT, [(line.lang, line) for line in text]),
        _by(folder / SCORES, [((line.lang, line.setting), line) for line in alignment]),
    )
    _check_whole(folder, found)
    return found


def _check_one(path: Path, what: str, values: Iterable[object]) -> None:
    """Raise RecordedError if the values are not all the same."""
    different = sorted(map(str, set(values)))
    if len(different) > 1:
        raise RecordedError(
            f"{path} holds lines of different {what} ({', '.join(different)}); take the lines away that do not belong."
        )


def _by(path: Path, lines: list[tuple[K, V]]) -> dict[K, V]:
    """Return the lines by their keys.

    Raises:
        RecordedError: two lines have one key.
    """
    found: dict[K, V] = {}
    for number, (key, line) in enumerate(lines, start=1):
        if key in found:
            name = " ".join(map(str, key)) if isinstance(key, tuple) else key
            raise RecordedError(f"{path}, line {number}, has {name} a second time; take one of the two lines away.")
        found[key] = line
    return found


def _check_whole(folder: Path, found: Recorded) -> None:
    if ENGLISH not in found.knowledge:
        raise RecordedError(f"{folder / KNOWLEDGE} lacks {ENGLISH}, the pivot; measure the model again (--model).")
    lacking = [f"{TEXT} lacks {lang}" for lang in found.knowledge if lang not in found.text]
    lacking += [
        f"{SCORES} lacks {lang} with {setting.pivot}, {setting.n} pairs, {setting.pooling}"
        for lang in found.knowledge
        for setting in SETTINGS
        if lang != setting.pivot and (lang, setting) not in found.alignment
    ]
    if lacking:
        raise RecordedError(f"{folder / lacking[0]}; measure the model again (--model), which goes on where it was.")
