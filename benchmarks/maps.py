"""Measure what TensorBoard's figures cost at one evaluation: `python -m benchmarks.maps`.

The run has 40 evaluations of three languages, 30 layers and 100 pairs, drawn at random. The results are written to
benchmarks/results/maps.json. They are CPU time of one thread, the median of some repetitions, and bytes of the event
file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from benchmarks.machine import RESULTS, describe
from neuronxa_callback import plots
from neuronxa_callback.training.maps import run_maps
from neuronxa_callback.training.records import Evaluation

EVALUATIONS, LANGUAGES, LAYERS, PAIRS = 40, ("isl", "fra", "spa"), 30, 100
REPETITIONS = 5


def run() -> list[Evaluation]:
    """Return the evaluations of a run in which each pair has a rising chance of its own to be aligned at a layer."""
    generator = np.random.default_rng(0)
    chances = generator.beta(0.3, 2, (len(LANGUAGES), PAIRS))
    return [
        Evaluation.model_validate(
            {
                "step": 10 * place,
                "score": {"nasca": 0.0},
                "languages": {
                    f"eng_Latn-{language}_Latn": _scores(
                        generator.random((LAYERS, PAIRS)) < chance * place / EVALUATIONS
                    )
                    for language, chance in zip(LANGUAGES, chances, strict=True)
                },
            }
        )
        for place in range(EVALUATIONS)
    ]


def _scores(aligned: np.ndarray) -> dict[str, object]:
    return {
        "signature": f"method:nasca|n:{PAIRS}|layers:mean",
        "score": {"nasca": float(aligned.mean())},
        "per_layer": {"nasca": aligned.mean(axis=1).tolist()},
        "chance_per_layer": {"nasca": (aligned.mean(axis=1) / PAIRS).tolist()},
        "per_pair": {"nasca": aligned.mean(axis=0).tolist()},
    }


def layer_figure(evaluation: Evaluation) -> Figure:
    """Return the figure that TensorBoard gets at every evaluation."""
    per_layer = {name: language.per_layer["nasca"] for name, language in evaluation.languages.items()}
    chance = {name: language.chance_per_layer["nasca"] for name, language in evaluation.languages.items()}
    return plots.layer_figure(per_layer, chance, "nasca", PAIRS, "title", range(1, LAYERS + 1))


def measure(draw: Callable[[], Iterable[Figure]]) -> dict[str, float]:
    """Return the milliseconds of CPU time and the KiB of event file that figures take."""
    with TemporaryDirectory() as folder:
        writer = SummaryWriter(folder)
        seconds = []
        for step in range(REPETITIONS):
            start = time.process_time()
            for name, figure in enumerate(draw()):
                writer.add_image(str(name), plots.pixels(figure), step, dataformats="HWC")
            writer.flush()
            seconds.append(time.process_time() - start)
        writer.close()
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / REPETITIONS
    return {"milliseconds": round(1000 * median(seconds)), "kibibytes": round(size / 1024)}


def main() -> None:
    """Measure, print and write the results."""
    torch.set_num_threads(1)
    evaluations = run()
    found = {
        "figure of layers": measure(lambda: [layer_figure(evaluations[-1])]),
        "both maps": measure(lambda: run_maps(evaluations, "nasca").values()),
    }
    made = describe() | {"command": "python -m benchmarks.maps", "evaluations": EVALUATIONS, "figures": found}
    (RESULTS / "maps.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    Console().print_json(data=found)


if __name__ == "__main__":
    main()
