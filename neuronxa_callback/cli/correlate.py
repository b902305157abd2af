"""`neuronxa correlate`: alignment against task results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuronxa_callback.cli.options import ShowingMeans
from neuronxa_callback.cli.output import FOR_PROGRAMS, print_table, print_with_means, reporting


def correlate(
    scores: Annotated[Path, typer.Argument(help="Folder that neuronxa score wrote, or its scores.jsonl.")],
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Results JSON of lm-evaluation-harness, CSV files with task, lang, value, or folders of neuronxa "
            "knowledge."
        ),
    ],
    showing: ShowingMeans,
    metric: Annotated[str, typer.Option(help="Metric of the harness's results.")] = "acc",
    differences: Annotated[
        bool,
        typer.Option(
            "--differences", help="Print only the tests between methods, which CSV and JSON leave out otherwise."
        ),
    ] = False,
) -> None:
    """Correlate alignment with task results over languages, with a row for each model, method and task."""
    from neuronxa_callback.survey import downstream
    from neuronxa_callback.survey.results import read_results, read_scores

    with reporting(showing) as console:
        if differences and showing.summary:
            raise ValueError("--differences and --summary each print one table alone; choose one of them.")
        found = [result for path in results for result in read_results(path, metric)]
        joined = downstream.join(read_scores(scores), found)
        table, tests = downstream.correlate(joined), downstream.differences(joined)
        if differences and not tests.rows:
            raise ValueError(f"{scores} holds one method of each model; score two or more (neuronxa score --methods).")
    if not differences:
        print_with_means(table, downstream.averages(table), showing, console)
    if differences or (tests.rows and not showing.summary and showing.format not in FOR_PROGRAMS):
        print_table(tests, showing, console)
