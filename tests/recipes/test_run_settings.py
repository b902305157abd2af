"""Which settings make another run, and which a later call may change."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import held_out
import pytest
import run_settings
import settings
import translation_cpt
import translation_sft
from languages import Languages
from preflight import PreflightError
from trl import ModelConfig, SFTConfig

from neuronxa_callback import ParallelPairs

pytestmark = pytest.mark.recipe

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"
WRITTEN_BY_0_1 = Path(__file__).parents[1] / "data" / "settings_0.1"  # by commit 6fb3466
SFT = (translation_sft, "icelandic-sft-smoke.yaml", "sft.json")
CPT = (translation_cpt, "icelandic-cpt-smoke.yaml", "cpt.json")
EMBEDDED = ParallelPairs.load("eng_Latn-isl_Latn", n=5)
HELD = held_out.HeldOut(Languages("eng_Latn", ("isl_Latn",)), (EMBEDDED,), (), "5 embedded pairs", None, (), None)

ANOTHER_RUN: dict[str, Any] = {
    "source_lang": "deu_Latn",
    "train_text": "nllb",
    "train_pairs": 201,
    "held_out_pairs": 6,
    "seed": 7,
    "data_seed": 7,
    "learning_rate": 0.5,
    "lr_scheduler_type": "cosine",
    "lr_scheduler_kwargs": '{"num_cycles": 2}',
    "warmup_steps": 3,
    "optim": "sgd",
    "weight_decay": 0.1,
    "adam_beta2": 0.9,
    "max_grad_norm": 0.5,
    "neftune_noise_alpha": 5,
    "label_smoothing_factor": 0.1,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "max_length": 64,
    "packing": "true",
    "completion_only_loss": "false",
    "loss_type": "dft",
    "model_name_or_path": "another/model",
    "model_revision": "v2",
    "attn_implementation": "eager",
    "dtype": "bfloat16",
    "load_in_4bit": "false",
    "bnb_4bit_quant_type": "fp4",
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.2,
    "lora_target_modules": "q_proj",
    "use_rslora": "true",
    "use_dora": "true",
}
THE_SAME_RUN: dict[str, Any] = {
    # its length, and what it leaves
    "max_steps": 12,
    "num_train_epochs": 2,
    "merge": "true",
    # evaluating and stopping
    "held_out": "embedded",
    "control_langs": "deu_Latn",
    "methods": "navca",
    "score_every": 1,
    "early_stopping_patience": 3,
    "comet_device": "cuda",
    "eval_strategy": "epoch",
    "per_device_eval_batch_size": 2,
    "metric_for_best_model": "eval_nasca",
    "greater_is_better": "true",
    # logging
    "logging_steps": 5,
    "report_to": "none",
    "run_name": "again",
    "disable_tqdm": "true",
    # saving
    "save_steps": 1,
    "save_total_limit": 1,
    "hub_model_id": "me/mine",
    "hub_token": "secret",
    # how the machine does it
    "gradient_checkpointing": "false",
    "bnb_4bit_quant_storage": "bfloat16",
    "dataloader_num_workers": 2,
    "dataset_num_proc": 2,
}


# What version 0.1 did not write, or called otherwise.
NEW = {"recipe", "warmup_ratio", "group_by_length", "adafactor"}
NEW |= {"source_lang", "target_langs", "bytes_of_texts", "target_text", "source_text", "source_share"}


@pytest.fixture(autouse=True)
def script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["recipes/translation_sft.py"])


def settings_of(
    recipe: tuple[Any, str, str], output_dir: Path, held: held_out.HeldOut = HELD, **given: Any
) -> run_settings.RunSettings:
    module, config, _ = recipe
    arguments = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    types = (module.RecipeArguments, SFTConfig, ModelConfig)
    fixed = ["--config", str(CONFIGS / config), "--output_dir", str(output_dir), "--bf16", "false"]
    arguments_of_recipe, args, model_args = settings.parse(types, [*fixed, *arguments])
    return run_settings.of(arguments_of_recipe, args, model_args, held, [])


def leave_checkpoint(output_dir: Path) -> None:
    (output_dir / "checkpoint-1").mkdir(parents=True)
    (output_dir / "checkpoint-1" / "trainer_state.json").write_text("{}")


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """Where a run of the smoke configuration was interrupted."""
    settings_of(SFT, tmp_path).keep(tmp_path)
    leave_checkpoint(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ANOTHER_RUN)
def test_a_setting_that_changes_the_weights_is_refused(name: str, begun: Path) -> None:
    before = settings_of(SFT, begun).as_json()[name]
    with pytest.raises(PreflightError) as raised:
        settings_of(SFT, begun, **{name: ANOTHER_RUN[name]})
    message = str(raised.value)
    assert f"{begun} holds a run with other settings (" in message
    assert f"{name} was {json.dumps(before)} and is now " in message
    assert message.endswith("give another --output_dir, or these as they were.")


def test_a_setting_that_changes_no_weight_may_change(begun: Path) -> None:
    settings_of(SFT, begun, **THE_SAME_RUN)
    for name, value in THE_SAME_RUN.items():
        assert settings_of(SFT, begun, **{name: value}) == settings_of(SFT, begun)


def test_other_held_out_pairs_are_refused(begun: Path) -> None:
    fewer = replace(HELD, watched=(ParallelPairs.load("eng_Latn-isl_Latn", n=4),))
    with pytest.raises(PreflightError, match=r"\(held_out was .* and is now "):
        settings_of(SFT, begun, fewer)


def test_another_target_is_refused(begun: Path) -> None:
    other = replace(HELD, languages=Languages("eng_Latn", ("isl_Latn", "fra_Latn")))
    with pytest.raises(PreflightError, match=r'target_langs was \["isl_Latn"\] and is now \["isl_Latn", "fra_Latn"\]'):
        settings_of(SFT, begun, other)


def test_a_changed_file_is_another_text(tmp_path: Path) -> None:
    text = tmp_path / "a.tsv"
    for content, size in (("one", 3), ("four", 4)):
        text.write_text(content, encoding="utf-8")
        assert run_settings._sizes([str(text), f"nllb:{text}", "nllb"]) == {str(text): size, f"nllb:{text}": size}


@pytest.mark.parametrize(("name", "value"), [("world_size", 2), ("train_batch_size", 8)])
def test_another_number_of_devices_is_refused(
    name: str, value: int, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SFTConfig, name, property(lambda args: value))
    with pytest.raises(PreflightError, match=f"{name} was .* and is now {value}"):
        settings_of(SFT, begun)


def test_another_recipe_is_refused(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["recipes/translation_cpt.py"])
    with pytest.raises(PreflightError, match=r'recipe was "translation_sft.py" and is now "translation_cpt.py"'):
        settings_of(CPT, begun)


@pytest.mark.parametrize("name", ["documents", "source_share", "target_text", "source_text"])
def test_the_documents_of_continued_pretraining_are_compared(name: str, tmp_path: Path) -> None:
    settings_of(CPT, tmp_path).keep(tmp_path)
    leave_checkpoint(tmp_path)
    other: dict[str, Any] = {name: {"documents": 21, "source_share": 0.3}.get(name, "somebody/else")}
    with pytest.raises(PreflightError, match=rf"\({name} was .* and is now [^,]*\)"):
        settings_of(CPT, tmp_path, **other)


@pytest.mark.parametrize("recipe", [SFT, CPT], ids=["sft", "cpt"])
def test_a_run_that_version_0_1_began_goes_on(recipe: tuple[Any, str, str], tmp_path: Path) -> None:
    written = (WRITTEN_BY_0_1 / recipe[2]).read_text(encoding="utf-8")
    (tmp_path / "settings.json").write_text(written, encoding="utf-8")
    leave_checkpoint(tmp_path)
    now = settings_of(recipe, tmp_path).as_json()
    assert now.keys() - json.loads(written).keys() <= NEW
    for name in ("learning_rate", "lora_r", "seed", "held_out_pairs", "train_text"):
        with pytest.raises(PreflightError, match=f"{name} was "):
            settings_of(recipe, tmp_path, **{name: ANOTHER_RUN[name]})


def test_what_left_no_checkpoint_is_begun_anew(tmp_path: Path) -> None:
    settings_of(SFT, tmp_path).keep(tmp_path)
    (tmp_path / "checkpoint-1").mkdir()  # of which nothing was written
    assert settings_of(SFT, tmp_path, seed=7).seed == 7


def test_no_secret_is_written(tmp_path: Path) -> None:
    settings_of(SFT, tmp_path, hub_token="secret").keep(tmp_path)
    assert "secret" not in (tmp_path / "settings.json").read_text(encoding="utf-8")
