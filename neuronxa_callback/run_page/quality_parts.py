"""The sections on translation quality: against alignment with r, over training steps, and what was translated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from neuronxa_callback import plots
from neuronxa_callback.run_page import plotted
from neuronxa_callback.run_page.document import Block, Chart, Section, Table
from neuronxa_callback.run_page.evaluations import direction_labels, direction_pairs
from neuronxa_callback.run_page.pictures import MOST_LINES, parts_of, svg
from neuronxa_callback.training import page_translations
from neuronxa_callback.training.page import MISSING_HEADER, missing_rows, quality_curves
from neuronxa_callback.training.page_correlations import (
    RUN_HEADER,
    SENTENCES_HEADER,
    SENTENCES_NOTE,
    last_sentence_rows,
    run_notes,
    run_rows,
)
from neuronxa_callback.training.points import Correlations, Points
from neuronxa_callback.training.records import Evaluation, pair_counts
from neuronxa_callback.vocabulary import Method, score_name

NO_QUALITY = "No translations were scored in this run, so there is nothing to hold alignment against."
POINTS_NOTE = (
    "A point is an evaluation. The grey line joins the points in order of steps. The dashed line is that of least "
    "squares. A later step is lighter."
)


def correlation_section(evaluations: Sequence[Evaluation], points: Points, correlations: Correlations) -> Section:
    """Return the section on quality against alignment: a chart of each method, r, r of differences."""
    name, heading = "quality-against-alignment", "Translation quality against alignment"
    drawn = [method for method in points if points[method]]
    if not drawn:
        return Section(name, heading, [NO_QUALITY])
    blocks: list[Block] = [_points_chart(evaluations, method, points, correlations) for method in drawn]
    blocks += [POINTS_NOTE, Table("Correlations over the run", RUN_HEADER, run_rows(points, correlations))]
    blocks += run_notes(correlations)
    step, rows = last_sentence_rows(evaluations)
    if rows:
        caption = f"Correlations over the sentences at step {step}"
        blocks += [_direction_table(caption, SENTENCES_HEADER, rows, direction_pairs(evaluations)), SENTENCES_NOTE]
    return Section(name, heading, blocks)


def _points_chart(
    evaluations: Sequence[Evaluation], method: Method, points: Points, correlations: Correlations
) -> Chart:
    by_metric, name = points[method], score_name(method)
    translated = {pair for evaluation in evaluations for pair in evaluation.translated_pairs if evaluation.quality}
    counts = [n for pair, n in pair_counts(evaluations, method).items() if pair in translated]
    picture = plots.quality_figure(
        {metric: [point[:3] for point in drawn] for metric, drawn in by_metric.items()},
        correlations[method],
        method,
        counts,
        "",
    )
    return Chart(
        f"Translation quality against {name}",
        f"Translation quality against {name}, a panel a quality metric, a point an evaluation. The table below has r.",
        [svg(picture)],
        [
            plotted.quality_plot(drawn, correlations[method][metric], method, metric)
            for metric, drawn in by_metric.items()
        ],
    )


def quality_section(evaluations: Sequence[Evaluation]) -> Section | None:
    """Return the section on translation quality over training steps. None if nothing was translated."""
    having = [evaluation for evaluation in evaluations if evaluation.quality]
    if not having:
        return None
    curves, pairs = quality_curves(evaluations), direction_pairs(evaluations)
    blocks: list[Block] = [_quality_chart(curves, pairs)] if curves else []
    rows = [
        [direction, score_name(metric), str(step), f"{score:.4f}"]
        for metric, by_direction in curves.items()
        for direction, found in by_direction.items()
        for step, score in found
    ]
    if rows:
        header = ("direction", "metric", "step", "score")
        blocks.append(_direction_table("Quality: the numbers of the curves", header, rows, pairs, folded=True))
    made = page_translations.translation_rows(having[-1])
    blocks += [
        _direction_table(f"Translations at step {having[-1].step}", page_translations.HEADER, made, pairs),
        page_translations.READING,
    ]
    if missing := missing_rows(evaluations):
        blocks.append(_direction_table("Missing scores", MISSING_HEADER, missing, pairs))
    return Section("quality", "Translation quality over training steps", blocks)


def _direction_table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    pairs: Mapping[str, str | None],
    folded: bool = False,
) -> Table:
    """Return a table whose rows name a direction, with its label, and follow the choice of its language pair."""
    column, labels = header.index("direction"), direction_labels(pairs)
    directions = [row[column] for row in rows]  # "all" is none of them
    labelled = [
        [*row[:column], labels.get(direction, direction), *row[column + 1 :]]
        for row, direction in zip(rows, directions, strict=True)
    ]
    return Table(caption, header, labelled, [pairs.get(direction) for direction in directions], folded)


def _quality_chart(
    curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], pairs: Mapping[str, str | None]
) -> Chart:
    labels = direction_labels(pairs)
    pictures = []
    for part in parts_of(labels, MOST_LINES):
        drawn = {
            metric: {label: by_direction[name] for name, label in part.items() if name in by_direction}
            for metric, by_direction in curves.items()
        }
        drawn = {metric: by_direction for metric, by_direction in drawn.items() if by_direction}
        if drawn:
            pictures.append(svg(plots.quality_curve_figure(drawn, "")))
    return Chart(
        "Translation quality over training steps",
        "Each quality metric over training steps, a line a direction. The table below has the numbers.",
        pictures,
        [plotted.quality_curve_plot(found, labels, pairs, metric) for metric, found in curves.items()],
        "several",
    )
