"""`neuronxa page`: one page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from neuronxa_callback.cli.output import give_up


def page(
    output_dirs: Annotated[
        list[Path],
        typer.Argument(
            metavar="OUTPUT_DIR", help="The output_dir of a run, or of each of several runs, the baseline first."
        ),
    ],
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
    from neuronxa_callback.run_page.watch import RELOAD_AFTER, evaluations_made
    from neuronxa_callback.run_page.write import Asked, write
    from neuronxa_callback.training.page import RunPageError

    console = Console()

    def tell(sentence: str) -> None:
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)

    try:
        asked = Asked(output_dirs, output, markdown, pairs or [])
        if watch:
            made = False
            try:
                for _ in evaluations_made(output_dirs, tell):
                    tell(f"{'Made anew' if made else 'Made'}: {write(asked, RELOAD_AFTER)}")
                    made = True
            except KeyboardInterrupt:
                if not made:
                    return
        written = write(asked)  # a page that is no longer watched does not load itself
    except RunPageError as error:
        give_up(console, error)
    tell(f"The page is {written}")
    tell(f"In Markdown: {asked.markdown_file}")
