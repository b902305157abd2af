"""A model, its tokenizer and held-out pairs to an AlignmentReport; no Trainer needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from statistics import fmean
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from neuronxa_callback import significance
from neuronxa_callback.alignment import encoder
from neuronxa_callback.alignment.scores import Measurement, measure, representations_of, torn_apart
from neuronxa_callback.model import neurons
from neuronxa_callback.text.pairs import ParallelPairs, is_language_pair
from neuronxa_callback.vocabulary import ALIGNMENT, LayerPooling, Method, Representation, TokenPooling, check_choice

DEFAULT_PAIRS = "eng_Latn-isl_Latn"

# What `ParallelPairs.load` takes (a dataset among it), or several of these in a list.
PairsLike: TypeAlias = Any

# One side's text: representation -> (layers, sentences, features).
Encoded: TypeAlias = dict[Representation, Tensor]

T = TypeVar("T")


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
        signature: the choices behind the numbers.
        by_language: suffix such as "eng_Latn-isl_Latn" -> that language pair's own report; empty in such a report.
    """

    score: dict[Method, float]
    per_layer: dict[Method, Tensor]
    per_pair: dict[Method, Tensor]
    p_value: dict[Method, float]
    ci: dict[Method, tuple[float, float]]
    signature: str
    by_language: dict[str, AlignmentReport]


class NeuronXAEvaluator:
    """Measure cross-lingual alignment on held-out pairs.

    Usage:
        ```python
        evaluator = NeuronXAEvaluator("eng_Latn-isl_Latn")
        report = evaluator(model, tokenizer)
        print(report.score["nasca"], report.ci["nasca"], report.signature)
        ```

    Args:
        pairs: what `ParallelPairs.load` takes, or a list of such for several language pairs. Default: the embedded
            100 English-Icelandic pairs.
        methods: one or several of "nasca" (neuron states), "navca" (neuron values), "mexa" (embeddings), "cka",
            "svcca", "anc" and "sads", from one forward pass per sentence together; see `scores`.
        token_pooling: "weighted" (Eq. 3), "average" or "last".
        token_budget: padded tokens in a batch at most; see `encode`. Where memory runs out it is halved, and stays so.
        layer_pooling: "mean" over the layers, or the "max" of them, which the paper uses for retrieval.
        representations: method -> "nas", "nav" or "embedding", where CKA, SVCCA, ANC or SADS should read something else
            than their sources do (`scores.REPRESENTATION_OF`).
        permutations: how often the pairs of a language are torn apart for the p-values of CKA, SVCCA, ANC and SADS; 0
            for none.
        layers: which layers to read, such as (8, 16, 24); all for None. The forward pass ends after the deepest. FFNs
            count from 1; for methods that read embeddings layer 0 is the embedding layer and the last one is after
            the final norm.

    Raises:
        PairsError: held-out pairs that cannot be used.
        ValueError: an unknown method or pooling.
    """

    def __init__(
        self,
        pairs: PairsLike = DEFAULT_PAIRS,
        methods: Method | Sequence[Method] = ("nasca",),
        token_pooling: TokenPooling = "weighted",
        token_budget: int | None = None,
        layer_pooling: LayerPooling = "mean",
        representations: Mapping[Method, Representation] | None = None,
        permutations: int = 0,
        layers: Sequence[int] | None = None,
    ) -> None:
        self.pairs = load_all(pairs)
        self.methods: tuple[Method, ...] = (methods,) if isinstance(methods, str) else tuple(methods)
        for method in self.methods:
            check_choice("method", method, Method)
        if not self.methods:
            raise ValueError("methods is empty; choose nasca, navca or mexa.")
        check_choice("token_pooling", token_pooling, TokenPooling)
        check_choice("layer_pooling", layer_pooling, LayerPooling)
        if not isinstance(permutations, int) or permutations < 0:
            raise ValueError(f"permutations={permutations!r} must be a number, such as 199; 0 for none.")
        if token_budget is not None and (not isinstance(token_budget, int) or token_budget < 1):
            raise ValueError(f"token_budget={token_budget!r} must be a number of tokens, such as 512.")
        self.token_pooling = token_pooling
        self.token_budget = token_budget
        self.layer_pooling = layer_pooling
        self.representations = representations_of(self.methods, representations or {})
        self.permutations = permutations
        self.layers = None if layers is None else tuple(sorted(layers))
        self._chosen = dict(representations or {})

    def check(self, model: nn.Module, tokenizer: Any) -> None:
        """Find out before training whether this model can be measured on these pairs.

        Runs the decoder once on the shortest held-out sentence.

        Raises:
            UnreadableFFNError: names the module that cannot be read and says what to do.
            ValueError: a chosen layer that the model does not have, or a held-out sentence that is longer than the
                model's context, or has no token.
        """
        depth = len(neurons.find_ffns(model))
        for read in set(self.representations.values()):
            encoder.check_layers(self.layers, read, depth)
        limit = encoder.context_length(model)
        texts = {text for pair in self.pairs for text in (pair.source, pair.target)}
        token_ids = [ids for text in texts for ids in encoder.tokenize(tokenizer, text, limit)]
        shortest = min(token_ids, key=len)
        with encoder.undisturbed(model):
            neurons.check_readable(model, lambda: encoder.run_decoder(model, [shortest]))

    def leave_out_too_long(self, model: nn.Module, tokenizer: Any) -> list[str]:
        """Drop language pairs with a sentence beyond the model's context, where some are left; say which and why.

        Raises:
            ValueError: none would be left.
        """
        limit = encoder.context_length(model)
        reasons: dict[tuple[str, ...], str] = {}
        for sentences in {side for pair in self.pairs for side in (pair.source, pair.target)}:
            try:
                encoder.tokenize(tokenizer, sentences, limit)
            except ValueError as error:
                reasons[sentences] = str(error)
        kept = [pair for pair in self.pairs if not reasons.keys() & {pair.source, pair.target}]
        if not kept:
            raise ValueError(next(iter(reasons.values())))
        left = {code for pair in kept for code in (pair.source_lang, pair.target_lang)}
        told: dict[str, str] = {}
        for pair in self.pairs:
            for code, side in ((pair.source_lang, pair.source), (pair.target_lang, pair.target)):
                if side in reasons:  # a language may have other sentences with another one
                    told[pair.name if code in left else code] = reasons[side]
        self.pairs = kept
        return [f"{name} is left out: {reason}" for name, reason in told.items()]

    def __call__(self, model: nn.Module, tokenizer: Any) -> AlignmentReport:
        """Score the model as it is now, leaving its mode, random state and configuration as they were."""
        by_language = {pair.name: report for pair, report in self.reports(model, tokenizer, self.pairs)}
        shared_source = len({pair.source for pair in self.pairs}) == 1
        return _report_of_all(
            {pair.name: by_language[pair.name] for pair in self.pairs}, shared_source, self.layer_pooling
        )

    def reports(
        self, model: nn.Module, tokenizer: Any, pairs: Sequence[ParallelPairs]
    ) -> Iterator[tuple[ParallelPairs, AlignmentReport]]:
        """Each language pair's report as soon as it is there; see `each`."""

        def report(pair: ParallelPairs, source: Encoded, target: Encoded) -> tuple[ParallelPairs, AlignmentReport]:
            return pair, self.report(source, target, self.signature(pair, model, tokenizer))

        return self.each(model, tokenizer, pairs, report)

    def each(
        self,
        model: nn.Module,
        tokenizer: Any,
        pairs: Sequence[ParallelPairs],
        measure: Callable[[ParallelPairs, Encoded, Encoded], T],
        encode: Callable[[nn.Module, Any, Sequence[str]], Encoded] | None = None,
    ) -> Iterator[T]:
        """What `measure` makes of each language pair and its two encoded sides.

        A source side that several pairs share is encoded once, by `encode` where one is given. What is kept of the
        encoded text is one source and one target side, whatever the number of pairs.
        """
        encode = encode or self.encode
        encoded: dict[tuple[str, ...], Encoded] = {}
        for pair in sorted(pairs, key=lambda pair: pair.source):  # pairs with one source side stand together
            if pair.source not in encoded:
                encoded.clear()  # before the next is made
                encoded[pair.source] = encode(model, tokenizer, pair.source)
            yield measure(pair, encoded[pair.source], encode(model, tokenizer, pair.target))

    def signature(self, pair: ParallelPairs, model: nn.Module, tokenizer: Any) -> str:
        """The choices behind a pair's numbers, as sacreBLEU signs its scores.

        The device and the token budget are not among them: they only round differently (docs/method.md).
        """
        fields = {
            **self.choices(pair),
            "special": encoder.special_tokens(tokenizer),
            "neurons": neurons.rule(neurons.find_ffns(model)),
            "dtype": encoder.compute_dtype(model),
            "version": version("neuronxa-callback"),
        }
        return "|".join(f"{name}:{value}" for name, value in fields.items())

    def choices(self, pair: ParallelPairs) -> dict[str, Any]:
        """The part of the signature that needs no model."""
        names = [f"{method}({self._chosen[method]})" if method in self._chosen else method for method in self.methods]
        fields = {
            "method": "+".join(names),
            "n": len(pair),
            "pair": pair.name,
            "data": pair.fingerprint,
            "tokens": self.token_pooling,
            "layers": self.layer_pooling if self.layers is None else f"{self.layer_pooling}({_joined(self.layers)})",
        }
        if self.permutations and not set(self.methods) <= set(ALIGNMENT):
            fields["permutations"] = self.permutations
        return fields

    def encode(self, model: nn.Module, tokenizer: Any, sentences: Sequence[str]) -> Encoded:
        """What the methods read of these sentences, as `encoder.encode` returns it, from one forward pass for each."""
        representations = list(dict.fromkeys(self.representations.values()))

        def run(token_budget: int) -> Encoded:
            return encoder.encode_all(
                model, tokenizer, sentences, representations, self.token_pooling, token_budget, self.layers
            )

        asked = self.token_budget or encoder.default_token_budget(model)
        encoded, fitted = encoder.within_memory(
            run, asked, lambda: max(map(len, encoder.tokenize(tokenizer, sentences)))
        )
        if fitted != asked:
            self.token_budget = fitted
        return encoded

    def report(self, source: Encoded, target: Encoded, signature: str) -> AlignmentReport:
        """The scores of one language pair from what `encode` returned of its two sides."""
        measured = {
            method: measure(source[read], target[read], method) for method, read in self.representations.items()
        }
        report = _report_of_pair(measured, self.layer_pooling, signature)
        for method, read in self.representations.items():
            if method in ALIGNMENT or not self.permutations:
                continue
            torn = torn_apart(source[read], target[read], method, self.permutations)
            pooled = torn.mean(dim=1) if self.layer_pooling == "mean" else torn.amax(dim=1)
            report.p_value[method] = significance.permutation_p_value(report.score[method], pooled.numpy())
        return report


def load_all(pairs: PairsLike) -> list[ParallelPairs]:
    """One or several language pairs as a list; what is not loaded yet is loaded.

    Raises:
        PairsError: pairs that cannot be used.
        ValueError: none, or one language pair twice.
    """
    several = pairs if _is_several(pairs) else [pairs]
    loaded = [ParallelPairs.load(pair) for pair in several]
    names = [pair.name for pair in loaded]
    if not names:
        raise ValueError("no held-out pairs were given; pass one language pair at least, such as 'eng_Latn-isl_Latn'.")
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"{', '.join(sorted(repeated))} was given twice, and its scores would share one name.")
    return loaded


def _joined(layers: Sequence[int]) -> str:
    return ",".join(map(str, layers))


def _is_several(pairs: PairsLike) -> bool:
    """A list of language pairs, as against one pair: two files in a tuple, or a dataset in a list of dicts."""
    if isinstance(pairs, tuple):
        return len(pairs) > 0 and all(isinstance(pair, ParallelPairs) or is_language_pair(pair) for pair in pairs)
    return isinstance(pairs, list) and not any(isinstance(pair, Mapping) for pair in pairs)


def _report_of_pair(
    measured: Mapping[Method, Measurement], layer_pooling: LayerPooling, signature: str
) -> AlignmentReport:
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
        signature=signature,
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


def _report_of_all(
    by_language: dict[str, AlignmentReport], shared_source: bool, layer_pooling: LayerPooling
) -> AlignmentReport:
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
        signature=" ".join(report.signature for report in reports),
        by_language=by_language,
    )
