from __future__ import annotations

import sys

import numpy as np
import pytest

from neuronxa_callback import plots

HISTORY = [
    {
        "step": step,
        "languages": {
            name: {"score": {"nasca": score}, "ci": {"nasca": [score - 0.02, score + 0.02]}}
            for name, score in (("eng_Latn-isl_Latn", 0.02 + step / 500), ("eng_Latn-fra_Latn", 0.05 + step / 300))
        },
    }
    for step in (0, 10, 20)
]


def test_the_curve_shows_each_language_with_its_interval_and_the_chance_level() -> None:
    (axes,) = plots.curve_figure(HISTORY, "nasca", 100, "title").axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["eng_Latn-isl_Latn", "eng_Latn-fra_Latn", "chance level"]
    assert np.asarray(lines["eng_Latn-isl_Latn"].get_xdata()).tolist() == [0, 10, 20]
    assert np.asarray(lines["eng_Latn-isl_Latn"].get_ydata()).tolist() == pytest.approx([0.02, 0.04, 0.06])
    assert np.asarray(lines["chance level"].get_ydata())[0] == pytest.approx(1 / 199)
    bands = [band.get_paths()[0].get_extents() for band in axes.collections]
    assert [(round(band.y0, 6), round(band.y1, 6)) for band in bands] == [
        (0.0, 0.08),
        (0.03, round(0.05 + 20 / 300 + 0.02, 6)),
    ]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("Step", "NASCA (100 pairs)", "title")


@pytest.mark.parametrize(("method", "first"), [("nasca", 1), ("mexa", 0)])
def test_layers_are_counted_from_1_and_mexas_embedding_layer_is_0(method: str, first: int) -> None:
    (axes,) = plots.layer_figure({"a": [0.1, 0.2]}, method, 50, "t").axes
    assert np.asarray(axes.lines[0].get_xdata()).tolist() == [first, first + 1]


def test_languages_are_told_apart_by_colour_and_by_marker() -> None:
    per_layer = {f"language {i}": [0.1] for i in range(7)}
    (axes,) = plots.layer_figure(per_layer, "nasca", 50, "t").axes
    styles = {(line.get_color(), line.get_marker()) for line in axes.lines[:7]}
    assert len({colour for colour, _ in styles}) == len({marker for _, marker in styles}) == 7


def test_pixels_show_something_and_pyplot_keeps_nothing() -> None:
    image = plots.pixels(plots.curve_figure(HISTORY, "nasca", 100, "t"))
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 50
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []
