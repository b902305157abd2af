"""The numbers of one language pair as a part of a line, and how its layers are counted."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import Field
from torch import Tensor

from neuronxa_callback.alignment.report import AlignmentReport
from neuronxa_callback.files import Record
from neuronxa_callback.signature import Signature, SignatureText
from neuronxa_callback.vocabulary import REPRESENTATION_OF, Method

CHOSEN_LAYERS = re.compile(r"\w+\(([\d,]+)\)")  # such as mean(8,16)


class PairScores(Record):
    """How well a model aligns one language pair; every number but the signature is held by method.

    Attributes:
        signature: the choices behind the numbers.
        score: see `AlignmentReport`, as for the others.
        ci: 95 % interval of the score.
        p_value: probability of such a score by chance.
        per_layer: each layer's value; `layer_numbers` says which layers these are.
        per_pair: each sentence pair's part.
    """

    signature: SignatureText
    score: dict[Method, float]
    ci: dict[Method, tuple[float, float]] = Field(default_factory=dict)
    p_value: dict[Method, float] = Field(default_factory=dict)
    per_layer: dict[Method, list[float]] = Field(default_factory=dict)
    per_pair: dict[Method, list[float]] = Field(default_factory=dict)


def of_report(report: AlignmentReport, digits: int | None = None) -> PairScores:
    """Return the numbers of a report.

    Args:
        report: the report of one language pair.
        digits: how many decimals the numbers of layers and sentence pairs keep; all of them if None.
    """
    return PairScores(
        signature=report.signatures[0],
        score=report.score,
        ci=report.ci,
        p_value=report.p_value,
        per_layer=numbers_of(report.per_layer, digits),
        per_pair=numbers_of(report.per_pair, digits),
    )


def numbers_of(tensors: Mapping[Method, Tensor], digits: int | None = None) -> dict[Method, list[float]]:
    """Return each method's tensor as a list; its numbers keep all decimals if `digits` is None."""
    return {
        method: [number if digits is None else round(number, digits) for number in tensor.tolist()]
        for method, tensor in tensors.items()
    }


def layer_numbers(signature: Signature, method: str, count: int) -> list[int]:
    """How layers are counted: FFNs from 1, what reads embeddings from the embedding layer, 0.

    Args:
        signature: of a score. It says which representation a method read, and which layers where these were chosen.
        method: such as "nasca".
        count: how many layers the method read, where all were read.
    """
    if chosen := CHOSEN_LAYERS.fullmatch(signature.get("layers") or ""):
        return [int(layer) for layer in chosen[1].split(",")]
    first = 0 if _representation(signature, method) == "embedding" else 1
    return list(range(first, first + count))


def _representation(signature: Signature, method: str) -> str | None:
    """What a method read: the choice in its name, such as cka(nav), else its source's."""
    for name in (signature.get("method") or "").split("+"):
        called, _, read = name.partition("(")
        if called == method and read:
            return read.removesuffix(")")
    return REPRESENTATION_OF.get(method)  # type: ignore[call-overload, no-any-return]
