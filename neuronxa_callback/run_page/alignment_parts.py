"""The sections on alignment: curves with intervals and chance, the table of languages, the map of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from neuronxa_callback import plots
from neuronxa_callback.run_map import layer_map_figure
from neuronxa_callback.run_page import plotted
from neuronxa_callback.run_page.document import Block, Chart, Section, Table
from neuronxa_callback.run_page.pictures import MOST_LINES, MOST_PANELS, parts_of, svg, title_of
from neuronxa_callback.training.certainty import HEADER, READING, bands_text, measured, surface_cells
from neuronxa_callback.training.maps import LAYER_MAP, MAP_TEXTS, over_steps
from neuronxa_callback.training.page import layers_at, value_cells
from neuronxa_callback.training.records import Evaluation, layers_of, pair_counts
from neuronxa_callback.training.summary import language_curves
from neuronxa_callback.vocabulary import Method, score_name

LANGUAGE_HEADER = ("language", "code", "pairs", "first", "last", "best", "at step", *HEADER[2:])
ALL = "all"
CHANCE_LINE = "The grey line without markers"
CURVE_NUMBERS = ("language", "step", "score", "95 % interval", "chance")
LANGUAGES_NOTE = (
    "First, last and best are over the run; best is the highest value. The columns from the interval on are those of "
    "the last evaluation. "
)


def curves_section(evaluations: Sequence[Evaluation], methods: Sequence[Method], labels: Mapping[str, str]) -> Section:
    """Return the section with a chart of each method over training steps, and its numbers in a table."""
    curves = {method: language_curves(evaluations, method) for method in methods}
    charts = [_curve_chart(found, method, labels, evaluations) for method, found in curves.items()]
    tables = [_curve_table(found, method, labels) for method, found in curves.items()]
    return Section("curves", "Alignment over training steps", [*charts, bands_text(evaluations, CHANCE_LINE), *tables])


def _curve_chart(
    curves: Mapping[str, Sequence[plots.CurvePoint]],
    method: Method,
    labels: Mapping[str, str],
    evaluations: Sequence[Evaluation],
) -> Chart:
    name, counts = score_name(method), pair_counts(evaluations, method)
    parts = list(parts_of(curves, MOST_LINES))
    pictures = []
    for part in parts:
        title = title_of([labels[pair] for pair in part], len(parts))
        named = {labels[pair]: points for pair, points in part.items()}
        pictures.append(svg(plots.curve_figure(named, method, [counts[pair] for pair in part], title)))
    return Chart(
        f"{name} over training steps",
        f"{name} over training steps, a line a language, with 95 % intervals and chance. {_spoken(curves, labels)}",
        pictures,
        [plotted.curve_plot(curves, labels, method)],
        "several",
    )


def _spoken(curves: Mapping[str, Sequence[plots.CurvePoint]], labels: Mapping[str, str]) -> str:
    """Return where each line begins and ends, for who does not see it."""
    ends = {labels[pair]: (points[0], points[-1]) for pair, points in curves.items()}
    return " ".join(
        f"{label}: {begin.score:.4f} at step {begin.step}, {end.score:.4f} at step {end.step}."
        for label, (begin, end) in ends.items()
    )


def _curve_table(curves: Mapping[str, Sequence[plots.CurvePoint]], method: Method, labels: Mapping[str, str]) -> Table:
    rows, pairs = [], []
    for pair, points in curves.items():
        for point in points:
            between = "" if point.interval is None else "{:.4f} to {:.4f}".format(*point.interval)
            chance = "" if point.chance is None else f"{point.chance:.4f}"
            rows.append([labels[pair], str(point.step), f"{point.score:.4f}", between, chance])
            pairs.append(pair)
    return Table(f"{score_name(method)}: the numbers of the curves", CURVE_NUMBERS, rows, pairs, folded=True)


# ---------------------------------------------------------------------------------------------- languages


def languages_section(
    evaluations: Sequence[Evaluation], methods: Sequence[Method], labels: Mapping[str, str]
) -> Section:
    """Return the section with a table of the language pairs for each method."""
    tables = [_language_table(evaluations, method, labels) for method in methods]
    return Section("languages", "Languages", [*tables, LANGUAGES_NOTE + READING])


def _language_table(evaluations: Sequence[Evaluation], method: Method, labels: Mapping[str, str]) -> Table:
    steps, counts = [evaluation.step for evaluation in evaluations], pair_counts(evaluations, method)
    rows: list[list[str]] = []
    pairs: list[str | None] = []
    for pair, points in language_curves(evaluations, method).items():
        last = [e.languages[pair] for e in evaluations if pair in e.languages and method in e.languages[pair].score][-1]
        over_run = value_cells([(point.step, point.score) for point in points], steps)
        certain = [*measured(last, method)[1:], *surface_cells(last, method)]
        rows.append([labels[pair], pair, str(counts[pair]), *over_run, *certain])
        pairs.append(pair)
    scored = [evaluation for evaluation in evaluations if method in evaluation.score]
    if len(labels) > 1 and scored:
        over_run = value_cells([(evaluation.step, evaluation.score[method]) for evaluation in scored], steps)
        rows.insert(0, [ALL, "", "", *over_run, *measured(scored[-1], method)[1:], "", "", ""])
        pairs.insert(0, None)
    return Table(f"{score_name(method)} by language", LANGUAGE_HEADER, rows, pairs)


# ---------------------------------------------------------------------------------------------- layers


def layers_section(
    evaluations: Sequence[Evaluation], methods: Sequence[Method], labels: Mapping[str, str]
) -> Section | None:
    """Return the section with the map of layers over steps for each method that has values of layers."""
    charts: list[Block] = []
    tables: list[Block] = []
    for method in methods:
        per_layer, layers = _per_layer(evaluations, method), layers_of(evaluations, method)
        if per_layer and layers:
            charts.append(_layer_chart(evaluations, method, labels, per_layer))
            tables.append(_layer_table(evaluations, method, labels, layers))
    if not charts:
        return None
    reading = f"{MAP_TEXTS[LAYER_MAP].reading} White is exactly 0, and a grey or hatched field has no score."
    return Section("layers", MAP_TEXTS[LAYER_MAP].heading, [*charts, reading, *tables])


def _per_layer(evaluations: Sequence[Evaluation], method: Method) -> dict[str, NDArray[np.float64]]:
    return over_steps(evaluations, lambda language: language.per_layer.get(method, []))


def _layer_chart(
    evaluations: Sequence[Evaluation],
    method: Method,
    labels: Mapping[str, str],
    per_layer: Mapping[str, NDArray[np.float64]],
) -> Chart:
    name, counts, layers = score_name(method), pair_counts(evaluations, method), layers_of(evaluations, method)
    steps = [evaluation.step for evaluation in evaluations]
    parts = list(parts_of(per_layer, MOST_PANELS))
    pictures = []
    for part in parts:
        named = {labels[pair]: values for pair, values in part.items()}
        pairs = {labels[pair]: counts[pair] for pair in part}
        pictures.append(svg(layer_map_figure(named, steps, method, pairs, "", layers)))
    return Chart(
        f"{name} of each layer over training steps",
        MAP_TEXTS[LAYER_MAP].description.format(name),
        pictures,
        [plotted.layer_map_plot(per_layer, steps, method, layers)],
        "one",
        {pair: labels[pair] for pair in per_layer},
    )


def _layer_table(
    evaluations: Sequence[Evaluation], method: Method, labels: Mapping[str, str], layers: Sequence[int]
) -> Table:
    by_step = layers_at(evaluations, method)
    pairs = [pair for pair in labels if any(pair in per_layer for per_layer in by_step.values())]
    rows, about = [], []
    for pair in pairs:
        for place, layer in enumerate(layers):
            rows.append([labels[pair], str(layer), *(_at(found.get(pair, ()), place) for found in by_step.values())])
            about.append(pair)
    caption = f"{score_name(method)} of each layer, in numbers"
    return Table(caption, ("language", "layer", *by_step), rows, about, folded=True)


def _at(values: Sequence[float], place: int) -> str:
    return f"{values[place]:.4f}" if place < len(values) else ""


def mean_chance(evaluation: Evaluation, method: Method) -> float | None:
    """Return a method's chance over all language pairs: the evaluation's own, or that of its only language pair."""
    if method in evaluation.chance:
        return evaluation.chance[method]
    found = [language.chance[method] for language in evaluation.languages.values() if method in language.chance]
    return fmean(found) if found else None
