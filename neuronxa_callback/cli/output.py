"""The output of commands: progress, errors, tables and the paths of figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from neuronxa_callback.cli.options import Showing, ShowingMeans
from neuronxa_callback.vocabulary import TableFormat, check_choice

if TYPE_CHECKING:  # --help need not wait for pydantic
    from neuronxa_callback.tables import Table

WIDTH = 160  # columns of a table that is written into a file
FOR_PROGRAMS = ("json", "csv")  # formats that hold every row's signature


@contextmanager
def reporting(showing: Showing) -> Iterator[Console]:
    """Give a command its console.

    An error that the user can remedy ends the command with one sentence on stderr.
    """
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    try:
        if showing.format is not None:
            check_choice("format", showing.format, TableFormat)
        yield console
    except (ValueError, OSError, ArithmeticError) as error:
        give_up(Console(stderr=True), error)


@contextmanager
def surveying(showing: Showing, counted: str = "languages") -> Iterator[tuple[Console, Progress]]:
    """Give a command that measures models its console as `reporting` does, and a progress bar on stderr."""
    from transformers.utils.logging import disable_progress_bar

    from neuronxa_callback.model.loading import ModelError
    from neuronxa_callback.ranks import RankError

    disable_progress_bar()  # transformers' bar of each model's weights would break into ours
    errors = Console(stderr=True)
    with reporting(showing) as console:
        try:
            with progress_bar(errors, TextColumn(counted)) as progress:
                yield console, progress
        except (ModelError, RankError) as error:
            give_up(errors, error)


def progress_bar(console: Console, *counted: TextColumn) -> Progress:
    """Return a bar that shows how much is done. The columns `counted` say what it counts."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, *counted, TimeRemainingColumn(), console=console)


def give_up(console: Console, error: Exception) -> NoReturn:
    """Print the error and end the command with code 1."""
    console.print(f"[red]Error:[/red] {escape(str(error))}", soft_wrap=True)
    raise typer.Exit(1) from None


def print_table(table: Table, showing: Showing, console: Console) -> None:
    """Print a table for a reader, or write it in the chosen format. JSON and CSV hold every row's signature."""
    from neuronxa_callback import tables
    from neuronxa_callback.survey.tables import for_people

    signed = showing.format in FOR_PROGRAMS or "signature" not in table.columns
    shown = table if signed else for_people(table)
    if showing.format is None:
        tables.show(shown, console)
    else:
        console.out(tables.render(shown, showing.format), end="", highlight=False)


def print_with_means(rows: Table, means: Table, showing: ShowingMeans, console: Console) -> None:
    """Print both tables for a reader. JSON and CSV hold one table: the rows, or the means with --summary."""
    if not showing.summary:
        print_table(rows, showing, console)
    if showing.summary or showing.format not in FOR_PROGRAMS:
        print_table(means, showing, console)


def print_figures(figures: Sequence[Path]) -> None:
    """Print the paths of figures on stderr."""
    for figure in figures:
        Console(stderr=True).print(f"Figure: {figure}", soft_wrap=True, highlight=False, markup=False)
