from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuronxa_callback import plots
from neuronxa_callback.run_map import LEAST_SHARE, MOST_ROWS, layer_map_figure, pair_map_figure, reading_order

pytestmark = pytest.mark.unit

STEPS = [0, 10, 50]
LAYERS = np.array([[0.0, 0.1, 0.2, 0.3], [0.4, 0.5, 0.6, 0.7], [0.8, 0.9, 0.0, 1.0]])  # three evaluations, four layers
PAIRS = np.array([[0.0, 0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.2, 0.0, 0.0], [0.0, 0.25, 0.25, 0.5, 0.0]])


def layer_map(
    values: NDArray[np.float64], steps: Sequence[int] = STEPS, method: str = "nasca", first: int = 1
) -> Figure:
    return layer_map_figure({"a": values}, steps, method, {"a": 50}, "t", range(first, first + values.shape[1]))


def pair_map(values: NDArray[np.float64], steps: Sequence[int] = STEPS, method: str = "nasca") -> Figure:
    return pair_map_figure({"a": values}, steps, method, "mean", "t")


def mesh(panel: Axes) -> QuadMesh:
    (found,) = (part for part in panel.collections if isinstance(part, QuadMesh))
    return found


def edges(panel: Axes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The edges of the columns and of the rows."""
    corners = np.asarray(mesh(panel).get_coordinates(), dtype=float)
    return corners[0, :, 0], corners[:, 0, 1]


def value_at(panel: Axes, step: float, y: float) -> float:
    """What is drawn at a place of the axes: the value of the cell that the place lies in, NaN for an empty one."""
    columns, rows = edges(panel)
    column, row = np.searchsorted(columns, step) - 1, np.searchsorted(rows, y) - 1
    drawn: np.ma.MaskedArray[Any, Any] = np.ma.asarray(mesh(panel).get_array(), dtype=float).reshape(len(rows) - 1, -1)
    return float(drawn.filled(np.nan)[row, column])


def colour_at(figure: Figure, panel: Axes, step: float, y: float) -> tuple[int, ...]:
    """The colour in the picture at a place of the axes."""
    image = plots.pixels(figure)
    x, up = panel.transData.transform((step, y))
    return tuple(int(part) for part in image[round(image.shape[0] - up), round(x)])


@pytest.mark.parametrize("first", [0, 1])
def test_each_layer_has_its_value_at_its_step(first: int) -> None:
    panel, bar = layer_map(LAYERS, first=first).axes
    named = {text.get_text(): place for text, place in zip(panel.get_yticklabels(), panel.get_yticks(), strict=True)}
    assert list(named) == [str(first + row) for row in range(4)]
    for column, step in enumerate(STEPS):
        for row in range(4):
            assert value_at(panel, step, named[str(first + row)]) == LAYERS[column, row]
    assert bar.get_ylabel() == "NASCA: share of pairs aligned at the layer"
    assert (panel.get_xlabel(), panel.get_title()) == ("Step", "a (50 pairs)")


def test_a_column_reaches_halfway_to_its_neighbours() -> None:
    panel, _ = layer_map(LAYERS).axes
    assert edges(panel)[0].tolist() == [-5, 5, 30, 70]
    assert panel.get_xlim() == (-5, 70)
    ticks = panel.get_xticks().tolist()
    assert len(ticks) >= 2
    assert all(STEPS[0] <= tick <= STEPS[-1] for tick in ticks)


@pytest.mark.parametrize("step", [0, 7, 1234567])
def test_one_evaluation_is_one_column_at_its_step(step: int) -> None:
    for figure in (layer_map(LAYERS[:1], [step]), pair_map(PAIRS[:1], [step])):
        panel, _ = figure.axes
        assert edges(panel)[0].tolist() == [step - 0.5, step + 0.5]
        assert panel.get_xticks().tolist() == [step]
    panel, _ = layer_map(LAYERS[:1], [step]).axes
    assert [value_at(panel, step, row) for row in range(4)] == LAYERS[0].tolist()


def test_one_layer_is_one_row() -> None:
    panel, _ = layer_map(LAYERS[:, 1:2], first=8).axes
    assert [text.get_text() for text in panel.get_yticklabels()] == ["8"]
    assert [value_at(panel, step, 0) for step in STEPS] == [0.1, 0.5, 0.9]


def test_chosen_layers_are_rows_of_equal_height_with_their_numbers() -> None:
    panel, _ = layer_map_figure({"a": LAYERS}, STEPS, "nasca", {"a": 50}, "t", (1, 2, 16, 30)).axes
    assert [text.get_text() for text in panel.get_yticklabels()] == ["1", "2", "16", "30"]
    assert np.diff(edges(panel)[1]).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(("first", "number"), [(1, 30), (0, 31), (1, 80)])
def test_many_layers_have_few_ticks_at_the_right_rows(first: int, number: int) -> None:
    panel, _ = layer_map(np.zeros((3, number)), first=first).axes
    named = [int(text.get_text()) for text in panel.get_yticklabels()]
    assert 5 <= len(named) <= 11
    assert [layer - first for layer in named] == panel.get_yticks().tolist()
    assert all(layer % (named[1] - named[0]) == 0 for layer in named)


def test_a_missing_score_is_told_from_0() -> None:
    values = LAYERS.copy()
    values[1] = np.nan
    figure = layer_map(values)
    panel, _ = figure.axes
    assert np.isnan(value_at(panel, 10, 2))
    assert value_at(panel, 0, 0) == 0
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0: no pair aligned", "no score"]
    assert panel.patch.get_hatch()
    assert colour_at(figure, panel, 0, 0) == (255, 255, 255)
    assert colour_at(figure, panel, 17, 2) != (255, 255, 255)
    complete = layer_map(LAYERS)
    assert [text.get_text() for text in complete.legends[0].get_texts()] == ["0: no pair aligned"]


def test_the_smallest_share_differs_from_0_and_darker_is_more_without_colour() -> None:
    values = np.array([[0.0, LEAST_SHARE, 0.01, 0.25, 0.5, 0.75, 1.0]])
    figure = layer_map(values, [5])
    panel, _ = figure.axes
    grey = [np.dot(colour_at(figure, panel, 5, row), [0.2126, 0.7152, 0.0722]) for row in range(7)]
    assert grey[0] == pytest.approx(255)
    assert grey[1] < 220
    assert (np.diff(grey[2:]) < -20).all()


def test_all_panels_have_one_scale() -> None:
    values = {"a": np.full((3, 2), 0.2), "b": np.full((3, 2), 0.8)}
    *panels, bar = layer_map_figure(values, STEPS, "mexa", {"a": 50, "b": 20}, "t", [0, 1]).axes
    assert len({mesh(panel).norm for panel in panels}) == 1
    assert mesh(panels[0]).norm.vmax == 0.8
    assert bar.get_ylim()[1] == pytest.approx(0.8)
    assert [panel.get_title() for panel in panels] == ["a (50 pairs)", "b (20 pairs)"]


@pytest.mark.parametrize(("method", "least"), [("cka", 0.3), ("sads", -0.2)])
def test_a_score_that_is_no_share_has_no_white_zero(method: str, least: float) -> None:
    values = np.array([[least, 0.5, 0.9]])
    figure = layer_map(values, [5], method)
    panel, bar = figure.axes
    assert (mesh(panel).norm.vmin, mesh(panel).norm.vmax) == (least, 0.9)
    assert colour_at(figure, panel, 5, 0) != (255, 255, 255)
    assert figure.legends == []
    assert bar.get_ylabel() == f"{method.upper()}: value at the layer"


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("method", ["nasca", "cka"])
def test_a_run_without_any_change_can_be_drawn(method: str, value: float) -> None:
    figure = layer_map(np.full((3, 4), value), method=method)
    panel, _ = figure.axes
    assert (colour_at(figure, panel, 10, 1) == (255, 255, 255)) is (value == 0 and method == "nasca")


# ---------------------------------------------------------------------------------------------- sentence pairs


def test_pairs_stand_in_reading_order_and_keep_it_at_all_steps() -> None:
    # Last values: pair 3 has 0.5; 1 and 2 have 0.25, and 1 was aligned at step 0, 2 at step 10; 0 and 4 never were.
    assert reading_order(PAIRS).tolist() == [3, 1, 2, 0, 4]
    figure = pair_map(PAIRS)
    panel, bar = figure.axes
    for place, pair in enumerate([3, 1, 2, 0, 4]):
        assert [value_at(panel, step, place + 0.5) for step in STEPS] == PAIRS[:, pair].tolist()
    assert panel.get_ylim() == (5, 0)  # the first is on top
    assert panel.get_title() == "a\n3 of 5 aligned at step 50"
    assert figure.get_supylabel() == (
        "Held-out pairs, highest at the last step on top,\nthen by the first step at which they are aligned"
    )
    assert bar.get_ylabel() == "NASCA: share of layers that align the pair"


def test_the_last_step_of_the_order_is_the_last_that_has_a_score() -> None:
    values = np.vstack([PAIRS, np.full(5, np.nan)])
    assert reading_order(values).tolist() == [3, 1, 2, 0, 4]
    panel, _ = pair_map(values, [*STEPS, 60]).axes
    assert panel.get_title() == "a\n3 of 5 aligned at step 50"
    assert np.isnan(value_at(panel, 60, 0.5))


def test_a_pair_that_was_aligned_once_comes_before_those_that_never_were() -> None:
    values = np.array([[0.0, 0.0, 0.1, 0.0], [0.0, 0.3, 0.0, 0.1], [0.0, 0.0, 0.0, 0.0]])
    assert reading_order(values).tolist() == [2, 1, 3, 0]


@pytest.mark.parametrize("n", [100, MOST_ROWS, MOST_ROWS + 1, 1000])
def test_a_row_is_a_pair_or_the_mean_of_neighbours(n: int) -> None:
    values = np.random.default_rng(0).random((3, n)) * (np.arange(n) % 3 == 0)
    figure = pair_map(values)
    panel, _ = figure.axes
    ordered = values[:, reading_order(values)]
    joined = -(-n // MOST_ROWS)
    for start in range(0, n, joined):
        expected = ordered[:, start : start + joined].mean(axis=1)
        assert [value_at(panel, step, start + 0.5) for step in STEPS] == pytest.approx(expected)
    _, rows = edges(panel)
    assert (rows[0], rows[-1]) == (0, n)
    assert len(rows) - 1 <= MOST_ROWS
    assert (f"mean of {joined} pairs" in figure.get_supylabel()) is (n > MOST_ROWS)
    aligned = np.count_nonzero(values[-1])
    assert panel.get_title() == f"a\n{aligned} of {n} aligned at step 50"


@pytest.mark.parametrize("place", range(5, MOST_ROWS - 5, 43))
def test_a_single_pair_of_many_is_seen(place: int) -> None:
    values = np.zeros((2, MOST_ROWS))
    values[0] = 0.5
    values[0, place] = 0
    values[1] = np.linspace(1, 0.5, MOST_ROWS)  # this is their order
    figure = pair_map(values, [0, 10])
    panel, _ = figure.axes
    image = plots.pixels(figure)
    x = round(panel.transData.transform((0, 0))[0])
    box = panel.get_window_extent()
    column = image[round(image.shape[0] - box.y1) + 2 : round(image.shape[0] - box.y0) - 2, x]
    assert (column == 255).all(axis=1).any()


@pytest.mark.parametrize(("method", "order"), [("sads", "Held-out pairs, highest at the last step on top")])
def test_values_that_are_no_shares_are_not_called_aligned(method: str, order: str) -> None:
    figure = pair_map(PAIRS - 0.1, method=method)
    panel, bar = figure.axes
    assert figure.get_supylabel() == order
    assert panel.get_title() == "a (5 pairs)"
    assert bar.get_ylabel() == "SADS: value of the pair"
    assert mesh(panel).norm.vmin == -0.1


def test_at_the_greatest_layer_a_pair_is_aligned_or_not() -> None:
    figure = pair_map_figure({"a": (PAIRS > 0).astype(float)}, STEPS, "nasca", "max", "t")
    assert figure.axes[-1].get_ylabel() == "NASCA: aligned at the greatest layer (1) or not"


@pytest.mark.parametrize("languages", [1, 3, 4, 7])
def test_no_text_of_a_map_lies_on_another(languages: int) -> None:
    names = [f"eng_Latn-{letter}sl_Latn" for letter in "abcdefg"[:languages]]
    steps = range(0, 550001, 50000)
    of_layers = {name: np.full((12, 80), 0.5) for name in names}
    of_pairs = {name: np.full((12, 1000), 0.5) for name in names}
    of_pairs[names[0]][3] = np.nan
    for figure in (
        layer_map_figure(of_layers, steps, "nasca", dict.fromkeys(names, 1000), "t", range(1, 81)),
        pair_map_figure(of_pairs, steps, "nasca", "mean", "t"),
    ):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        for panel in figure.axes[:-1]:
            for axis, limits in ((panel.xaxis, panel.get_xlim()), (panel.yaxis, panel.get_ylim())):
                ticks = [tick for tick in axis.get_major_ticks() if min(limits) <= tick.get_loc() <= max(limits)]
                boxes = [tick.label1.get_window_extent(renderer) for tick in ticks]
                assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
        parts = [axes.get_tightbbox(renderer) for axes in figure.axes]
        parts += [legend.get_window_extent(renderer) for legend in figure.legends]
        parts += [text.get_window_extent(renderer) for text in figure.texts]
        assert not any(a.overlaps(b) for a, b in combinations(parts, 2))  # type: ignore[union-attr, arg-type]


def test_any_name_can_be_drawn() -> None:
    name = "$\\frac{$ " + "long\n" * 50
    for figure in (
        layer_map_figure({name: LAYERS}, STEPS, "nasca", {name: 5}, "t", range(4)),
        pair_map_figure({name: PAIRS}, STEPS, "nasca", "mean", "t"),
    ):
        plots.pixels(figure)  # a formula would be parsed here, and fail
        assert figure.axes[0].get_title().count("\n") <= 1
