"""Try every causal language model type of the installed transformers, record the outcome and rebuild the table.

make architectures                             # all types, with transformers 5 and with 4.57
python -m benchmarks.architectures gemma3_text  # some types, with the transformers that is installed
python -m benchmarks.architectures --table     # the table of docs/reference/architectures.md from what is recorded
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import resource
import warnings
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty

import torch
import transformers
from rich.console import Console
from rich.progress import Progress

from benchmarks.architectures import configs, table
from benchmarks.architectures.examine import Examined, examine

TIME_LIMIT = 180  # seconds for one type; some tiny models still hold large tables
BUILT = "the model was built"
MEMORY = 12 << 30  # bytes of address space for one type


def examined(kind: str) -> Examined:
    """Examine a type in a process of its own, which may die or hang."""
    context = multiprocessing.get_context("fork")
    queue: Queue[Examined] = context.Queue()
    process = context.Process(target=_work, args=(kind, queue))
    process.start()
    found = Examined(kind=kind, reason=f"no answer in {TIME_LIMIT} seconds")
    try:
        found = queue.get(timeout=TIME_LIMIT)
        if found.reason == BUILT:
            found = queue.get(timeout=TIME_LIMIT)
    except Empty:
        pass  # what is known so far stands
    finally:
        process.kill()
        process.join()
    return found


def _work(kind: str, queue: Queue[Examined]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    try:
        queue.put(examine(kind, lambda: queue.put(Examined(kind=kind, outcome="crashed", reason=BUILT))))
    except Exception as error:
        queue.put(Examined(kind=kind, outcome="crashed", reason=f"{type(error).__name__}: {error}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help="model types; all of the installed transformers if none is named")
    parser.add_argument("--table", action="store_true", help="only rebuild the table")
    options = parser.parse_args()
    console = Console()
    if not options.table:
        torch.set_num_threads(1)
        path = table.results_of(transformers.__version__)
        found = {one.kind: one for one in table.read(path)} if options.kinds else {}
        with Progress(console=console) as progress:
            for kind in progress.track(options.kinds or configs.kinds(), description=path.stem):
                found[kind] = examined(kind)
                console.print(f"{kind}: {found[kind].outcome} {found[kind].reason[:100]}", highlight=False)
                table.write(path, found.values())
    table.rebuild(Path("docs/reference/architectures.md"))
    console.print("The table of docs/reference/architectures.md is rebuilt.")


if __name__ == "__main__":
    main()
