"""List the runs of the evidence, make one anew, and rebuild the tables of docs/results/README.md.

make evidence                                    # lists the runs and rebuilds the tables from what is recorded
make evidence RUN=french-sft DATA=../shared/data  # makes a run from nothing, records it, and rebuilds the tables
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.evidence import curves, data, tables
from benchmarks.evidence.record import make_smaller, record
from benchmarks.evidence.runs import ALL, RESULTS, Run, named
from benchmarks.page import with_table
from neuronxa_callback.training import overlay
from neuronxa_callback.training.history import History

PAGE = RESULTS / "README.md"
LAID_OVER = "eng_Latn-fra_Latn"  # the direction of most runs


def show(console: Console) -> None:
    """Print each run with its commands and the time that it takes."""
    for run in ALL:
        minutes = "not run" if run.minutes is None else f"{run.minutes} minutes on {run.machine}"
        console.print(f"[bold]{run.name}[/bold] ({minutes}). {run.question}")
        for command in run.commands:
            console.print(f"    {' '.join(command)}", soft_wrap=True)


def make(run: Run, folder: Path) -> None:
    """Make a run from nothing and record it.

    Args:
        run: the run.
        folder: the folder with its corpora.
    """
    data.MAKERS[run.data](folder)
    shutil.rmtree(run.output_dir, ignore_errors=True)
    for command in run.commands:
        subprocess.run([sys.executable, *command[1:]], check=True)
    record(run)


def lay_over() -> None:
    """Write the page of the recorded runs that translate English to French. It compares what all its runs have."""
    folders = [run.result.relative_to(Path.cwd()) for run in ALL if run.is_recorded and _translates(run, LAID_OVER)]
    page = overlay.write(folders, RESULTS / "overlay")
    make_smaller(page.parent / overlay.FIGURE)


def _translates(run: Run, direction: str) -> bool:
    return direction in History(run.result).read()[0].quality


def rebuilt(page: str) -> str:
    """Return the page of results with its tables made from the recorded runs."""
    recorded = [run for run in ALL if run.is_recorded]
    read = [curves.read(run.result) for run in recorded]
    for name, table in tables.all_tables(read).items():
        page = with_table(page, name, table)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="the run to make from nothing")
    parser.add_argument("--data", type=Path, help="the folder with multi30k/, ntrex/ and tatoeba/")
    options = parser.parse_args()
    show(Console())
    if options.run:
        if options.data is None:
            raise SystemExit("--run needs --data, the folder with multi30k/, ntrex/ and tatoeba/ (DATA=... with make).")
        make(named(options.run), options.data)
    lay_over()
    PAGE.write_text(rebuilt(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"The tables of {PAGE} are rebuilt.")


if __name__ == "__main__":
    main()
