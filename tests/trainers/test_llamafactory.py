"""The real LLaMA-Factory, in its own environment: what its files record of a run."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import raw_lines, score_lines
from tests.trainers.page import (
    assert_recorded,
    assert_same_weights,
    block,
    prepare,
    run,
    scores_by_step,
    tensorboard,
)

pytest.importorskip("llamafactory", reason="LLaMA-Factory is not installed; `make test-trainers` installs it")

pytestmark = pytest.mark.trainer

COMMAND = "python -m neuronxa_callback.integrations.llamafactory train config.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (prepare(tmp_path) / "config.yaml").write_text(block("LLaMA-Factory", "yaml"))
    return tmp_path


def test_the_command_of_the_page(folder: Path) -> None:
    assert block("LLaMA-Factory").strip() == COMMAND
    run(folder, *COMMAND.split()[1:])
    assert_recorded(folder / "out" / "trainer_state.json", folder / "out", [0, 2, 4])
    found = scores_by_step(folder / "out" / "trainer_state.json")
    assert tensorboard(folder / "out") == pytest.approx(found)
    results = json.loads((folder / "out" / "all_results.json").read_text())
    assert results["eval_nasca"] in (pytest.approx(found[2]), pytest.approx(found[4]))
    # As the page says: it keeps only its own keys here.
    log = raw_lines(folder / "out" / "trainer_log.jsonl")
    assert {line["current_steps"] for line in log} == {0, 1, 2, 3, 4}
    assert not any("nasca" in key for line in log for key in line)


def test_python_as_on_the_page_trains_as_without_the_callback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamafactory.train.tuner import run_exp

    monkeypatch.chdir(folder)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    settings: dict[str, Any] = yaml.safe_load(Path("config.yaml").read_text())
    del settings["neuronxa"]
    Path("config.yaml").write_text(yaml.safe_dump(settings))
    Path("page.py").write_text(block("LLaMA-Factory", "python"))
    runpy.run_path("page.py")
    assert list(scores_by_step(folder / "out" / "trainer_state.json")) == [0, 2, 4]
    del settings["metric_for_best_model"], settings["greater_is_better"]
    run_exp(settings | {"output_dir": "bare", "load_best_model_at_end": False})
    last = Path("checkpoint-4") / "adapter_model.safetensors"
    assert_same_weights(folder / "out" / last, folder / "bare" / last)


@pytest.mark.distributed
@pytest.mark.parametrize("processes", ["1", "2"])
def test_its_launcher_starts_our_module_in_each_process(folder: Path, processes: str) -> None:
    words = ("max_steps=2", "neuronxa.pairs=eng_Latn-fra_Latn", "neuronxa.on_error=raise")
    output = run(folder, *COMMAND.split()[1:], *words, FORCE_TORCHRUN="1", NPROC_PER_NODE=processes)
    assert f"Initializing {processes} distributed tasks" in output
    assert f"world size: {processes}" in output
    found = scores_by_step(folder / "out" / "trainer_state.json")
    assert list(found) == [0, 1, 2]
    lines = score_lines(folder / "out")
    assert found == pytest.approx({line["step"]: line["score"]["nasca"] for line in lines})
    assert {name for line in lines for name in line["languages"]} == {"eng_Latn-fra_Latn"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "config.yaml", "neuronxa.eval_stpes=50"], "^neuronxa.eval_stpes is unknown; the nearest key is "),
        (["train"], "^Usage: python -m neuronxa_callback.integrations.llamafactory train CONFIG.yaml "),
        (["chat", "config.yaml"], "^Usage: "),
    ],
)
def test_a_fault_is_told_before_training(
    words: list[str], told: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuronxa_callback.integrations import llamafactory

    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["llamafactory", *words])
    with pytest.raises(SystemExit, match=told):
        llamafactory.main()
    assert not (folder / "out").exists()
