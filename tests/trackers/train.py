"""One training with the trackers that are named, and what the Trainer logged.

python tests/trackers/train.py FOLDER COMET_MODEL TRACKER...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from neuronxa_callback import NeuronXACallback, ParallelPairs, Quality
from tests.support import sft


def main(folder: Path, comet_model: str, trackers: list[str]) -> None:
    """Train, and write `state.log_history` to FOLDER/logged.json."""
    callbacks: list[Any] = []
    if "aim" in trackers:  # it brings its own callback
        from aim.hugging_face import AimCallback

        callbacks.append(AimCallback(repo=str(folder), log_system_params=False, capture_terminal_logs=False))
    pairs = [ParallelPairs.load(name, n=10) for name in ("eng_Latn-fra_Latn", "eng_Latn-isl_Latn")]
    quality = Quality(("chrf", "comet"), comet_model=comet_model)
    ours = NeuronXACallback(pairs, methods=("nasca", "cka"), eval_steps=2, quality=quality, on_error="raise")
    trainer = sft(
        folder / "run",
        [ours, *callbacks],
        report_to=[name for name in trackers if name != "aim"],
        run_name="tiny",
        logging_steps=3,
        learning_rate=1e-1,
    )
    trainer.train()
    (folder / "logged.json").write_text(json.dumps(trainer.state.log_history), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
