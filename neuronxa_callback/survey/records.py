"""The lines that a survey writes to scores.jsonl, matrix.jsonl and retrieval.jsonl."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from neuronxa_callback.alignment.pair_scores import PairScores
from neuronxa_callback.files import Record
from neuronxa_callback.signature import Signature, SignatureText
from neuronxa_callback.vocabulary import Direction, Representation

# The fields of a line's key that describe the model. The evaluator's choices and the version follow them.
IDENTITY = ("model", "adapter", "load", "quantised", "weights")


class MeasuredLine(Record):
    """What was measured of a model in one language.

    Attributes:
        model: the model's name in tables.
        lang: FLORES-200 code of the language.
        signature: the choices behind the numbers.
        key: every choice that is known before the model is loaded. It identifies the line.
    """

    model: str
    lang: str
    signature: SignatureText
    key: SignatureText

    @property
    def identity(self) -> Signature:
        """The model and its weights, in the form of `ModelChoice.identity`."""
        return self.key.only(IDENTITY)


class SurveyLine(MeasuredLine):
    """What was measured of a model on a language pair.

    Attributes:
        pivot: FLORES-200 code of the language that it is compared with.
        corpus: the text that the sentences come from.
    """

    CALLED: ClassVar[str] = "a line of a survey"

    pivot: str
    corpus: str = ""

    @property
    def n(self) -> int:
        """The number of sentence pairs."""
        return int(self.signature["n"])

    @classmethod
    def of_version_0_1(cls, line: dict[str, Any]) -> dict[str, Any]:
        """Return the line with its key as a signature.

        Raises:
            ValueError: the line has no such key. A training run's lines have none.
        """
        return line | {"key": key_of_version_0_1(str(line.get("key", "")))}


class ScoreLine(PairScores, SurveyLine):
    """A line of scores.jsonl or matrix.jsonl."""

    @classmethod
    def of_version_0_1(cls, line: dict[str, Any]) -> dict[str, Any]:
        """Return the line with its key as a signature, and with `scores` under its new name `score`."""
        renamed = {("score" if name == "scores" else name): value for name, value in line.items()}
        return super().of_version_0_1(renamed)


class RetrievalNumbers(Record):
    """How many sentences found their own translation.

    Attributes:
        accuracy: the share of these sentences, pooled over the layers.
        chance: the accuracy when the pairs are torn apart at random. Lines of format 2 and before have none.
        p_value: the probability of this accuracy by chance. Lines of format 2 and before have the paper's (Eq. 5).
        ci: the accuracy's 95 % interval over samples of as many sentences.
        per_layer: the share at each layer.
    """

    accuracy: float
    chance: float | None = None
    p_value: float | None
    ci: tuple[float, float] | None
    per_layer: list[float]


class Retrieval(Record):
    """Retrieval between the two sides of one language pair.

    Attributes:
        signature: the choices behind the numbers.
        retrieval: representation -> direction -> the numbers.
    """

    signature: SignatureText
    retrieval: dict[Representation, dict[Direction, RetrievalNumbers]]


class RetrievalLine(Retrieval, SurveyLine):
    """A line of retrieval.jsonl."""


Line = TypeVar("Line", bound=MeasuredLine)


def key_of_version_0_1(text: str) -> Signature:
    """Return the key that version 0.1 wrote as the model's five parts and the evaluator's choices, with bars between.

    The model's path may hold a bar itself, so the other four parts are counted backwards from the choices.

    Raises:
        ValueError: the text is not such a key.
    """
    model, found, choices = text.rpartition("|method:")
    parts = model.rsplit("|", len(IDENTITY) - 1)
    if not found or len(parts) != len(IDENTITY):
        raise ValueError(f"{text!r} is no key of a survey's line")
    return Signature.of(dict(zip(IDENTITY, parts, strict=True))).joined(Signature.parse(f"method:{choices}"))
