"""Several processes under one command, as torchrun or accelerate starts them. Without them nothing is imported here."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from neuronxa_callback.ranks import Ranks

# A process that has measured its share waits for the others. If one of them dies, the launcher ends all of them.
PATIENCE = timedelta(days=30)
# The processes raise an error at the same time, and the first prints it at once.
PRINTING = timedelta(minutes=1)
WRONG_USAGE = 2  # Typer's exit code for options that it cannot read


@contextmanager
def processes() -> Iterator[Ranks]:
    """Yield the processes that share the block's work, or this one alone.

    They exchange objects through gloo, which needs no GPU. If the block ends with `typer.Exit`, it does so on every
    process. They wait for each other then, because the launcher ends all of them as soon as one has ended with an
    error, and the first may still have to print it.
    """
    from neuronxa_callback.ranks import Ranks

    if not are_several():
        yield Ranks()
        return
    import torch.distributed as dist

    if not dist.is_initialized():  # a program may run several commands
        with _stdout_on_stderr():
            dist.init_process_group("gloo", timeout=PATIENCE)
        # At the interpreter's end, so that a traceback is printed before the others learn that this process is gone.
        atexit.register(dist.destroy_process_group)
    try:
        yield Ranks.of_group()
    except typer.Exit:
        with suppress(RuntimeError):  # a process is gone
            dist.monitored_barrier(timeout=PRINTING)
        raise


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
