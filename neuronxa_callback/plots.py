"""Figures: scores per layer (Fig. 2 of the paper), over steps (Fig. 3), and quality (Fig. 4)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count
from math import ceil
from statistics import fmean
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from neuronxa_callback.correlation import FEWEST_POINTS, OverRun
from neuronxa_callback.vocabulary import Method, score_name

# Okabe and Ito's colours differ for every kind of colour vision. The markers differ in grey print, too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
EVALUATION_LINES: tuple[dict[str, Any], ...] = ({"linestyle": ":"}, {"linestyle": "--"}, {"linestyle": "-"})
CHANCE_LINE: dict[str, Any] = {
    "color": "0.4",
    "linestyle": "--",
    "linewidth": 1,
    "label": "chance (pairs torn apart)",
}
CHANCE_AMONG_EVALUATIONS = {"linestyle": "-."}  # there a dashed line is an evaluation
STEP_COLOURS = "cividis"  # it goes from dark to light for every kind of colour vision, and in grey print

RING: dict[str, Any] = {
    "color": "black",
    "marker": "o",
    "linestyle": "",
    "markersize": 10,
    "markerfacecolor": "none",
}
MOST_MARKERS = 12  # of a line among several runs

LONGEST_LABEL = 40  # characters; a user's own metric may have any name
MOST_COLUMNS = 3
KEY_WIDTH, CHARACTER_WIDTH = 0.56, 0.07  # inches in a small legend: a line with its gaps, and a letter
MOST_INSIDE = 6  # a legend with more entries leaves too little room for the lines


def layer_figure(
    per_layer: Mapping[str, Sequence[float]],
    chance: Mapping[str, Sequence[float]],
    method: str,
    n: int,
    title: str,
    layers: Sequence[int],
) -> Figure:
    """Draw the score at each layer, with one line for each language pair, and the mean of their chance (Fig. 2).

    Args:
        per_layer: name of a language pair -> its score at each layer.
        chance: name of a language pair -> its chance at each layer. A language pair whose chance was not measured is
            not there.
        method: the score's name, for the axis.
        n: number of sentence pairs, for the axis.
        title: the figure's title.
        layers: the numbers of the layers.
    """
    figure, axes = _axes(title, "Layer", f"{score_name(method)} ({n} pairs)")
    for (name, scores), style in zip(per_layer.items(), line_styles(), strict=False):
        axes.plot(layers[: len(scores)], scores, label=short_label(name), markersize=3, **style)
    if chance:
        mean = [fmean(values) for values in zip(*chance.values(), strict=True)]
        axes.plot(layers[: len(mean)], mean, **_chance_line(len(mean)))
    return _finish(figure, axes, method)


def layer_change_figure(
    evaluations: Mapping[str, Mapping[str, Sequence[float]]],
    chance: Mapping[str, Sequence[float]],
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
        chance: name of a language pair -> its chance at each layer at the last of them. A language pair whose chance
            was not measured is not there.
        method: the score's name, for the axis.
        pairs: name of a language pair -> its number of sentence pairs, for the panel's title.
        title: the figure's title.
        layers: the numbers of the layers, for the language pair that has the most layers.
    """
    figure, panels = panel_grid(len(pairs), title)
    lines = dict(zip(evaluations, EVALUATION_LINES[-len(evaluations) :], strict=True))  # the last one is solid
    for (name, n), panel, style in zip(pairs.items(), panels, line_styles(), strict=False):
        for evaluation, per_layer in evaluations.items():
            scores = per_layer.get(name, ())
            panel.plot(layers[: len(scores)], scores, label=evaluation, color=style["color"], **lines[evaluation])
        if name in chance:
            torn = chance[name]
            panel.plot(layers[: len(torn)], torn, **_chance_line(len(torn)) | CHANCE_AMONG_EVALUATIONS)
        panel.set_title(f"{short_label(name)} ({n} pairs)", fontsize="medium")
        panel.xaxis.set_major_locator(whole_numbers())
    bottom, top = (choose(panel.get_ylim()[end] for panel in panels) for end, choose in ((0, min), (1, max)))
    for panel in panels:
        panel.set_ylim(_begin(method, bottom), top)
    keys = [Line2D([], [], color="black", label=evaluation, **line) for evaluation, line in lines.items()]
    if chance:
        keys.append(Line2D([], [], **CHANCE_LINE | CHANCE_AMONG_EVALUATIONS))
    legend_below(figure, keys, len(panels))
    name_x(panels, "Layer")
    figure.supylabel(score_name(method), fontsize="medium")
    return figure


class CurvePoint(NamedTuple):
    """A score at one evaluation.

    Attributes:
        step: the training step.
        score: the score.
        interval: its 95 % interval, None if it has none.
        chance: what the same sentences score when their pairs are torn apart, None if that was not measured.
    """

    step: int
    score: float
    interval: tuple[float, float] | None
    chance: float | None


def curve_figure(
    curves: Mapping[str, Sequence[CurvePoint]], method: str, n: int | Collection[int], title: str
) -> Figure:
    """Draw a score over training steps with 95 % intervals, and one line for each language pair (Fig. 3).

    One more line shows chance, the mean over the language pairs.

    Args:
        curves: name of a language pair -> its points in step order. Either all of them have an interval or none has.
        method: the score to draw.
        n: number of sentence pairs, or the numbers if language pairs differ, for the axis.
        title: the figure's title.
    """
    figure, axes = _axes(title, "Step", _with_pairs(method, n))
    alpha = min(0.15, 0.6 / max(1, len(curves)))  # the bands of many languages overlap
    for (name, points), style in zip(curves.items(), line_styles(), strict=False):
        steps, scores, intervals, _ = zip(*points, strict=True)
        axes.plot(steps, scores, label=short_label(name), markersize=5, **style)
        if None in intervals:
            continue
        low, high = np.array(intervals).T
        if len(steps) > 1:
            axes.fill_between(steps, low, high, color=style["color"], alpha=alpha, linewidth=0)
        else:  # a band over a single step would have no width
            axes.vlines(steps, low, high, color=style["color"], alpha=0.5)
    chance = _chance_by_step(curves)
    if chance:
        axes.plot(list(chance), list(chance.values()), **_chance_line(len(chance)))
    return _finish(figure, axes, method)


def _chance_by_step(curves: Mapping[str, Sequence[CurvePoint]]) -> dict[int, float]:
    """Return step -> the mean chance of the language pairs that have one."""
    found: dict[int, list[float]] = {}
    for point in (point for points in curves.values() for point in points):
        if point.chance is not None:
            found.setdefault(point.step, []).append(point.chance)
    return {step: fmean(found[step]) for step in sorted(found)}


def _chance_line(points: int) -> dict[str, Any]:
    """Return the style of a line of chance. A single point has no line, so it is drawn as a dash."""
    return CHANCE_LINE if points > 1 else CHANCE_LINE | {"marker": "_", "markersize": 12}


def quality_figure(
    points: Mapping[str, Sequence[tuple[int, float, float]]],
    correlations: Mapping[str, OverRun | None],
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
    figure, panels = panel_grid(len(points), title)
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
        panel.set_ylabel(short_label(score_name(metric)))
    if min(steps) < max(steps):
        figure.colorbar(colour_of, ax=panels, label="Step", ticks=whole_numbers())
    name_x(panels, _with_pairs(method, n))
    return figure


def quality_curve_figure(curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], title: str) -> Figure:
    """Draw translation quality over training steps, with a panel for each metric and a line for each direction.

    Args:
        curves: metric -> direction -> (step, score) of each evaluation that has a score.
        title: the figure's title.
    """
    figure, panels = panel_grid(len(curves), title)
    directions = list(dict.fromkeys(direction for by_direction in curves.values() for direction in by_direction))
    styles = dict(zip(directions, line_styles(), strict=False))
    for (metric, by_direction), panel in zip(curves.items(), panels, strict=True):
        for direction, points in by_direction.items():
            panel.plot(*zip(*points, strict=True), label=short_label(direction), markersize=5, **styles[direction])
        panel.set_ylabel(short_label(score_name(metric)))
        panel.xaxis.set_major_locator(whole_numbers(4))  # a step may have six digits
    keys = [Line2D([], [], label=short_label(direction), **style) for direction, style in styles.items()]
    legend_below(figure, keys, len(panels))
    name_x(panels, "Step")
    return figure


def runs_figure(
    alignment: Mapping[Method, Mapping[str, Sequence[tuple[int, float]]]],
    quality: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]],
    best: Mapping[str, int],
    title: str,
) -> Figure:
    """Draw the scores of several runs over training steps, with a panel for each score and a line for each run.

    Args:
        alignment: method -> run -> (step, score) of each evaluation that has a score.
        quality: quality metric -> the same.
        best: run -> the step to ring. A score without a value at that step has no ring.
        title: the figure's title.
    """
    scores = [*alignment.items(), *quality.items()]
    figure, panels = panel_grid(len(scores), title)
    styles = dict(zip(best, line_styles(), strict=False))
    for run in list(styles)[len(COLOURS) :]:  # a long line has too few markers to tell two of one colour apart
        styles[run] |= {"linestyle": "--"}
    for (score, by_run), panel in zip(scores, panels, strict=True):
        for place, (run, points) in enumerate(by_run.items()):
            panel.plot(*zip(*points, strict=True), markersize=4, markevery=_few(len(points), place), **styles[run])
            if best[run] in dict(points):
                panel.plot(best[run], dict(points)[best[run]], **RING)
        panel.set_ylabel(short_label(score_name(score)))
        panel.margins(y=0.08)  # room for rings
        panel.xaxis.set_major_locator(whole_numbers(4))  # a step may have six digits
    for method, panel in zip(alignment, panels, strict=False):
        panel.set_ylim(bottom=_begin(method, panel.get_ylim()[0]))
    keys = [Line2D([], [], label=label, **styles[run]) for run, label in distinct_labels(list(best)).items()]
    legend_below(figure, [*keys, Line2D([], [], label="best step", **RING)], len(panels))
    name_x(panels, "Step")
    return figure


def _few(points: int, place: int) -> tuple[int, int]:
    """Return which points of a line have a marker, as matplotlib's `markevery`: at most `MOST_MARKERS` of them.

    Lines that lie on each other have their markers at different points, by their place among the lines.
    """
    every = ceil(points / MOST_MARKERS)
    return place % every, every


def distinct_labels(names: Sequence[str]) -> dict[str, str]:
    """Return name -> its label in a figure. Long names are cut in the middle, because runs often differ at the end.

    If names are equal once they are cut, all get their number in front.
    """
    labels = [_without_middle(name) for name in names]
    if len(set(labels)) < len(labels):
        labels = [_without_middle(f"{number}: {name}") for number, name in enumerate(names, start=1)]
    return dict(zip(names, labels, strict=True))


def _without_middle(name: str) -> str:
    line, half = " ".join(name.split()), LONGEST_LABEL // 2
    return short_label(line if len(line) <= LONGEST_LABEL else f"{line[: half - 1]}…{line[-half:]}")


def why_no_correlation(n: int) -> str:
    """Return the reason why n evaluations have no correlation."""
    return "fewer than three evaluations" if n < FEWEST_POINTS else "a score does not vary"


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """Return the figure as an image (height, width, 3), for trackers that take pictures."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _correlation_text(correlation: OverRun | None, n: int) -> str:
    if correlation is None:
        return f"no r: {why_no_correlation(n)}"
    of_changes = "none" if correlation.r_diff is None else f"{correlation.r_diff:.2f}"
    return f"r = {correlation.r:.2f} (n = {correlation.n})\nr of changes: {of_changes}"


def _with_pairs(method: str, n: int | Collection[int]) -> str:
    fewest, *_, most = (*_counts(n), *_counts(n))
    return f"{score_name(method)} ({fewest if fewest == most else f'{fewest} to {most}'} pairs)"


def _counts(n: int | Collection[int]) -> list[int]:
    return [n] if isinstance(n, int) else sorted(set(n))


def short_label(name: str) -> str:
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


def panel_grid(number: int, title: str, height: float = 3) -> tuple[Figure, list[Axes]]:
    """Return a figure with a title and a number of panels, row by row.

    Args:
        number: how many panels.
        title: the figure's title.
        height: inches of a panel, with its labels.
    """
    columns = _columns(number)
    rows = ceil(number / columns)
    figure = Figure(figsize=(max(5.5, 3.6 * columns), 1 + height * rows), dpi=120, layout="constrained")
    figure.suptitle(title)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[number:]:
        panel.remove()
    for panel in panels[:number]:
        _plain(panel)
    return figure, panels[:number]


def _columns(number: int) -> int:
    return 2 if number == 4 else min(number, MOST_COLUMNS)


def name_x(panels: Sequence[Axes], name: str) -> None:
    """Name the x-axis under the lowest panel of each column."""
    for panel in panels[-_columns(len(panels)) :]:
        panel.set_xlabel(name)


def legend_below(figure: Figure, keys: Sequence[Line2D], panels: int) -> None:
    """Put a legend below a number of panels, in as many columns as fit beside each other."""
    longest = max(len(str(key.get_label())) for key in keys)
    fitting = int(figure.get_size_inches()[0] / (KEY_WIDTH + CHARACTER_WIDTH * longest))
    columns = max(1, min(2 * _columns(panels), fitting))
    figure.legend(handles=keys, loc="outside lower center", ncols=columns, fontsize="small")


def whole_numbers(most: int | Literal["auto"] = "auto") -> MaxNLocator:
    """Return a locator of round ticks for steps and layers. It sets as many as fit, and one for a single evaluation."""
    return MaxNLocator(nbins=most, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.ticklabel_format(useOffset=False)


def line_styles() -> Iterator[dict[str, Any]]:
    """Yield pairs of a colour and a marker. After the last colour, the colours come again with other markers."""
    for i in count():
        shift = i // len(COLOURS)
        yield {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[(i + shift) % len(MARKERS)]}


def _begin(method: str, low: float) -> float:
    """Return where the axis of a score begins, given where matplotlib would let it begin."""
    if (
        method == "nasca_rank"
    ):  # its chance is about 0.21 for 100 pairs; an axis from 0 would leave the curves little room
        return max(0, low)
    return min(0, low) if method == "sads" else 0


def _finish(figure: Figure, axes: Axes, method: str) -> Figure:
    low, high = axes.get_ylim()
    axes.set_ylim(_begin(method, low), high + 0.03 * abs(high))  # room for markers near the top
    axes.xaxis.set_major_locator(whole_numbers())
    if len(axes.lines) <= MOST_INSIDE:
        axes.legend(fontsize="small")
    else:
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure
