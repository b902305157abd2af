"""Retrieval over many languages: how many sentences find their own translation."""

from __future__ import annotations

from pathlib import Path

from rich.progress import Progress

from neuronxa_callback.alignment.evaluator import Encoded, NeuronXAEvaluator
from neuronxa_callback.alignment.report import pool_layers
from neuronxa_callback.alignment.scores import random_orders, retrieved
from neuronxa_callback.ranks import Ranks
from neuronxa_callback.signature import Signature
from neuronxa_callback.significance import RESAMPLES
from neuronxa_callback.survey.measure import ModelChoice, measure
from neuronxa_callback.survey.records import Retrieval, RetrievalLine, RetrievalNumbers
from neuronxa_callback.text.pairs import ParallelPairs
from neuronxa_callback.vocabulary import Direction, Representation


def retrieve(
    choice: ModelChoice,
    evaluator: NeuronXAEvaluator,
    folder: Path,
    notes: list[str],
    progress: Progress | None = None,
    ranks: Ranks = Ranks(),
) -> list[RetrievalLine]:
    """Measure retrieval accuracy on what the evaluator's methods read and write retrieval.jsonl; see `measure`."""
    path = folder / "retrieval.jsonl"
    return measure(choice, evaluator, path, RetrievalLine, retrieval_of, notes, progress, ranks=ranks)


def retrieval_of(
    evaluator: NeuronXAEvaluator, pairs: ParallelPairs, source: Encoded, target: Encoded, signature: Signature
) -> Retrieval:
    """Return the retrieval between two encoded sides, with the evaluator's pooling over the layers."""
    found: dict[Representation, dict[Direction, RetrievalNumbers]] = {}
    for read in dict.fromkeys(evaluator.representations.values()):
        measured = retrieved(source[read], target[read], random_orders(len(pairs), RESAMPLES))
        for direction, values in measured.items():
            pooled = pool_layers(values, evaluator.layer_pooling)
            found.setdefault(read, {})[direction] = RetrievalNumbers(
                accuracy=pooled.score,
                chance=None if pooled.chance is None else pooled.chance.level,
                p_value=None if pooled.chance is None else pooled.chance.p_value,
                ci=pooled.ci,
                per_layer=values.per_layer.tolist(),
            )
    signed = signature.with_fields(method=f"retrieval({'+'.join(found)})")
    return Retrieval(signature=signed, retrieval=found)
