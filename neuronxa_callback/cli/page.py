"""`neuronxa page`: one page of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from neuronxa_callback.cli.options import OutputDirs
from neuronxa_callback.cli.output import give_up

if TYPE_CHECKING:
    from neuronxa_callback.run_page.write import Asked


def page(
    output_dirs: OutputDirs,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The HTML file.",
            show_default="OUTPUT_DIR/neuronxa/page.html, or neuronxa-runs/page.html for several runs",
        ),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(help="The Markdown file.", show_default="beside the HTML file, with the ending .md"),
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            help="The file of held-out pairs that the run was given, so that the page shows their sentences. The "
            "embedded pairs need no name. Repeatable.",
            show_default="none",
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Make the page anew after each evaluation, until Ctrl-C.")
    ] = False,
) -> None:
    """Write one page about a run or several runs: HTML that opens without a network, and Markdown beside it."""
    from neuronxa_callback.run_page.plotted import plotly_script
    from neuronxa_callback.run_page.write import Asked, write
    from neuronxa_callback.training.page import RunPageError

    console = Console()

    def tell(sentence: str) -> None:
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)

    try:
        asked = Asked(output_dirs, output, markdown, pairs or [])
        if watch:
            plotly_script()  # without Plotly no evaluation would bring a page
            if not _follow(asked, tell):
                return
        written = write(asked)  # a page that is no longer watched does not load itself
    except RunPageError as error:
        give_up(console, error)
    tell(f"The page is {written}")
    tell(f"In Markdown: {asked.markdown_file}")


def _follow(asked: Asked, tell: Callable[[str], None]) -> bool:
    """Make the page after each evaluation until Ctrl-C, and return whether it was made at all."""
    from neuronxa_callback.run_page.watch import RELOAD_AFTER, evaluations_made
    from neuronxa_callback.run_page.write import write
    from neuronxa_callback.training.page import RunPageError

    made, failed = False, ""
    try:
        for _ in evaluations_made(asked.run_dirs, tell):
            try:
                written = write(asked, RELOAD_AFTER)
            except RunPageError as error:  # the next evaluation may bring what is missing
                if str(error) != failed:
                    tell(f"This evaluation makes no page: {error}")
                failed = str(error)
            else:
                tell(f"{'Made anew' if made else 'Made'}: {written}")
                made = True
    except KeyboardInterrupt:
        pass
    return made
