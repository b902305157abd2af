"""What a run's evaluations say at its end: first, last and best values, and why the run stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from neuronxa_callback.training.records import Evaluation, RunCorrelation
from neuronxa_callback.vocabulary import Method, score_name, split_method

if TYPE_CHECKING:
    from neuronxa_callback.plots import CurvePoint


def summarise(evaluations: Sequence[Evaluation], console: Console | None = None) -> None:
    """Print the first, the last and the best value of each score, and how alignment and quality go together.

    Args:
        evaluations: the lines of scores.jsonl in step order.
        console: where to print; the terminal by default.
    """
    if not evaluations:
        return
    console = console or Console()
    table = Table(title="Alignment and translation quality", title_justify="left")
    for column in ("", "first", "last", "best", "at step"):
        table.add_column(column, justify="right" if column else "left")
    for name, points in curves(evaluations).items():
        best_step, best = best_of(points)
        numbers = (f"{value:.4f}" for value in (points[0][1], points[-1][1], best))
        table.add_row(escape(score_name(name)), *numbers, str(best_step))
    console.print(table)
    for name, found in last_correlations(evaluations).items():
        method, metric = split_method(name)
        names = f"{score_name(method or '')} and {escape(score_name(metric))}"
        of_changes, held_fixed = ("none" if r is None else f"{r:.3f}" for r in (found.r_diff, found.r_partial))
        console.print(
            f"Pearson's r of {names}: {found.r:.3f} over {found.n} evaluations; r of their changes: {of_changes}; r "
            f"with copying held fixed: {held_fixed}",
            soft_wrap=True,  # a log may be narrow, and people search it by line
        )


def print_stop(evaluations: Sequence[Evaluation], console: Console | None = None) -> None:
    """Print why the stopping rule ended the run, if it did, and which step was the best."""
    reason = stop_reason(evaluations)
    if reason:
        (console or Console()).print(escape(reason), soft_wrap=True)


def stop_reason(evaluations: Sequence[Evaluation]) -> str | None:
    """Return why the stopping rule ended the run and which step was the best. None if the rule did not end it."""
    if not evaluations:
        return None
    last = evaluations[-1]
    verdict = last.stopping
    if verdict is None or verdict.reason is None:
        return None
    stopped = f"Stopped at step {last.step}: {verdict.reason}."
    if verdict.best is None:
        return stopped
    return f"{stopped} The best step was {verdict.best_step}, with {verdict.best:.4f}."


def curves(evaluations: Sequence[Evaluation]) -> dict[str, list[tuple[int, float]]]:
    """Return each score's (step, value) over the run, alignment first."""
    found: dict[str, list[tuple[int, float]]] = {}
    for evaluation in evaluations:
        for method, score in evaluation.score.items():
            found.setdefault(method, []).append((evaluation.step, score))
    for evaluation in evaluations:
        for metric, score in evaluation.quality_score.items():
            found.setdefault(metric, []).append((evaluation.step, score))
    return found


def language_curves(evaluations: Sequence[Evaluation], method: Method) -> dict[str, list[CurvePoint]]:
    """Return each language pair's alignment score over the run, with its interval and its chance where it has them."""
    from neuronxa_callback.plots import CurvePoint  # imports matplotlib, for which training need not wait

    found: dict[str, list[CurvePoint]] = {}
    for evaluation in evaluations:
        for name, language in evaluation.languages.items():
            if method in language.score:
                certainty = language.ci.get(method), language.chance.get(method)
                found.setdefault(name, []).append(CurvePoint(evaluation.step, language.score[method], *certainty))
    return found


def last_correlations(evaluations: Sequence[Evaluation]) -> dict[str, RunCorrelation]:
    """Return the last correlation of each alignment score and quality metric in the file."""
    found: dict[str, RunCorrelation] = {}
    for evaluation in evaluations:
        found |= evaluation.pearson
    return found


def best_of(points: Sequence[tuple[int, float]]) -> tuple[int, float]:
    """Return the step and the value of the highest point."""
    return max(points, key=lambda point: point[1])
