"""Measure what an evaluation costs on a GPU: `make bench-gpu`.

The models have the shapes of Llama 3.2 1B and 3B and of Llama 3.1 8B, and random weights, so their scores mean nothing
and are not kept. Weights are NF4, or bfloat16, with a LoRA on all linear layers, as a user trains them. All works run
in one process and the ratios compare their median times. NASCA of the 8B shape should take less than 1.5 s on an H100.
A random model never ends a sentence, so the translation is the dearest one possible: each sentence runs to its limit of
4 times the source's tokens plus 16.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from benchmarks.cost import STEP_TOKENS, sft_step
from benchmarks.machine import describe
from benchmarks.rows import interleaved
from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality.prompts import PLAIN_PROMPT
from neuronxa_callback.quality.translation import translate
from neuronxa_callback.tables import markdown_table

RESULT = Path(__file__).parent / "results" / "gpu.json"
GPU = torch.device("cuda", 0)
SHAPES = {
    "1B": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "head_dim": 64},
    "3B": {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "head_dim": 128},
    "8B": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "head_dim": 128,
        "tie_word_embeddings": False,
    },
}
COMMON = {"vocab_size": 128256, "intermediate_size": 8192, "num_key_value_heads": 8, "tie_word_embeddings": True}
WEIGHTS = ("NF4", "bfloat16")
TARGET_SECONDS = 1.5  # of NASCA with the 8B shape on an H100


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes:
        shape: "1B", "3B" or "8B".
        seconds: the median seconds of each work.
        mebibytes: the GPU memory that a work takes at its peak beside what is there before it.
        weights: "NF4" or "bfloat16". The figures recorded with version 0.1 do not say: they are of NF4.
    """

    shape: str
    seconds: dict[str, float]
    mebibytes: dict[str, float]
    weights: str = "NF4"


def adapted(shape: str, weights: str) -> Any:
    """Return a model of random weights, in NF4 or bfloat16, with a LoRA, on the GPU."""
    torch.manual_seed(0)
    config = LlamaConfig(**(COMMON | SHAPES[shape]), dtype="bfloat16")
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    if weights == "bfloat16":
        with GPU:
            model = LlamaForCausalLM(config).bfloat16()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
        return get_peft_model(model, lora)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        with GPU:
            LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
        torch.cuda.empty_cache()
        model = AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=nf4, dtype=torch.bfloat16, device_map={"": GPU}
        )
    prepared = prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False})
    return get_peft_model(prepared, lora)


def measure(shape: str, weights: str, tokenizer: Any, pairs: ParallelPairs, rounds: int) -> Cost:
    """Return what an evaluation of a model costs, and what a training step costs."""
    model = adapted(shape, weights)
    nasca, three = (NeuronXAEvaluator(pairs, methods) for methods in (("nasca",), ("nasca", "navca", "mexa")))
    decoder = Decoder.find(model, tokenizer)

    def translation() -> None:
        translate(decoder, pairs.source, pairs.source_lang, pairs.target_lang, PLAIN_PROMPT)

    works: dict[str, Callable[[], object]] = {
        "SFT step": sft_step(model, tokenizer),
        "NASCA": lambda: nasca(model, tokenizer),
        "NASCA, NAVCA and MEXA": lambda: three(model, tokenizer),
    }
    mebibytes = {name: peak(work) for name, work in works.items()}
    seconds = interleaved({name: synchronised(work) for name, work in works.items()}, rounds)
    seconds |= interleaved({"translation": synchronised(translation)}, 1)
    return Cost(shape, seconds, mebibytes, weights)


def synchronised(work: Callable[[], object]) -> Callable[[], None]:
    """Return the work, which ends only when the GPU has done it."""

    def whole() -> None:
        work()
        torch.cuda.synchronize()

    return whole


def peak(work: Callable[[], object]) -> float:
    """Return the MiB of GPU memory that a work takes beside what is there before it."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def markdown(costs: list[Cost]) -> str:
    """Return the table as Markdown. docs/explanation/promises.md shows it."""
    rows = [
        (
            cost.shape,
            cost.weights,
            work,
            f"{seconds:.2f}",
            f"{seconds / cost.seconds['SFT step']:.2f}",
            f"{cost.mebibytes[work]:.0f} MiB" if work in cost.mebibytes else "",
        )
        for cost in costs
        for work, seconds in cost.seconds.items()
    ]
    return markdown_table(("shape", "weights", "work", "seconds", "training steps", "extra memory"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, default=Path(".models/smollm2-135m-instruct"))
    parser.add_argument("--rounds", type=int, default=5, help="how often each work is timed")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="the shapes to measure")
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=list(WEIGHTS), help="their weights")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA GPU, and this machine has none.")
    pairs = ParallelPairs.load("eng_Latn-isl_Latn")
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    costs = [
        measure(shape, weights, tokenizer, pairs, options.rounds)
        for shape in options.shapes
        for weights in options.weights
    ]
    content = {
        "command": f"python -m benchmarks.gpu --rounds {options.rounds} --shapes {' '.join(options.shapes)} "
        f"--weights {' '.join(options.weights)}",
        "gpu": torch.cuda.get_device_name(),
        **describe(),
        "step_tokens": STEP_TOKENS,
        "costs": [asdict(cost) for cost in costs],
    }
    RESULT.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(markdown(costs))
    for cost in costs:
        if cost.shape == "8B":
            met = "met" if cost.seconds["NASCA"] < TARGET_SECONDS else "not met"
            print(f"8B, {cost.weights}: NASCA in {cost.seconds['NASCA']:.2f} s; target {TARGET_SECONDS} s: {met}")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
