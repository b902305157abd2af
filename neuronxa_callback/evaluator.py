"""A model, its tokenizer and held-out pairs to an AlignmentReport; no Trainer needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from statistics import fmean
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from neuronxa_callback import encoder, neurons, statistics
from neuronxa_callback.encoder import TokenPooling, check_choice
from neuronxa_callback.pairs import ParallelPairs, is_language_pair
from neuronxa_callback.scores import REPRESENTATION_OF, Method, aligned_pairs

DEFAULT_PAIRS = "eng_Latn-isl_Latn"

# What `ParallelPairs.load` takes (a dataset among it), or several of these in a list.
PairsLike: TypeAlias = Any


@dataclass(frozen=True)
class AlignmentReport:
    """How well a model aligns one language pair, or several together.

    Every number is in [0, 1] and held by method ("nasca", "navca", "mexa").

    Attributes:
        score: mean over layers of the share of weakly aligned pairs (Eq. 4); over several language pairs, their mean.
        per_layer: that share at each layer, float32 tensor (layers,); over several language pairs, their mean.
        per_pair: share of layers at which each sentence pair is aligned, float32 tensor (pairs,), whose mean is the
            score; over several language pairs, the mean over languages where these share their source sentences,
            else all of theirs, one after the other.
        p_value: probability of such a score by chance (Eq. 5), conservative for means over layers and languages: see
            `statistics.chance_p_value`.
        ci: 95 % bootstrap interval of the score over sentence pairs.
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
        methods: one or several of "nasca" (neuron states), "navca" (neuron values), "mexa" (embeddings), from one
            forward pass per sentence together.
        token_pooling: "weighted" (Eq. 3), "average" or "last".
        token_budget: padded tokens in a batch at most; see `encode`. Where memory runs out it is halved, and stays so.

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
    ) -> None:
        self.pairs = load_all(pairs)
        self.methods: tuple[Method, ...] = (methods,) if isinstance(methods, str) else tuple(methods)
        for method in self.methods:
            check_choice("method", method, Method)
        if not self.methods:
            raise ValueError("methods is empty; choose nasca, navca or mexa.")
        check_choice("token_pooling", token_pooling, TokenPooling)
        if token_budget is not None and (not isinstance(token_budget, int) or token_budget < 1):
            raise ValueError(f"token_budget={token_budget!r} must be a number of tokens, such as 512.")
        self.token_pooling = token_pooling
        self.token_budget = token_budget

    def check(self, model: nn.Module, tokenizer: Any) -> None:
        """Find out before training whether this model can be measured on these pairs.

        Runs the decoder once on the shortest held-out sentence.

        Raises:
            UnreadableFFNError: names the module that cannot be read and says what to do.
            ValueError: a held-out sentence that is longer than the model's context, or has no token.
        """
        neurons.find_ffns(model)
        limit = encoder.context_length(model)
        texts = {text for pair in self.pairs for text in (pair.source, pair.target)}
        token_ids = [ids for text in texts for ids in encoder.tokenize(tokenizer, text, limit)]
        shortest = min(token_ids, key=len)
        with encoder.undisturbed(model):
            neurons.check_readable(model, lambda: encoder.run_decoder(model, [shortest]))

    def __call__(self, model: nn.Module, tokenizer: Any) -> AlignmentReport:
        """Score the model as it is now, leaving its mode, random state and configuration as they were."""
        by_language: dict[str, AlignmentReport] = {}
        encoded_text: tuple[str, ...] | None = None
        for pair in sorted(self.pairs, key=lambda pair: pair.source):  # pairs with one source side stand together
            if pair.source != encoded_text:
                source, encoded_text = self._encode(model, tokenizer, pair.source), pair.source
            target = self._encode(model, tokenizer, pair.target)
            signature = self.signature(pair, model, tokenizer)
            by_language[pair.name] = _report_of_pair(
                {m: aligned_pairs(source[REPRESENTATION_OF[m]], target[REPRESENTATION_OF[m]]) for m in self.methods},
                signature,
            )
        shared_source = len({pair.source for pair in self.pairs}) == 1
        return _report_of_all({pair.name: by_language[pair.name] for pair in self.pairs}, shared_source)

    def signature(self, pair: ParallelPairs, model: nn.Module, tokenizer: Any) -> str:
        """The choices behind a pair's numbers, as sacreBLEU signs its scores.

        The device and the token budget are not among them: they only round differently (docs/method.md).
        """
        fields = {
            "method": "+".join(self.methods),
            "n": len(pair),
            "pair": pair.name,
            "data": pair.fingerprint,
            "tokens": self.token_pooling,
            "layers": "mean",
            "special": encoder.special_tokens(tokenizer),
            "neurons": "sigma(gate)>0",
            "dtype": encoder.compute_dtype(model),
            "version": version("neuronxa-callback"),
        }
        return "|".join(f"{name}:{value}" for name, value in fields.items())

    def _encode(self, model: nn.Module, tokenizer: Any, sentences: Sequence[str]) -> dict[Any, Tensor]:
        representations = [REPRESENTATION_OF[method] for method in self.methods]

        def run(token_budget: int) -> dict[Any, Tensor]:
            return encoder.encode_all(model, tokenizer, sentences, representations, self.token_pooling, token_budget)

        asked = self.token_budget or encoder.default_token_budget(model)
        encoded, fitted = encoder.within_memory(
            run, asked, lambda: max(map(len, encoder.tokenize(tokenizer, sentences)))
        )
        if fitted != asked:
            self.token_budget = fitted
        return encoded


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


def _is_several(pairs: PairsLike) -> bool:
    """A list of language pairs, as against one pair: two files in a tuple, or a dataset in a list of dicts."""
    if isinstance(pairs, tuple):
        return len(pairs) > 0 and all(isinstance(pair, ParallelPairs) or is_language_pair(pair) for pair in pairs)
    return isinstance(pairs, list) and not any(isinstance(pair, Mapping) for pair in pairs)


def _report_of_pair(aligned: dict[Method, Tensor], signature: str) -> AlignmentReport:
    per_pair = {method: states.double().mean(dim=0) for method, states in aligned.items()}
    score = {method: states.double().mean().item() for method, states in aligned.items()}
    return AlignmentReport(
        score=score,
        per_layer={method: states.double().mean(dim=1).float() for method, states in aligned.items()},
        per_pair={method: shares.float() for method, shares in per_pair.items()},
        p_value={m: statistics.chance_p_value(score[m], len(shares)) for m, shares in per_pair.items()},
        ci={method: statistics.bootstrap_interval(shares.numpy()) for method, shares in per_pair.items()},
        signature=signature,
        by_language={},
    )


def _mean_over_languages(per_pair: list[Tensor]) -> Tensor:
    return torch.stack(per_pair).mean(dim=0)


def _report_of_all(by_language: dict[str, AlignmentReport], shared_source: bool) -> AlignmentReport:
    reports = list(by_language.values())
    first = reports[0]
    methods = list(first.score)
    if len(reports) == 1:
        return replace(first, by_language=by_language)
    score = {m: fmean(report.score[m] for report in reports) for m in methods}
    # Translations of one sentence rise and fall together: resampled apart they would make the interval too narrow.
    join = _mean_over_languages if shared_source else torch.cat
    per_pair = {m: join([report.per_pair[m] for report in reports]) for m in methods}
    return AlignmentReport(
        score=score,
        per_layer={m: torch.stack([report.per_layer[m] for report in reports]).mean(dim=0) for m in methods},
        per_pair=per_pair,
        p_value={m: statistics.chance_p_value(score[m], min(len(r.per_pair[m]) for r in reports)) for m in methods},
        ci={m: statistics.bootstrap_interval(per_pair[m].numpy()) for m in methods},
        signature=" ".join(report.signature for report in reports),
        by_language=by_language,
    )
