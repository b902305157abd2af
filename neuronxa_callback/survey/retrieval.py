"""Retrieval over many languages: how many sentences find their own translation."""

from __future__ import annotations

from pathlib import Path

from rich.progress import Progress

from neuronxa_callback import significance
from neuronxa_callback.alignment.evaluator import Encoded, NeuronXAEvaluator
from neuronxa_callback.alignment.scores import retrieved
from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.measure import ModelChoice, measure
from neuronxa_callback.survey.records import Retrieval, RetrievalLine, RetrievalNumbers
from neuronxa_callback.vocabulary import Direction, Representation


def retrieve(
    choice: ModelChoice, evaluator: NeuronXAEvaluator, folder: Path, notes: list[str], progress: Progress | None = None
) -> list[RetrievalLine]:
    """Measure retrieval accuracy on what the evaluator's methods read and write retrieval.jsonl; see `measure`."""
    return measure(choice, evaluator, folder / "retrieval.jsonl", RetrievalLine, retrieval_of, notes, progress)


def retrieval_of(evaluator: NeuronXAEvaluator, source: Encoded, target: Encoded, signature: Signature) -> Retrieval:
    """Return the retrieval between two encoded sides, with the evaluator's pooling over the layers."""
    found: dict[Representation, dict[Direction, RetrievalNumbers]] = {}
    n = next(iter(source.values())).shape[1]
    for read in dict.fromkeys(evaluator.representations.values()):
        for direction, hits in retrieved(source[read], target[read]).items():
            per_layer = hits.double().mean(dim=1)
            best = int(per_layer.argmax())
            per_sentence = hits[best].double() if evaluator.layer_pooling == "max" else hits.double().mean(dim=0)
            accuracy = per_sentence.mean().item()
            p_value = significance.chance_p_value(accuracy, n, None if direction == "both" else 1 / n)
            chances = len(per_layer) if evaluator.layer_pooling == "max" else 1
            found.setdefault(read, {})[direction] = RetrievalNumbers(
                accuracy=accuracy,
                p_value=min(1.0, chances * p_value),
                ci=significance.bootstrap_interval(per_sentence.numpy()),
                per_layer=per_layer.tolist(),
            )
    signed = signature.with_fields(method=f"retrieval({'+'.join(found)})")
    return Retrieval(signature=signed, retrieval=found)
