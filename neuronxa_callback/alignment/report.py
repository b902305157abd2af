"""What was measured of a language pair, pooled over its layers, and of several pairs together."""

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

    Every number is held by method ("nasca", "navca", "mexa", ...); those named have numbers in [0, 1].

    Attributes:
        score: the layers' values, their mean or the greatest of them (`layer_pooling`); for NASCA, NAVCA and MEXA a
            value is the share of weakly aligned pairs (Eq. 4). Over several language pairs, their mean.
        per_layer: each layer's value, float32 tensor (layers,); over several language pairs, their mean.
        per_pair: each sentence pair's part, float32 tensor (pairs,), whose mean is the score: the share of layers at
            which it is aligned, or whether it is at the greatest layer; over several language pairs, the mean over
            languages where these share their source sentences, else all of theirs, one after the other. Not for CKA,
            SVCCA and ANC, which are no means over pairs.
        p_value: probability of such a score by chance (Eq. 5), for NASCA, NAVCA and MEXA. It is conservative for means
            over layers and languages (see `significance.chance_p_value`), and for the greatest layer it is multiplied
            by the number of layers. For the others, of one language pair and where asked for, the share of random
            orders of the targets that score as high.
        ci: 95 % bootstrap interval of the score over sentence pairs, where there is a `per_pair`; at the greatest
            layer it leaves out that another layer might have been the greatest.
        signatures: the choices behind the numbers, those of each language pair.
        by_language: suffix such as "eng_Latn-isl_Latn" -> that language pair's own report; empty in such a report.
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
        """The choices behind the numbers as text; those of several language pairs stand behind one another."""
        return " ".join(map(str, self.signatures))


def report_of_pair(
    measured: Mapping[Method, Measurement], layer_pooling: LayerPooling, signature: Signature
) -> AlignmentReport:
    """The report of one language pair, from what each method measured of it."""
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
    """Float64 tensor whose mean is the score: a value a pair where the method has such, else the score alone."""
    values = measurement.per_layer.unsqueeze(1) if measurement.per_pair is None else measurement.per_pair
    return values.mean(dim=0) if layer_pooling == "mean" else values[int(measurement.per_layer.argmax())]


def _mean_over_languages(per_pair: list[Tensor]) -> Tensor:
    return torch.stack(per_pair).mean(dim=0)


def report_of_all(
    by_language: dict[str, AlignmentReport], shared_source: bool, layer_pooling: LayerPooling
) -> AlignmentReport:
    """The report of all language pairs together.

    Args:
        by_language: suffix -> the language pair's own report.
        shared_source: whether all of them have the same source sentences.
        layer_pooling: as each of them was pooled.
    """
    reports = list(by_language.values())
    first = reports[0]
    methods = list(first.score)
    if len(reports) == 1:
        return replace(first, by_language=by_language)
    score = {m: fmean(report.score[m] for report in reports) for m in methods}
    # A mean of the languages' greatest layers exceeds a value only where one of them does.
    chances = {m: len(reports) * len(first.per_layer[m]) if layer_pooling == "max" else 1 for m in methods}
    # Translations of one sentence rise and fall together: resampled apart they would make the interval too narrow.
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
