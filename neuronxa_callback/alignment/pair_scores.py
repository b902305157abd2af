"""The numbers of one language pair as a part of a line, and how its layers are counted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from neuronxa_callback.alignment.surface import few_carriers, surface_control
from neuronxa_callback.files import Record
from neuronxa_callback.signature import Signature, SignatureText
from neuronxa_callback.vocabulary import ALIGNMENT, REPRESENTATION_OF, Method, score_name

if TYPE_CHECKING:  # lines are read without importing torch
    from torch import Tensor

    from neuronxa_callback.alignment.report import AlignmentReport
    from neuronxa_callback.text.pairs import ParallelPairs

CHOSEN_LAYERS = re.compile(r"\w+\(([\d,]+)\)")  # such as mean(8,16)
LAYERS_WITH_FFN = re.compile(r"([\d,]+)of\d+")  # such as 2,4of4


class Surface(Record):
    """What the surface of one language pair's text has to do with its scores; see `SurfaceControl`.

    Attributes:
        n_without_shared: number of pairs whose two sides share no word form.
        without_shared: method -> the score of these pairs alone. It is empty if every pair shares a form.
        carriers: method -> number of pairs that carry the score, for NASCA, NAVCA and MEXA.
        carriers_sharing: method -> number of carriers whose two sides share a word form.
        ngram_baseline: what the text scores by Eq. 4 on character 4-grams, with no model.
    """

    n_without_shared: int
    without_shared: dict[Method, float]
    carriers: dict[Method, int]
    carriers_sharing: dict[Method, int]
    ngram_baseline: float

    @classmethod
    def of(cls, pairs: ParallelPairs, per_pair: Mapping[Method, Sequence[float]]) -> Surface | None:
        """Return what the surface has to do with scores, given each pair's part of them. None if no score has parts."""
        controls = {method: surface_control(pairs, parts) for method, parts in per_pair.items()}
        if not controls:
            return None
        some = next(iter(controls.values()))
        return cls(
            n_without_shared=some.n_without_shared,
            without_shared={m: c.without_shared for m, c in controls.items() if c.without_shared is not None},
            carriers={method: control.carriers for method, control in controls.items() if method in ALIGNMENT},
            carriers_sharing={m: control.carriers_sharing for m, control in controls.items() if m in ALIGNMENT},
            ngram_baseline=some.ngram_baseline,
        )


class PairScores(Record):
    """How well a model aligns one language pair; every number but the signature is held by method.

    Attributes:
        signature: the choices behind the numbers.
        score: see `AlignmentReport`, as for the others.
        ci: 95 % interval of the score.
        chance: what the same sentences score when their pairs are torn apart at random, on average.
        p_value: probability of such a score by chance. Lines of format 2 and before have the paper's (Eq. 5).
        per_layer: each layer's value; `layer_numbers` says which layers these are.
        chance_per_layer: the chance of each layer.
        p_per_layer: each layer's p-value, corrected over the layers and over the language pairs that were scored
            together.
        per_pair: each sentence pair's part.
        surface: what the surface of the text has to do with the scores. None in lines of format 2 and before, and where
            no score is a mean over pairs.
    """

    signature: SignatureText
    score: dict[Method, float]
    ci: dict[Method, tuple[float, float]] = Field(default_factory=dict)
    chance: dict[Method, float] = Field(default_factory=dict)
    p_value: dict[Method, float] = Field(default_factory=dict)
    per_layer: dict[Method, list[float]] = Field(default_factory=dict)
    chance_per_layer: dict[Method, list[float]] = Field(default_factory=dict)
    p_per_layer: dict[Method, list[float]] = Field(default_factory=dict)
    per_pair: dict[Method, list[float]] = Field(default_factory=dict)
    surface: Surface | None = None

    def few_carriers(self, name: str) -> str | None:
        """Return a warning about the score that the fewest pairs carry, if these are fewer than 10.

        Args:
            name: the name of the language pair.
        """
        if self.surface is None or not self.surface.carriers:
            return None
        carriers = self.surface.carriers
        method = min(carriers, key=carriers.__getitem__)
        sharing = self.surface.carriers_sharing[method]
        return few_carriers(f"{name} ({score_name(method)})", int(self.signature["n"]), carriers[method], sharing)


def of_report(report: AlignmentReport, pairs: ParallelPairs | None = None, digits: int | None = None) -> PairScores:
    """Return the numbers of a report.

    Args:
        report: the report of one language pair.
        pairs: the sentences that were scored, for `surface`. Without them it is None.
        digits: how many decimals the numbers of layers and sentence pairs keep; all of them if None.
    """
    return PairScores(
        signature=report.signatures[0],
        score=report.score,
        ci=report.ci,
        chance=report.chance,
        p_value=report.p_value,
        per_layer=numbers_of(report.per_layer, digits),
        chance_per_layer=numbers_of(report.chance_per_layer, digits),
        p_per_layer=numbers_of(report.p_per_layer, digits),
        per_pair=numbers_of(report.per_pair, digits),
        surface=None if pairs is None else Surface.of(pairs, numbers_of(report.per_pair)),
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
        signature: of a score. It says which representation a method read, which layers were chosen, and which layers of
            a hybrid stack have an FFN.
        method: such as "nasca".
        count: how many values the method has, where all layers were read.

    Returns:
        the numbers; none for SADS on joined layers, whose one value belongs to no single layer.
    """
    if method == "sads" and count == 1 and _representation(signature, method) == "signed":
        return []
    if chosen := CHOSEN_LAYERS.fullmatch(signature.get("layers") or ""):
        return [int(layer) for layer in chosen[1].split(",")]
    embedding = _representation(signature, method) == "embedding"
    if not embedding and (with_ffn := LAYERS_WITH_FFN.fullmatch(signature.get("ffns") or "")):
        return [int(layer) for layer in with_ffn[1].split(",")]
    first = 0 if embedding else 1
    return list(range(first, first + count))


def _representation(signature: Signature, method: str) -> str | None:
    """What a method read: the choice in its name, such as cka(nav), else its source's."""
    for name in (signature.get("method") or "").split("+"):
        called, _, read = name.partition("(")
        if called == method and read:
            return read.removesuffix(")")
    return REPRESENTATION_OF.get(method)  # type: ignore[call-overload, no-any-return]
