"""An estimate of what a run will do, made before its weights are loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import memory
from held_out import HeldOut
from rich.console import Console
from rich.table import Table
from trl import SFTConfig

from neuronxa_callback import ParallelPairs
from neuronxa_callback.quality.evaluator import directions
from neuronxa_callback.quality.translation import EXTRA_TOKENS, LENGTH_RATIO
from neuronxa_callback.vocabulary import Direction


@dataclass(frozen=True)
class Plan:
    """The estimate of what a run will do.

    Attributes:
        examples: the number of training examples.
        steps: the number of optimizer steps.
        epochs: how often the steps go through the training text.
        evaluations: how often the held-out pairs are scored, including the evaluation at the start.
        alignment_cost: the forward passes of all evaluations as a share of the training, counted in tokens.
        translated: the most tokens that one evaluation generates in its translations.
    """

    examples: int
    steps: int
    epochs: float
    evaluations: int
    alignment_cost: float
    translated: int


def steps(args: SFTConfig, rows: int) -> int:
    """Return the number of optimizer steps that the Trainer makes.

    Args:
        args: the settings of the training.
        rows: the number of training examples or, if they are packed, of packed sequences.
    """
    asked = int(args.max_steps)
    return asked if asked > 0 else math.ceil(_steps_per_epoch(args, rows) * float(args.num_train_epochs))


def _steps_per_epoch(args: SFTConfig, rows: int) -> int:
    batches: float = rows / (args.train_batch_size * args.world_size)
    whole: int = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
    return max(1, math.ceil(whole / int(args.gradient_accumulation_steps)))


def estimate(
    tokenizer: Any,
    args: SFTConfig,
    texts: Sequence[str],
    examples: int,
    held: HeldOut,
    score_every: float,
    direction: Direction = "both",
) -> Plan:
    """Estimate a run before its weights are loaded.

    Args:
        tokenizer: the model's tokenizer.
        args: the settings of the training.
        texts: some training examples as plain text. Their mean length stands for that of all examples.
        examples: the number of training examples.
        held: the pairs that are watched.
        score_every: the steps between two evaluations, or their share of all steps. It counts only if the Trainer
            does not evaluate on its own.
        direction: what each evaluation translates, "source->target", "target->source" or "both".
    """
    per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    length = _tokens(tokenizer, texts) / max(1, len(texts))
    # Packed examples fill their rows up to max_length. Other examples keep their own length.
    rows = math.ceil(examples * length / args.max_length) if args.packing else examples
    tokens = args.max_length if args.packing else min(length, args.max_length)
    made = steps(args, rows)
    evaluations = _evaluations(args, made, _steps_per_epoch(args, rows), score_every)
    # A sentence of several language pairs, such as an English one, is encoded once.
    scored = _tokens(tokenizer, list(dict.fromkeys(_sentences(held.watched))))
    sources = [sentence for pair in directions(held.translated, direction).values() for sentence in pair.source]
    # A training step costs about three forward passes: one forward and, for the backward pass, two more.
    alignment_cost = evaluations * scored / (3 * made * per_step * tokens)
    translated = LENGTH_RATIO * _tokens(tokenizer, sources) + EXTRA_TOKENS * len(sources)
    return Plan(examples, made, made * per_step / rows, evaluations, alignment_cost, translated)


def _sentences(pairs: Sequence[ParallelPairs]) -> list[str]:
    return [sentence for pair in pairs for side in (pair.source, pair.target) for sentence in side]


def _evaluations(args: SFTConfig, made: int, per_epoch: int, score_every: float) -> int:
    """Return how often the held-out pairs are scored in `made` steps: at the start, each evaluation and the end."""
    if args.eval_strategy == "no":
        every = score_every
    else:
        every = per_epoch if args.eval_strategy == "epoch" else (args.eval_steps or args.logging_steps)
    return 1 + math.ceil(made / max(1, math.ceil(every * made) if every < 1 else int(every)))


def _tokens(tokenizer: Any, texts: Sequence[str]) -> int:
    return sum(len(tokenizer(text)["input_ids"]) for text in texts)


def show(
    found: Plan, needed: int, args: SFTConfig, counts: Mapping[str, Mapping[str, int]], notes: Sequence[str]
) -> None:
    """Print the plan, the needed memory and what cleaning removed. With several processes only the first one prints."""
    if args.process_index:
        return
    table = Table(title="Before training (estimates)", title_justify="left", show_header=False)
    table.add_row("training examples", f"{found.examples:,}")
    table.add_row("steps", f"{found.steps:,}, {found.epochs:.2g} times through the text")
    table.add_row("evaluations", f"{found.evaluations}")
    table.add_row(
        "memory", f"about {needed / memory.GIB:.1f} GiB of {memory.available(args) / memory.GIB:.1f} GiB free"
    )
    table.add_row("alignment's forward passes", f"about {found.alignment_cost:.1%} of the training")
    table.add_row("translating, on top", f"at most {found.translated:,} generated tokens an evaluation")
    console = Console()
    console.print(table)
    for text, removed in counts.items():
        summary = ", ".join(f"{count:,} {name}" for name, count in removed.items())
        console.print(f"{text}: {summary}", soft_wrap=True, markup=False)
    for note in notes:
        console.print(note, soft_wrap=True, markup=False)
