"""What commands print: progress and errors, tables, the places of figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from neuronxa_callback import tables
from neuronxa_callback.cli.options import Showing, ShowingMeans
from neuronxa_callback.tables import Table, TableFormat
from neuronxa_callback.vocabulary import check_choice

WIDTH = 160  # of tables that go into a file
FOR_PROGRAMS = ("json", "csv")  # these hold every row's signature


@contextmanager
def surveying(showing: Showing, counted: str = "languages") -> Iterator[tuple[Console, Progress]]:
    """The console, and a progress bar on stderr; one sentence there for what a user can mend."""
    from transformers.utils.logging import disable_progress_bar

    from neuronxa_callback.model.loading import ModelError

    disable_progress_bar()  # of each model's weights, in the middle of ours
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    errors = Console(stderr=True)
    try:
        if showing.format is not None:
            check_choice("format", showing.format, TableFormat)
        with progress_bar(errors, TextColumn(counted)) as progress:
            yield console, progress
    except (ModelError, ValueError, OSError, ArithmeticError) as error:
        give_up(errors, error)


def progress_bar(console: Console, *counted: TextColumn) -> Progress:
    """A bar of what is done of how many, and what these are."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, *counted, TimeRemainingColumn(), console=console)


def give_up(console: Console, error: Exception) -> NoReturn:
    """Say what went wrong and end the command with code 1."""
    console.print(f"[red]Error:[/red] {escape(str(error))}", soft_wrap=True)
    raise typer.Exit(1) from None


def tell(table: Table, showing: Showing, console: Console) -> None:
    """Print for a reader, or write for a file: JSON and CSV hold every row's signature."""
    from neuronxa_callback.survey.tables import for_people

    signed = showing.format in FOR_PROGRAMS or "signature" not in table.columns
    shown = table if signed else for_people(table)
    if showing.format is None:
        tables.show(shown, console)
    else:
        console.out(tables.render(shown, showing.format), end="", highlight=False)


def tell_with_means(rows: Table, means: Table, showing: ShowingMeans, console: Console) -> None:
    """Both for a reader; a file of rows holds one table."""
    if not showing.summary:
        tell(rows, showing, console)
    if showing.summary or showing.format not in FOR_PROGRAMS:
        tell(means, showing, console)


def tell_figures(figures: Sequence[Path]) -> None:
    """Say on stderr where figures are."""
    for figure in figures:
        Console(stderr=True).print(f"Figure: {figure}", soft_wrap=True, highlight=False, markup=False)
