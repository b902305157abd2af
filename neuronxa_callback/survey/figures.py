"""The figures of a survey, such as a map of sentences (paper, Fig. 1), and the names of their files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from neuronxa_callback.alignment.pair_scores import layer_numbers
from neuronxa_callback.plots import layer_figure, legend_below, line_styles, panel_grid, short_label
from neuronxa_callback.survey.records import ScoreLine

DPI = 150
REPRESENTATION_NAMES = {"embedding": "Embedding", "nas": "Neuron states", "nav": "Neuron values"}


def draw_layers(records: Sequence[ScoreLine], folder: Path) -> list[Path]:
    """Draw the score per layer for each method that has one (paper, Fig. 2) into the folder."""
    first, n = records[0], min(record.n for record in records)
    paths = []
    for method, values in first.per_layer.items():
        per_layer = {record.lang: record.per_layer[method] for record in records}
        if not (layers := layer_numbers(first.signature, method, len(values))):
            continue
        chance = {r.lang: r.chance_per_layer[method] for r in records if method in r.chance_per_layer}
        figure = layer_figure(per_layer, chance, method, n, first.model, layers)
        paths.append(folder / f"layers-{file_name(first.model)}-{method}.png")
        figure.savefig(paths[-1], dpi=DPI)
    return paths


class MapPanel(NamedTuple):
    """The sentences of two languages in the plane, by one representation.

    Attributes:
        representation: "embedding", "nas" or "nav".
        layer: the layer's number.
        aligned: the share of weakly aligned pairs at the layer.
        points: the source sentences' and the target sentences' points, as an array (2, sentences, 2).
    """

    representation: str
    layer: int
    aligned: float
    points: NDArray[np.float64]


def map_figure(panels: Sequence[MapPanel], languages: tuple[str, str], title: str) -> Figure:
    """Draw the sentences of two languages, and a line from each sentence to its translation (Fig. 1).

    Each representation has a panel.

    Args:
        panels: the panels to draw.
        languages: the names of the source and the target side.
        title: the figure's title.
    """
    figure, axes = panel_grid(len(panels), title)
    styles = [style for style, _ in zip(line_styles(), languages, strict=False)]
    for panel, place in zip(panels, axes, strict=True):
        place.add_collection(LineCollection(panel.points.swapaxes(0, 1).tolist(), colors="0.75", linewidths=0.7))
        for points, style in zip(panel.points, styles, strict=True):
            place.plot(*points.T, linestyle="", markersize=4, markeredgewidth=0, alpha=0.8, **style)
        name = REPRESENTATION_NAMES[panel.representation]
        place.set_title(f"{name}, layer {panel.layer}\n{panel.aligned:.0%} of pairs aligned there", fontsize="medium")
        place.set(xticks=[], yticks=[])  # the plane of t-SNE has no unit
        place.grid(visible=False)
    sides = zip(languages, styles, strict=True)
    keys = [Line2D([], [], linestyle="", label=short_label(name), **style) for name, style in sides]
    legend_below(figure, [*keys, Line2D([], [], color="0.75", label="translation")], len(panels))
    return figure


def file_name(name: str) -> str:
    """Return a model's name in a form that fits into a file's name."""
    return re.sub(r"[^\w.+-]+", "-", name)
