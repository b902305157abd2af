"""What the pages of a run and the model card say about alignment and translation quality together."""

from __future__ import annotations

from collections.abc import Sequence

from neuronxa_callback import plots
from neuronxa_callback.correlation import FEWEST_FOR_PARTIAL, OverRun
from neuronxa_callback.tables import markdown_table
from neuronxa_callback.training.points import (
    Correlations,
    Point,
    Points,
    copying_is_known,
    correlations_of,
    points_of,
)
from neuronxa_callback.training.records import Evaluation
from neuronxa_callback.training.sentences import OverSentences, over_sentences
from neuronxa_callback.vocabulary import score_name

__all__ = [
    "correlations_of",
    "last_sentence_rows",
    "points_of",
    "run_notes",
    "run_part",
    "run_rows",
    "sentences_part",
]

RUN_HEADER = ("alignment", "quality", "Pearson's r", "r, copying held fixed", "r of changes", "n")
SENTENCES_HEADER = ("direction", "alignment", "quality", "Spearman's rho", "95 % interval", "p", "n")

RUN_NOTE = (
    "Alignment is that of the language pairs whose sources are translated. The evaluations of one run are no "
    "independent points, so r has neither a p-value nor an interval here. Two scores that both rise or fall have a "
    "high r even if they have nothing to do with each other. The r of their changes from one evaluation to the next "
    "does not follow from that."
)
COPYING_NOTE = (
    "Copying is chrF of the translations against their sources. Quality may change with it: chrF gives points for "
    "source words that the reference has, too. Where alignment also changes with it, r may come from that alone. "
    '"r, copying held fixed" is the partial correlation: the r of what a least-squares line through copying leaves of '
    "each of the two scores."
)
SENTENCES_NOTE = (
    "Spearman's rho of the alignment of each held-out pair and the score of its translation, at one evaluation. "
    "Held-out sentences are drawn independently of each other, so p and the interval hold here. They are not corrected "
    "for the number of rows. Both scores depend on the sentence: an easy one may be easy to align and easy to "
    "translate. So rho does not say that better alignment makes a translation better."
)


def run_part(points: Points, correlations: Correlations) -> list[str]:
    """Return the table of the correlations over the run, and what they do not show."""
    return [markdown_table(RUN_HEADER, run_rows(points, correlations)), *run_notes(correlations)]


def run_rows(points: Points, correlations: Correlations) -> list[list[str]]:
    """Return a row below `RUN_HEADER` for each alignment score and quality metric."""
    return [
        [score_name(method), score_name(metric), *_run_cells(found, points[method][metric])]
        for method, by_metric in correlations.items()
        for metric, found in by_metric.items()
    ]


def run_notes(correlations: Correlations) -> list[str]:
    """Return what correlations over a run do not show. There are no notes if there is no correlation."""
    found = any(correlation for by_metric in correlations.values() for correlation in by_metric.values())
    return [RUN_NOTE, COPYING_NOTE] if found else []


def _run_cells(found: OverRun | None, points: Sequence[Point]) -> list[str]:
    if found is None:
        return [f"none: {plots.why_no_correlation(len(points))}", "", "", str(len(points))]
    return [f"{found.r:.3f}", _held_fixed(found, points), _of_changes(found), str(found.n)]


def _held_fixed(found: OverRun, points: Sequence[Point]) -> str:
    if found.r_partial is not None:
        return f"{found.r_partial:.3f}"
    if found.n < FEWEST_FOR_PARTIAL:
        return "none: fewer than four evaluations"
    return f"none: {'a score follows from copying' if copying_is_known(points) else 'copying was not always measured'}"


def _of_changes(found: OverRun) -> str:
    if found.r_diff is not None:
        return f"{found.r_diff:.3f}"
    return f"none: {'fewer than three changes' if found.n < 4 else 'a score always changes by the same'}"


def sentences_part(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the correlations over sentences of the last evaluation that has scores of sentences, and what they say."""
    step, rows = last_sentence_rows(evaluations)
    if not rows:
        return []
    table = markdown_table(SENTENCES_HEADER, rows)
    return [f"## Alignment and quality of the sentences at step {step}", table, SENTENCES_NOTE]


def last_sentence_rows(evaluations: Sequence[Evaluation]) -> tuple[int, list[list[str]]]:
    """Return the step of the last evaluation that has scores of sentences, and its rows below `SENTENCES_HEADER`."""
    last = ((evaluation.step, rows) for evaluation in reversed(evaluations) if (rows := over_sentences(evaluation)))
    step, rows = next(last, (0, []))
    return step, [_sentence_cells(row) for row in rows]


def _sentence_cells(row: OverSentences) -> list[str]:
    named = [row.direction, score_name(row.method), score_name(row.metric)]
    if row.found is None:
        return [*named, f"none: {row.missing}", "", "", str(row.n)]
    interval = "" if row.found.ci is None else "{:.3f} to {:.3f}".format(*row.found.ci)
    return [*named, f"{row.found.r:.3f}", interval, f"{row.found.p_value:.2g}", str(row.n)]
