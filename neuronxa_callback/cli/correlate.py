"""`neuronxa correlate`: alignment against task results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuronxa_callback.cli.options import ShowingMeans
from neuronxa_callback.cli.output import print_with_means, surveying


def correlate(
    scores: Annotated[Path, typer.Argument(help="Folder that neuronxa score wrote, or its scores.jsonl.")],
    results: Annotated[
        list[Path], typer.Argument(help="Results JSON of lm-evaluation-harness, or CSV files with task, lang, value.")
    ],
    showing: ShowingMeans,
    metric: Annotated[str, typer.Option(help="Metric of the harness's results.")] = "acc",
) -> None:
    """Correlate alignment with task results over languages, with a row for each model, method and task."""
    from neuronxa_callback.survey import downstream

    with surveying(showing) as (console, _):
        found = [result for path in results for result in downstream.read_results(path, metric)]
        table = downstream.correlate(downstream.read_scores(scores), found)
    print_with_means(table, downstream.averages(table), showing, console)
