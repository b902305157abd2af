"""Several processes under one command, as torchrun or accelerate starts them. Without them nothing is imported here."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from neuronxa_callback.launcher import are_several, is_first

if TYPE_CHECKING:
    from neuronxa_callback.ranks import Ranks

# A process that has measured its share waits for the others, and for COMET. If one dies, the launcher ends all of them.
PATIENCE = timedelta(days=1)
MEETING = timedelta(minutes=5)  # the time in which all processes must have come
PRINTING = 3.0  # seconds in which the first process prints an error that all of them have
WRONG_USAGE = 2  # Typer's exit code for options that it cannot read


@contextmanager
def processes() -> Iterator[Ranks]:
    """Yield the processes that share the block's work, or this one alone.

    They exchange objects through gloo, which needs no GPU. If the block ends with `typer.Exit`, it does so on every
    process. Those behind the first wait a moment then, because the launcher ends all of them as soon as one has ended
    with an error, and the first may still have to print it.

    Raises:
        typer.Exit: the other processes did not come, or the block says so.
    """
    from neuronxa_callback.ranks import Ranks

    if not are_several():
        yield Ranks()
        return
    # accelerate's settings for FSDP would have transformers load weights on the first process alone.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    _meet()
    try:
        yield Ranks.of_group()
    except typer.Exit:
        if not is_first():
            time.sleep(PRINTING)
        raise


def _meet() -> None:
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    if dist.is_initialized():  # a program may run several commands
        return
    try:
        with _stdout_on_stderr():
            store, rank, size = next(rendezvous("env://", timeout=MEETING))
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        typer.echo(
            f"the other processes that WORLD_SIZE={os.environ['WORLD_SIZE']} announces did not come ({error}); start "
            "the command by a launcher, or unset RANK, LOCAL_RANK and WORLD_SIZE.",
            err=True,
        )
        raise typer.Exit(1) from None
    # At the interpreter's end, so that a traceback is printed before the others learn that this process is gone.
    atexit.register(dist.destroy_process_group)


@contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """Send what libraries print to stderr, because stdout is a table. Gloo of some versions tells who is connected."""
    stdout, stderr = 1, 2
    own = os.dup(stdout)
    os.dup2(stderr, stdout)
    try:
        yield
    finally:
        os.dup2(own, stdout)
        os.close(own)


def first_alone(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that the first of several processes runs alone. The others end at once."""

    @wraps(command)
    def run(**given: Any) -> None:
        if is_first():
            command(**given)

    return run


def silent(run: Callable[[], None]) -> None:
    """Run an app without a word, as the processes behind the first do, because all of them would print the same.

    An error that no command foresees leaves the block, so its traceback is seen.
    """
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            run()
        except SystemExit as end:
            if end.code != WRONG_USAGE:  # an exit with an error would end the first before it has printed this one
                raise
