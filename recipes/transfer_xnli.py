"""Fine-tune a language model on English XNLI and test it in fifteen languages: zero-shot cross-lingual transfer.

python recipes/transfer_xnli.py --config recipes/configs/xnli-smoke.yaml --xnli FOLDER [--dry_run]
python recipes/transfer_xnli.py --config recipes/configs/xnli-llama-3.1-8b.yaml

It redoes the XNLI column of the paper's Table 3 for one model. Every setting is in the YAML file and can be changed on
the command line. After an interruption, the same command goes on from the last checkpoint, or with the next language.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import memory
import preflight
import processes
import run_settings
import training_run
import xnli_data
import xnli_labels
import xnli_results
from datasets import Dataset
from preflight import PreflightError
from rich.console import Console
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config
from xnli_data import Example
from xnli_labels import Answers
from xnli_results import XnliLine

from neuronxa_callback import launcher
from neuronxa_callback.cli.output import progress_bar
from neuronxa_callback.files import append_record, read_records
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.state import TokenBudget
from neuronxa_callback.signature import Signature
from neuronxa_callback.tables import render, show


@dataclass
class XnliArguments:
    """What is read of XNLI."""

    xnli: str = field(
        default=xnli_data.HUB, metadata={"help": "The data set on the hub, or a folder with a copy in its layout."}
    )
    train_examples: int | None = field(default=None, metadata={"help": "English examples to train on; null for all."})
    test_langs: list[str] | None = field(default=None, metadata={"help": "FLORES-200 codes; XNLI's fifteen."})
    test_examples: int | None = field(
        default=None, metadata={"help": "Test examples of each language, from the first on; null for all."}
    )
    dry_run: bool = field(default=False, metadata={"help": "Check everything and stop before training."})


def check(recipe: XnliArguments, args: SFTConfig, model_args: ModelConfig) -> None:
    """Raise PreflightError for settings that do not go together."""
    if launcher.are_several():
        raise PreflightError("transfer_xnli.py runs in one process; start it with python.")
    training_run.check_training(args, model_args)
    for name in ("train_examples", "test_examples"):
        count = getattr(recipe, name)
        if count is not None and count < 1:
            raise PreflightError(f"--{name} {count} are too few; give 1 or more, or null in a file for all.")


def fitting(rows: Sequence[dict[str, list[int]]], max_length: int) -> list[dict[str, list[int]]]:
    """Return the training rows that are not longer than `--max_length`. Cut rows would end before their answer.

    Raises:
        PreflightError: all rows are longer.
    """
    kept = [row for row in rows if len(row["input_ids"]) <= max_length]
    if not kept:
        raise PreflightError(f"every training example is longer than --max_length {max_length}; raise it.")
    return kept


def test_prompts(
    tests: Mapping[str, Sequence[Example]], tokenizer: Any, answers: Answers, longest: int | None
) -> dict[str, list[list[int]]]:
    """Return the tokens of each language's prompts.

    Raises:
        PreflightError: one is longer than the model's context.
    """
    prompts = {
        code: [xnli_labels.prompt_ids(example, tokenizer, answers) for example in its] for code, its in tests.items()
    }
    for code, its in prompts.items():
        for number, ids in enumerate(its, start=1):
            if longest is not None and len(ids) > longest:
                raise PreflightError(
                    f"test row {number} has {len(ids)} tokens in {code}, more than the model's context of {longest}; "
                    "take a model with a longer one, or leave the language out (--test_langs)."
                )
    return prompts


def test(
    trainer: SFTTrainer,
    answers: Answers,
    tests: Mapping[str, Sequence[Example]],
    prompts: Mapping[str, Sequence[Sequence[int]]],
    console: Console,
) -> list[XnliLine]:
    """Test the saved weights in each language. A language that has its line already is not tested again."""
    path = Path(trainer.args.output_dir) / xnli_results.FILE
    decoder = Decoder.find(trainer.model, trainer.processing_class)
    budget = TokenBudget()
    with progress_bar(console) as progress, trainer.accelerator.autocast(), decoder.evaluation_mode():
        task = progress.add_task("XNLI", total=len(tests))
        lines = {line.key: line for line in read_records(path, XnliLine)}
        found = []
        for code, examples in tests.items():
            key = key_of(code, examples, prompts[code], trainer)
            if key not in lines:
                probabilities = xnli_labels.label_probabilities(decoder, prompts[code], answers, budget)
                lines[key] = xnli_results.line_of(code, examples, probabilities, key)
                append_record(path, lines[key])
            found.append(lines[key])
            progress.advance(task)
    return found


def key_of(code: str, examples: Sequence[Example], prompts: Sequence[Sequence[int]], trainer: SFTTrainer) -> Signature:
    """Return what identifies a language's result: its data as the model reads it, and the weights by their step.

    The run's other settings cannot change in its folder.
    """
    data = repr((prompts, [example.label for example in examples]))
    digest = hashlib.sha256(data.encode()).hexdigest()[:12]
    return Signature.of(lang=code, n=len(examples), data=digest, step=trainer.state.global_step)


def main(recipe: XnliArguments, args: SFTConfig, model_args: ModelConfig) -> None:
    """Check the settings and the data, train, test, and write the table."""
    # Everything that can be wrong is checked before anything long starts.
    check(recipe, args, model_args)
    languages = xnli_data.check_languages(recipe.test_langs or [])
    empty = preflight.empty_model(model_args)
    memory.check(memory.estimate(empty, args, model_args), args)
    tokenizer = preflight.tokenizer(model_args)
    answers = xnli_labels.answers_of(tokenizer)
    examples = xnli_data.training_examples(recipe.xnli, recipe.train_examples, args.seed)
    rows = [xnli_labels.training_row(example, tokenizer, answers) for example in examples]
    kept = fitting(rows, int(args.max_length or 0))
    tests = xnli_data.test_examples(recipe.xnli, languages, recipe.test_examples)
    context = Decoder.find(empty, tokenizer, device=args.device).context_length
    prompts = test_prompts(tests, tokenizer, answers, context)
    settings = run_settings.checked(
        (recipe, args, model_args),
        {
            "source_lang": xnli_data.ENGLISH,
            "target_langs": [],
            "train_text": recipe.xnli,
            "train_pairs": recipe.train_examples,
            "bytes_of_texts": {},
            "held_out_pairs": 0,
            "held_out": [hashlib.sha256(repr(examples).encode()).hexdigest()[:12]],
        },
    )
    console = Console(stderr=True)
    left_out = f", {len(rows) - len(kept):,} longer than --max_length left out" if len(kept) < len(rows) else ""
    console.print(
        f"XNLI: {len(kept):,} English examples to train on{left_out}; {len(tests[languages[0]]):,} to test in each of "
        f"{len(languages)} languages",
        soft_wrap=True,
    )
    if recipe.dry_run:
        return

    args.completion_only_loss = True
    trainer = SFTTrainer(
        model=training_run.load_model(model_args, args),
        args=args,
        train_dataset=Dataset.from_list(kept),
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
    )
    training_run.train(trainer, settings)
    lines = test(trainer, answers, tests, prompts, console)

    output_dir = Path(args.output_dir)
    table = xnli_results.table_of(lines, f"{model_args.model_name_or_path}, step {trainer.state.global_step}")
    xnli_results.write_csv(output_dir / "xnli.csv", lines)
    (output_dir / "xnli.md").write_text(render(table, "markdown"), encoding="utf-8")
    show(table, Console())
    print(f"The table is {output_dir / 'xnli.md'}, and for neuronxa correlate {output_dir / 'xnli.csv'}")


if __name__ == "__main__":
    processes.run(main, (XnliArguments, SFTConfig, ModelConfig))
