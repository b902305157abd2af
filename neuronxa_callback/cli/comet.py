"""`neuronxa comet setup` and `neuronxa comet check`: the environment that COMET runs in."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.table import Table

from neuronxa_callback.cli.output import give_up
from neuronxa_callback.quality.settings import Quality
from neuronxa_callback.vocabulary import CometDtype, help_of


def setup(
    path: Annotated[
        Path | None, typer.Option(help="Folder of the environment.", show_default="the user's cache directory")
    ] = None,
    python: Annotated[
        str,
        typer.Option(help="Interpreter to make the environment with: Python 3.11 or 3.12.", show_default="this Python"),
    ] = sys.executable,
) -> None:
    """Make the environment that COMET runs in, beside the training's. It takes minutes and, with CUDA, a few GB."""
    from neuronxa_callback.quality.comet import environment as comet_environment

    console = Console()
    place = (path or comet_environment.default_path()).expanduser().absolute()
    try:
        with console.status("") as status:
            interpreter = comet_environment.setup(place, python, status.update)
    except comet_environment.CometEnvironmentError as error:
        give_up(console, error)
    console.print(f"COMET runs in {interpreter}", soft_wrap=True)
    if path is not None:
        console.print("Set this variable, so that the environment is found: ", end="")
        console.print(f"export {comet_environment.VARIABLE}={interpreter}", soft_wrap=True, markup=False)
    console.print(f"To fetch a model and try it: neuronxa comet check {Quality.comet_model}", soft_wrap=True)


def check(
    model: Annotated[str, typer.Argument(help=help_of(Quality, "comet_model"))] = Quality.comet_model,
    device: Annotated[str, typer.Option(help=help_of(Quality, "comet_device"))] = Quality.comet_device,
    dtype: Annotated[str, typer.Option(help=help_of(Quality, "comet_dtype"))] = Quality.comet_dtype,
) -> None:
    """Fetch a COMET model if it is not on this machine, load it, and score two sentences."""
    from huggingface_hub import snapshot_download

    from neuronxa_callback.quality.comet.process import CometWorker, QualityError
    from neuronxa_callback.quality.comet.signature import sacrecomet

    console = Console()
    if not Path(model).exists():
        with suppress(Exception):  # called for its progress bar; the worker reports errors in one sentence
            snapshot_download(model)
    samples = [
        {"src": "The harbour is frozen.", "mt": "Höfnin er frosin.", "ref": "Höfnin er frosin."},
        {"src": "The harbour is frozen.", "mt": "Hesturinn á bók.", "ref": "Höfnin er frosin."},
    ]
    try:
        worker = CometWorker(device, dtype=cast(CometDtype, dtype))  # it refuses an unknown one
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
    console.print("To cite the scores, as sacreCOMET writes it:")
    console.print(sacrecomet(score.signature), soft_wrap=True, markup=False, highlight=False)
