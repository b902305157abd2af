"""Continue to pretrain a language model on a language and then on parallel text, and watch alignment and quality.

python recipes/translation_cpt.py --config recipes/configs/icelandic-cpt-smoke.yaml [--dry-run] [--max_steps 500 ...]

The model reads monolingual text of the target mixed with text of the source first, and then sentence pairs as
documents. With several targets, their texts are mixed in both parts. All texts are packed into full sequences. Every
setting is in the YAML file and can be changed on the command line. After an interruption, the same command goes on from
the last checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import held_out
import languages
import memory
import numpy as np
import plan
import preflight
import processes
import run_settings
import training_run
import training_text
from datasets import Dataset, concatenate_datasets
from held_out import HeldOut
from preflight import PreflightError
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config

from neuronxa_callback.quality.prompts import PLAIN_PROMPT
from neuronxa_callback.ranks import Ranks
from neuronxa_callback.text.languages import language_name

SAMPLE = 200  # documents by whose mean length that of all documents is estimated


@dataclass
class RecipeArguments(training_run.WatchArguments):
    """The settings of the training text, beside those of watching."""

    target_text: str = field(
        default="HuggingFaceFW/fineweb-2:{lang}",
        metadata={
            "help": "Monolingual text of the target: a local file, or a data set of the hub with a column text; {lang} "
            "stands for the target's code."
        },
    )
    source_text: str = field(
        default="HuggingFaceFW/fineweb:sample-10BT",
        metadata={"help": "Monolingual text of the source, given like target_text."},
    )
    documents: int | None = field(
        default=100_000, metadata={"help": "Documents of each target to keep after cleaning."}
    )
    source_share: float = field(
        default=0.2, metadata={"help": "Share of the source language among the monolingual documents."}
    )
    train_text: str = field(
        default="nllb",
        metadata={"help": "nllb, opus100, paracrawl, embedded or a local file; {lang} stands for the target's code."},
    )
    train_pairs: int | None = field(
        default=500_000, metadata={"help": "Sentence pairs of each target to keep after cleaning."}
    )


@dataclass(frozen=True)
class Texts:
    """The clean training text of a run.

    Attributes:
        targets: the documents of each target.
        source: the documents of the source language.
        pairs: the sentence pairs of each target.
        counts: text -> how many rows each filter removed.
    """

    targets: list[Dataset]
    source: Dataset
    pairs: list[Dataset]
    counts: dict[str, dict[str, int]]

    @property
    def monolingual(self) -> tuple[int, int]:
        """How many monolingual documents there are of the targets, and how many of the source."""
        return sum(map(len, self.targets)), len(self.source)


def texts(recipe: RecipeArguments, held: HeldOut, folder: Path) -> Texts:
    """Return the clean training text, and what cleaning removed from it."""
    source, counts = held.languages.source, {}
    documents = []
    for target in held.languages.targets:
        text = languages.filled(recipe.target_text, target)
        of_target, counts[f"{target}, {text}"] = training_text.training_documents(
            text, target, held.all_pairs, recipe.documents, folder / target
        )
        documents.append(of_target)
    pairs, of_pairs = training_text.pairs_of_targets(
        recipe.train_text, held.languages, held.all_pairs, recipe.train_pairs, folder
    )
    counts |= of_pairs
    wanted = math.ceil(sum(map(len, documents)) * recipe.source_share / (1 - recipe.source_share))
    of_source, counts[f"{source}, {recipe.source_text}"] = training_text.training_documents(
        recipe.source_text, source, held.all_pairs, wanted, folder / source
    )
    return Texts(documents, of_source, pairs, counts)


def as_document(row: dict[str, str], i: int) -> dict[str, str]:
    """Return a sentence pair as a text in the words of the plain prompt; its source comes first if `i` is even."""
    source, target = list(row)[:: 1 if i % 2 == 0 else -1]
    asked = PLAIN_PROMPT.format(
        source_language=language_name(source), source=row[source], target_language=language_name(target)
    )
    return {"text": f"{asked} {row[target]}"}


def in_order(texts: Texts) -> Dataset:
    """Return the monolingual documents of all languages, mixed evenly, and then the pairs of all targets, likewise."""
    pairs = [of.map(as_document, with_indices=True, remove_columns=of.column_names) for of in texts.pairs]
    return concatenate_datasets([_mixed([*texts.targets, texts.source]), _mixed(pairs)])


def _mixed(several: Sequence[Dataset]) -> Dataset:
    """Return all documents of several data sets. Those of each are spread evenly over the whole, in their order."""
    places = np.concatenate([(np.arange(len(documents)) + 0.5) / len(documents) for documents in several])
    whole = concatenate_datasets([documents.select_columns(["text"]) for documents in several])
    return whole.select(np.argsort(places, kind="stable"))


def notes(
    recipe: RecipeArguments, args: SFTConfig, tokenizer: Any, documents: Dataset, mixed: tuple[int, int]
) -> list[str]:
    """Return sentences for the plan: when the pairs begin, and whether the source language runs out.

    Args:
        recipe: the recipe's settings, with the share of the source language.
        args: the settings of the training.
        tokenizer: the model's tokenizer.
        documents: all texts in the order in which they are read.
        mixed: how many of them are monolingual texts of the targets, and how many of the source.
    """
    monolingual = sum(mixed)
    sample = documents.select(range(monolingual)).shuffle(args.seed).select(range(min(SAMPLE, monolingual)))["text"]
    length = sum(len(tokenizer(text)["input_ids"]) + 1 for text in sample) / len(sample)  # and the token that ends it
    per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size * args.max_length
    begin = math.ceil(monolingual * length / per_step)
    sentences = [f"The sentence pairs begin at about step {begin} of {args.max_steps}."]
    if begin >= args.max_steps:
        sentences = [
            f"The run ends before the sentence pairs begin, at about step {begin}; lower --documents (now "
            f"{mixed[0]:,}) or raise --max_steps (now {args.max_steps})."
        ]
    share = mixed[1] / monolingual
    if share < 0.9 * recipe.source_share:
        sentences.append(
            f"{language_name(recipe.source_lang)} ends early: its share is {share:.3f}, where --source_share is "
            f"{recipe.source_share}."
        )
    return sentences


def main(recipe: RecipeArguments, args: SFTConfig, model_args: ModelConfig) -> None:
    """Check the settings, train, and write the model card."""
    # Everything that can be wrong is checked before anything long starts.
    training_run.check(recipe, args, model_args)
    of_run = languages.of(recipe.source_lang, recipe.target_lang, recipe.target_langs, recipe.control_langs)
    if not 0 < recipe.source_share < 1:
        raise PreflightError(f"--source_share {recipe.source_share} must lie between 0 and 1, as 0.2 does.")
    if args.max_steps < 1:
        raise PreflightError("--max_steps must be given: the texts are read in their order, as a stream.")
    ranks = Ranks.of_group()
    with processes.whole_models(args):
        empty = preflight.empty_model(model_args)
    needed = memory.estimate(empty, args, model_args)
    with ranks.together():  # each process has a device of its own
        memory.check(needed, args)
    tokenizer = preflight.tokenizer(model_args)
    train_texts = [recipe.source_text]
    ranks.first_does(partial(training_text.check_documents, recipe.source_text, of_run.source))
    for target in of_run.targets:
        documents_of, pairs_of = (languages.filled(text, target) for text in (recipe.target_text, recipe.train_text))
        ranks.first_does(partial(training_text.check_documents, documents_of, target))
        ranks.first_does(partial(training_text.check_pairs, pairs_of, (of_run.source, target)))
        train_texts += [documents_of, pairs_of]
    # Of the network each process might get something else.
    held = ranks.first_does(lambda: held_out.load(recipe.held_out, of_run, recipe.held_out_pairs))
    callbacks = training_run.callbacks(recipe, held, PLAIN_PROMPT)
    settings_of_run = run_settings.of(recipe, args, model_args, held, train_texts)

    # The training text is streamed and cleaned, and holds no held-out pair.
    with args.main_process_first(desc="cleaning the training text"):
        text = texts(recipe, held, Path(args.output_dir) / "training_text")
    documents = in_order(text)

    # The plan: steps, evaluations, memory.
    sample = documents.shuffle(args.seed).select(range(min(SAMPLE, len(documents))))["text"]
    planned = plan.estimate(
        tokenizer, args, sample, len(documents), held, recipe.score_every, training_run.direction_of(recipe)
    )
    of_order = notes(recipe, args, tokenizer, documents, text.monolingual)
    plan.show(planned, needed, args, text.counts, [*of_order, *([held.left_out] if held.left_out else [])])
    if recipe.dry_run:
        return

    watched = Dataset.from_dict({"text": [sentence for pair in held.translated for sentence in pair.target]})
    trainer = SFTTrainer(
        model=training_run.load_model(model_args, args),
        args=args,
        # The Trainer shuffles a data set, and leaves the order of a stream as it is.
        train_dataset=documents.to_iterable_dataset(),
        eval_dataset=watched if args.eval_strategy != "no" else None,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
        callbacks=callbacks,
    )
    training_run.train(trainer, settings_of_run)
    training_run.finish(recipe, model_args, trainer, held, PLAIN_PROMPT, text.counts)


if __name__ == "__main__":
    processes.run(main, (RecipeArguments, SFTConfig, ModelConfig))
