"""Record a real curve for benchmarks/stopping.py: the alignment of each held-out pair at every evaluation of a run.

The run trains SmolLM2 with 4-bit LoRA on the embedded training sentences, as `neuronxa demo` does. It goes through them
several times, until alignment no longer rises. `python -m benchmarks.record_curve` takes about half an hour on two CPU
cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.machine import describe
from neuronxa_callback.demo import run as demo

RECORDED = Path(__file__).parent / "results" / "curve.json"
MODEL = ".models/smollm2-135m-instruct"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(MODEL))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--eval-steps", type=int, default=4, help="steps between evaluations")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = demo.run(options.model, Path(folder), options.steps, options.eval_steps, 240, Console())
    evaluations = [
        {
            "step": evaluation.step,
            "per_pair": {name: language.per_pair["nasca"] for name, language in evaluation.languages.items()},
        }
        for evaluation in run.history
    ]
    signatures = {name: str(language.signature) for name, language in run.history[0].languages.items()}
    recorded = {"command": "python -m benchmarks.record_curve", "signatures": signatures, "evaluations": evaluations}
    RECORDED.write_text(json.dumps(describe() | recorded, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
