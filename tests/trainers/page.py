"""The blocks of docs/how-to/other-trainers.md, and a folder in which they run: a tiny model and a little data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from neuronxa_callback.text.embedded import embedded
from tests.docs.pages import blocks_of
from tests.support import ROOT, make_tokenizer, score_lines, tiny_llama

PAGE = ROOT / "docs" / "how-to" / "other-trainers.md"


def block(heading: str, language: str = "") -> str:
    """The first block of a language below a heading of the page; a command has no language."""
    lines = PAGE.read_text(encoding="utf-8").split("\n")
    headings = [number for number, line in enumerate(lines, 1) if line.startswith("## ")]
    begin = lines.index(f"## {heading}") + 1
    end = next((number for number in headings if number > begin), len(lines))
    return next(found.code for found in blocks_of(PAGE, language) if begin < found.line < end)


def prepare(folder: Path) -> Path:
    """Put a model and the data of each trainer into a folder: 24 examples to train on and 8 others."""
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(folder / "model")
    tokenizer = make_tokenizer()
    # The trainers take a tokenizer without padding_side="left" for granted.
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(folder / "model")
    columns = embedded("demo_train.tsv")
    rows = [
        {"prompt": f"English: {english}\nFrench:", "completion": f" {french}"}
        for english, french in zip(columns["eng_Latn"], columns["fra_Latn"], strict=True)
    ][:32]
    write(folder / "data" / "train.jsonl", rows[:24])
    write(folder / "data" / "test.jsonl", rows[24:])
    info = {"captions": {"file_name": "train.jsonl", "columns": {"prompt": "prompt", "response": "completion"}}}
    (folder / "data" / "dataset_info.json").write_text(json.dumps(info))
    return folder


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(folder: Path, *arguments: str, **variables: str) -> str:
    """Run Python in a folder, with the programs of this environment on the path, and return all that it wrote."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": programs, "ACCELERATE_USE_CPU": "true", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def assert_recorded(state: Path, output_dir: Path, steps: list[int]) -> None:
    """Check that the trainer's own record of a run has our scores, and chose its best model by them."""
    found = scores_by_step(state)
    assert list(found) == steps
    lines = score_lines(output_dir)
    assert found == pytest.approx({line["step"]: line["score"]["nasca"] for line in lines})
    for name in ("eng_Latn-fra_Latn", "eng_Latn-isl_Latn"):
        assert scores_by_step(state, f"eval_mexa_{name}") == pytest.approx(
            {line["step"]: line["languages"][name]["score"]["mexa"] for line in lines}
        )
    recorded = json.loads(state.read_text(encoding="utf-8"))
    assert recorded["best_metric"] == pytest.approx(max(score for step, score in found.items() if step))
    assert found[recorded["best_global_step"]] == pytest.approx(recorded["best_metric"])


def tensorboard(folder: Path, key: str = "eval/nasca") -> dict[int, float]:
    """What the one TensorBoard run of a folder has of a score, by step."""
    (events,) = {path.parent for path in folder.rglob("events.out.tfevents.*")}
    accumulator = EventAccumulator(str(events)).Reload()
    return {event.step: event.value for event in accumulator.Scalars(key)}


def assert_same_weights(one: Path, other: Path) -> None:
    """Check that two safetensors files hold the same weights, bit by bit."""
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def scores_by_step(state: Path, key: str = "eval_nasca") -> dict[int, float]:
    """What a trainer_state.json has of a score, by step."""
    log: list[dict[str, Any]] = json.loads(state.read_text(encoding="utf-8"))["log_history"]
    return {entry["step"]: entry[key] for entry in log if key in entry}
