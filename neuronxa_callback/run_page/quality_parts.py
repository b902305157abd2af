"""The sections on translation quality: against alignment with r, over training steps, and what was translated."""

from __future__ import annotations

from collections.abc import Sequence

from neuronxa_callback import plots
from neuronxa_callback.run_page import plotted
from neuronxa_callback.run_page.document import Block, Chart, Section, Table
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
        blocks += [Table(f"Correlations over the sentences at step {step}", SENTENCES_HEADER, rows), SENTENCES_NOTE]
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
    curves = quality_curves(evaluations)
    blocks: list[Block] = [_quality_chart(curves)] if curves else []
    rows = [
        [direction, score_name(metric), str(step), f"{score:.4f}"]
        for metric, by_direction in curves.items()
        for direction, found in by_direction.items()
        for step, score in found
    ]
    if rows:
        blocks.append(
            Table("Quality: the numbers of the curves", ("direction", "metric", "step", "score"), rows, folded=True)
        )
    made = page_translations.translation_rows(having[-1])
    blocks += [
        Table(f"Translations at step {having[-1].step}", page_translations.HEADER, made),
        page_translations.READING,
    ]
    if missing := missing_rows(evaluations):
        blocks.append(Table("Missing scores", MISSING_HEADER, missing))
    return Section("quality", "Translation quality over training steps", blocks)


def _quality_chart(curves: dict[str, dict[str, list[tuple[int, float]]]]) -> Chart:
    directions = list(dict.fromkeys(direction for by_direction in curves.values() for direction in by_direction))
    pictures = []
    for part in parts_of(dict.fromkeys(directions), MOST_LINES):
        drawn = {
            metric: {direction: by_direction[direction] for direction in part if direction in by_direction}
            for metric, by_direction in curves.items()
        }
        drawn = {metric: by_direction for metric, by_direction in drawn.items() if by_direction}
        pictures.append(svg(plots.quality_curve_figure(drawn, "")))
    return Chart(
        "Translation quality over training steps",
        "Each quality metric over training steps, a line a direction. The table below has the numbers.",
        pictures,
        [plotted.quality_curve_plot(by_direction, metric) for metric, by_direction in curves.items()],
    )
