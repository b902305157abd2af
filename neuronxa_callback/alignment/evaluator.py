"""The evaluator: it measures a model on held-out pairs and returns an AlignmentReport. It needs no Trainer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from torch import Tensor, nn

from neuronxa_callback._version import __version__
from neuronxa_callback.alignment import encoder
from neuronxa_callback.alignment.report import AlignmentReport, report_of_all, report_of_pair
from neuronxa_callback.alignment.scores import Measurement, measure_all, random_orders, representations_of
from neuronxa_callback.alignment.settings import AlignmentSettings
from neuronxa_callback.model.check import check
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.state import TokenBudget
from neuronxa_callback.signature import Signature
from neuronxa_callback.significance import RESAMPLES
from neuronxa_callback.text.languages import is_language_pair
from neuronxa_callback.text.pairs import ParallelPairs
from neuronxa_callback.vocabulary import (
    OVER_PAIRS,
    LayerPooling,
    Method,
    Representation,
    TokenPooling,
    check_choice,
    reads_neurons,
)

logger = logging.getLogger(__name__)

# Whatever `ParallelPairs.load` takes, such as a dataset, or a list of several.
PairsLike: TypeAlias = Any

# One side's text: representation -> (layers, sentences, features).
Encoded: TypeAlias = dict[Representation, Tensor]

T = TypeVar("T")


class NeuronXAEvaluator:
    """Measure cross-lingual alignment on held-out pairs.

    Usage:
        ```python
        evaluator = NeuronXAEvaluator("eng_Latn-isl_Latn")
        report = evaluator(model, tokenizer)
        print(report.score["nasca"], report.ci["nasca"], report.signature)
        ```

    Args:
        pairs: Held-out pairs of one language pair or several: a file, or two codes such as eng_Latn-isl_Latn for the
            embedded set. It takes whatever `ParallelPairs.load` takes. Several language pairs are a list. Default: the
            embedded 100 English-Icelandic pairs.
        methods: One or several of nasca, nasca_rank, navca, mexa, cka, svcca, anc and sads. NASCA and its rank score
            read neuron states, NAVCA neuron values and MEXA embeddings. All methods share one forward pass per
            sentence. SADS alone takes a second one if the tokenizer adds special tokens. See `scores`.
        token_pooling: How tokens become a sentence: weighted (Eq. 3 of the paper), average or last.
        token_budget: Padded tokens in a batch at most; a smaller budget needs less memory. The evaluator halves it when
            memory runs out. See `encode`.
        layer_pooling: How layers become a score: mean, or max, which the paper uses for retrieval.
        representations: What cka, svcca, anc or sads reads instead of its own representation: nas, nav, embedding or
            signed. It maps the method to the representation. `vocabulary.REPRESENTATION_OF` holds what each method's
            paper reads. SADS joins the layers of "signed" alone.
        permutations: Random re-pairings of the sentences for chance and p-values of cka, svcca and anc; 0 gives none.
            The other methods always take 9,999.
        layers: Which layers to read, such as 8,16,24; the forward pass ends after the deepest. FFNs count from 1. None
            reads all layers. For methods that read embeddings, layer 0 is the embedding layer, and the last
            layer is read after the final norm.

    Raises:
        PairsError: held-out pairs that cannot be used.
        ValueError: an unknown method or pooling.
    """

    def __init__(
        self,
        pairs: PairsLike = AlignmentSettings.pairs,
        methods: Method | Sequence[Method] = AlignmentSettings.methods,
        token_pooling: TokenPooling = AlignmentSettings.token_pooling,
        token_budget: int | None = AlignmentSettings.token_budget,
        layer_pooling: LayerPooling = AlignmentSettings.layer_pooling,
        representations: Mapping[Method, Representation] | None = AlignmentSettings.representations,
        permutations: int = AlignmentSettings.permutations,
        layers: Sequence[int] | None = AlignmentSettings.layers,
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

    def check(self, decoder: Decoder, pairs: Sequence[ParallelPairs] | None = None) -> None:
        """Check before training that this model can be measured on these pairs, or on all pairs for None.

        The check runs the decoder a few times on the shortest held-out sentence; see `model.check`.

        Raises:
            UnreadableFFNError: an FFN cannot be read. The message names the module and says what to do.
            ValueError: the model does not have a chosen layer, or a held-out sentence is longer than the model's
                context or has no token.
        """
        reads = set(self.representations.values())
        for read in reads:
            encoder.check_layers(self.layers, read, decoder)
        texts = {text for pair in pairs or self.pairs for text in (pair.source, pair.target)}
        shortest = min((ids for text in texts for ids in decoder.tokenize(text)), key=len)
        check(decoder, shortest, neurons=reads_neurons(reads))

    def fitting(self, decoder: Decoder) -> tuple[list[ParallelPairs], list[str]]:
        """Return the language pairs that fit the model's context, and a message about each one that does not.

        Raises:
            ValueError: no language pair fits.
        """
        reasons = _too_long(decoder, self.pairs)
        kept = [pair for pair in self.pairs if not reasons.keys() & {pair.source, pair.target}]
        if not kept:
            raise ValueError(next(iter(reasons.values())))
        left = {code for pair in kept for code in (pair.source_lang, pair.target_lang)}
        left_out: dict[str, str] = {}
        for pair in self.pairs:
            for code, side in ((pair.source_lang, pair.source), (pair.target_lang, pair.target)):
                if side in reasons:  # the same language may have shorter sentences in another pair
                    left_out[pair.name if code in left else code] = reasons[side]
        return kept, [f"{name} is left out: {reason}" for name, reason in left_out.items()]

    def __call__(self, model: nn.Module, tokenizer: Any, budget: TokenBudget | None = None) -> AlignmentReport:
        """Score the model as it is now. Its mode, random state and configuration stay as they were.

        Args:
            model: a decoder-only transformers model, plain, quantised or under PEFT.
            tokenizer: its tokenizer.
            budget: the token budget, which is halved when memory runs out. Pass the same object to several calls, and
                later calls start from the halved budget.
        """
        return self.score(Decoder.find(model, tokenizer), budget)

    def score(self, decoder: Decoder, budget: TokenBudget | None = None) -> AlignmentReport:
        """Score a model as a call of the evaluator does, when its decoder has been found already.

        If several processes make the evaluation together (`Decoder.ranks`), all of them return the report.
        """
        by_language = {pair.name: report for pair, report in self.reports(decoder, self.pairs, budget)}
        return report_of_all(
            {pair.name: by_language[pair.name] for pair in self.pairs}, [pair.source for pair in self.pairs]
        )

    def reports(
        self, decoder: Decoder, pairs: Sequence[ParallelPairs], budget: TokenBudget | None = None
    ) -> Iterator[tuple[ParallelPairs, AlignmentReport]]:
        """Yield each language pair with its report as soon as the report is ready; see `each`."""

        def report(pair: ParallelPairs, source: Encoded, target: Encoded) -> tuple[ParallelPairs, AlignmentReport]:
            return pair, self.report(source, target, self.signature(pair, decoder))

        return self.each(decoder, pairs, report, partial(self.encode, budget=budget) if budget else None)

    def each(
        self,
        decoder: Decoder,
        pairs: Sequence[ParallelPairs],
        measure: Callable[[ParallelPairs, Encoded, Encoded], T],
        encode: Callable[[Decoder, Sequence[str]], Encoded] | None = None,
    ) -> Iterator[T]:
        """Yield what `measure` returns for each language pair and its two encoded sides.

        If several processes make the evaluation together (`Decoder.ranks`), the first one alone calls `measure`, and
        all of them yield what it returned.

        A source side that several pairs share is encoded once. Memory holds one encoded source side and one target
        side, whatever the number of pairs.

        Args:
            decoder: the model's.
            pairs: the language pairs.
            measure: is called with a pair, its encoded source side and its encoded target side.
            encode: encodes a side instead of `self.encode`.
        """
        encode = encode or partial(self.encode, budget=TokenBudget(self.token_budget))
        encoded: dict[tuple[str, ...], Encoded] = {}
        for pair in sorted(pairs, key=lambda pair: pair.source):  # pairs with one source side stand together
            if pair.source not in encoded:
                encoded.clear()  # frees the memory before the next side is encoded
                encoded[pair.source] = encode(decoder, pair.source)
            # No name for the sides here: it would keep them while the next one is encoded.
            yield decoder.ranks.first_does(partial(measure, pair, encoded[pair.source], encode(decoder, pair.target)))

    def signature(self, pair: ParallelPairs, decoder: Decoder) -> Signature:
        """Return the choices behind a pair's numbers, as sacreBLEU signs its scores.

        The device and the token budget are left out, because they only change the rounding
        (docs/explanation/method.md).
        """
        return Signature.of(
            self.choices(pair) | {"special": decoder.special_tokens} | decoder.neuron_choices,
            dtype=decoder.dtype,
            version=__version__,
        )

    def choices(self, pair: ParallelPairs) -> dict[str, Any]:
        """Return the part of the signature that needs no model."""
        names = [f"{method}({self._chosen[method]})" if method in self._chosen else method for method in self.methods]
        fields = {
            "method": "+".join(names),
            "n": len(pair),
            "pair": pair.name,
            "data": pair.fingerprint,
            "tokens": self.token_pooling,
            "layers": self.layer_pooling if self.layers is None else f"{self.layer_pooling}({_joined(self.layers)})",
        }
        if self.permutations and not set(self.methods) <= set(OVER_PAIRS):
            fields["permutations"] = self.permutations
        return fields

    def encode(self, decoder: Decoder, sentences: Sequence[str], budget: TokenBudget | None = None) -> Encoded:
        """Return all representations that the methods read, from one forward pass per sentence.

        Each representation is a tensor as `encoder.encode` returns it.
        """
        representations = list(dict.fromkeys(self.representations.values()))

        def run(token_budget: int) -> Encoded:
            return encoder.encode_all(
                decoder, sentences, representations, self.token_pooling, token_budget, self.layers
            )

        return (budget or TokenBudget(self.token_budget)).fit(
            run, lambda: max(map(len, decoder.tokenize(sentences))), encoder.default_token_budget(decoder)
        )

    def report(self, source: Encoded, target: Encoded, signature: Signature) -> AlignmentReport:
        """Return the report of one language pair, given what `encode` returned for its two sides."""
        measured: dict[Method, Measurement] = {}
        for read in dict.fromkeys(self.representations.values()):
            n = source[read].shape[1]
            orders = {
                method: random_orders(n, RESAMPLES if method in OVER_PAIRS else self.permutations)
                for method, its in self.representations.items()
                if its == read
            }
            measured |= measure_all(source[read], target[read], orders, joined=read == "signed")
        return report_of_pair({method: measured[method] for method in self.methods}, self.layer_pooling, signature)


def load_all(pairs: PairsLike) -> list[ParallelPairs]:
    """Load one or several language pairs and return them as a list.

    Raises:
        PairsError: pairs that cannot be used.
        ValueError: no pairs were given, or one language pair was given twice, in one direction or in both.
    """
    several = pairs if _is_several(pairs) else [pairs]
    loaded = [ParallelPairs.load(pair) for pair in several]
    names = [pair.name for pair in loaded]
    if not names:
        raise ValueError("no held-out pairs were given; pass one language pair at least, such as 'eng_Latn-isl_Latn'.")
    counts = sorted({len(pair) for pair in loaded})
    if len(counts) > 1:
        logger.warning(
            "NeuronXA: the language pairs have %s sentence pairs. A score falls as their number rises, so these scores "
            "are not of one scale, and each counts equally in the mean; give all languages the same number (n).",
            " and ".join(map(str, counts)),
        )
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"{', '.join(sorted(repeated))} was given twice, and its scores would share one name.")
    sides = {(pair.source, pair.target): pair.name for pair in loaded}
    for pair in loaded:
        if other := sides.get((pair.target, pair.source)):
            raise ValueError(
                f"{pair.name} and {other} hold the same sentences. Alignment is the same both ways, and the mean would "
                "count it twice; leave one of them out."
            )
    return loaded


def _too_long(decoder: Decoder, pairs: Sequence[ParallelPairs]) -> dict[tuple[str, ...], str]:
    """Return the sides that the model cannot read, each with the reason."""
    reasons = {}
    for sentences in {side for pair in pairs for side in (pair.source, pair.target)}:
        try:
            decoder.tokenize(sentences)
        except ValueError as error:
            reasons[sentences] = str(error)
    return reasons


def _joined(layers: Sequence[int]) -> str:
    return ",".join(map(str, layers))


def _is_several(pairs: PairsLike) -> bool:
    """Return whether this is a list of language pairs.

    A tuple of two files and a list of dicts (a dataset's rows) are one language pair.
    """
    if isinstance(pairs, tuple):
        return len(pairs) > 0 and all(isinstance(pair, ParallelPairs) or is_language_pair(pair) for pair in pairs)
    return isinstance(pairs, list) and not any(isinstance(pair, Mapping) for pair in pairs)
