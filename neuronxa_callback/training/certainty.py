"""How certain an evaluation's alignment scores are: the rows of a table for the pages of a run and the model card."""

from __future__ import annotations

from collections.abc import Sequence

from neuronxa_callback.alignment.pair_scores import PairScores
from neuronxa_callback.tables import markdown_table
from neuronxa_callback.training.records import Evaluation
from neuronxa_callback.vocabulary import ALIGNMENT, OVER_PAIRS, Method, score_name

ALL = "all language pairs"
HEADER = (
    *("score", "value", "95 % interval", "chance", "p by chance"),
    *("without shared word forms", "4-grams alone", "pairs that carry it"),
)
BANDS = (
    "The bands are 95 % intervals over samples of as many sentence pairs. Scores that are no mean over "
    "pairs have none. {} is chance: what the same sentences score when their pairs are torn apart."
)
OLD = "Evaluations that an older version wrote have bootstrap intervals, the p-value of Eq. 5, and no chance."
READING = (
    "Chance is what the same sentences score on average when their pairs are torn apart at random. p is the share of "
    "random re-pairings, the true pairing counted, that score as high. A score above chance may come from names and "
    "numbers alone. So the next "
    "column has the score of the pairs whose two sides share no word form, and the column after it what character "
    "4-grams score on the same pairs, with no model. The last column counts the pairs that are aligned at a layer "
    "that the score reads."
)


def bands_text(evaluations: Sequence[Evaluation], chance_line: str = "The dashed line") -> str:
    """Return what the bands and the line of chance of a page's curves are.

    Args:
        evaluations: the run's evaluations.
        chance_line: what the line of chance looks like.
    """
    bands = BANDS.format(chance_line)
    languages = [language for evaluation in evaluations for language in evaluation.languages.values()]
    is_old = any(method not in lang.chance for lang in languages for method in lang.score if method in OVER_PAIRS)
    return f"{bands} {OLD}" if is_old else bands


def certainty_part(evaluations: Sequence[Evaluation], methods: Sequence[Method]) -> list[str]:
    """Return the Markdown page's part on the last evaluation that scored alignment, in Markdown. There may be none."""
    scored = [evaluation for evaluation in evaluations if evaluation.score]
    if not scored:
        return []
    table = markdown_table(HEADER, certainty_rows(scored[-1], methods))
    return [f"## Alignment at step {scored[-1].step}", table, READING]


def certainty_rows(evaluation: Evaluation, methods: Sequence[Method]) -> list[tuple[str, ...]]:
    """Return a row below `HEADER` for each method over all language pairs, and for each of its language pairs."""
    rows: list[tuple[str, ...]] = []
    for method in methods:
        scored = {name: language for name, language in evaluation.languages.items() if method in language.score}
        if len(scored) > 1 and method in evaluation.score:
            rows.append((f"{score_name(method)} {ALL}", *measured(evaluation, method), "", "", ""))
        for name, language in scored.items():
            rows.append((f"{score_name(method)} {name}", *measured(language, method), *surface_cells(language, method)))
    return rows


def measured(scores: Evaluation | PairScores, method: Method) -> tuple[str, ...]:
    """Return the value, its interval, chance and p: the columns of `HEADER` from the second on.

    A line of an older format gives nothing for what it does not have.
    """
    interval, chance, p_value = scores.ci.get(method), scores.chance.get(method), scores.p_value.get(method)
    p = "" if p_value is None else f"{p_value:.2g}"
    if p and chance is None and method in ALIGNMENT:
        p += " (Eq. 5)"
    between = "" if interval is None else f"{_decimal(interval[0])} to {_decimal(interval[1])}"
    return _decimal(scores.score[method]), between, "" if chance is None else _decimal(chance), p


def _decimal(number: float) -> str:
    return f"{round(number, 4) + 0.0:.4f}"  # with + 0.0 a rounded -0.0 is no "-0.0000"


def surface_cells(language: PairScores, method: Method) -> tuple[str, ...]:
    """Return what the surface of the text has to do with a score: the last three columns of `HEADER`."""
    surface = language.surface
    if surface is None or method not in language.per_pair:
        return "", "", ""
    left = surface.without_shared.get(method)
    without = "no such pair" if left is None else f"{_decimal(left)} ({surface.n_without_shared} pairs)"
    if method not in ALIGNMENT:  # 4-grams are scored by Eq. 4, and every pair has a part in the other scores
        return without, "", ""
    carried = f"{surface.carriers[method]}, {surface.carriers_sharing[method]} of them share a form"
    return without, f"{surface.ngram_baseline:.4f}", carried
