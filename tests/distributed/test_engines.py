"""Real processes under torchrun, with the engines that share a model or its sentences among them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import get_peft_model

from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.training.metric_names import metrics_of
from tests.distributed.train import Settings, callback_of, lora_config
from tests.support import ROOT, make_tokenizer, run_processes, score_lines, tiny_llama

pytestmark = [pytest.mark.trainer, pytest.mark.distributed]

DEEPSPEED = ROOT / ".deepspeed"  # a folder of its own, because accelerate imports it wherever it is installed


def launch(folder: Path, script: str, *arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run one of this folder's scripts under torchrun."""
    return run_processes(
        ROOT / "tests" / "distributed" / script,
        folder,
        *arguments,
        processes=processes,
        timeout=400,
        PYTHONPATH=f"{ROOT}{os.pathsep}{DEEPSPEED}",
        DS_ACCELERATOR="cpu",
    )


def run(folder: Path, settings: Settings, processes: int = 2) -> list[dict[str, Any]]:
    """Train under torchrun, and return what each process ended with."""
    values = json.dumps(vars(settings))
    done = launch(folder, "train.py", values, processes=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(processes)]


def scores(result: dict[str, Any]) -> dict[int, dict[str, float]]:
    """Return the scores in a process's log by step, without the times that they took."""
    found: dict[int, dict[str, float]] = {}
    for entry in result["log"]:
        mine = {name: value for name, value in entry.items() if name.startswith("eval_") and "runtime" not in name}
        found.setdefault(entry["step"], {}).update(mine)
    return {step: its for step, its in found.items() if its}


def measured_alone(folder: Path, settings: Settings) -> dict[str, float]:
    """Return the scores of the weights that a training ended with, as one process measures them."""
    model: Any = tiny_llama()
    if settings.lora:
        model = get_peft_model(model, lora_config())
    missing, unexpected = model.load_state_dict(torch.load(folder / "weights.pt"), strict=False)
    assert not missing
    assert not unexpected
    callback = callback_of(settings)
    decoder = Decoder.find(model, make_tokenizer())
    found = metrics_of(callback.evaluator.score(decoder))
    if settings.translates:
        report = callback.quality.score(callback.quality.translate(decoder))
        found["eval_chrf"] = report.mean("chrf") or 0.0
    return found


def assert_equal_to_one_process(folder: Path, results: list[dict[str, Any]], settings: Settings) -> None:
    """Check that the processes agree, and that the last scores are those of one process."""
    assert {result["error"] for result in results} == {""}
    first, *others = map(scores, results)
    assert all(other == first for other in others)
    last = first[max(first)]
    expected = measured_alone(folder, settings)
    assert len(expected) == 10 if settings.translates else 9
    assert {name: last[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    for again in (result["again"] for result in results if result["again"]):
        assert {name: again[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert [line["step"] for line in score_lines(folder)] == list(first)
    # An evaluation outside training begins a file of its own.
    assert len(list(folder.rglob("events.out.tfevents.*"))) == 1 + bool(results[0]["again"])


NO_LORA = pytest.mark.skipif(
    transformers.__version__.startswith("4."),
    reason="transformers 4 cannot train a LoRA under ZeRO 3: the scheduler fails, with and without the callback",
)
needs_deepspeed = pytest.mark.skipif(
    not (DEEPSPEED / "deepspeed").exists(), reason="DeepSpeed is not there; `make deepspeed` puts it there"
)


@pytest.mark.parametrize("engine", ["ddp", "fsdp2", "fsdp1", pytest.param("zero2", marks=needs_deepspeed)])
def test_a_training_has_the_scores_of_one_process(engine: str, tmp_path: Path) -> None:
    settings = Settings(engine)
    assert_equal_to_one_process(tmp_path, run(tmp_path, settings), settings)


@pytest.mark.parametrize(
    ("engine", "lora", "fused"),
    [
        ("fsdp2", True, False),
        ("fsdp2", True, True),
        pytest.param("zero3", True, False, marks=[needs_deepspeed, NO_LORA]),
        pytest.param("zero3", False, False, marks=needs_deepspeed),
    ],
)
def test_weights_are_those_of_a_training_without_the_callback(
    engine: str, lora: bool, fused: bool, tmp_path: Path
) -> None:
    settings = Settings(engine, lora, fused)
    assert_equal_to_one_process(tmp_path / "watched", run(tmp_path / "watched", settings), settings)
    run(tmp_path / "bare", Settings(engine, lora, fused, watched=False))
    watched, bare = (torch.load(tmp_path / name / "weights.pt") for name in ("watched", "bare"))
    assert watched.keys() == bare.keys()
    assert all(torch.equal(watched[name], bare[name]) for name in bare)


@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_fewer_sentences_than_processes_and_a_stopping_rule(engine: str, tmp_path: Path) -> None:
    """Under FSDP the third process must make the passes of the others, though it has nothing to read or translate."""
    settings = Settings(engine, pairs=2, stops=True, max_steps=5)
    results = run(tmp_path, settings, processes=3)
    assert_equal_to_one_process(tmp_path, results, settings)
    assert [result["step"] for result in results] == [2, 2, 2]


@pytest.mark.parametrize(("engine", "fault"), [("ddp", "pass"), ("fsdp2", "twice"), ("fsdp2", "nan")])
def test_a_failure_on_one_process_costs_all_of_them_one_evaluation(engine: str, fault: str, tmp_path: Path) -> None:
    values = json.dumps(vars(Settings(engine, fault=fault, max_steps=3)))
    done = launch(tmp_path, "train.py", values)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        found = scores(json.loads((tmp_path / f"rank-{rank}.json").read_text()))
        assert [step for step, its in found.items() if "eval_nasca" in its] == [0, 1, 3]
    warnings = [line for line in done.stderr.splitlines() if "without its scores" in line]
    assert len(warnings) == 1
    assert "process 1 failed: " in warnings[0]


def test_a_lack_of_memory_on_one_process_halves_the_batches_of_all(tmp_path: Path) -> None:
    settings = Settings("ddp", fault="memory", translates=False)
    done = launch(tmp_path, "train.py", json.dumps(vars(settings)))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("out of memory; going on with batches of 256 tokens") == 1
    results = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert_equal_to_one_process(tmp_path, results, settings)


def test_on_error_raise_ends_every_process(tmp_path: Path) -> None:
    results = run(tmp_path, Settings("ddp", fault="pass", max_steps=3, on_error="raise", translates=False))
    assert [result["step"] for result in results] == [2, 2]
    assert results[0]["error"] == "RankError: process 1 failed: RuntimeError: the pass failed"
    assert results[1]["error"] == "RuntimeError: the pass failed"


def test_a_failure_in_the_middle_of_a_sharded_pass_ends_the_run(tmp_path: Path) -> None:
    """The other process waits in the pass. It must not wait for the time limit of half an hour."""
    done = launch(tmp_path, "train.py", json.dumps(vars(Settings("fsdp2", fault="pass", translates=False))))
    assert done.returncode != 0
    assert "OutOfStepError: a forward pass failed on process 1" in done.stderr


def test_neurons_of_a_tensor_parallel_model_are_gathered(tmp_path: Path) -> None:
    model, tokenizer = tiny_llama(), make_tokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    done = launch(tmp_path, "split_layers.py")
    assert done.returncode == 0, done.stderr[-3000:]
    settings = Settings("one")
    callback = callback_of(settings)
    expected = callback.evaluator(model, tokenizer)
    translated = callback.quality.translate(Decoder.find(model, tokenizer))
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert found["per_layer"] == {name: pytest.approx(its.tolist()) for name, its in expected.per_layer.items()}
        assert found["bypassed"] == found["per_layer"]
        assert found["texts"] == [list(made.texts) for made, _ in translated.values()]
        assert "experts" in found["refused"]  # transformers 4 holds them one by one, which is refused in any case


def test_processes_agree_on_values_and_failures(tmp_path: Path) -> None:
    done = launch(tmp_path, "agree.py", processes=3)
    assert done.returncode == 0, done.stderr[-3000:]
