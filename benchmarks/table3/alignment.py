"""The alignment of each language in every setting. A language is encoded once for each token pooling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import get_args

from benchmarks.table3.records import POOLINGS, SETTINGS, AlignmentLine, Setting
from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.alignment.evaluator import Encoded
from neuronxa_callback.alignment.scores import measure_all
from neuronxa_callback.alignment.surface import ngram_alignment
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.state import TokenBudget
from neuronxa_callback.signature import Signature
from neuronxa_callback.vocabulary import REPRESENTATION_OF, Method

METHODS: tuple[Method, ...] = get_args(Method)
NGRAMS = "4-grams"


def alignment_lines(
    decoder: Decoder,
    model: str,
    sentences: Mapping[str, Sequence[str]],
    done: set[tuple[str, Setting]],
    key: Signature,
    budget: TokenBudget,
) -> Iterator[AlignmentLine]:
    """Yield the lines that are not done, one pooling after another.

    Args:
        decoder: the model, in evaluation mode.
        model: its name.
        sentences: FLORES-200 code -> its sentences.
        done: the language and the setting of each line that there is.
        key: the key of the new lines.
        budget: the padded tokens of a batch.
    """
    for pooling in POOLINGS:
        settings = [setting for setting in SETTINGS if setting.pooling == pooling]
        left = {lang: [its for its in settings if its.pivot != lang and (lang, its) not in done] for lang in sentences}
        evaluator = NeuronXAEvaluator(methods=METHODS, token_pooling=pooling)
        needed = max(setting.n for setting in settings)
        encode = partial(evaluator.encode, decoder, budget=budget)
        pivots = {
            pivot: encode(sentences[pivot][:needed])
            for pivot in dict.fromkeys(setting.pivot for its in left.values() for setting in its)
        }
        for lang, its in left.items():
            if not its:
                continue
            encoded = pivots.get(lang) or encode(sentences[lang][:needed])
            for setting in its:
                score = _scores(pivots[setting.pivot], encoded, setting.n)
                source, target = (tuple(sentences[code][: setting.n]) for code in (setting.pivot, lang))
                score |= {NGRAMS: ngram_alignment(ParallelPairs(source, target, setting.pivot, lang))}
                yield AlignmentLine(
                    model=model,
                    lang=lang,
                    pivot=setting.pivot,
                    pooling=pooling,
                    n=setting.n,
                    pairs=len(source),
                    score=score,
                    key=key,
                )


def _scores(source: Encoded, target: Encoded, n: int) -> dict[str, float]:
    """Return each method's score on the first `n` pairs, the mean over layers, as `neuronxa score` gives it."""
    found: dict[str, float] = {}
    for read in source:
        methods = {method: None for method in METHODS if REPRESENTATION_OF[method] == read}
        measured = measure_all(source[read][:, :n], target[read][:, :n], methods, joined=read == "signed")
        found |= {method: values.per_layer.mean().item() for method, values in measured.items()}
    return {method: found[method] for method in METHODS}
