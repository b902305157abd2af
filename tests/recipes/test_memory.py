"""Memory estimates against what the libraries really load and train, and the table of the recipes' README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import memory
import preflight
import pytest
import settings
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, MistralConfig, Qwen2Config
from trl import ModelConfig, SFTConfig

from tests.architectures import needs_stacked_experts, tiny
from tests.support import tiny_llama

pytestmark = pytest.mark.recipe

RECIPES = Path(__file__).parents[2] / "recipes"
LORA = {"use_peft": True, "lora_r": 8, "lora_target_modules": ["all-linear"]}

# As published in each model's config.json.
LLAMA_3 = {"vocab_size": 128256, "num_key_value_heads": 8, "max_position_embeddings": 131072}
PUBLISHED = {
    "llama-3.1-8b": LlamaConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, **LLAMA_3),
    "llama-3.2-3b": LlamaConfig(
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        tie_word_embeddings=True,
        **LLAMA_3,
    ),
    "qwen2.5-7b": Qwen2Config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
    ),
    "mistral-7b-v0.3": MistralConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_key_value_heads=8, vocab_size=32768
    ),
}


def sft_config(folder: Path, **given: Any) -> SFTConfig:
    return SFTConfig(str(folder), report_to=[], **{"bf16": False, "max_length": 64} | given)


def test_weights_are_what_bitsandbytes_really_loads(tmp_path: Path) -> None:
    tiny_llama(hidden_size=256, intermediate_size=512).save_pretrained(tmp_path / "model")
    quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", quantization_config=quantised, dtype=torch.float32
    )
    asked = ModelConfig(str(tmp_path / "model"), dtype="float32", load_in_4bit=True, **LORA)
    estimate = sum(memory._weights(preflight.empty_model(asked), asked, 4))
    # What it leaves out are the scales, which get_memory_footprint leaves out too, and norms in float32.
    scales = sum(m.weight.numel() / 2 for m in loaded.modules() if type(m).__name__ == "Linear4bit") * 2 / 64 * 4
    assert estimate == pytest.approx(loaded.get_memory_footprint() + scales, rel=0.05)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gpt-neox"])
def test_lora_parameters_are_what_peft_really_adds(name: str, tmp_path: Path) -> None:
    model = tiny(name)
    model.save_pretrained(tmp_path / "model")
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
    trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    asked = ModelConfig(str(tmp_path / "model"), **LORA)
    assert memory._lora_parameters(preflight.empty_model(asked), asked) == trainable


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("llama", 48),
        ("gpt2", 48),
        ("opt", 48),
        pytest.param("mixtral", 2 * 48, marks=needs_stacked_experts),
        pytest.param("qwen2-moe", 24 + 2 * 16, marks=needs_stacked_experts),
    ],
)
def test_the_widest_ffn_is_what_a_token_passes(name: str, width: int) -> None:
    assert memory._ffn_width(tiny(name)) == width


def test_memory_grows_with_the_batch_and_the_length_alike(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path / "model")
    asked = ModelConfig(str(tmp_path / "model"), dtype="bfloat16", **LORA)
    model = preflight.empty_model(asked)

    def needed(**given: Any) -> int:
        return memory.estimate(model, sft_config(tmp_path, **given), asked)

    one = needed(per_device_train_batch_size=1)
    # Hidden 32, FFN 48, 3 layers, vocabulary 600, 64 tokens, 2 bytes a number; logits also in 4.
    states, layer, logits = 64 * 32 * 2 * 3, 64 * (8 * 32 + 3 * 48) * 2, 64 * 600 * 8
    assert needed(per_device_train_batch_size=3) - one == 2 * (states + layer + logits)
    assert needed(per_device_train_batch_size=1, max_length=192) == needed(per_device_train_batch_size=3)
    assert needed(per_device_train_batch_size=1, gradient_checkpointing=False) - one == 2 * layer - states


def test_processes_share_the_memory_of_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = sft_config(tmp_path, use_cpu=True)
    assert args.device.type == "cpu"
    alone = memory.available(args)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert memory.available(args) == pytest.approx(alone, rel=0.3)  # no launcher of processes says so
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert memory.available(args) == pytest.approx(alone / 4, rel=0.3)


@pytest.mark.parametrize("kind", ["sft", "cpt"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_readme_tells_what_each_configuration_needs(name: str, kind: str, tmp_path: Path) -> None:
    import translation_cpt
    import translation_sft

    recipe = translation_cpt if kind == "cpt" else translation_sft
    PUBLISHED[name].save_pretrained(tmp_path / "model")
    config = RECIPES / "configs" / f"icelandic-{kind}-{name}.yaml"
    assert "NEVER RUN" in config.read_text().splitlines()[0]
    arguments = ["--config", str(config), "--model_name_or_path", str(tmp_path / "model"), "--bf16", "false"]
    watch, args, model_args = settings.parse((recipe.RecipeArguments, SFTConfig, ModelConfig), arguments)
    batch, accumulated = args.per_device_train_batch_size, args.gradient_accumulation_steps
    needed = []
    for args.per_device_train_batch_size in (batch, 1):
        needed.append(memory.estimate(preflight.empty_model(model_args), args, model_args) / memory.GIB)
    rows = [line for line in (RECIPES / "README.md").read_text().splitlines() if line.startswith(f"| `{config.name}`")]
    assert f"| {batch} x {accumulated} | {needed[0]:.1f} GiB | {needed[1]:.1f} GiB |" in rows[0]
    assert batch * accumulated == 32
    assert watch.early_stopping_patience == 15
    assert args.metric_for_best_model == "eval_nasca"
