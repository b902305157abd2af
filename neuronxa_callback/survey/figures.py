"""The figures of a survey and the names of their files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from neuronxa_callback.alignment.pair_scores import layer_numbers
from neuronxa_callback.plots import layer_figure
from neuronxa_callback.survey.records import ScoreLine

DPI = 150


def draw_layers(records: Sequence[ScoreLine], folder: Path) -> list[Path]:
    """Draw the score per layer for each method (paper, Fig. 2) into the folder."""
    first, n = records[0], min(record.n for record in records)
    paths = []
    for method, values in first.per_layer.items():
        per_layer = {record.lang: record.per_layer[method] for record in records}
        layers = layer_numbers(first.signature, method, len(values))
        figure = layer_figure(per_layer, method, n, first.model, layers)
        paths.append(folder / f"layers-{file_name(first.model)}-{method}.png")
        figure.savefig(paths[-1], dpi=DPI)
    return paths


def file_name(name: str) -> str:
    """Return a model's name in a form that fits into a file's name."""
    return re.sub(r"[^\w.+-]+", "-", name)
