"""The figures: alignment per layer (Fig. 2 of the paper) and over steps (Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from neuronxa_callback.statistics import chance_level

# Okabe and Ito's colours, told apart with every kind of colour vision; markers tell them apart in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def layer_figure(per_layer: Mapping[str, Sequence[float]], method: str, n: int, title: str) -> Figure:
    """Score per layer, one line a language pair (Fig. 2).

    Args:
        per_layer: name of a language pair -> its score at each layer.
        method: the score's name, for the axis.
        n: number of sentence pairs, from which the chance level follows.
        title: what stands above.
    """
    figure, axes = _axes(title, "Layer", f"{method.upper()} ({n} pairs)")
    first = 0 if method == "mexa" else 1  # MEXA counts the embedding layer, as layer 0
    for (name, scores), style in zip(per_layer.items(), _styles(), strict=False):
        axes.plot(range(first, first + len(scores)), scores, label=name, markersize=3, **style)
    return _finish(figure, axes, n)


def curve_figure(history: Sequence[Mapping[str, Any]], method: str, n: int, title: str) -> Figure:
    """Score over training steps with 95 % intervals, one line a language pair (Fig. 3).

    Args:
        history: the lines of scores.jsonl, in step order.
        method: the score to draw.
        n: number of sentence pairs, from which the chance level follows.
        title: what stands above.
    """
    figure, axes = _axes(title, "Step", f"{method.upper()} ({n} pairs)")
    steps = [record["step"] for record in history]
    for name, style in zip(history[0]["languages"], _styles(), strict=False):
        language = [record["languages"][name] for record in history]
        axes.plot(steps, [entry["score"][method] for entry in language], label=name, markersize=5, **style)
        low, high = zip(*(entry["ci"][method] for entry in language), strict=True)
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
    return _finish(figure, axes, n)


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """The figure as an image (height, width, 3), for trackers that take pictures."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    # A Figure of its own, not pyplot's: pyplot keeps every figure and may choose a display.
    figure = Figure(figsize=(7, 4.3), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _styles() -> Any:
    return ({"color": colour, "marker": marker} for colour, marker in zip(cycle(COLOURS), cycle(MARKERS), strict=False))


def _finish(figure: Figure, axes: Axes, n: int) -> Figure:
    axes.axhline(chance_level(n), color="0.4", linestyle="--", linewidth=1, label="chance level")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize="small")
    return figure
