"""TRL: the real command line, and the real DPOTrainer. SFTTrainer is in most tests of tests/integration/."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.text.embedded import embedded
from tests.trainers.page import (
    assert_recorded,
    assert_same_weights,
    block,
    prepare,
    run,
    scores_by_step,
    tensorboard,
    write,
)

pytestmark = pytest.mark.trainer

COMMAND = "python -m neuronxa_callback.integrations.trl sft --config config.yaml"
ON_THE_CPU = ("--bf16", "false", "--dtype", "float32")
PAIRS = ["eng_Latn-fra_Latn", "eng_Latn-isl_Latn"]


@pytest.fixture
def command_line() -> Any:
    """The module of our way into TRL's command line."""
    pytest.importorskip("trl.cli.accelerate_launcher", reason="TRL has no such command line; 1.9 and later have it")
    from neuronxa_callback.integrations.trl import __main__

    return __main__


@pytest.mark.usefixtures("command_line")
def test_the_command_line_of_the_page(tmp_path: Path) -> None:
    text = block("TRL's command line", "yaml")
    (prepare(tmp_path) / "config.yaml").write_text(text)
    assert block("TRL's command line").strip() == COMMAND
    run(tmp_path, *COMMAND.split()[1:], *ON_THE_CPU)
    state = tmp_path / "out" / "checkpoint-6" / "trainer_state.json"
    assert_recorded(state, tmp_path / "out", [0, 3, 6])
    found = scores_by_step(state)
    assert tensorboard(tmp_path / "out") == pytest.approx(found)
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    report = NeuronXAEvaluator(PAIRS, methods="nasca")(kept, AutoTokenizer.from_pretrained(tmp_path / "out"))
    assert report.score["nasca"] == pytest.approx(max(found[3], found[6]))  # load_best_model_at_end
    # TRL's own script, without us, makes the same weights.
    settings = yaml.safe_load(text) | {"output_dir": "bare", "load_best_model_at_end": False}
    del settings["neuronxa"], settings["metric_for_best_model"]
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(settings))
    run(tmp_path, "-m", "trl.scripts.sft", "--config", "bare.yaml", *ON_THE_CPU)
    last = Path("checkpoint-6") / "model.safetensors"
    assert_same_weights(tmp_path / "out" / last, tmp_path / "bare" / last)
    assert not (tmp_path / "bare" / "neuronxa").exists()


@pytest.mark.distributed
@pytest.mark.usefixtures("command_line")
def test_two_processes_share_an_evaluation(tmp_path: Path) -> None:
    settings = yaml.safe_load(block("TRL's command line", "yaml")) | {"max_steps": 2, "report_to": "none"}
    (prepare(tmp_path) / "config.yaml").write_text(yaml.safe_dump(settings))
    # accelerate takes two processes without --multi_gpu only where it sees two GPUs.
    run(tmp_path, *COMMAND.split()[1:], *ON_THE_CPU, "--multi_gpu", "--num_processes", "2", OMP_NUM_THREADS="1")
    state = tmp_path / "out" / "checkpoint-2" / "trainer_state.json"
    assert_recorded(state, tmp_path / "out", [0, 1, 2])
    assert (tmp_path / "out" / "checkpoint-2" / "rng_state_1.pth").exists()  # the second process's


def test_a_fault_is_told_before_anything_is_started(
    command_line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("output_dir: out\nneuronxa:\n  eval_stpes: 50\n")
    monkeypatch.setattr(sys, "argv", ["trl", "sft", "--config", str(config)])
    with pytest.raises(SystemExit, match=r"^neuronxa.eval_stpes is unknown; the nearest key is eval_steps.$"):
        command_line.main()


def test_dpo_as_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = embedded("demo_train.tsv")
    rows = [
        {"prompt": f"English: {english}\nFrench:", "chosen": f" {french}", "rejected": f" {english}"}
        for english, french in zip(text["eng_Latn"], text["fra_Latn"], strict=True)
    ][:24]
    prepare(tmp_path)
    write(tmp_path / "preferences" / "train.jsonl", rows[:16])
    write(tmp_path / "preferences" / "test.jsonl", rows[16:])
    monkeypatch.chdir(tmp_path)
    Path("page.py").write_text(block("TRL's command line", "python"))
    trainer = runpy.run_path("page.py")["trainer"]
    found = scores_by_step(tmp_path / "out" / "checkpoint-4" / "trainer_state.json")
    assert list(found) == [0, 2, 4]
    assert tensorboard(tmp_path / "out") == pytest.approx(found)
    assert trainer.state.best_metric == pytest.approx(max(found[2], found[4]))
    report = NeuronXAEvaluator(ParallelPairs.load("eng_Latn-fra_Latn"))(trainer.model, trainer.processing_class)
    assert report.score["nasca"] == pytest.approx(trainer.state.best_metric)
