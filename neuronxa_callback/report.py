"""What a run's scores.jsonl has to say: a table at the end of the run, and a page with figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


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
        best_step, best = max(points, key=lambda point: point[1])
        table.add_row(name, *(f"{value:.4f}" for value in (points[0][1], points[-1][1], best)), str(best_step))
    console.print(table)
    for name, correlation in last_correlations(records).items():
        low, high = correlation["ci"]
        console.print(
            f"r of {name.replace('_', ' and ')}: {correlation['r']:.3f} (95 % interval {low:.3f} to {high:.3f}, "
            f"p = {correlation['p_value']:.2g}, {correlation['n']} evaluations)"
        )


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
