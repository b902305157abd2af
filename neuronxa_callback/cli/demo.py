"""`neuronxa demo`: a short training run that shows the callback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from neuronxa_callback.cli.output import give_up
from neuronxa_callback.launcher import are_several


def demo(
    model: Annotated[Path, typer.Option(help="Folder of the model to fine-tune.")] = Path(
        ".models/smollm2-135m-instruct"
    ),
    output_dir: Annotated[Path, typer.Option(help="Folder of events, scores, the figure and the page.")] = Path(
        "runs/demo"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Training steps, each of 8 sentence pairs.")] = 40,
    eval_steps: Annotated[int, typer.Option(min=1, help="Steps between two evaluations.")] = 10,
    minutes: Annotated[float, typer.Option(help="Time limit; a slow machine makes fewer steps.")] = 4.5,
) -> None:
    """Fine-tune a small model in 4-bit with LoRA and watch three languages align with English."""
    # These import torch and the Trainer, for which --help must not wait.
    from neuronxa_callback.demo import run as demo_run
    from neuronxa_callback.demo.summary import summarise
    from neuronxa_callback.demo.text import DemoError

    console = Console()
    try:
        if are_several():
            raise DemoError("the demo trains in one process; start it without torchrun and accelerate launch.")
        finished = demo_run.run(model, output_dir, steps, eval_steps, minutes, console)
    except DemoError as error:
        give_up(console, error)
    summarise(finished, console)
