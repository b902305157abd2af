"""Continue to pretrain a language model on Icelandic and then on parallel text, and watch alignment and quality.

python recipes/icelandic_cpt.py --config recipes/configs/smoke_cpt.yaml [--dry-run] [--max_steps 500 ...]

The model reads monolingual Icelandic mixed with English first, and then sentence pairs as documents. All texts are
packed into full sequences. Every setting is in the YAML file and can be changed on the command line. After an
interruption, the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import held_out
import memory
import numpy as np
import plan
import preflight
import run_settings
import settings
import training_run
import training_text
from datasets import Dataset, concatenate_datasets
from held_out import HeldOut
from preflight import PreflightError
from text_rows import TextError
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config

from neuronxa_callback.files import RecordError
from neuronxa_callback.quality.translation import PLAIN_PROMPT
from neuronxa_callback.text.pairs import PairsError

SAMPLE = 200  # documents by whose mean length that of all documents is estimated


@dataclass
class RecipeArguments(training_run.WatchArguments):
    """The settings of the training text, beside those of watching."""

    icelandic_text: str = field(
        default="HuggingFaceFW/fineweb-2:isl_Latn",
        metadata={"help": "Monolingual Icelandic: a local file, or a data set of the hub with a column text."},
    )
    english_text: str = field(
        default="HuggingFaceFW/fineweb:sample-10BT",
        metadata={"help": "Monolingual English, given like icelandic_text."},
    )
    documents: int | None = field(default=100_000, metadata={"help": "Icelandic documents to keep after cleaning."})
    english_share: float = field(default=0.2, metadata={"help": "Share of English among the monolingual documents."})
    train_text: str = field(default="nllb", metadata={"help": "nllb, opus100, paracrawl, embedded or a local file."})
    train_pairs: int | None = field(default=500_000, metadata={"help": "Sentence pairs to keep after cleaning."})


def texts(
    recipe: RecipeArguments, held: HeldOut, folder: Path
) -> tuple[Dataset, Dataset, Dataset, dict[str, dict[str, int]]]:
    """Return clean Icelandic documents, English documents and sentence pairs, and what cleaning removed from each."""
    icelandic, isl = training_text.training_documents(
        recipe.icelandic_text, "isl_Latn", held.all_pairs, recipe.documents, folder / "isl_Latn"
    )
    wanted = math.ceil(len(icelandic) * recipe.english_share / (1 - recipe.english_share))
    english, eng = training_text.training_documents(
        recipe.english_text, "eng_Latn", held.all_pairs, wanted, folder / "eng_Latn"
    )
    pairs, both = training_text.training_pairs(recipe.train_text, held.all_pairs, recipe.train_pairs, folder / "pairs")
    counts = {
        f"Icelandic, {recipe.icelandic_text}": isl,
        f"English, {recipe.english_text}": eng,
        f"pairs, {recipe.train_text}": both,
    }
    return icelandic, english, pairs, counts


def as_document(row: dict[str, str], i: int) -> dict[str, str]:
    """Return a sentence pair as a text in the words of the plain prompt; English comes first if `i` is even."""
    names = [("English", "eng_Latn"), ("Icelandic", "isl_Latn")]
    (first, source), (second, target) = names if i % 2 == 0 else names[::-1]
    asked = PLAIN_PROMPT.format(source_language=first, source=row[source], target_language=second)
    return {"text": f"{asked} {row[target]}"}


def in_order(icelandic: Dataset, english: Dataset, pairs: Dataset) -> Dataset:
    """Return all Icelandic documents, with all English ones spread evenly among them, and then the pairs."""
    monolingual = concatenate_datasets([icelandic.select_columns(["text"]), english.select_columns(["text"])])
    places = np.concatenate([(np.arange(len(texts)) + 0.5) / len(texts) for texts in (icelandic, english)])
    documents = pairs.map(as_document, with_indices=True, remove_columns=pairs.column_names)
    return concatenate_datasets([monolingual.select(np.argsort(places, kind="stable")), documents])


def notes(
    recipe: RecipeArguments, args: SFTConfig, tokenizer: Any, documents: Dataset, mixed: tuple[int, int]
) -> list[str]:
    """Return sentences for the plan: when the pairs begin, and whether the English runs out.

    Args:
        recipe: the recipe's settings, with the share of English.
        args: the settings of the training.
        tokenizer: the model's tokenizer.
        documents: all texts in the order in which they are read.
        mixed: how many of them are monolingual Icelandic, and how many are English.
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
    if share < 0.9 * recipe.english_share:
        sentences.append(
            f"English ends early: its share is {share:.3f}, where --english_share is {recipe.english_share}."
        )
    return sentences


def main(recipe: RecipeArguments, args: SFTConfig, model_args: ModelConfig) -> None:
    """Check the settings, train, and write the model card."""
    # Everything that can be wrong is checked before anything long starts.
    training_run.check(recipe, args, model_args)
    if not 0 < recipe.english_share < 1:
        raise PreflightError(f"--english_share {recipe.english_share} must lie between 0 and 1, as 0.2 does.")
    if args.max_steps < 1:
        raise PreflightError("--max_steps must be given: the texts are read in their order, as a stream.")
    empty = preflight.empty_model(model_args)
    needed = memory.estimate(empty, args, model_args)
    memory.check(needed, args)
    tokenizer = preflight.tokenizer(model_args)
    training_text.check_documents(recipe.icelandic_text, "isl_Latn")
    training_text.check_documents(recipe.english_text, "eng_Latn")
    training_text.check_pairs(recipe.train_text)
    held = held_out.load(recipe.flores, recipe.held_out_pairs)
    callbacks = training_run.callbacks(recipe, held, PLAIN_PROMPT)
    settings_of_run = run_settings.of(recipe, args, model_args, held)

    # The training text is streamed and cleaned, and holds no held-out pair.
    with args.main_process_first(desc="cleaning the training text"):
        icelandic, english, pairs, counts = texts(recipe, held, Path(args.output_dir) / "training_text")
    documents = in_order(icelandic, english, pairs)

    # The plan: steps, evaluations, memory.
    sample = documents.shuffle(args.seed).select(range(min(SAMPLE, len(documents))))["text"]
    planned = plan.estimate(tokenizer, args, sample, len(documents), held.watched, recipe.score_every)
    of_order = notes(recipe, args, tokenizer, documents, (len(icelandic), len(english)))
    plan.show(planned, needed, args, counts, [*of_order, *([held.left_out] if held.left_out else [])])
    if recipe.dry_run:
        return

    watched = Dataset.from_dict({"text": list(held.watched.target)})
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
    training_run.finish(recipe, model_args, trainer, held, PLAIN_PROMPT, counts)


if __name__ == "__main__":
    try:
        main(*settings.parse((RecipeArguments, SFTConfig, ModelConfig)))
    except (PreflightError, TextError, PairsError, RecordError) as error:
        raise SystemExit(str(error)) from None
