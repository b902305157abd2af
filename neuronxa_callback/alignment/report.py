"""The alignment report: the scores of one language pair, pooled over its layers, or of several together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor

from neuronxa_callback import significance
from neuronxa_callback.alignment.scores import Measurement
from neuronxa_callback.signature import Signature
from neuronxa_callback.vocabulary import ALIGNMENT, LayerPooling, Method


@dataclass(frozen=True)
class AlignmentReport:
    """How well a model aligns one language pair, or several together.

    Each mapping is keyed by method: "nasca", "navca", "mexa" and the others. The numbers of these three are in [0, 1].

    Attributes:
        score: the mean of the layers' values, or the greatest of them (`layer_pooling`). For NASCA, NAVCA and MEXA a
            layer's value is the share of weakly aligned pairs (Eq. 4). For several language pairs, the mean of their
            scores.
        per_layer: each layer's value, float32 tensor (layers,). For several language pairs, their mean.
        per_pair: each sentence pair's part, float32 tensor (pairs,). Its mean is the score. For NASCA, NAVCA and MEXA
            the part is the share of layers at which the pair is aligned, or whether it is aligned at the greatest
            layer. If several language pairs share their source sentences, it is the mean over the languages. If they
            do not, it holds the parts of all language pairs, one after the other. CKA, SVCCA and ANC are no means over
            pairs and have no `per_pair`.
        p_value: for NASCA, NAVCA and MEXA the probability of such a score by chance (Eq. 5). It is conservative for
            means over layers and languages (see `significance.chance_p_value`). For the greatest layer it is multiplied
            by the number of layers. For the other methods it is the share of random orders of the targets that score
            as high. It is there for one language pair only, and if `permutations` is above 0.
        ci: 95 % bootstrap interval of the score over sentence pairs, for methods that have a `per_pair`. At the
            greatest layer it ignores that another layer might have been the greatest.
        signatures: the choices behind the numbers, one signature for each language pair.
        by_language: suffix such as "eng_Latn-isl_Latn" -> the report of that language pair. It is empty in those
            reports.
    """

    score: dict[Method, float]
    per_layer: dict[Method, Tensor]
    per_pair: dict[Method, Tensor]
    p_value: dict[Method, float]
    ci: dict[Method, tuple[float, float]]
    signatures: tuple[Signature, ...]
    by_language: dict[str, AlignmentReport]

    @property
    def signature(self) -> str:
        """The signatures as text, separated by spaces."""
        return " ".join(map(str, self.signatures))


def report_of_pair(
    measured: Mapping[Method, Measurement], layer_pooling: LayerPooling, signature: Signature
) -> AlignmentReport:
    """Return the report of one language pair, given what each method measured."""
    parts = {method: _pool_layers(measurement, layer_pooling) for method, measurement in measured.items()}
    score = {method: pooled.mean().item() for method, pooled in parts.items()}
    per_pair = {method: pooled for method, pooled in parts.items() if measured[method].per_pair is not None}
    p_value = {
        method: _p_value(score[method], len(shares), len(measured[method].per_layer) if layer_pooling == "max" else 1)
        for method, shares in per_pair.items()
        if method in ALIGNMENT
    }
    return AlignmentReport(
        score=score,
        per_layer={method: measurement.per_layer.float() for method, measurement in measured.items()},
        per_pair={method: shares.float() for method, shares in per_pair.items()},
        p_value=p_value,
        ci={method: significance.bootstrap_interval(shares.numpy()) for method, shares in per_pair.items()},
        signatures=(signature,),
        by_language={},
    )


def _p_value(score: float, n: int, chances: int) -> float:
    return min(1.0, chances * significance.chance_p_value(score, n))


def _pool_layers(measurement: Measurement, layer_pooling: LayerPooling) -> Tensor:
    """Return a float64 tensor whose mean is the score.

    It holds a value for each pair. For a method that has no values of pairs it holds the score alone.
    """
    values = measurement.per_layer.unsqueeze(1) if measurement.per_pair is None else measurement.per_pair
    return values.mean(dim=0) if layer_pooling == "mean" else values[int(measurement.per_layer.argmax())]


def _mean_over_languages(per_pair: list[Tensor]) -> Tensor:
    return torch.stack(per_pair).mean(dim=0)


def report_of_all(
    by_language: dict[str, AlignmentReport], shared_source: bool, layer_pooling: LayerPooling
) -> AlignmentReport:
    """Return the report of all language pairs together.

    Args:
        by_language: suffix -> the report of that language pair.
        shared_source: whether all language pairs have the same source sentences.
        layer_pooling: how the layers of each report were pooled.
    """
    reports = list(by_language.values())
    first = reports[0]
    methods = list(first.score)
    if len(reports) == 1:
        return replace(first, by_language=by_language)
    score = {m: fmean(report.score[m] for report in reports) for m in methods}
    # A mean over languages exceeds a value only if the greatest layer of one of them does. Each layer of each language
    # is one chance of that.
    chances = {m: len(reports) * len(first.per_layer[m]) if layer_pooling == "max" else 1 for m in methods}
    # Translations of one sentence rise and fall together. Resampled apart, they would make the interval too narrow.
    join = _mean_over_languages if shared_source else torch.cat
    per_pair = {m: join([report.per_pair[m] for report in reports]) for m in first.per_pair}
    return AlignmentReport(
        score=score,
        per_layer={m: torch.stack([report.per_layer[m] for report in reports]).mean(dim=0) for m in methods},
        per_pair=per_pair,
        p_value={
            m: _p_value(score[m], min(len(r.per_pair[m]) for r in reports), chances[m])
            for m in methods
            if m in ALIGNMENT
        },
        ci={m: significance.bootstrap_interval(shares.numpy()) for m, shares in per_pair.items()},
        signatures=tuple(signature for report in reports for signature in report.signatures),
        by_language=by_language,
    )
