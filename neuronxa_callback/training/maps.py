"""The maps of a run, from its evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuronxa_callback.alignment.pair_scores import PairScores
from neuronxa_callback.run_map import layer_map_figure, pair_map_figure
from neuronxa_callback.training.records import Evaluation, layers_of, pair_counts
from neuronxa_callback.vocabulary import LayerPooling, Method, score_name

LAYER_MAP, PAIR_MAP = "layer_map", "pair_map"


class MapText(NamedTuple):
    """What the pages of a run say about a map.

    Attributes:
        heading: the heading of its section.
        description: the figure's description, with {} for the method's name.
        reading: how to read it.
    """

    heading: str
    description: str
    reading: str


MAP_TEXTS = {
    LAYER_MAP: MapText(
        "Layers over training steps",
        "{} of each layer over training steps, a panel a language",
        "A column is an evaluation, and it reaches halfway to the evaluations before and after it. A row is a layer. "
        "Darker is a higher value.",
    ),
    PAIR_MAP: MapText(
        "Sentence pairs over training steps",
        "{} of each held-out pair over training steps, a panel a language",
        "A row is a held-out pair. A panel has one order of its pairs for all steps: the pair with the highest value "
        "at the last step is on top. Darker is a higher value.",
    ),
}


def run_maps(evaluations: Sequence[Evaluation], method: Method) -> dict[str, Figure]:
    """Return a run's maps of a method.

    Args:
        evaluations: the run's evaluations in step order. One without a score of the method is drawn as missing.
        method: a method that scored at least one of them.

    Returns:
        `LAYER_MAP` -> the map of layers over steps; `PAIR_MAP` -> the map of sentence pairs over steps, for methods
        whose score is a mean over pairs. A map is missing if the evaluations hold nothing for it, and the map of layers
        also if the method joins the layers.
    """
    steps, name = [evaluation.step for evaluation in evaluations], score_name(method)
    per_layer = over_steps(evaluations, lambda language: language.per_layer.get(method, []))
    per_pair = over_steps(evaluations, lambda language: language.per_pair.get(method, []))
    signature = next((language.signature for e in evaluations for language in e.languages.values()), None)
    maps: dict[str, Figure] = {}
    if per_layer and (layers := layers_of(evaluations, method)):
        maps[LAYER_MAP] = layer_map_figure(
            per_layer, steps, method, pair_counts(evaluations, method), f"{name}: layers over training steps", layers
        )
    if signature and per_pair:
        pooling: LayerPooling = "max" if (signature.get("layers") or "").startswith("max") else "mean"
        maps[PAIR_MAP] = pair_map_figure(
            per_pair, steps, method, pooling, f"{name}: sentence pairs over training steps"
        )
    return maps


def over_steps(
    evaluations: Sequence[Evaluation], values_of: Callable[[PairScores], Sequence[float]]
) -> dict[str, NDArray[np.float64]]:
    """Return name of a language pair -> its values, (evaluations, values); NaN where an evaluation has none."""
    rows: dict[str, dict[int, Sequence[float]]] = {}
    for place, evaluation in enumerate(evaluations):
        for name, language in evaluation.languages.items():
            values = values_of(language)
            if not all(map(isnan, values)):
                rows.setdefault(name, {})[place] = values
    tables: dict[str, NDArray[np.float64]] = {}
    for name, by_place in rows.items():
        tables[name] = np.full((len(evaluations), max(map(len, by_place.values()))), np.nan)
        for place, values in by_place.items():
            tables[name][place, : len(values)] = values
    return tables
