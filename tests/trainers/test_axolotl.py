"""The real Axolotl, in its own environment: what its files record of a run with the plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.trainers.page import (
    assert_recorded,
    assert_same_weights,
    block,
    prepare,
    run,
    scores_by_step,
    tensorboard,
)

pytest.importorskip("axolotl", reason="Axolotl is not installed; `make test-trainers` installs it")

pytestmark = pytest.mark.trainer

KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel")
ON_THE_CPU: dict[str, Any] = {"bf16": False, **dict.fromkeys(KERNELS, False)}
ALONE = {"AXOLOTL_DO_NOT_TRACK": "1"}  # its telemetry waits for a network


def config(folder: Path, name: str = "config.yaml", **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load(block("Axolotl", "yaml")) | ON_THE_CPU | changes
    (folder / name).write_text(yaml.safe_dump(settings))
    return settings


def test_the_file_of_the_page(tmp_path: Path) -> None:
    config(prepare(tmp_path))
    assert block("Axolotl").strip() == "axolotl train config.yaml"
    run(tmp_path, "-m", "axolotl.cli.main", "train", "config.yaml", **ALONE)
    state = tmp_path / "out" / "checkpoint-4" / "trainer_state.json"
    assert_recorded(state, tmp_path / "out", [0, 2, 4])
    assert tensorboard(tmp_path / "out") == pytest.approx(scores_by_step(state))


def test_the_plugin_leaves_the_weights_as_they_are(tmp_path: Path) -> None:
    settings = config(prepare(tmp_path), seed=42, load_best_model_at_end=False)
    for name in ("neuronxa", "plugins", "metric_for_best_model", "greater_is_better"):
        del settings[name]
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(settings | {"output_dir": "bare"}))
    # Axolotl makes LoRA's weights before it sets the seed, so that two of its runs differ without us, too.
    for name in ("config.yaml", "bare.yaml"):
        run(
            tmp_path,
            "-c",
            f"import torch; torch.manual_seed(0)\nfrom axolotl.cli.train import do_cli; do_cli('{name}')",
            **ALONE,
        )
    last = Path("checkpoint-4") / "adapter_model.safetensors"
    assert_same_weights(tmp_path / "out" / last, tmp_path / "bare" / last)
    assert (tmp_path / "out" / "neuronxa").exists()
    assert not (tmp_path / "bare" / "neuronxa").exists()


def test_axolotl_tells_a_fault_of_the_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AXOLOTL_DO_NOT_TRACK", "1")
    monkeypatch.chdir(tmp_path)
    from axolotl.cli.config import load_cfg

    config(tmp_path, neuronxa={"eval_stpes": 50})
    with pytest.raises(ValueError, match=r"neuronxa\.eval_stpes is unknown; the nearest key is eval_steps\."):
        load_cfg("config.yaml")


def test_without_a_section_the_callback_has_its_defaults() -> None:
    from axolotl.utils.dict import DictDefault

    from neuronxa_callback.integrations.axolotl import NeuronXAPlugin

    (callback,) = NeuronXAPlugin().add_callbacks_pre_trainer(DictDefault({}), None)
    assert [pair.name for pair in callback.evaluator.pairs] == ["eng_Latn-isl_Latn"]
    (callback,) = NeuronXAPlugin().add_callbacks_pre_trainer(DictDefault({"neuronxa": {"methods": "mexa"}}), None)
    assert callback.evaluator.methods == ("mexa",)
