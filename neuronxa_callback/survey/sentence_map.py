"""Sentences and their translations in the plane, by t-SNE (paper, Fig. 1).

A map is a picture and not a measurement, because t-SNE keeps neighbours together and distorts every larger distance.
The share of weakly aligned pairs (Eq. 4) stands beside it. That share comes from the representations themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from neuronxa_callback.alignment.evaluator import Encoded, NeuronXAEvaluator
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.figures import DPI, MapPanel, file_name, map_figure
from neuronxa_callback.survey.measure import ModelChoice
from neuronxa_callback.tables import Cell, Table
from neuronxa_callback.text.pairs import ParallelPairs
from neuronxa_callback.vocabulary import ALIGNMENT, REPRESENTATION_OF, Representation, TokenPooling, reads_neurons

PERPLEXITY = 30.0  # scikit-learn's default. It must be below the number of points, so few points take a third of it.
SEED = 0


@dataclass(frozen=True)
class SentenceMap:
    """The sentences of one language pair in one representation.

    Attributes:
        model: the model's name in tables.
        pairs: the sentences.
        representation: "embedding", "nas" or "nav".
        layer: the layer's number, with FFNs counted from 1. For embeddings it means that layer's output.
        points: float64 (2, sentences, 2): the places of the source and the target sentences, without a unit.
        divergence: the Kullback-Leibler divergence that remains after t-SNE.
        aligned: the share of weakly aligned pairs at this layer.
        p_value: the probability of this share by chance.
        signature: the choices behind these numbers.
    """

    model: str
    pairs: ParallelPairs
    representation: Representation
    layer: int
    points: NDArray[np.float64]
    divergence: float
    aligned: float
    p_value: float
    signature: Signature


def measure_maps(
    choice: ModelChoice,
    pairs: Sequence[ParallelPairs],
    representations: Sequence[Representation],
    notes: list[str],
    layer: int | None = None,
    token_pooling: TokenPooling = "weighted",
    token_budget: int | None = None,
    progress: Progress | None = None,
) -> list[SentenceMap]:
    """Map each language pair in each representation.

    Args:
        choice: the model.
        pairs: the language pairs.
        representations: the representations to map.
        notes: gets a sentence for each language that is left out because it does not fit into the model's context.
        layer: the layer to map; the forward pass ends after it. None means the middle layer, where the paper finds the
            highest alignment.
        token_pooling: "weighted", "average" or "last".
        token_budget: the largest number of tokens in a batch, including padding.
        progress: shows a task that counts the language pairs.

    Raises:
        ModelError: the model cannot be loaded.
        ValueError: the model cannot be measured (see `NeuronXAEvaluator.check`), or scikit-learn is missing.
    """
    _check_scikit_learn()
    methods = [method for method in ALIGNMENT if REPRESENTATION_OF[method] in representations]
    progress = progress or Progress(disable=True)
    task = progress.add_task(choice.name, total=len(pairs))
    with choice.loaded() as (model, tokenizer):
        decoder = Decoder.find(model, tokenizer)
        chosen = _middle_layer(decoder, representations) if layer is None else layer
        evaluator = NeuronXAEvaluator(list(pairs), methods, token_pooling, token_budget, layers=(chosen,))
        kept, left_out = evaluator.fitting(decoder)
        notes += left_out
        progress.update(task, total=len(kept))
        evaluator.check(decoder, kept)

        def of_pair(pair: ParallelPairs, source: Encoded, target: Encoded) -> list[SentenceMap]:
            signature = evaluator.signature(pair, decoder)
            report, found = evaluator.report(source, target, signature), []
            for read in representations:
                points, divergence = project(source[read][0], target[read][0])
                method = next(method for method in ALIGNMENT if REPRESENTATION_OF[method] == read)
                drawn = (points, divergence, report.score[method], report.p_value[method], signature)
                found.append(SentenceMap(choice.name, pair, read, chosen, *drawn))
            progress.advance(task)
            return found

        return [drawn for found in evaluator.each(decoder, kept, of_pair) for drawn in found]


def _middle_layer(decoder: Decoder, representations: Sequence[Representation]) -> int:
    """Return the number of the middle layer, or of the nearest one with an FFN if neurons are read (hybrid stacks)."""
    middle = max(1, len(decoder.layers) // 2)
    if not reads_neurons(representations):
        return middle
    return min(decoder.ffn_layers, key=lambda layer: abs(layer - middle))


def project(source: Tensor, target: Tensor) -> tuple[NDArray[np.float64], float]:
    """Project both sides together into the plane by t-SNE.

    The distance is the cosine distance, because alignment is measured by it. The same numbers give the same map,
    because t-SNE starts from the principal components with a fixed seed.

    Args:
        source: (sentences, features).
        target: the same shape.

    Returns:
        the points (2, sentences, 2), and the divergence that remains.
    """
    from sklearn.manifold import TSNE  # only maps need it

    vectors = np.concatenate([source.double().numpy(), target.double().numpy()])
    perplexity = min(PERPLEXITY, len(vectors) / 3)
    tsne = TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=SEED)
    points = tsne.fit_transform(vectors).astype(np.float64)
    return points.reshape(2, len(source), 2), float(tsne.kl_divergence_)


def map_table(maps: Sequence[SentenceMap], notes: Sequence[str]) -> Table:
    """Return a table with one row for each language pair and representation.

    A row holds the layer, its share of aligned pairs with a p-value, and the divergence that remains after t-SNE.
    """
    rows: list[list[Cell]] = [
        [m.pairs.target_lang, m.representation, m.layer, m.aligned, m.p_value, m.divergence, m.signature] for m in maps
    ]
    columns = ["language", "representation", "layer", "aligned", "p", "divergence", "signature"]
    return Table(_title(maps), columns, rows, [*notes, "aligned: share of weakly aligned pairs (Eq. 4) at this layer."])


def point_table(maps: Sequence[SentenceMap], notes: Sequence[str]) -> Table:
    """Return a table with one row for each sentence.

    A row holds the language, the pair's number from 1, the sentence's place and its text.
    """
    rows: list[list[Cell]] = []
    for m in maps:
        name, sides = m.pairs.name, ((m.pairs.source_lang, m.pairs.source), (m.pairs.target_lang, m.pairs.target))
        for points, (code, sentences) in zip(m.points, sides, strict=True):
            for number, ((x, y), text) in enumerate(zip(points.tolist(), sentences, strict=True), start=1):
                rows.append([name, m.representation, m.layer, code, number, x, y, text, m.signature])
    columns = ["pairs", "representation", "layer", "language", "pair", "x", "y", "sentence", "signature"]
    return Table(_title(maps), columns, rows, [*notes])


def draw(maps: Sequence[SentenceMap], folder: Path) -> list[Path]:
    """Draw a figure for each language pair into the folder, with one panel for each representation."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in dict.fromkeys(m.pairs.name for m in maps):
        of_pair = [m for m in maps if m.pairs.name == name]
        panels = [MapPanel(m.representation, m.layer, m.aligned, m.points) for m in of_pair]
        codes = of_pair[0].pairs.source_lang, of_pair[0].pairs.target_lang
        paths.append(folder / f"map-{file_name(of_pair[0].model)}-{name}.png")
        map_figure(panels, codes, of_pair[0].model).savefig(paths[-1], dpi=DPI)
    return paths


def _title(maps: Sequence[SentenceMap]) -> str:
    return f"Sentences of {maps[0].model} in the plane, with {maps[0].pairs.source_lang}"


def _check_scikit_learn() -> None:
    """Raise ValueError before a model is loaded if scikit-learn is missing."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise ValueError("a map needs scikit-learn; install it with: pip install 'neuronxa-callback[map]'.") from None
