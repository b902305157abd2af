"""Estimates against what the libraries really load and train, and the table of the recipes' README."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import preflight
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, MistralConfig, Qwen2Config
from trl import ModelConfig, SFTConfig, SFTTrainer

from neuronxa_callback import NeuronXACallback, ParallelPairs
from neuronxa_callback.training.history import History
from tests.architectures import needs_stacked_experts, tiny
from tests.conftest import make_tokenizer, tiny_llama

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


def sft_config(folder: Path, **settings: Any) -> SFTConfig:
    return SFTConfig(str(folder), report_to=[], **{"bf16": False, "max_length": 64} | settings)


def test_weights_are_what_bitsandbytes_really_loads(tmp_path: Path) -> None:
    tiny_llama(hidden_size=256, intermediate_size=512).save_pretrained(tmp_path / "model")
    quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", quantization_config=quantised, dtype=torch.float32
    )
    asked = ModelConfig(str(tmp_path / "model"), dtype="float32", load_in_4bit=True, **LORA)
    estimate = preflight._weights(preflight.empty_model(asked), asked, 4)
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
    assert preflight._lora_parameters(preflight.empty_model(asked), asked) == trainable


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
    assert preflight._ffn_width(tiny(name)) == width


def test_memory_grows_with_the_batch_and_the_length_alike(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path / "model")
    asked = ModelConfig(str(tmp_path / "model"), dtype="bfloat16", **LORA)
    model = preflight.empty_model(asked)

    def needed(**settings: Any) -> int:
        return preflight.memory(model, sft_config(tmp_path, **settings), asked)

    one = needed(per_device_train_batch_size=1)
    # Hidden 32, FFN 48, 3 layers, vocabulary 600, 64 tokens, 2 bytes a number; logits also in 4.
    states, layer, logits = 64 * 32 * 2 * 3, 64 * (8 * 32 + 3 * 48) * 2, 64 * 600 * 8
    assert needed(per_device_train_batch_size=3) - one == 2 * (states + layer + logits)
    assert needed(per_device_train_batch_size=1, max_length=192) == needed(per_device_train_batch_size=3)
    assert needed(per_device_train_batch_size=1, gradient_checkpointing=False) - one == 2 * layer - states


@pytest.mark.parametrize("packing", [False, True])
def test_a_plan_counts_steps_and_evaluations(packing: bool, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    pairs = ParallelPairs.load("eng_Latn-isl_Latn", n=10)
    texts = list(pairs.target)
    length = sum(len(tokenizer(text)["input_ids"]) for text in texts) / 10
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "num_train_epochs": 2}
    args = sft_config(tmp_path, packing=packing, packing_strategy="wrapped", **settings)
    found = preflight.plan(tokenizer, args, texts, 100, pairs, 0.25)
    rows = math.ceil(100 * length / 64) if packing else 100
    steps = 2 * math.ceil(rows / 6)
    assert (found.examples, found.steps) == (100, steps)
    assert found.evaluations == 1 + math.ceil(steps / math.ceil(steps / 4))
    assert found.epochs == pytest.approx(steps * 6 / rows)
    scored = sum(len(tokenizer(text)["input_ids"]) for text in (*pairs.source, *pairs.target))
    trained = steps * 6 * (64 if packing else length)
    assert found.alignment_cost == pytest.approx(found.evaluations * scored / (3 * trained))
    limits = [4 * len(tokenizer(text)["input_ids"]) + 16 for text in (*pairs.source, *pairs.target)]
    assert found.translated == sum(limits)


def test_evaluations_follow_the_trainer_where_it_evaluates(tmp_path: Path) -> None:
    pairs = ParallelPairs.load("eng_Latn-isl_Latn", n=10)
    args = sft_config(tmp_path, max_steps=100, eval_strategy="steps", eval_steps=0.02)
    assert preflight.plan(make_tokenizer(), args, pairs.target, 100, pairs, 0.5).evaluations == 51


@pytest.mark.parametrize("settings", [{}, {"dataloader_drop_last": True}, {"max_steps": 7}, {"eval_steps": 0.3}])
@pytest.mark.parametrize("strategy", ["epoch", "steps"])
def test_steps_and_evaluations_are_what_the_trainer_makes(
    strategy: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    pairs, tokenizer = ParallelPairs.load("eng_Latn-isl_Latn", n=5), make_tokenizer()
    sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 2.5}
    schedule = {"eval_strategy": strategy, "logging_steps": 3, "save_strategy": "no", "use_cpu": True}
    args = sft_config(tmp_path, **sizes, **schedule, **settings)
    texts = list(ParallelPairs.load("eng_Latn-isl_Latn", n=23).target)
    dataset, callback = Dataset.from_dict({"text": texts}), NeuronXACallback(pairs, quality=())
    trainer = SFTTrainer(
        tiny_llama(),
        args=args,
        train_dataset=dataset,
        eval_dataset=dataset.select([0]),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    trainer.train()
    found = preflight.plan(tokenizer, args, texts, len(texts), pairs, 0.5)
    assert found.steps == trainer.state.global_step
    assert found.evaluations == len(History(tmp_path).read())


@pytest.mark.parametrize("suffix", ["", "_cpt"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_readme_tells_what_each_configuration_needs(name: str, suffix: str, tmp_path: Path) -> None:
    import icelandic_cpt
    import icelandic_sft

    recipe = icelandic_cpt if suffix else icelandic_sft
    PUBLISHED[name].save_pretrained(tmp_path / "model")
    config = RECIPES / "configs" / f"{name}{suffix}.yaml"
    assert "NEVER RUN" in config.read_text().splitlines()[0]
    arguments = ["--config", str(config), "--model_name_or_path", str(tmp_path / "model"), "--bf16", "false"]
    watch, args, model_args = preflight.parse((recipe.RecipeArguments, SFTConfig, ModelConfig), arguments)
    batch, accumulated = args.per_device_train_batch_size, args.gradient_accumulation_steps
    needed = []
    for args.per_device_train_batch_size in (batch, 1):
        needed.append(preflight.memory(preflight.empty_model(model_args), args, model_args) / preflight.GIB)
    rows = [line for line in (RECIPES / "README.md").read_text().splitlines() if f"`{config.name}`" in line]
    assert f"| {batch} x {accumulated} | {needed[0]:.1f} GiB | {needed[1]:.1f} GiB |" in rows[0]
    assert batch * accumulated == 32
    assert watch.early_stopping_patience == 5
    assert args.metric_for_best_model == "eval_nasca"
