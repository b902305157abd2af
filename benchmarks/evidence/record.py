"""Keep a finished run in docs/results/: `python -m benchmarks.evidence.record NAME [--checkpoints]`.

Its folder gets the model card, the figures, scores.jsonl, checkpoints.jsonl and the training loss. The weights are left
out. Text that may not be committed is left out of scores.jsonl, which then holds "" for each translation. Figures are
kept in 128 colours, which takes a third of the bytes.

--checkpoints keeps checkpoints.jsonl alone, beside what is recorded already. It is for checkpoints that were lost and
made again by the same training without its evaluations.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from PIL import Image
from transformers.trainer import TRAINER_STATE_NAME

from benchmarks.evidence import checkpoints
from benchmarks.evidence.curves import TRAINING_LOSS
from benchmarks.evidence.runs import Run, named
from neuronxa_callback.training.history import History

COLOURS = 128
# Multi30k is for non-commercial research. A model's translations may repeat its sentences, so none is committed.
NOT_COMMITTED = "multi30k"


def record(run: Run) -> None:
    """Copy what a run left into docs/results/."""
    shutil.rmtree(run.result, ignore_errors=True)
    report = run.output_dir / "neuronxa" / "report"
    shutil.copytree(report, run.result / "neuronxa" / "report")
    for figure in (run.result / "neuronxa" / "report").glob("*.png"):
        make_smaller(figure)
    shutil.copy(run.output_dir / "README.md", run.result)
    losses = json.dumps(training_loss(run.output_dir))
    (run.result / TRAINING_LOSS).write_text(losses + "\n", encoding="utf-8")
    lines = History(run.output_dir).path.read_text(encoding="utf-8").splitlines()
    kept = [without_text(line) if run.data == NOT_COMMITTED else line for line in lines]
    History(run.result).path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    if (run.output_dir / checkpoints.FILE).is_file():
        record_checkpoints(run)


def record_checkpoints(run: Run) -> None:
    """Copy what `checkpoints` wrote about a run into the folder of its record.

    Raises:
        SystemExit: the run is not recorded, or its checkpoints are of other steps than its evaluations.
    """
    if not run.is_recorded:
        raise SystemExit(f"{run.name} is not recorded; leave --checkpoints out.")
    steps = [evaluation.step for evaluation in History(run.result).read()]
    scored = sorted(checkpoints.read(run.output_dir))
    if scored != steps:
        raise SystemExit(
            f"{run.output_dir / checkpoints.FILE} has the steps {scored}, and the record has {steps}; score every "
            "checkpoint."
        )
    shutil.copy(run.output_dir / checkpoints.FILE, run.result / checkpoints.FILE)


def make_smaller(figure: Path) -> None:
    """Keep a figure in 128 colours."""
    with Image.open(figure) as image:
        few = image.convert("RGB").quantize(COLOURS)
    few.save(figure, optimize=True)


def training_loss(output_dir: Path) -> dict[int, float]:
    """Return the training loss that a run logged: step -> loss."""
    states = output_dir.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")
    last = max(states, key=lambda path: int(path.parent.name.rpartition("-")[2]))
    history = json.loads(last.read_text(encoding="utf-8"))["log_history"]
    return {line["step"]: line["loss"] for line in history if "loss" in line}


def without_text(line: str) -> str:
    """Return a line of scores.jsonl with "" for each translation."""
    evaluation = json.loads(line)
    for direction in evaluation.get("quality", {}).values():
        direction["translations"] = [""] * len(direction["translations"])
    return json.dumps(evaluation, ensure_ascii=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a run in runs/evidence/")
    parser.add_argument("--checkpoints", action="store_true", help="keep checkpoints.jsonl alone")
    options = parser.parse_args()
    (record_checkpoints if options.checkpoints else record)(named(options.name))


if __name__ == "__main__":
    main()
