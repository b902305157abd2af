"""Record how alignment moves over a run: `python -m benchmarks.record_runs NAME --train FILE... --watch PAIR...`.

A run fine-tunes SmolLM2 with LoRA on translation in both directions. NeuronXAEvaluator encodes held-out pairs every few
steps. What is kept is each pair's part of NASCA, of the rank score and of the scores that were tried beside it
(benchmarks/candidates.py), at each evaluation and without any text, in benchmarks/results/recorded/NAME.json. The file
holds the command and where the training text comes from.

The training text is one TSV file with FLORES-200 codes in its first line, or CODE=FILE for each language, with aligned
lines. A run of 40 evaluations takes about half an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, TrainerControl, TrainerState
from trl import SFTConfig, SFTTrainer

from benchmarks.candidates import candidates
from benchmarks.machine import describe
from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.alignment.cosines import cosine_similarity
from neuronxa_callback.alignment.evaluator import Encoded
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality.prompts import PLAIN_PROMPT
from neuronxa_callback.text.languages import language_name

RUNS = Path(__file__).parent / "results" / "recorded"
PIVOT = "eng_Latn"
LONGEST = 25  # words of an English training sentence
FEWEST = 1500  # training examples, where there are as many
DIGITS = 5


def read_columns(files: list[str]) -> dict[str, list[str]]:
    """Return the training text: language -> its sentences, aligned."""
    if files[0].endswith(".tsv"):
        names, *rows = [line.split("\t") for line in Path(files[0]).read_text(encoding="utf-8").splitlines()]
        return {name: [row[place] for row in rows] for place, name in enumerate(names)}
    named = [file.partition("=") for file in files]
    return {code: Path(path).read_text(encoding="utf-8").split("\n") for code, _, path in named}


def examples(columns: dict[str, list[str]], seed: int, count: int) -> list[dict[str, str]]:
    """Return prompts and completions, from English into each language and back, in random order."""
    made = []
    for language in (code for code in columns if code != PIVOT):
        for english, other in zip(columns[PIVOT], columns[language], strict=False):
            if english.strip() and other.strip() and len(english.split()) <= LONGEST:
                made.append(_example(PIVOT, english, language, other))
                made.append(_example(language, other, PIVOT, english))
    np.random.default_rng(seed).shuffle(made)
    return made[: max(count, FEWEST)]


def _example(source_lang: str, source: str, target_lang: str, target: str) -> dict[str, str]:
    names = {"source_language": language_name(source_lang), "target_language": language_name(target_lang)}
    return {"prompt": PLAIN_PROMPT.format(source=source, **names), "completion": f" {target}"}


class Recorder(TrainerCallback):
    """Keep what each held-out pair contributes to the scores, before the first step and every few steps.

    Args:
        watch: the language pairs.
        tokenizer: the model's.
        eval_steps: steps between evaluations.
    """

    def __init__(self, watch: Sequence[str], tokenizer: Any, eval_steps: int) -> None:
        self.evaluations: list[dict[str, Any]] = []
        self.signatures: dict[str, str] = {}
        self._evaluator = NeuronXAEvaluator(list(watch), "nasca")
        self._tokenizer = tokenizer
        self._eval_steps = eval_steps

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **trainer: Any) -> None:
        """Evaluate the model as it is before training."""
        self._evaluate(state.global_step, trainer["model"])

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **trainer: Any) -> None:
        """Evaluate every few steps."""
        if state.global_step % self._eval_steps == 0:
            self._evaluate(state.global_step, trainer["model"])

    def _evaluate(self, step: int, model: nn.Module) -> None:
        decoder = Decoder.find(model, self._tokenizer)
        pairs = self._evaluator.pairs
        self.signatures = {pair.name: str(self._evaluator.signature(pair, decoder)) for pair in pairs}
        self.evaluations.append({"step": step, "per_pair": dict(self._evaluator.each(decoder, pairs, parts))})
        scores = {name: f"{np.mean(kept['nasca_rank']):.4f}" for name, kept in self.evaluations[-1]["per_pair"].items()}
        print(step, scores, flush=True)


def parts(pair: ParallelPairs, source: Encoded, target: Encoded) -> tuple[str, dict[str, list[float]]]:
    """Return a language pair's name, and each sentence pair's part of each score over the layers."""
    found = candidates(cosine_similarity(source["nas"], target["nas"]))
    return pair.name, {name: [round(part, DIGITS) for part in of.mean(dim=0).tolist()] for name, of in found.items()}


def train(options: argparse.Namespace, output_dir: Path) -> Recorder:
    """Train as the options say, and return what was recorded."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    rows = examples(read_columns(options.train), options.seed, options.steps * options.batch)
    recorder = Recorder(options.watch, tokenizer, options.eval_steps)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(output_dir),
            max_steps=options.steps,
            per_device_train_batch_size=options.batch,
            learning_rate=options.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=5,
            bf16=options.bf16,
            gradient_checkpointing=False,
            max_length=128,
            save_strategy="no",
            report_to="none",
            seed=options.seed,
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear"),
        callbacks=[recorder],
    )
    trainer.train()
    return recorder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--model", type=Path, default=Path(".models/smollm2-135m-instruct"))
    parser.add_argument("--train", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--origin", required=True, help="what the training text is and where it comes from")
    parser.add_argument("--watch", nargs="+", required=True, metavar="PAIR", help="such as eng_Latn-isl_Latn")
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--eval-steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="train under bfloat16 autocast")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recorder = train(options, Path(folder))
    command = shlex.join(["python", "-m", "benchmarks.record_runs", *sys.argv[1:]])
    recorded = {"command": command, "origin": options.origin, "signatures": recorder.signatures}
    made = describe() | recorded | {"evaluations": recorder.evaluations}
    RUNS.mkdir(parents=True, exist_ok=True)
    (RUNS / f"{options.name}.json").write_text(json.dumps(made, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
