"""`neuronxa correlate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuronxa_callback.cli.options import ShowingMeans
from neuronxa_callback.cli.output import surveying, tell_with_means


def correlate(
    scores: Annotated[Path, typer.Argument(help="Folder of neuronxa score, or its scores.jsonl.")],
    results: Annotated[
        list[Path], typer.Argument(help="Results JSON of lm-evaluation-harness, or CSV files with task, lang, value.")
    ],
    showing: ShowingMeans,
    metric: Annotated[str, typer.Option(help="Which of the harness's metrics.")] = "acc",
) -> None:
    """Correlate alignment with task results over languages, a row a model, method and task."""
    from neuronxa_callback.survey import downstream

    with surveying(showing) as (console, _):
        found = [result for path in results for result in downstream.read_results(path, metric)]
        table = downstream.correlate(downstream.read_scores(scores), found)
    tell_with_means(table, downstream.averages(table), showing, console)
