"""The alignment report: the scores of one language pair, pooled over its layers, or of several together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import hypot
from statistics import fmean

import torch
from torch import Tensor

from neuronxa_callback import significance
from neuronxa_callback.alignment.scores import Measurement
from neuronxa_callback.signature import Signature
from neuronxa_callback.vocabulary import ALIGNMENT, LayerPooling, Method


@dataclass(frozen=True)
class TornApart:
    """The values of a method when the pairs are torn apart at random, for each random order of the targets.

    A layer's value is standardised by the mean and the spread of its torn-apart values. Otherwise the layers with the
    highest chance, or the language with the fewest pairs, would decide which value is the greatest.

    Attributes:
        score: float64 tensor (orders,): the score, pooled over the layers.
        standing: float64 tensor (layers,): the standardised value of each layer of the true pairs.
        greatest: float64 tensor (orders,): the greatest standardised value of any layer.
    """

    score: Tensor
    standing: Tensor
    greatest: Tensor

    @property
    def p_per_layer(self) -> Tensor:
        """The share of orders at which some layer stands as high as this one, float64 tensor (layers,)."""
        return _p_per_layer(self.standing, self.greatest)


@dataclass(frozen=True)
class AlignmentReport:
    """How well a model aligns one language pair, or several together.

    Each mapping is keyed by method: "nasca", "nasca_rank", "mexa" and the others. All numbers but those of "sads" are
    in [0, 1].

    Attributes:
        score: the mean of the layers' values, or the greatest of them (`layer_pooling`). For NASCA, NAVCA and MEXA a
            layer's value is the share of weakly aligned pairs (Eq. 4). For several language pairs, the mean of their
            scores; each language pair counts equally, whatever its number of sentence pairs.
        per_layer: each layer's value, float32 tensor (layers,). For several language pairs, their mean. SADS joins the
            layers, as its source does, and has one value.
        per_pair: each sentence pair's part, float32 tensor (pairs,). Its mean is the score. For NASCA, NAVCA and MEXA
            the part is the share of layers at which the pair is aligned, or whether it is aligned at the greatest
            layer. If several language pairs share their source sentences, it is the mean over the languages. If they
            do not, there is none. CKA, SVCCA and ANC are no means over pairs and have none.
        chance: what the same sentences score when their pairs are torn apart at random, on average.
        chance_per_layer: the same of each layer, float32 tensor (layers,). For several language pairs, their mean.
        p_value: the share of random orders of the targets, the true one counted, that score as high or higher. With
            several language pairs the pairs are torn apart within each of them.
        p_per_layer: the share of random orders at which any layer of any language pair of the report stands as high
            above its chance as this layer, float64 tensor (layers,). So the values are corrected over all layers and
            languages. It is empty in a report of several language pairs; `by_language` has theirs.
        ci: 95 % interval of the score over samples of as many pairs, for methods that have a `per_pair` in each
            language pair (`significance.share_interval`). At the greatest layer it is too wide
            (docs/explanation/chance.md).
        signatures: the choices behind the numbers, one signature for each language pair.
        by_language: suffix such as "eng_Latn-isl_Latn" -> the report of that language pair. It is empty in those
            reports.
        without_pair: the score when one sentence pair is left out, float64 tensor (pairs,), where `per_pair` is there.
        torn: the values behind `chance` and the p-values.
    """

    score: dict[Method, float]
    per_layer: dict[Method, Tensor]
    per_pair: dict[Method, Tensor]
    chance: dict[Method, float]
    chance_per_layer: dict[Method, Tensor]
    p_value: dict[Method, float]
    p_per_layer: dict[Method, Tensor]
    ci: dict[Method, tuple[float, float]]
    signatures: tuple[Signature, ...]
    by_language: dict[str, AlignmentReport]
    without_pair: dict[Method, Tensor] = field(default_factory=dict, repr=False)
    torn: dict[Method, TornApart] = field(default_factory=dict, repr=False)

    @property
    def signature(self) -> str:
        """The signatures as text, separated by spaces."""
        return " ".join(map(str, self.signatures))

    @property
    def paper_p_value(self) -> dict[Method, float]:
        """The paper's p-value (Eq. 5) of NASCA, NAVCA and MEXA; empty for several language pairs.

        Eq. 5 expects more pairs to find each other by chance than real text has.
        """
        if len(self.signatures) > 1:
            return {}
        shares = {method: parts for method, parts in self.per_pair.items() if method in ALIGNMENT}
        return {m: significance.chance_p_value(self.score[m], len(parts)) for m, parts in shares.items()}


@dataclass(frozen=True)
class Chance:
    """What chance has to do with a pooled score; see `AlignmentReport` for the numbers."""

    level: float
    p_value: float
    torn: TornApart


@dataclass(frozen=True)
class Pooled:
    """A measurement, pooled over its layers; see `AlignmentReport` for the numbers.

    A method that is no mean over pairs has no `per_pair` and no `ci`. There is no chance if no orders were tried.
    """

    score: float
    per_pair: Tensor | None
    without_pair: Tensor | None
    ci: tuple[float, float] | None
    chance: Chance | None


def pool_layers(measured: Measurement, layer_pooling: LayerPooling, bounded: bool = True) -> Pooled:
    """Pool a measurement over its layers.

    Args:
        measured: the values at each layer.
        layer_pooling: "mean", or "max" for the greatest layer.
        bounded: whether the values lie in [0, 1].
    """
    chosen = slice(None)
    if layer_pooling == "max":
        greatest = int(measured.per_layer.argmax())
        chosen = slice(greatest, greatest + 1)
    score = measured.per_layer[chosen].mean().item()
    per_pair = None if measured.per_pair is None else measured.per_pair[chosen].mean(dim=0)
    without = None if measured.without_pair is None else measured.without_pair[chosen].mean(dim=0)
    return Pooled(
        score=score,
        per_pair=per_pair,
        without_pair=without,
        ci=None if per_pair is None else _interval(score, [without], bounded),
        chance=None if measured.torn is None else _chance(measured, measured.torn, score, layer_pooling),
    )


def report_of_pair(
    measured: Mapping[Method, Measurement], layer_pooling: LayerPooling, signature: Signature
) -> AlignmentReport:
    """Return the report of one language pair, given what each method measured."""
    pooled = {m: pool_layers(values, layer_pooling, bounded=m != "sads") for m, values in measured.items()}
    chance = {method: values.chance for method, values in pooled.items() if values.chance is not None}
    return AlignmentReport(
        score={method: values.score for method, values in pooled.items()},
        per_layer={method: values.per_layer.float() for method, values in measured.items()},
        per_pair={m: values.per_pair.float() for m, values in pooled.items() if values.per_pair is not None},
        chance={method: found.level for method, found in chance.items()},
        chance_per_layer={m: v.chance.float() for m, v in measured.items() if m in chance and v.chance is not None},
        p_value={method: found.p_value for method, found in chance.items()},
        p_per_layer={method: found.torn.p_per_layer for method, found in chance.items()},
        ci={m: values.ci for m, values in pooled.items() if values.ci is not None},
        signatures=(signature,),
        by_language={},
        without_pair={m: values.without_pair for m, values in pooled.items() if values.without_pair is not None},
        torn={method: found.torn for method, found in chance.items()},
    )


def _chance(measured: Measurement, torn: Tensor, score: float, layer_pooling: LayerPooling) -> Chance:
    spread = torn.std(dim=0, correction=0)
    spread = torch.where(spread > 0, spread, 1)  # a layer that no order changes is nowhere above its chance
    standing, apart_standing = ((values - torn.mean(dim=0)) / spread for values in (measured.per_layer, torn))
    pooled = torn.mean(dim=1) if layer_pooling == "mean" else torn.amax(dim=1)
    apart = TornApart(pooled, standing, apart_standing.amax(dim=1))
    exact = measured.chance.mean() if layer_pooling == "mean" and measured.chance is not None else apart.score.mean()
    return Chance(
        level=round(float(exact), 12),  # the chance of SADS is 0 but for rounding
        p_value=significance.permutation_p_value(score, apart.score.numpy()),
        torn=apart,
    )


def _p_per_layer(values: Tensor, greatest: Tensor) -> Tensor:
    p_values = [significance.permutation_p_value(value, greatest.numpy()) for value in values.tolist()]
    return torch.tensor(p_values, dtype=torch.float64)


def _interval(score: float, without: Sequence[Tensor | None], bounded: bool) -> tuple[float, float]:
    """Return a score's interval.

    Args:
        score: the sum of independent parts.
        without: of each part, its value when one of its pairs is left out. None where it has two pairs alone.
        bounded: whether the score lies in [0, 1].
    """
    there = [values for values in without if values is not None]
    if len(there) < len(without):  # two pairs say nothing
        return (0.0, 1.0) if bounded else (-2.0, 2.0)
    errors = [significance.jackknife_error(values.numpy()) for values in there]
    n = significance.pairs_behind(errors, [len(values) for values in there])
    return (significance.share_interval if bounded else significance.mean_interval)(score, hypot(*errors), n)


def report_of_all(by_language: dict[str, AlignmentReport], sources: Sequence[Hashable]) -> AlignmentReport:
    """Return the report of all language pairs together.

    Args:
        by_language: suffix -> the report of that language pair.
        sources: the source sentences of each language pair. Language pairs with equal ones depend on each other.
    """
    reports = list(by_language.values())
    first = reports[0]
    if len(reports) == 1:
        return replace(first, by_language=by_language)
    score = {method: fmean(report.score[method] for report in reports) for method in first.score}
    torn = {method: _torn_together([report.torn[method] for report in reports]) for method in first.torn}
    shared_source = len(set(sources)) == 1
    per_pair = _means([report.per_pair for report in reports]) if shared_source else {}
    without = _means([report.without_pair for report in reports]) if shared_source else {}
    return AlignmentReport(
        score=score,
        per_layer=_means([report.per_layer for report in reports]),
        per_pair=per_pair,
        chance={method: fmean(report.chance[method] for report in reports) for method in first.chance},
        chance_per_layer=_means([report.chance_per_layer for report in reports]),
        p_value={m: significance.permutation_p_value(score[m], values.score.numpy()) for m, values in torn.items()},
        p_per_layer={},
        ci={m: _interval_of_all(m, score[m], reports, sources) for m in first.per_pair},
        signatures=tuple(signature for report in reports for signature in report.signatures),
        by_language={name: _corrected(report, torn) for name, report in by_language.items()},
        without_pair=without,
        torn=torn,
    )


def _interval_of_all(
    method: Method, score: float, reports: Sequence[AlignmentReport], sources: Sequence[Hashable]
) -> tuple[float, float]:
    """Return the interval of a mean over languages.

    Translations of one sentence rise and fall together. So a sentence that languages share is left out of all of them
    at once. Languages with sentences of their own are independent.
    """
    parts: dict[Hashable, list[Tensor | None]] = {}
    for report, source in zip(reports, sources, strict=True):
        parts.setdefault(source, []).append(report.without_pair.get(method))
    without = [_sum([values for values in group if values is not None], len(reports)) for group in parts.values()]
    return _interval(score, without, bounded=method != "sads")


def _sum(values: Sequence[Tensor], languages: int) -> Tensor | None:
    """Return what some of the languages add to the mean over all of them."""
    return torch.stack(list(values)).sum(dim=0) / languages if values else None


def _means(of_languages: Sequence[Mapping[Method, Tensor]]) -> dict[Method, Tensor]:
    """Return each method's mean over the languages."""
    return {m: torch.stack([by_method[m] for by_method in of_languages]).mean(dim=0) for m in of_languages[0]}


def _torn_together(of_languages: Sequence[TornApart]) -> TornApart:
    """Return the mean score over the languages, and the greatest layer of any of them, for each order.

    Languages with as many pairs share the orders, so that the dependence between languages that share sentences is
    kept. The same orders are as good as others for languages that are independent.
    """
    score = torch.stack([torn.score for torn in of_languages]).mean(dim=0)
    greatest = torch.stack([torn.greatest for torn in of_languages]).amax(dim=0)
    return TornApart(score, torch.cat([torn.standing for torn in of_languages]), greatest)


def _corrected(report: AlignmentReport, torn: Mapping[Method, TornApart]) -> AlignmentReport:
    """Return a language pair's report with p-values of its layers that are corrected over all languages."""
    return replace(
        report, p_per_layer={m: _p_per_layer(its.standing, torn[m].greatest) for m, its in report.torn.items()}
    )
