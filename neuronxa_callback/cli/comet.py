"""`neuronxa comet setup` and `neuronxa comet check`: the environment that COMET runs in."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from neuronxa_callback.cli.output import give_up
from neuronxa_callback.quality.comet import environment as comet_environment
from neuronxa_callback.quality.comet.environment import CometEnvironmentError


def setup(
    path: Annotated[
        Path | None, typer.Option(help="Where the environment goes.", show_default="the user's cache directory")
    ] = None,
    python: Annotated[str, typer.Option(help="The Python, 3.11 or 3.12, to make it with.")] = sys.executable,
) -> None:
    """Make the environment that COMET runs in, beside the one that trains: a few minutes and, with CUDA, a few GB."""
    console = Console()
    place = (path or comet_environment.default_path()).expanduser().absolute()
    try:
        with console.status("") as status:
            interpreter = comet_environment.setup(place, python, status.update)
    except CometEnvironmentError as error:
        give_up(console, error)
    console.print(f"COMET runs in {interpreter}", soft_wrap=True)
    if path is not None:
        console.print("So that it is found: ", end="")
        console.print(f"export {comet_environment.VARIABLE}={interpreter}", soft_wrap=True, markup=False)
    console.print("To fetch a model and try it: neuronxa comet check Unbabel/wmt22-comet-da", soft_wrap=True)


def check(
    model: Annotated[str, typer.Argument(help="COMET model: its name on the hub, or a checkpoint's path.")] = (
        "Unbabel/wmt22-comet-da"
    ),
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """Load a COMET model, fetching it if need be, and score two sentences."""
    from huggingface_hub import snapshot_download

    from neuronxa_callback.quality.comet.process import CometWorker, QualityError

    console = Console()
    if not Path(model).exists():
        with suppress(Exception):  # here for its progress bar; what goes wrong, the worker says in one sentence
            snapshot_download(model)
    samples = [
        {"src": "The harbour is frozen.", "mt": "Höfnin er frosin.", "ref": "Höfnin er frosin."},
        {"src": "The harbour is frozen.", "mt": "Hesturinn á bók.", "ref": "Höfnin er frosin."},
    ]
    try:
        worker = CometWorker(device)
    except ValueError as error:
        give_up(console, error)
    try:
        with console.status(f"Loading {model}"):
            score = worker.submit(model, samples).result()
    except QualityError as error:
        give_up(console, error)
    finally:
        worker.close()
    table = Table("source", "translation", "score", title=str(score.signature), title_justify="left")
    for sample, segment in zip(samples, score.segments or (), strict=True):
        table.add_row(sample["src"], sample["mt"], f"{segment:.4f}")
    console.print(table)
