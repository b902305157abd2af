from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy import stats

from neuronxa_callback import plots
from neuronxa_callback.alignment.pair_scores import layer_numbers
from neuronxa_callback.correlation import over_run
from neuronxa_callback.signature import Signature
from neuronxa_callback.vocabulary import Method

pytestmark = pytest.mark.unit

CURVES = {
    name: [
        plots.CurvePoint(step, score, (score - 0.02, score + 0.02), chance + step / 10000)
        for step, score in ((step, start + step / slope) for step in (0, 10, 20))
    ]
    for name, start, slope, chance in (
        ("eng_Latn-isl_Latn", 0.02, 500, 0.001),
        ("eng_Latn-fra_Latn", 0.05, 300, 0.004),
    )
}
CHANCE = "chance (pairs torn apart)"
METHODS: tuple[Method, ...] = ("nasca", "nasca_rank")


def test_the_curve_shows_each_language_with_its_interval_and_the_mean_chance() -> None:
    (axes,) = plots.curve_figure(CURVES, "nasca", 100, "title").axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["eng_Latn-isl_Latn", "eng_Latn-fra_Latn", CHANCE]
    assert np.asarray(lines["eng_Latn-isl_Latn"].get_xdata()).tolist() == [0, 10, 20]
    assert np.asarray(lines["eng_Latn-isl_Latn"].get_ydata()).tolist() == pytest.approx([0.02, 0.04, 0.06])
    assert np.asarray(lines[CHANCE].get_xdata()).tolist() == [0, 10, 20]
    assert np.asarray(lines[CHANCE].get_ydata()).tolist() == pytest.approx([0.0025, 0.0035, 0.0045])
    assert lines[CHANCE].get_linestyle() == "--"
    bands = [band.get_paths()[0].get_extents() for band in axes.collections]
    assert [(round(band.y0, 6), round(band.y1, 6)) for band in bands] == [
        (0.0, 0.08),
        (0.03, round(0.05 + 20 / 300 + 0.02, 6)),
    ]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("Step", "NASCA (100 pairs)", "title")


@pytest.mark.parametrize(("method", "first"), [("nasca", 1), ("mexa", 0)])
def test_layers_are_counted_from_1_and_mexas_embedding_layer_is_0(method: str, first: int) -> None:
    (axes,) = plots.layer_figure({"a": [0.1, 0.2]}, {}, method, 50, "t", layer_numbers(Signature(), method, 2)).axes
    assert np.asarray(axes.lines[0].get_xdata()).tolist() == [first, first + 1]


def test_languages_are_told_apart_by_colour_and_by_marker() -> None:
    per_layer = {f"language {i}": [0.1] for i in range(7)}
    (axes,) = plots.layer_figure(per_layer, {}, "nasca", 50, "t", [1]).axes
    styles = {(line.get_color(), line.get_marker()) for line in axes.lines[:7]}
    assert len({colour for colour, _ in styles}) == len({marker for _, marker in styles}) == 7


def test_pixels_show_something_and_pyplot_keeps_nothing() -> None:
    image = plots.pixels(plots.curve_figure(CURVES, "nasca", 100, "t"))
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 50
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_an_interval_of_one_evaluation_can_be_seen() -> None:
    (axes,) = plots.curve_figure({name: points[1:2] for name, points in CURVES.items()}, "nasca", 100, "t").axes
    bars = [segment.tolist() for bar in axes.collections for segment in bar.get_segments()]  # type: ignore[attr-defined]
    assert np.asarray(bars)[0] == pytest.approx(np.array([[10, 0.02], [10, 0.06]]))
    assert len(bars) == 2
    assert [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]] == [10]


def test_a_language_that_joined_later_is_drawn_from_there() -> None:
    joined = CURVES | {"eng_Latn-fra_Latn": CURVES["eng_Latn-fra_Latn"][1:]}
    (axes,) = plots.curve_figure(joined, "nasca", 100, "t").axes
    assert [np.asarray(line.get_xdata()).tolist() for line in axes.lines[:2]] == [[0, 10, 20], [10, 20]]


def test_chance_is_the_mean_of_the_languages_that_have_one_at_a_step() -> None:
    isl, fra = CURVES.values()
    curves = {"isl": [isl[0]._replace(chance=None), *isl[1:]], "fra": [fra[0], fra[1]._replace(chance=None)]}
    (axes,) = plots.curve_figure(curves, "nasca", [100, 50, 100], "t").axes
    chance = axes.lines[2]
    assert np.asarray(chance.get_xdata()).tolist() == [0, 10, 20]
    assert np.asarray(chance.get_ydata()).tolist() == pytest.approx([0.004, 0.002, 0.003])
    assert axes.get_ylabel() == "NASCA (50 to 100 pairs)"


def test_a_run_of_an_older_format_has_no_line_of_chance() -> None:
    curves = {name: [point._replace(chance=None) for point in points] for name, points in CURVES.items()}
    (axes,) = plots.curve_figure(curves, "nasca", 100, "t").axes
    assert [line.get_label() for line in axes.lines] == list(CURVES)


def test_the_chance_of_one_evaluation_can_be_seen() -> None:
    (axes,) = plots.curve_figure({name: points[:1] for name, points in CURVES.items()}, "nasca", 100, "t").axes
    assert (axes.lines[2].get_label(), axes.lines[2].get_marker()) == (CHANCE, "_")


def test_the_rank_score_has_no_axis_from_0_and_sads_may_be_below_it() -> None:
    def lowest(method: str, scores: list[float], chance: float) -> float:
        points = [plots.CurvePoint(step, score, None, chance) for step, score in enumerate(scores)]
        (axes,) = plots.curve_figure({"a": points}, method, 100, "t").axes
        return axes.get_ylim()[0]

    assert 0.15 < lowest("nasca_rank", [0.3, 0.4], 0.21) < 0.21
    assert lowest("nasca", [0.3, 0.4], 0.21) == 0
    assert lowest("sads", [-0.1, 0.2], 0) < -0.1
    assert lowest("sads", [0.1, 0.2], 0.05) == 0


def test_the_chance_of_a_layer_is_the_mean_over_the_languages_that_have_one() -> None:
    per_layer = {"a": [0.1, 0.2], "b": [0.3, 0.4], "c": [0.5, 0.6]}
    chance = {"a": [0.01, 0.02], "c": [0.03, 0.06]}
    (axes,) = plots.layer_figure(per_layer, chance, "mexa", 50, "t", [0, 1]).axes
    *_, last = axes.lines
    assert len(axes.lines) == 4
    assert (last.get_label(), np.asarray(last.get_xdata()).tolist()) == (CHANCE, [0, 1])
    assert np.asarray(last.get_ydata()).tolist() == pytest.approx([0.02, 0.04])


def test_more_languages_than_colours_are_still_told_apart() -> None:
    (axes,) = plots.layer_figure({f"language {i}": [0.1] for i in range(20)}, {}, "nasca", 50, "t", [1]).axes
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines[:20]}) == 20


POINTS = [(0, 0.1, 0.50), (10, 0.2, 0.65), (20, 0.4, 0.70), (30, 0.3, 0.75)]


def test_quality_stands_against_alignment_with_its_fit_and_its_correlation() -> None:
    x, y = [0.1, 0.2, 0.4, 0.3], [0.50, 0.65, 0.70, 0.75]
    figure = plots.quality_figure(
        {"comet": POINTS, "my metric": POINTS[:2]}, {"comet": over_run(x, y), "my metric": None}, "nasca", 100, "title"
    )
    comet, mine, bar = figure.axes
    path, fit = comet.lines
    assert (np.asarray(path.get_xdata()).tolist(), np.asarray(path.get_ydata()).tolist()) == (x, y)
    (dots,) = comet.collections
    assert np.asarray(dots.get_offsets()).tolist() == [[a, b] for a, b in zip(x, y, strict=True)]
    expected = stats.linregress(x, y)
    assert np.asarray(fit.get_xdata()).tolist() == [0.1, 0.4]
    assert np.asarray(fit.get_ydata()) == pytest.approx(expected.intercept + expected.slope * np.array([0.1, 0.4]))
    first, second = comet.get_title().split("\n")
    assert first == f"r = {stats.pearsonr(x, y).statistic:.2f} (n = 4)"
    assert second == f"r of changes: {stats.pearsonr(np.diff(x), np.diff(y)).statistic:.2f}"
    assert (comet.get_ylabel(), mine.get_ylabel(), bar.get_ylabel()) == ("COMET", "my metric", "Step")
    assert comet.get_xlabel() == mine.get_xlabel() == "NASCA (100 pairs)"
    assert mine.get_title() == "no r: fewer than three evaluations"
    assert len(mine.lines) == 1  # no fit without a correlation


def test_a_points_colour_tells_its_step_alike_in_every_panel() -> None:
    figure = plots.quality_figure(
        {"comet": POINTS, "chrf": POINTS[1:]}, {"comet": None, "chrf": None}, "nasca", 100, "t"
    )
    comet, chrf, bar = figure.axes
    colours = [np.asarray(axes.collections[0].get_facecolor()) for axes in (comet, chrf)]
    assert np.array_equal(colours[0][1:], colours[1])
    lightness = colours[0][:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0.1).all()  # told apart without colour too
    assert bar.get_ylim() == (0, 30)


def test_one_evaluation_has_no_scale_of_steps() -> None:
    figure = plots.quality_figure({"chrf": POINTS[:1]}, {"chrf": None}, "nasca", 100, "t")
    assert [axes.get_ylabel() for axes in figure.axes] == ["chrF"]


def test_a_score_that_does_not_vary_is_told_from_too_few() -> None:
    assert plots.why_no_correlation(2) == "fewer than three evaluations"
    assert plots.why_no_correlation(3) == "a score does not vary"


@pytest.mark.parametrize(("method", "first"), [("nasca", 1), ("mexa", 0)])
def test_layers_of_evaluations_are_told_apart_by_line_and_languages_by_colour(method: str, first: int) -> None:
    evaluations = {
        "first, step 0": {"a": [0.1, 0.2], "b": [0.3, 0.4]},
        "last, step 9": {"a": [0.5, 0.6], "b": [0.7, 0.9]},
    }
    torn = {"a": [0.01, 0.02], "b": [0.03, 0.04]}
    figure = plots.layer_change_figure(
        evaluations, torn, method, {"a": 100, "b": 50}, "t", layer_numbers(Signature(), method, 2)
    )
    assert [panel.get_title() for panel in figure.axes] == ["a (100 pairs)", "b (50 pairs)"]
    assert len({panel.lines[0].get_color() for panel in figure.axes}) == 2
    for panel, name in zip(figure.axes, "ab", strict=True):
        old, new, chance = panel.lines
        assert (old.get_linestyle(), new.get_linestyle()) == ("--", "-")
        assert old.get_color() == new.get_color()
        assert np.asarray(new.get_xdata()).tolist() == [first, first + 1]
        assert np.asarray(old.get_ydata()).tolist() == evaluations["first, step 0"][name]
        assert np.asarray(new.get_ydata()).tolist() == evaluations["last, step 9"][name]
        assert np.asarray(chance.get_xdata()).tolist() == [first, first + 1]
        assert np.asarray(chance.get_ydata()).tolist() == torn[name]
        assert (chance.get_linestyle(), chance.get_color()) == ("-.", "0.4")
        assert panel.get_xlabel() == "Layer"
    assert len({panel.get_ylim() for panel in figure.axes}) == 1
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["first, step 0", "last, step 9", CHANCE]


def test_a_language_whose_chance_was_not_measured_has_no_line_of_it() -> None:
    evaluations = {"step 0": {"a": [0.1, 0.2], "b": [0.3, 0.4]}}
    figure = plots.layer_change_figure(evaluations, {"b": [0.2, 0.3]}, "nasca_rank", {"a": 9, "b": 9}, "t", [1, 2])
    assert [len(panel.lines) for panel in figure.axes] == [1, 2]
    assert all(0 < panel.get_ylim()[0] < 0.1 for panel in figure.axes)
    none = plots.layer_change_figure(evaluations, {}, "nasca", {"a": 9, "b": 9}, "t", [1, 2])
    assert [text.get_text() for text in none.legends[0].get_texts()] == ["step 0"]


@pytest.mark.parametrize("number", range(1, 8))
def test_each_panel_has_its_place_and_each_column_its_name(number: int) -> None:
    names = [f"language {i}" for i in range(number)]
    figure = plots.layer_change_figure(
        {"step 0": {name: [0.1] for name in names}}, {}, "nasca", dict.fromkeys(names, 9), "t", [1]
    )
    plots.pixels(figure)
    boxes = [panel.get_position() for panel in figure.axes]
    assert len(boxes) == number
    lowest = {round(box.x0, 2): min(b.y0 for b in boxes if abs(b.x0 - box.x0) < 0.01) for box in boxes}
    named = [panel.get_position() for panel in figure.axes if panel.get_xlabel() == "Layer"]
    assert sorted((round(box.x0, 2), box.y0) for box in named) == sorted(lowest.items())


def test_quality_over_steps_has_a_panel_a_metric_and_a_line_a_direction() -> None:
    curves = {"chrf": {"a": [(0, 20.5), (5, 30.5)], "b": [(0, 10.5)]}, "comet": {"b": [(5, 0.7)]}}
    figure = plots.quality_curve_figure(curves, "t")
    chrf, comet = figure.axes
    assert (chrf.get_ylabel(), comet.get_ylabel()) == ("chrF", "COMET")
    drawn = [np.column_stack(line.get_data()).tolist() for line in (*chrf.lines, *comet.lines)]
    assert drawn == [[[0, 20.5], [5, 30.5]], [[0, 10.5]], [[5, 0.7]]]
    assert chrf.lines[1].get_color() == comet.lines[0].get_color() != chrf.lines[0].get_color()
    assert chrf.get_xlabel() == comet.get_xlabel() == "Step"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


CURVES_OF_RUNS = {"short": [(0, 0.1), (5, 0.3)], "long": [(step, 0.1 + step / 1000) for step in range(0, 300, 5)]}


def test_runs_have_a_panel_a_score_and_a_line_each_with_their_best_step_ringed() -> None:
    quality = {"chrf": {"short": [(0, 20.5)], "long": [(0, 20.5), (295, 30.5)]}}
    figure = plots.runs_figure({"nasca": CURVES_OF_RUNS}, quality, {"short": 5, "long": 295}, "title")
    nasca, chrf = figure.axes
    assert (nasca.get_ylabel(), chrf.get_ylabel(), chrf.get_xlabel()) == ("NASCA", "chrF", "Step")
    short, ring, long, other = nasca.lines
    assert np.column_stack(short.get_data()).tolist() == [[0, 0.1], [5, 0.3]]
    assert np.column_stack(long.get_data()).tolist() == [list(point) for point in CURVES_OF_RUNS["long"]]
    assert [np.column_stack(line.get_data()).tolist() for line in (ring, other)] == [[[5, 0.3]], [[295, 0.395]]]
    assert len(chrf.lines) == 3  # the short run has no chrF at its best step
    assert (long.get_color(), long.get_marker()) == (chrf.lines[1].get_color(), chrf.lines[1].get_marker())
    assert long.get_color() != short.get_color()
    assert long.get_marker() != short.get_marker()
    assert nasca.get_ylim()[0] == 0
    assert chrf.get_ylim()[0] > 15
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["short", "long", "best step"]
    assert figure.get_suptitle() == "title"


def test_more_runs_than_colours_are_told_apart_by_the_line() -> None:
    runs = {str(number): CURVES_OF_RUNS["long"] for number in range(9)}
    figure = plots.runs_figure({"nasca": runs}, {}, dict.fromkeys(runs, 0), "t")
    lines = figure.axes[0].lines[::2]
    assert [line.get_linestyle() for line in lines] == ["-"] * 7 + ["--"] * 2
    keys = figure.legends[0].get_lines()
    assert [key.get_linestyle() for key in keys] == ["-"] * 7 + ["--"] * 2 + ["None"]


def test_a_long_line_has_few_markers_and_not_where_the_next_line_has_them() -> None:
    curve = CURVES_OF_RUNS["long"]
    figure = plots.runs_figure({"nasca": {"a": curve, "b": curve}}, {}, {"a": 0, "b": 0}, "t")
    assert [line.get_markevery() for line in figure.axes[0].lines[::2]] == [(0, 5), (1, 5)]
    short = plots.runs_figure({"nasca": {"a": curve[:12]}}, {}, {"a": 0}, "t")
    assert short.axes[0].lines[0].get_markevery() == (0, 1)


def test_long_names_of_runs_differ_in_the_legend() -> None:
    names = [f"{'long-' * 10}lr-{rate}" for rate in "12"]
    assert [label[-6:] for label in plots.distinct_labels(names).values()] == ["g-lr-1", "g-lr-2"]
    alike = [f"{'long-' * 6}{rate}{'-name' * 6}" for rate in "12"]
    labels = list(plots.distinct_labels(alike).values())
    assert [label[:8] for label in labels] == ["1: long-", "2: long-"]
    assert [len(label) for label in labels] == [plots.LONGEST_LABEL] * 2
    assert plots.distinct_labels(["a$b"]) == {"a$b": r"a\$b"}


def test_any_name_can_be_drawn() -> None:
    name = "$\\frac{$ " + "long\n" * 50
    figure = plots.quality_figure({name: POINTS}, {name: None}, "nasca", 100, "t")
    plots.pixels(figure)  # a formula would be parsed here, and fail
    label = figure.axes[0].get_ylabel()
    assert len(label.replace("\\$", "$")) == plots.LONGEST_LABEL
    assert "\n" not in label


def test_no_text_of_a_figure_lies_on_another() -> None:
    names = ["eng_Latn-isl_Latn", "eng_Latn-fra_Latn"]
    layers = {name: [0.1] * 30 for name in names}
    curves = {name: [(0, 1.5), (550000, 2.5)] for name in names}
    runs = {f"{number} {'long name ' * 5}": [(0, 1.5), (550000, 2.5)] for number in range(8)}
    best = dict.fromkeys(runs, 0)
    for figure in (
        plots.layer_change_figure(
            dict.fromkeys(("first, step 0", "last, step 9000"), layers),
            layers,
            "nasca",
            dict.fromkeys(names, 9),
            "t",
            range(1, 31),
        ),
        plots.quality_curve_figure(dict.fromkeys(("chrf", "bleu", "comet"), curves), "t"),
        *(
            plots.runs_figure(
                dict.fromkeys(METHODS[:methods], runs), dict.fromkeys(("chrf", "comet")[:metrics], runs), best, "t"
            )
            for methods, metrics in ((1, 0), (2, 0), (1, 2), (2, 2))
        ),
    ):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        for panel in figure.axes:
            shown = [tick.label1.get_window_extent(renderer) for tick in panel.xaxis.get_major_ticks()]
            assert not any(a.overlaps(b) for a, b in combinations(shown, 2))
        boxes = [panel.get_tightbbox(renderer) for panel in figure.axes]
        legends = [legend.get_window_extent(renderer) for legend in figure.legends]
        assert all(legend.x0 >= 0 and legend.x1 <= figure.bbox.x1 for legend in legends)
        boxes += legends
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))  # type: ignore[union-attr, arg-type]
