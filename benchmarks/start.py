"""Measure how long the package and its commands take to start: `python -m benchmarks.start`.

Each work is a fresh process, from its start to its end. The works of a row run interleaved, and medians are compared.
`import neuronxa_callback` imports next to nothing, because its names are imported at their first use. So a row tells
what the callback adds to a script that imports the Trainer anyway.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.machine import RESULTS
from benchmarks.rows import Row, in_seconds, interleaved, save, show
from neuronxa_callback import ParallelPairs

RESULT = RESULTS / "start.json"
ADDED = 0.2  # seconds that an import may add to another one
HELP = 0.3  # seconds that `neuronxa --help` may take
TRAINER = "from transformers import Trainer"
CALLBACK = "from neuronxa_callback import NeuronXACallback"
NEURONXA = ("-m", "neuronxa_callback")
PUBLISHED = ("-m", "benchmarks.mexa_published")


def python(*arguments: str | Path) -> None:
    """Run a fresh Python to its end.

    Raises:
        RuntimeError: it ended with an error. The message holds what it wrote.
    """
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, env=offline)
    if done.returncode:
        raise RuntimeError(f"python {' '.join(map(str, arguments))} failed: {done.stderr[-1000:]}")


def imports(*statements: str) -> Callable[[], None]:
    return partial(python, "-c", "; ".join(statements))


def published(model: Path, texts: tuple[Path, Path]) -> None:
    """Score two texts as MEXA's authors do: one process embeds and saves, another one reads and scores."""
    with tempfile.TemporaryDirectory() as folder:
        python(*PUBLISHED, "embed", model, *texts, "--folder", folder)
        python(*PUBLISHED, "score", *(Path(folder) / f"{text.stem}.pkl" for text in texts))


def scored(model: Path, folder: Path, pairs: ParallelPairs, *more: str) -> None:
    """Score the texts of a folder with `neuronxa score`, from nothing."""
    chosen: tuple[str | Path, ...] = ("--pairs", folder, "--pivot", pairs.source_lang, "--n", str(len(pairs)), *more)
    with tempfile.TemporaryDirectory() as output:
        python(*NEURONXA, "score", model, *chosen, "--output", output)


def written(pairs: ParallelPairs, folder: Path) -> tuple[Path, Path]:
    """Write both sides of the pairs into files of their languages' names, a sentence a line."""
    texts = folder / f"{pairs.source_lang}.txt", folder / f"{pairs.target_lang}.txt"
    for text, side in zip(texts, (pairs.source, pairs.target), strict=True):
        text.write_text("".join(f"{sentence}\n" for sentence in side), encoding="utf-8")
    return texts


def measure(model: Path, pairs: ParallelPairs, rounds: int) -> list[Row]:
    seconds = interleaved(
        {
            "import torch": imports("import torch"),
            "import neuronxa_callback": imports("import neuronxa_callback"),
            TRAINER: imports(TRAINER),
            CALLBACK: imports(TRAINER, CALLBACK),
            "neuronxa --help": partial(python, *NEURONXA, "--help"),
        },
        rounds,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = written(pairs, folder)
        seconds |= interleaved(
            {
                "MEXA's published way": partial(published, model, texts),
                "MEXA alone": partial(scored, model, folder, pairs, "--methods", "mexa"),
                "default methods": partial(scored, model, folder, pairs),
            },
            max(1, rounds // 2),
        )
    whole = f"neuronxa score, {len(pairs)} pairs, process start included"
    row = partial(in_seconds, "start", seconds=seconds)
    return [
        _added("import", "import neuronxa_callback", "import torch", seconds),
        _added("import beside the Trainer's", CALLBACK, TRAINER, seconds),
        Row("start", "help", "neuronxa --help", f"{HELP} s", (seconds["neuronxa --help"], HELP), "seconds", 1.0),
        row(whole, ("MEXA alone", "MEXA's published way"), target=1 / 3),
        row(whole, ("default methods", "MEXA's published way"), target=1 / 3),
    ]


def _added(what: str, numerator: str, denominator: str, seconds: dict[str, float]) -> Row:
    """Return the row of an import that may take ADDED seconds more than another one."""
    values = (seconds[numerator], seconds[denominator] + ADDED)
    return Row("start", what, numerator, f"{denominator} + {ADDED} s", values, "seconds", 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(".models/smollm2-135m-instruct"))
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the imports; whole runs take half as many")
    options = parser.parse_args()
    pairs = ParallelPairs.load("eng_Latn-isl_Latn")
    rows = measure(options.model, pairs, options.rounds)
    show(rows, Console(width=170))
    save(RESULT, rows, pairs, f"python -m benchmarks.start --rounds {options.rounds}")


if __name__ == "__main__":
    main()
