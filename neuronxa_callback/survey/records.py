"""The lines that a survey writes: scores.jsonl and matrix.jsonl, and retrieval.jsonl."""

from __future__ import annotations

from typing import Any, TypeVar

from neuronxa_callback.alignment.pair_scores import PairScores
from neuronxa_callback.files import Record
from neuronxa_callback.signature import Signature, SignatureText
from neuronxa_callback.vocabulary import Direction, Representation

# What a line's key says of the model; behind it come the evaluator's choices and the version.
IDENTITY = ("model", "adapter", "load", "quantised", "weights")


class SurveyLine(Record):
    """Which model a line is of, and which language pair.

    Attributes:
        model: what tables call it.
        lang: FLORES-200 code of the language.
        pivot: FLORES-200 code of the language that it is compared with.
        corpus: which text.
        signature: the choices behind the numbers.
        key: what the line is known by: every choice that can be known before the model is loaded.
    """

    model: str
    lang: str
    pivot: str
    corpus: str = ""
    signature: SignatureText
    key: SignatureText

    @property
    def identity(self) -> Signature:
        """The model and its weights, as `ModelChoice.identity` has them."""
        return self.key.only(IDENTITY)

    @property
    def n(self) -> int:
        """The number of sentence pairs."""
        return int(self.signature["n"])

    @classmethod
    def of_version_0_1(cls, line: dict[str, Any]) -> dict[str, Any]:
        """The line with its key as a signature.

        Raises:
            ValueError: there is no such key, as in a training run's lines.
        """
        return line | {"key": key_of_version_0_1(str(line.get("key", "")))}


class ScoreLine(PairScores, SurveyLine):
    """A line of scores.jsonl or matrix.jsonl."""

    @classmethod
    def of_version_0_1(cls, line: dict[str, Any]) -> dict[str, Any]:
        """The line with its key as a signature, and with what is called `score` now."""
        renamed = {("score" if name == "scores" else name): value for name, value in line.items()}
        return super().of_version_0_1(renamed)


class RetrievalNumbers(Record):
    """How many sentences found their own translation.

    Attributes:
        accuracy: their share, pooled over the layers.
        p_value: probability of it by chance.
        ci: its 95 % bootstrap interval over the sentences.
        per_layer: the share at each layer.
    """

    accuracy: float
    p_value: float
    ci: tuple[float, float]
    per_layer: list[float]


class Retrieval(Record):
    """Retrieval between one language pair's sides.

    Attributes:
        signature: the choices behind the numbers.
        retrieval: representation -> direction -> the numbers.
    """

    signature: SignatureText
    retrieval: dict[Representation, dict[Direction, RetrievalNumbers]]


class RetrievalLine(Retrieval, SurveyLine):
    """A line of retrieval.jsonl."""


Line = TypeVar("Line", bound=SurveyLine)


def key_of_version_0_1(text: str) -> Signature:
    """The key that version 0.1 wrote as the model's five parts and the evaluator's choices, with bars between.

    The model's path may hold a bar itself: the other four parts are counted from the choices back.

    Raises:
        ValueError: the text is no such key.
    """
    model, found, choices = text.rpartition("|method:")
    parts = model.rsplit("|", len(IDENTITY) - 1)
    if not found or len(parts) != len(IDENTITY):
        raise ValueError(f"{text!r} is no key of a survey's line")
    return Signature.of(dict(zip(IDENTITY, parts, strict=True))).joined(Signature.parse(f"method:{choices}"))
