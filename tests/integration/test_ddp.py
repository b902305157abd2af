"""Two processes under torchrun: the Trainer's DDP on the CPU."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
import transformers

from tests.support import run_processes

pytestmark = [pytest.mark.trainer, pytest.mark.distributed]

SCRIPT = """
import os
import sys
from pathlib import Path
import torch
from neuronxa_callback import NeuronXACallback, Quality
from tests.distributed.train import leave
from tests.support import ICELANDIC, sft

output_dir, watched = Path(sys.argv[1]), sys.argv[2] != "bare"
quality = Quality(("comet", "chrf"), comet_model=sys.argv[3])
if sys.argv[2] == "default":  # the first process alone has COMET, as on the first of several machines
    quality = Quality(comet_model=sys.argv[3] if os.environ["RANK"] == "0" else "gone")
callback = NeuronXACallback(ICELANDIC, eval_steps=3, quality=quality)
callbacks = [callback] if watched else []
trainer = sft(output_dir, callbacks, report_to="tensorboard", use_cpu=True)
assert trainer.args.world_size == 2
rank = trainer.args.process_index
trainer.train()
torch.save(trainer.model.state_dict(), output_dir / f"weights-{rank}.pt")
for key in ("nasca", "chrf", "comet"):
    scores = [(entry["step"], entry[f"eval_{key}"]) for entry in trainer.state.log_history if f"eval_{key}" in entry]
    (output_dir / f"{key}-{rank}.txt").write_text(repr(scores))
leave()
"""

STOPPING = """
import sys
from pathlib import Path
from neuronxa_callback import NeuronXACallback, Quality, StoppingRule
from tests.distributed.train import leave
from tests.integration.test_evaluations import OnTrain
from tests.support import ICELANDIC, StopAt, sft

output_dir, mode = Path(sys.argv[1]), sys.argv[2]
options = {"max_steps": 20, "learning_rate": 0.0, "save_strategy": "steps", "save_steps": 2, "use_cpu": True}
for resumed in {"resumed": (False, True), "unbroken": (False,)}.get(mode, ()):
    callback = NeuronXACallback(ICELANDIC, eval_steps=2, quality=(), early_stopping_patience=3)
    trainer = sft(output_dir, [callback, StopAt(4)] if mode == "resumed" and not resumed else [callback], **options)
    assert trainer.args.world_size == 2
    trainer.train(resume_from_checkpoint=resumed)
if mode == "training set":  # it is evaluated first, and without the loss that the rule asks for
    recipe = OnTrain()
    callback = NeuronXACallback(ICELANDIC, quality=(), stopping=StoppingRule(2, "loss"))
    trainer = recipe.trainer = sft(output_dir, [recipe, callback], eval_strategy="steps", eval_steps=2, **options)
    trainer.train()
    assert [metrics["train_nasca"] for metrics in recipe.returned] == [
        entry["eval_nasca"] for entry in trainer.state.log_history if "eval_nasca" in entry and entry["step"]
    ]
(output_dir / f"step-{trainer.args.process_index}.txt").write_text(str(trainer.state.global_step))
leave()
"""


def run(folder: Path, mode: str, comet_model: Path, text: str = SCRIPT) -> Path:
    script = folder / "run.py"
    script.write_text(text)
    output_dir = folder / mode
    done = run_processes(script, output_dir, mode, comet_model)
    assert done.returncode == 0, done.stderr[-3000:]
    return output_dir


def test_processes_agree_one_writes_and_the_weights_are_unchanged(
    tmp_path: Path, comet_models: Path, with_comet: None
) -> None:
    watched, bare = (run(tmp_path, mode, comet_models / "comet") for mode in ("watched", "bare"))
    for key in ("nasca", "chrf"):
        scores = [(watched / f"{key}-{rank}.txt").read_text() for rank in (0, 1)]
        assert scores[0] == scores[1]
        assert [step for step, _ in ast.literal_eval(scores[0])] == [0, 3, 6]
    # COMET comes later, to the first process, whose log it is that is kept.
    assert [step for step, _ in ast.literal_eval((watched / "comet-0.txt").read_text())] == [0, 3, 6]
    lines = (watched / "neuronxa" / "scores.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 3, 6]
    assert len(list(watched.rglob("events.out.tfevents.*"))) == 1
    for rank in (0, 1):
        expected, got = (torch.load(folder / f"weights-{rank}.pt") for folder in (bare, watched))
        assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_processes_with_other_comet_models_at_hand_do_not_wait_for_each_other(
    tmp_path: Path, comet_models: Path, with_comet: None
) -> None:
    output_dir = run(tmp_path, "default", comet_models / "comet")
    assert [step for step, _ in ast.literal_eval((output_dir / "comet-0.txt").read_text())] == [0, 3, 6]


CHECKING = """
import os
import sys
from neuronxa_callback import NeuronXACallback, Quality
from neuronxa_callback.quality.comet import environment
from tests.support import ICELANDIC, sft

os.environ[environment.VARIABLE] = sys.argv[3] + f"-{os.environ['RANK']}"
callback = NeuronXACallback(ICELANDIC, quality=Quality("comet", comet_device="cuda"))
sft(sys.argv[1], [callback], use_cpu=True).train()
"""


def test_one_process_alone_looks_for_comets_gpu(tmp_path: Path) -> None:
    for rank in (0, 1):
        python = tmp_path / f"python-{rank}"  # it says nothing, so nothing is refused
        python.write_text(f"#!/bin/sh\necho started >> {tmp_path}/started-{rank}\nexit 1\n")
        python.chmod(0o755)
    run(tmp_path, "checking", tmp_path / "python", CHECKING)
    assert (tmp_path / "started-0").exists()
    assert not (tmp_path / "started-1").exists()


RESUMABLE = not transformers.__version__.startswith("4.")
LATER = pytest.mark.skipif(not RESUMABLE, reason="transformers 4 cannot resume DDP on a CPU (it reads onto cpu:0)")


@pytest.mark.parametrize("mode", ["unbroken", "training set", pytest.param("resumed", marks=LATER)])
def test_processes_stop_together(mode: str, tmp_path: Path) -> None:
    output_dir = run(tmp_path, mode, Path(), STOPPING)
    assert [(output_dir / f"step-{rank}.txt").read_text() for rank in (0, 1)] == ["6", "6"]
    lines = (output_dir / "neuronxa" / "scores.jsonl").read_text().splitlines()
    verdicts = [json.loads(line).get("stopping", {}) for line in lines]  # the loss has none at step 0
    assert [verdict.get("reason") is None for verdict in verdicts] == [True, True, True, False]
