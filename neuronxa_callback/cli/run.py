"""`neuronxa report` and `neuronxa sweep`: what there is to do with a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from neuronxa_callback.cli.options import Judging, Loading, Methods
from neuronxa_callback.cli.output import give_up, progress_bar
from neuronxa_callback.quality.comet.environment import CometEnvironmentError


def report(
    run_dir: Annotated[Path, typer.Argument(help="The run's output_dir.")],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the page and its figures.", show_default="RUN_DIR/neuronxa/report"),
    ] = None,
) -> None:
    """Write a Markdown page with the figures of a run, from its scores.jsonl alone."""
    from neuronxa_callback.training import page as run_report

    console = Console()
    try:
        page = run_report.write(run_dir, output)
    except run_report.RunPageError as error:
        give_up(console, error)
    console.out(f"The report is {page}")


def sweep(
    output_dir: Annotated[Path, typer.Argument(help="The output_dir of a run that has ended, with its checkpoints.")],
    methods: Methods,
    judging: Judging,
    loading: Loading,
    pairs: Annotated[
        list[str] | None,
        typer.Option(help="Two codes or a file of held-out pairs; repeatable.", show_default="eng_Latn-isl_Latn"),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Base model, scored as step 0: folder or hub name.", show_default="what the adapters name"),
    ] = None,
) -> None:
    """Score the checkpoints of a finished run; stopped and started again, it goes on where it was."""
    from transformers.utils.logging import disable_progress_bar

    from neuronxa_callback.alignment.evaluator import DEFAULT_PAIRS, NeuronXAEvaluator
    from neuronxa_callback.model.loading import ModelError
    from neuronxa_callback.training import sweep as run_sweep
    from neuronxa_callback.training.history import History
    from neuronxa_callback.training.summary import summarise

    console = Console()
    disable_progress_bar()  # of each model's weights, in the middle of ours
    try:
        evaluator = NeuronXAEvaluator(pairs or DEFAULT_PAIRS, methods.chosen())
        judge = judging.evaluator(evaluator.pairs)
        with progress_bar(console) as progress:
            records = run_sweep.run(
                output_dir,
                evaluator,
                judge,
                base=base,
                dtype=loading.dtype,
                load_in_4bit=loading.load_in_4bit,
                device=loading.device,
                progress=progress,
            )
    except (ModelError, CometEnvironmentError, ValueError, OSError) as error:
        give_up(console, error)
    summarise(records, console)
    console.out(f"Scores: {History(output_dir).path}")
