"""What the run page and the model card say about alignment and translation quality together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from neuronxa_callback import plots
from neuronxa_callback.correlation import OverRun, over_run
from neuronxa_callback.tables import markdown_table
from neuronxa_callback.training.records import Evaluation
from neuronxa_callback.training.sentences import OverSentences, over_sentences
from neuronxa_callback.vocabulary import Method, score_name

# Alignment score -> quality metric -> (step, alignment, quality) of each evaluation that has both; their correlation.
Points: TypeAlias = Mapping[Method, Mapping[str, Sequence[tuple[int, float, float]]]]
Correlations: TypeAlias = Mapping[Method, Mapping[str, OverRun | None]]

RUN_NOTE = (
    "The evaluations of one run are no independent points, so r has neither a p-value nor an interval here. Two scores "
    "that both rise or fall have a high r even if they have nothing to do with each other. The r of their changes from "
    "one evaluation to the next does not follow from that."
)
SENTENCES_NOTE = (
    "Spearman's rho of the alignment of each held-out pair and the score of its translation, at one evaluation. "
    "Held-out sentences are drawn independently of each other, so p and the interval hold here. They are not corrected "
    "for the number of rows. Both scores depend on the sentence: an easy one may be easy to align and easy to "
    "translate. So rho does not say that better alignment makes a translation better."
)


def points_of(evaluations: Sequence[Evaluation], method: Method) -> dict[str, list[tuple[int, float, float]]]:
    """Return each quality metric's (step, alignment, quality) of the evaluations that have both scores."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    for evaluation in evaluations:
        for metric, quality in evaluation.quality_score.items():
            if method in evaluation.score:
                found.setdefault(metric, []).append((evaluation.step, evaluation.score[method], quality))
    return found


def correlations_of(points: Mapping[str, Sequence[tuple[int, float, float]]]) -> dict[str, OverRun | None]:
    """Return each quality metric's correlation with alignment over the points, None if there is none."""
    return {metric: over_run([x for _, x, _ in drawn], [y for _, _, y in drawn]) for metric, drawn in points.items()}


def run_part(points: Points, correlations: Correlations) -> list[str]:
    """Return the table of the correlations over the run, and what they do not show."""
    rows = [
        [score_name(method), score_name(metric), *_run_cells(found, len(points[method][metric]))]
        for method, by_metric in correlations.items()
        for metric, found in by_metric.items()
    ]
    table = markdown_table(("alignment", "quality", "Pearson's r", "r of changes", "n"), rows)
    return [table, RUN_NOTE] if any(c for by_metric in correlations.values() for c in by_metric.values()) else [table]


def _run_cells(found: OverRun | None, n: int) -> list[str]:
    if found is None:
        return [f"none: {plots.why_no_correlation(n)}", "", str(n)]
    return [f"{found.r:.3f}", _of_changes(found), str(found.n)]


def _of_changes(found: OverRun) -> str:
    if found.r_diff is not None:
        return f"{found.r_diff:.3f}"
    return f"none: {'fewer than three changes' if found.n < 4 else 'a score always changes by the same'}"


def sentences_part(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the correlations over sentences of the last evaluation that has scores of sentences, and what they say."""
    last = ((evaluation.step, rows) for evaluation in reversed(evaluations) if (rows := over_sentences(evaluation)))
    step, rows = next(last, (0, []))
    if not rows:
        return []
    header = ("direction", "alignment", "quality", "Spearman's rho", "95 % interval", "p", "n")
    table = markdown_table(header, [_sentence_cells(row) for row in rows])
    return [f"## Alignment and quality of the sentences at step {step}", table, SENTENCES_NOTE]


def _sentence_cells(row: OverSentences) -> list[str]:
    named = [row.direction, score_name(row.method), score_name(row.metric)]
    if row.found is None:
        return [*named, f"none: {row.missing}", "", "", str(row.n)]
    interval = "" if row.found.ci is None else "{:.3f} to {:.3f}".format(*row.found.ci)
    return [*named, f"{row.found.r:.3f}", interval, f"{row.found.p_value:.2g}", str(row.n)]
