"""What bfloat16 and the number of segments at once change in COMET's scores, and the time that bfloat16 takes.

The Python that has COMET runs this, from the repository's folder:

PYTHONPATH=. .comet/bin/python -m benchmarks.comet_precision

The models have COMET's own format of classes, and random weights. One thread computes. The time is the CPU time of a
prediction, the least of some rounds in which the two precisions take turns.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "comet_precision.json"
SEGMENTS, AT_ONCE, ROUNDS = 64, (1, 2, 16, 64), 3
USUAL = 8  # segments at once
WORDS = "the dog sleeps on old red sofa eight ships left no yes Hundurinn sefur á gamla sófanum Átta skip lögðu úr"


def samples() -> list[dict[str, str]]:
    """Return segments of 1 to 30 words, always the same."""
    drawn, words = random.Random(1), WORDS.split()
    return [
        {name: " ".join(drawn.choices(words, k=drawn.randint(1, 30))) for name in ("src", "mt", "ref")}
        for _ in range(SEGMENTS)
    ]


def models(folder: Path) -> dict[str, Any]:
    """Return COMET models of random weights, by what they are called in the docs."""
    import torch
    from comet.models import RegressionMetric, UnifiedMetric

    from tests.make_comet import make_encoder

    torch.manual_seed(0)
    make_encoder(folder / "small")
    make_encoder(
        folder / "large", 2048, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, initializer_range=0.08
    )
    small, large = (
        {"pretrained_model": str(folder / name), "hidden_sizes": [24, 12], "dropout": 0.1}
        for name in ("small", "large")
    )
    no_references = {"input_segments": ["mt", "src"], "layer_transformation": "softmax", "word_layer": 1}
    return {
        "RegressionMetric, 2 layers of 16": RegressionMetric(**small),
        "UnifiedMetric without references, 2 layers of 16": UnifiedMetric(**small, **no_references),
        "RegressionMetric, 8 layers of 512": RegressionMetric(**large),
    }


def measured(model: Any, predict: Callable[[Any, int], list[float]]) -> dict[str, Any]:
    """Return what changes between float32 and bfloat16 and between numbers of segments at once."""
    import torch

    from neuronxa_callback.quality.comet.worker import in_precision

    in_bfloat16 = in_precision(copy.deepcopy(model), "bfloat16")
    both = {"float32": model, "bfloat16": in_bfloat16}
    scores = {dtype: torch.tensor(predict(one, USUAL)).double() for dtype, one in both.items()}
    moved = {
        dtype: max(float((torch.tensor(predict(one, size)).double() - scores[dtype]).abs().max()) for size in AT_ONCE)
        for dtype, one in both.items()
    }
    change = scores["bfloat16"] - scores["float32"]
    seconds: dict[str, list[float]] = {dtype: [] for dtype in both}
    for _ in range(ROUNDS):
        for dtype, one in both.items():
            start = time.process_time()
            predict(one, USUAL)
            seconds[dtype].append(time.process_time() - start)
    return {
        "largest_change": float(change.abs().max()),
        "change_of_mean": abs(float(change.mean())),
        "correlation": float(torch.corrcoef(torch.stack(list(scores.values())))[0, 1]),
        "moved_by_segments_at_once": moved,
        "largest_score": float(scores["float32"].abs().max()),
        "time_ratio": min(seconds["bfloat16"]) / min(seconds["float32"]),
    }


def markdown(made: Mapping[str, Any]) -> str:
    """Return the table of the docs."""
    rows = [
        "| model, of random weights | largest change of a segment | change of the mean | correlation with float32 |",
        "| --- | --- | --- | --- |",
    ]
    rows += [
        f"| {name} | {one['largest_change']:.4f} | {one['change_of_mean']:.5f} | {one['correlation']:.4f} |"
        for name, one in made["models"].items()
    ]
    return "\n".join(rows)


def main() -> None:
    """Measure and write the results."""
    import torch

    sys.modules["mpi4py"] = None  # type: ignore[assignment]  # as in worker.py
    torch.set_num_threads(1)
    given = samples()

    def predict(model: Any, size: int) -> list[float]:
        made = model.predict(given, batch_size=size, gpus=0, num_workers=0, progress_bar=False)
        return [float(score) for score in made["scores"]]

    with tempfile.TemporaryDirectory() as folder:
        found = {name: measured(model.eval(), predict) for name, model in models(Path(folder)).items()}
    bfloat16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    made = {"models": found, "cpu_computes_in_bfloat16": bfloat16, "torch": torch.__version__}
    RESULTS.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(markdown(made))


if __name__ == "__main__":
    main()
