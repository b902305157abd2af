"""`neuronxa report` and `neuronxa sweep`: the commands for a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from neuronxa_callback.alignment.settings import AlignmentSettings
from neuronxa_callback.cli.options import Loading, Methods, OutputDirs, Translating
from neuronxa_callback.cli.output import give_up, progress_bar
from neuronxa_callback.cli.processes import processes
from neuronxa_callback.vocabulary import help_of


def report(
    output_dirs: OutputDirs,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the page and its figures.",
            show_default="OUTPUT_DIR/neuronxa/report, or neuronxa-runs for several runs",
        ),
    ] = None,
) -> None:
    """Write Markdown with figures about a run, or about several runs laid over each other, from scores.jsonl alone."""
    from neuronxa_callback.training import overlay
    from neuronxa_callback.training import page as run_page

    console = Console()
    try:
        if len(output_dirs) == 1:
            page, what = run_page.write(output_dirs[0], output), "Markdown page"
        else:
            page, what = overlay.write(output_dirs, output), "page of the runs"
    except run_page.RunPageError as error:
        give_up(console, error)
    console.out(f"The {what} is {page}")


def sweep(
    output_dir: Annotated[Path, typer.Argument(help="The output_dir of a run that has ended, with its checkpoints.")],
    methods: Methods,
    translating: Translating,
    loading: Loading,
    pairs: Annotated[
        list[str] | None,
        typer.Option(help=help_of(AlignmentSettings, "pairs", "Repeatable."), show_default=AlignmentSettings.pairs),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model, which is scored as step 0: folder or hub name.", show_default="the adapters' own base"
        ),
    ] = None,
) -> None:
    """Score the checkpoints of a finished run. After a stop, the same command goes on where it was."""
    from transformers.utils.logging import disable_progress_bar

    from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator
    from neuronxa_callback.model.loading import ModelError
    from neuronxa_callback.quality.comet.environment import CometEnvironmentError
    from neuronxa_callback.ranks import RankError
    from neuronxa_callback.training import sweep as run_sweep
    from neuronxa_callback.training.history import History
    from neuronxa_callback.training.summary import summarise

    console = Console()
    disable_progress_bar()  # transformers' bar of each model's weights would break into ours
    with processes() as ranks:
        try:
            with ranks.together():
                evaluator = NeuronXAEvaluator(pairs or AlignmentSettings.pairs, methods.chosen())
                quality = translating.evaluator(evaluator.pairs)
            with progress_bar(console) as progress:
                evaluations = run_sweep.run(
                    output_dir,
                    evaluator,
                    quality,
                    base=base,
                    dtype=loading.dtype,
                    load_in_4bit=loading.load_in_4bit,
                    device=loading.device,
                    progress=progress,
                    ranks=ranks,
                )
        except (ModelError, RankError, CometEnvironmentError, ValueError, OSError) as error:
            give_up(console, error)
    summarise(evaluations, console)
    console.out(f"Scores: {History(output_dir).path}")
