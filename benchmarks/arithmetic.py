"""Measure how much the arithmetic changes NASCA: other batches, bfloat16 and NF4, compared with float32.

The reference is float32 with the default token budget. `python -m benchmarks.arithmetic` prints three numbers for each
setting: the share of neuron states that differ, and the change of NASCA, over all layers and at the worst layer. It
also writes them to benchmarks/results/arithmetic.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from benchmarks.machine import describe
from neuronxa_callback import ParallelPairs, alignment_score
from neuronxa_callback.alignment.batches import batches
from neuronxa_callback.alignment.encoder import CPU_TOKEN_BUDGET, encode, pass_tokens
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.hooks import watch

RESULTS = Path(__file__).parent / "results" / "arithmetic.json"


class Reading(NamedTuple):
    """The neuron states of both sides, and NASCA of each layer."""

    states: list[list[Tensor]]  # side -> sentence -> (layers, tokens, neurons)
    nasca: Tensor  # (layers,)


class Difference(NamedTuple):
    """How a setting differs from the reference.

    Attributes:
        setting: the name of the setting.
        states: the share of neuron states that differ.
        nasca: the change of NASCA, as the mean over the layers.
        worst_layer: the largest absolute change of NASCA at one layer.
    """

    setting: str
    states: float
    nasca: float
    worst_layer: float


def read(model: Any, tokenizer: Any, pairs: ParallelPairs, token_budget: int) -> Reading:
    sides = (pairs.source, pairs.target)
    source, target = (encode(model, tokenizer, side, token_budget=token_budget) for side in sides)
    states = [_states(Decoder.find(model, tokenizer), side, token_budget) for side in sides]
    return Reading(states, alignment_score(source, target))


def _states(decoder: Decoder, sentences: Sequence[str], token_budget: int) -> list[Tensor]:
    token_ids = decoder.tokenize(sentences)
    layers: list[Tensor] = []
    found: dict[int, Tensor] = {}
    for rows in batches(token_ids, token_budget, pass_tokens(decoder)):
        layers.clear()
        with (
            decoder.evaluation_mode(),
            watch(decoder.ffns, {"nas": decoder.ffn_layers}, lambda _, layer, part, firing: layers.append(firing > 0)),
        ):
            decoder.run([token_ids[row] for row in rows])
        for place, row in enumerate(rows):
            found[row] = torch.stack([states[place, : len(token_ids[row])] for states in layers])
    return [found[row] for row in range(len(token_ids))]


def compare(setting: str, reading: Reading, first: Reading) -> Difference:
    pairs = [
        (a, b)
        for side, other in zip(reading.states, first.states, strict=True)
        for a, b in zip(side, other, strict=True)
    ]
    differing = sum(int((a != b).sum()) for a, b in pairs)
    change = reading.nasca - first.nasca
    return Difference(
        setting, differing / sum(a.numel() for a, _ in pairs), float(change.mean()), float(change.abs().max())
    )


def measure(path: Path) -> list[Difference]:
    tokenizer = AutoTokenizer.from_pretrained(path)
    pairs = ParallelPairs.load("eng_Latn-fra_Latn")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    first = read(model, tokenizer, pairs, CPU_TOKEN_BUDGET)
    differences = [
        compare(name, read(model, tokenizer, pairs, budget), first)
        for name, budget in (("float32, one sentence a batch", 1), ("float32, 4,096 tokens a batch", 4096))
    ]
    differences.append(compare("bfloat16", read(model.bfloat16(), tokenizer, pairs, CPU_TOKEN_BUDGET), first))
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, quantization_config=nf4)
    return [*differences, compare("NF4 weights", read(model, tokenizer, pairs, CPU_TOKEN_BUDGET), first)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(".models/smollm2-135m-instruct"))
    differences = measure(parser.parse_args().model)
    table = Table(title=f"Against float32 with {CPU_TOKEN_BUDGET} tokens a batch: 100 English-French pairs")
    for column in ("setting", "states that differ", "NASCA", "at the worst layer"):
        table.add_column(column)
    for row in differences:
        table.add_row(row.setting, f"{row.states:.1e}", f"{row.nasca:+.4f}", f"{row.worst_layer:.2f}")
    Console(width=110).print(table)
    content = {**describe(), "rows": [row._asdict() for row in differences]}
    RESULTS.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
