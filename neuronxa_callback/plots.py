"""Figures: a map of sentences (Fig. 1 of the paper), scores per layer (Fig. 2), over steps (3), and quality (4)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count
from math import ceil
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from neuronxa_callback.significance import FEWEST_POINTS, Correlation, chance_level
from neuronxa_callback.vocabulary import ALIGNMENT, score_name

# Okabe and Ito's colours differ for every kind of colour vision. The markers differ in grey print, too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
EVALUATION_LINES: tuple[dict[str, Any], ...] = ({"linestyle": ":"}, {"linestyle": "--"}, {"linestyle": "-"})
CHANCE_LINE: dict[str, Any] = {"color": "0.4", "linestyle": "-.", "linewidth": 1, "label": "chance level"}
STEP_COLOURS = "cividis"  # it goes from dark to light for every kind of colour vision, and in grey print

REPRESENTATION_NAMES = {"embedding": "Embedding", "nas": "Neuron states", "nav": "Neuron values"}
LONGEST_LABEL = 40  # characters; a user's own metric may have any name
MOST_COLUMNS = 3
MOST_INSIDE = 6  # a legend with more entries leaves too little room for the lines


def layer_figure(
    per_layer: Mapping[str, Sequence[float]], method: str, n: int, title: str, layers: Sequence[int]
) -> Figure:
    """Draw the score at each layer, with one line for each language pair (Fig. 2).

    Args:
        per_layer: name of a language pair -> its score at each layer.
        method: the score's name, for the axis.
        n: number of sentence pairs. The chance level follows from it.
        title: the figure's title.
        layers: the numbers of the layers.
    """
    figure, axes = _axes(title, "Layer", f"{score_name(method)} ({n} pairs)")
    for (name, scores), style in zip(per_layer.items(), _styles(), strict=False):
        axes.plot(layers[: len(scores)], scores, label=_label(name), markersize=3, **style)
    return _finish(figure, axes, method, n)


def layer_change_figure(
    evaluations: Mapping[str, Mapping[str, Sequence[float]]],
    method: str,
    pairs: Mapping[str, int],
    title: str,
    layers: Sequence[int],
) -> Figure:
    """Draw the score at each layer for some evaluations (Fig. 2).

    Each language pair has a panel, and each evaluation a line style.

    Args:
        evaluations: name of an evaluation -> name of a language pair -> its score at each layer. There can be at most
            three evaluations.
        method: the score's name, for the axis.
        pairs: name of a language pair -> its number of sentence pairs. Its chance level follows from the number.
        title: the figure's title.
        layers: the numbers of the layers, for the language pair that has the most layers.
    """
    figure, panels = _panels(len(pairs), title)
    lines = dict(zip(evaluations, EVALUATION_LINES[-len(evaluations) :], strict=True))  # the last one is solid
    for (name, n), panel, style in zip(pairs.items(), panels, _styles(), strict=False):
        for evaluation, per_layer in evaluations.items():
            scores = per_layer.get(name, ())
            panel.plot(layers[: len(scores)], scores, label=evaluation, color=style["color"], **lines[evaluation])
        if method in ALIGNMENT:
            panel.axhline(chance_level(n), **CHANCE_LINE)
        panel.set_title(f"{_label(name)} ({n} pairs)", fontsize="medium")
        panel.xaxis.set_major_locator(_whole_numbers())
    bottom, top = (choose(panel.get_ylim()[end] for panel in panels) for end, choose in ((0, min), (1, max)))
    for panel in panels:
        panel.set_ylim(min(0, bottom) if method == "sads" else 0, top)
    keys = [Line2D([], [], color="black", label=evaluation, **line) for evaluation, line in lines.items()]
    chance = [Line2D([], [], **CHANCE_LINE)] if method in ALIGNMENT else []
    _legend_below(figure, [*keys, *chance], len(panels))
    _name_x(panels, "Layer")
    figure.supylabel(score_name(method), fontsize="medium")
    return figure


class CurvePoint(NamedTuple):
    """A score at one evaluation.

    Attributes:
        step: the training step.
        score: the score.
        interval: its 95 % interval, None if it has none.
    """

    step: int
    score: float
    interval: tuple[float, float] | None


def curve_figure(
    curves: Mapping[str, Sequence[CurvePoint]], method: str, n: int | Collection[int], title: str
) -> Figure:
    """Draw a score over training steps with 95 % intervals, and one line for each language pair (Fig. 3).

    Args:
        curves: name of a language pair -> its points in step order. Either all of them have an interval or none has.
        method: the score to draw.
        n: number of sentence pairs, or the numbers if language pairs differ. The chance level follows from each.
        title: the figure's title.
    """
    figure, axes = _axes(title, "Step", _with_pairs(method, n))
    alpha = min(0.15, 0.6 / max(1, len(curves)))  # the bands of many languages overlap
    for (name, points), style in zip(curves.items(), _styles(), strict=False):
        steps, scores, intervals = zip(*points, strict=True)
        axes.plot(steps, scores, label=_label(name), markersize=5, **style)
        if None in intervals:
            continue
        low, high = np.array(intervals).T
        if len(steps) > 1:
            axes.fill_between(steps, low, high, color=style["color"], alpha=alpha, linewidth=0)
        else:  # a band over a single step would have no width
            axes.vlines(steps, low, high, color=style["color"], alpha=0.5)
    return _finish(figure, axes, method, n)


def quality_figure(
    points: Mapping[str, Sequence[tuple[int, float, float]]],
    correlations: Mapping[str, Correlation | None],
    method: str,
    n: int | Collection[int],
    title: str,
) -> Figure:
    """Draw translation quality against alignment (Fig. 4).

    Each metric has a panel, and each evaluation a point.

    Args:
        points: metric -> (step, alignment, quality) of each evaluation, in step order.
        correlations: metric -> the correlation of its points; None if they have none.
        method: the alignment score.
        n: number of sentence pairs, or the numbers if language pairs differ.
        title: the figure's title.
    """
    figure, panels = _panels(len(points), title)
    steps = [step for evaluations in points.values() for step, _, _ in evaluations]
    colour_of = ScalarMappable(Normalize(min(steps), max(steps)), STEP_COLOURS)
    for (metric, evaluations), panel in zip(points.items(), panels, strict=True):
        step, x, y = np.array(evaluations).T
        panel.plot(x, y, color="0.75", linewidth=1, zorder=1)  # the path of training
        if correlations[metric] is not None:
            ends = np.array([x.min(), x.max()])
            panel.plot(ends, np.polyval(np.polyfit(x, y, 1), ends), color="black", linestyle="--", zorder=2)
        panel.scatter(x, y, s=36, color=colour_of.to_rgba(step), edgecolors="0.2", linewidths=0.6, zorder=3)
        panel.set_title(_correlation_text(correlations[metric], len(x)), fontsize="small")
        panel.set_ylabel(_label(score_name(metric)))
    if min(steps) < max(steps):
        figure.colorbar(colour_of, ax=panels, label="Step", ticks=_whole_numbers())
    _name_x(panels, _with_pairs(method, n))
    return figure


def quality_curve_figure(curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], title: str) -> Figure:
    """Draw translation quality over training steps, with a panel for each metric and a line for each direction.

    Args:
        curves: metric -> direction -> (step, score) of each evaluation that has a score.
        title: the figure's title.
    """
    figure, panels = _panels(len(curves), title)
    directions = list(dict.fromkeys(direction for by_direction in curves.values() for direction in by_direction))
    styles = dict(zip(directions, _styles(), strict=False))
    for (metric, by_direction), panel in zip(curves.items(), panels, strict=True):
        for direction, points in by_direction.items():
            panel.plot(*zip(*points, strict=True), label=_label(direction), markersize=5, **styles[direction])
        panel.set_ylabel(_label(score_name(metric)))
        panel.xaxis.set_major_locator(_whole_numbers(4))  # a step may have six digits
    keys = [Line2D([], [], label=_label(direction), **style) for direction, style in styles.items()]
    _legend_below(figure, keys, len(panels))
    _name_x(panels, "Step")
    return figure


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
    figure, axes = _panels(len(panels), title)
    styles = [style for style, _ in zip(_styles(), languages, strict=False)]
    for panel, place in zip(panels, axes, strict=True):
        place.add_collection(LineCollection(panel.points.swapaxes(0, 1).tolist(), colors="0.75", linewidths=0.7))
        for points, style in zip(panel.points, styles, strict=True):
            place.plot(*points.T, linestyle="", markersize=4, markeredgewidth=0, alpha=0.8, **style)
        name = REPRESENTATION_NAMES[panel.representation]
        place.set_title(f"{name}, layer {panel.layer}\n{panel.aligned:.0%} of pairs aligned there", fontsize="medium")
        place.set(xticks=[], yticks=[])  # the plane of t-SNE has no unit
        place.grid(visible=False)
    sides = zip(languages, styles, strict=True)
    keys = [Line2D([], [], linestyle="", label=_label(name), **style) for name, style in sides]
    _legend_below(figure, [*keys, Line2D([], [], color="0.75", label="translation")], len(panels))
    return figure


def why_no_correlation(n: int) -> str:
    """Return the reason why n evaluations have no correlation."""
    return "fewer than three evaluations" if n < FEWEST_POINTS else "a score does not vary"


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """Return the figure as an image (height, width, 3), for trackers that take pictures."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _correlation_text(correlation: Correlation | None, n: int) -> str:
    if correlation is None:
        return f"no r: {why_no_correlation(n)}"
    low, high = correlation.ci
    numbers = f"r = {correlation.r:.2f} (n = {correlation.n}, p = {correlation.p_value:.2g})"
    return f"{numbers}\n95 % interval {low:.2f} to {high:.2f}"


def _with_pairs(method: str, n: int | Collection[int]) -> str:
    fewest, *_, most = (*_counts(n), *_counts(n))
    return f"{score_name(method)} ({fewest if fewest == most else f'{fewest} to {most}'} pairs)"


def _counts(n: int | Collection[int]) -> list[int]:
    return [n] if isinstance(n, int) else sorted(set(n))


def _label(name: str) -> str:
    """Return a name as one line for a figure, cut if it is too long. Its dollar signs do not begin a formula."""
    line = " ".join(name.split())
    return (line if len(line) <= LONGEST_LABEL else f"{line[: LONGEST_LABEL - 1]}…").replace("$", r"\$")


def _axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    # pyplot is not used here, because it keeps every figure and may choose a display.
    figure = Figure(figsize=(7, 4.3), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    _plain(axes)
    return figure, axes


def _panels(number: int, title: str) -> tuple[Figure, list[Axes]]:
    columns = _columns(number)
    rows = ceil(number / columns)
    figure = Figure(figsize=(max(5.5, 3.6 * columns), 1 + 3 * rows), dpi=120, layout="constrained")
    figure.suptitle(title)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[number:]:
        panel.remove()
    for panel in panels[:number]:
        _plain(panel)
    return figure, panels[:number]


def _columns(number: int) -> int:
    return 2 if number == 4 else min(number, MOST_COLUMNS)


def _name_x(panels: Sequence[Axes], name: str) -> None:
    """Name the x-axis under the lowest panel of each column."""
    for panel in panels[-_columns(len(panels)) :]:
        panel.set_xlabel(name)


def _legend_below(figure: Figure, keys: Sequence[Line2D], panels: int) -> None:
    figure.legend(handles=keys, loc="outside lower center", ncols=2 * _columns(panels), fontsize="small")


def _whole_numbers(most: int | Literal["auto"] = "auto") -> MaxNLocator:
    """Return a locator of round ticks for steps and layers. It sets as many as fit, and one for a single evaluation."""
    return MaxNLocator(nbins=most, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.ticklabel_format(useOffset=False)


def _styles() -> Iterator[dict[str, Any]]:
    """Yield pairs of a colour and a marker. After the last colour, the colours come again with other markers."""
    for i in count():
        shift = i // len(COLOURS)
        yield {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[(i + shift) % len(MARKERS)]}


def _finish(figure: Figure, axes: Axes, method: str, n: int | Collection[int]) -> Figure:
    counts = _counts(n) if method in ALIGNMENT else []
    for pairs in counts:
        label = "chance level" if len(counts) == 1 else f"chance level, {pairs} pairs"
        axes.axhline(chance_level(pairs), color="0.4", linestyle="--", linewidth=1, label=label)
    low, high = axes.get_ylim()
    axes.set_ylim(min(0, low) if method == "sads" else 0, high + 0.03 * abs(high))  # room for markers near the top
    axes.xaxis.set_major_locator(_whole_numbers())
    if len(axes.lines) <= MOST_INSIDE:
        axes.legend(fontsize="small")
    else:
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure
