"""What a run's evaluations say at its end: a table of first, last and best values, and why the run stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from neuronxa_callback.vocabulary import score_name


def summarise(records: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Print the first, the last and the best value of each score, and how alignment and quality go together.

    Args:
        records: the lines of scores.jsonl in step order.
        console: where to; the terminal by default.
    """
    if not records:
        return
    console = console or Console()
    table = Table(title="Alignment and translation quality", title_justify="left")
    for column in ("", "first", "last", "best", "at step"):
        table.add_column(column, justify="right" if column else "left")
    for name, points in curves(records).items():
        best_step, best = best_of(points)
        numbers = (f"{value:.4f}" for value in (points[0][1], points[-1][1], best))
        table.add_row(escape(score_name(name)), *numbers, str(best_step))
    console.print(table)
    for name, correlation in last_correlations(records).items():
        low, high = correlation["ci"]
        method, _, metric = name.partition("_")
        names = f"{score_name(method)} and {escape(score_name(metric))}"
        console.print(
            f"Pearson's r of {names}: {correlation['r']:.3f} (95 % interval {low:.3f} to {high:.3f}, "
            f"p = {correlation['p_value']:.2g}, {correlation['n']} evaluations)",
            soft_wrap=True,  # a log may be narrow, and is searched by line
        )


def tell_stop(records: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Print why the run was stopped, if this package stopped it, and which step was the best."""
    told = stop_reason(records)
    if told:
        (console or Console()).print(escape(told), soft_wrap=True)


def stop_reason(records: Sequence[Mapping[str, Any]]) -> str | None:
    """Why the run was stopped and which step was the best, as sentences; None where no rule stopped it."""
    verdict = records[-1].get("stopping") if records else None
    if not verdict or not verdict["reason"]:
        return None
    told = f"Stopped at step {records[-1]['step']}: {verdict['reason']}."
    if verdict["best"] is None:
        return told
    return f"{told} The best step was {verdict['best_step']}, with {verdict['best']:.4f}."


def curves(records: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Each score's (step, value) over the run, alignment first."""
    found: dict[str, list[tuple[int, float]]] = {}
    for part in ("score", "quality_score"):
        for record in records:
            for name, value in record.get(part, {}).items():
                found.setdefault(name, []).append((record["step"], value))
    return found


def last_correlations(records: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The last correlation that was written of each alignment score and quality metric."""
    found: dict[str, Mapping[str, Any]] = {}
    for record in records:
        found |= record.get("pearson", {})
    return found


def best_of(points: Sequence[tuple[int, float]]) -> tuple[int, float]:
    """The step and the value of the highest point."""
    return max(points, key=lambda point: point[1])
