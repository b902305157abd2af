"""Maps of a run: the score of each layer over the steps, and the part of each sentence pair over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, isnan
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from neuronxa_callback.plots import name_x, panel_grid, short_label, whole_numbers
from neuronxa_callback.vocabulary import ALIGNMENT, LayerPooling, score_name

# Darker is more, as on paper. The palest part is left out, so that the smallest share differs from a white zero.
COLOURS = ListedColormap(colormaps["viridis_r"](np.linspace(0.15, 1, 256)), "darker is more")
LEAST_SHARE = 1e-6  # every smaller share is 0: a scores.jsonl keeps seven digits
NO_SCORE: dict[str, Any] = {"facecolor": "0.9", "edgecolor": "0.6", "hatch": "////", "linewidth": 0}
ZERO: dict[str, Any] = {"facecolor": "white", "edgecolor": "0.6"}

MOST_LAYER_TICKS = 10
MOST_STEP_TICKS = 4  # a step may have six digits
PAIR_PANEL = 4.5  # inches
MOST_ROWS = 400  # so many rows have a pixel each in a panel of that height


def layer_map_figure(
    per_layer: Mapping[str, NDArray[np.float64]],
    steps: Sequence[int],
    method: str,
    pairs: Mapping[str, int],
    title: str,
    layers: Sequence[int],
) -> Figure:
    """Draw the score of each layer at each evaluation as a colour, with a panel for each language pair.

    An evaluation's column reaches halfway to its neighbours, so that distances between steps are true. All layers are
    equally high. All panels have one colour scale. A share of 0 is white, and a value that is missing is hatched.

    Args:
        per_layer: name of a language pair -> its score at each layer, (evaluations, layers). NaN means no score.
        steps: the step of each evaluation, in rising order.
        method: the score's name, for the colour scale.
        pairs: name of a language pair -> its number of sentence pairs.
        title: the figure's title.
        layers: the numbers of the layers.
    """
    figure, panels = panel_grid(len(per_layer), title)
    colours = _colours(per_layer, method)
    for (name, values), panel in zip(per_layer.items(), panels, strict=True):
        _draw(panel, steps, [row - 0.5 for row in range(len(layers) + 1)], values, colours)
        panel.set_title(f"{short_label(name)} ({pairs[name]} pairs)", fontsize="medium")
        every = ceil(len(layers) / MOST_LAYER_TICKS)
        named = range(-layers[0] % every, len(layers), every)  # where layers follow one another, multiples of `every`
        panel.set_yticks(named, [str(layers[row]) for row in named])
    figure.supylabel("Layer", fontsize="medium")
    unit, zero = "value at the layer", None
    if method in ALIGNMENT:
        unit, zero = "share of pairs aligned at the layer", "no pair aligned"
    return _finish(figure, panels, colours, per_layer, f"{score_name(method)}: {unit}", zero)


def pair_map_figure(
    per_pair: Mapping[str, NDArray[np.float64]],
    steps: Sequence[int],
    method: str,
    layer_pooling: LayerPooling,
    title: str,
) -> Figure:
    """Draw the part of each sentence pair at each evaluation as a colour, with a panel for each language pair.

    Columns, colours and missing values are those of `layer_map_figure`. Each panel has an order of its own, the same at
    all steps; see `reading_order`. More than `MOST_ROWS` pairs are drawn as means of neighbours in this order.

    Args:
        per_pair: name of a language pair -> each pair's part of the score, (evaluations, pairs). NaN means no score.
        steps: the step of each evaluation, in rising order.
        method: the score's name, for the colour scale.
        layer_pooling: how the layers were pooled. It says what a part is.
        title: the figure's title.
    """
    figure, panels = panel_grid(len(per_pair), title, PAIR_PANEL)
    joined = max(_joined(values) for values in per_pair.values())
    rows = {name: _rows(values[:, reading_order(values)]) for name, values in per_pair.items()}
    colours = _colours({name: values for name, (values, _) in rows.items()}, method)
    for (name, (values, edges)), panel in zip(rows.items(), panels, strict=True):
        _draw(panel, steps, edges, values, colours)
        panel.invert_yaxis()  # the first pair is on top
        panel.yaxis.set_major_locator(whole_numbers())
        panel.set_title(_counted(name, per_pair[name], steps, method), fontsize="small")
    shares = method in ALIGNMENT
    order = "highest at the last step on top" + (",\nthen by the first step at which they are aligned" * shares)
    means = f"\n(each row is the mean of {joined} pairs at most)" if joined > 1 else ""
    figure.supylabel(f"Held-out pairs, {order}{means}", fontsize="medium")
    unit = "value of the pair"
    if shares:
        unit = (
            "share of layers that align the pair"
            if layer_pooling == "mean"
            else "aligned at the greatest layer (1) or not"
        )
    return _finish(
        figure, panels, colours, per_pair, f"{score_name(method)}: {unit}", "not aligned" if shares else None
    )


def reading_order(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the order of pairs in a map: the highest at the last step first.

    Among equals the pair that is above 0 at the earliest step comes first, then the pair with the highest mean.

    Args:
        values: each pair's part of the score, (evaluations, pairs). NaN means no score.
    """
    aligned = values > 0
    first = np.where(aligned.any(axis=0), aligned.argmax(axis=0), len(values))
    return np.lexsort((-np.nansum(values, axis=0), first, -values[_last_scored(values)]))


def _last_scored(values: NDArray[np.float64]) -> int:
    """Return the place of the last evaluation that has a score."""
    return max(place for place, row in enumerate(values.tolist()) if not all(map(isnan, row)))


def _counted(name: str, values: NDArray[np.float64], steps: Sequence[int], method: str) -> str:
    n = values.shape[1]
    if method not in ALIGNMENT:
        return f"{short_label(name)} ({n} pairs)"
    last = _last_scored(values)
    return f"{short_label(name)}\n{np.count_nonzero(values[last] > 0)} of {n} aligned at step {steps[last]}"


# ----------------------------------------------------------------------------------------- rows, columns and colours


def _joined(values: NDArray[np.float64]) -> int:
    """Return how many pairs share a row."""
    return ceil(len(values[0]) / MOST_ROWS)


def _rows(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[int]]:
    """Return means of neighbouring pairs, (evaluations, rows), and the rows' edges, counted in pairs."""
    edges = [*range(0, values.shape[1], _joined(values)), values.shape[1]]
    return np.add.reduceat(values, edges[:-1], axis=1) / np.diff(edges), edges


def step_edges(steps: Sequence[int]) -> NDArray[np.float64]:
    """Return the edges of the columns. The first and the last column have their step in the middle."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middles = (np.array(steps[:-1]) + np.array(steps[1:])) / 2
    return np.array([2 * steps[0] - middles[0], *middles, 2 * steps[-1] - middles[-1]])


class Colours(NamedTuple):
    """The colours of all panels of a map, and the scale from values to them."""

    scale: Normalize
    colours: Colormap


def _colours(values: Mapping[str, NDArray[np.float64]], method: str) -> Colours:
    """Return the colours of all panels: from 0 for shares, and from the least value for other scores."""
    everything = np.concatenate([panel.ravel() for panel in values.values()])
    low, high = float(np.nanmin(everything)), float(np.nanmax(everything))
    if method in ALIGNMENT:
        return Colours(Normalize(LEAST_SHARE, high or 1), COLOURS.with_extremes(under="white"))
    return Colours(Normalize(low, high if high > low else low + 1), COLOURS)


def _draw(
    panel: Axes,
    steps: Sequence[int],
    edges: Sequence[float],
    values: NDArray[np.float64],
    colours: Colours,
) -> None:
    panel.pcolormesh(step_edges(steps), edges, np.ma.masked_invalid(values.T), norm=colours.scale, cmap=colours.colours)
    panel.patch.set(**NO_SCORE)
    panel.grid(visible=False)
    panel.set_xticks(
        [
            tick
            for tick in whole_numbers(MOST_STEP_TICKS).tick_values(steps[0], steps[-1])
            if steps[0] <= tick <= steps[-1]
        ]
    )


def _finish(
    figure: Figure,
    panels: Sequence[Axes],
    colours: Colours,
    values: Mapping[str, NDArray[np.float64]],
    label: str,
    zero: str | None,
) -> Figure:
    """Add what the panels share: the colour scale, the key of white and of missing values, and the x-axis's name."""
    bar = ScalarMappable(colours.scale, colours.colours)
    figure.colorbar(bar, ax=panels, label=label, extend="min" if zero else "neither", aspect=30)
    keys = [Patch(**ZERO, label=f"0: {zero}")] if zero else []
    if any(np.isnan(panel).any() for panel in values.values()):
        keys.append(Patch(**NO_SCORE, label="no score"))
    if keys:
        figure.legend(handles=keys, loc="outside lower center", ncols=2, fontsize="small")
    name_x(panels, "Step")
    return figure
