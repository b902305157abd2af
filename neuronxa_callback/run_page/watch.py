"""Wait for the evaluations of runs that are going on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from neuronxa_callback.training.history import History

EVERY = 1.0  # seconds between two looks at the files
RELOAD_AFTER = 10  # seconds after which an open page loads itself again


def evaluations_made(run_dirs: Sequence[Path], tell: Callable[[str], None]) -> Iterator[None]:
    """Yield once all runs have an evaluation, and again each time that a scores.jsonl has changed, without end.

    Args:
        run_dirs: the `output_dir` of each run. It need not be there yet.
        tell: is called once with a sentence if a run has no evaluation yet.
    """
    seen: list[tuple[int, int] | None] | None = None
    is_told = False
    while True:
        waited_for = [run_dir for run_dir in run_dirs if not _has_evaluation(run_dir)]
        if waited_for and not is_told:
            tell(f"Waiting for the first evaluation of {', '.join(map(str, waited_for))}.")
            is_told = True
        now = list(map(_state, run_dirs))
        if not waited_for and None not in now and now != seen:
            seen = now
            yield
        else:
            time.sleep(EVERY)


def _has_evaluation(run_dir: Path) -> bool:
    """Whether the file has a whole line. The first one may be on its way."""
    try:
        with History(run_dir).path.open("rb") as lines:
            return lines.readline().endswith(b"\n")
    except OSError:
        return False


def _state(run_dir: Path) -> tuple[int, int] | None:
    """When the file was written last, and its bytes. None if it is not there: it may have been moved a moment ago."""
    try:
        found = History(run_dir).path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
