"""Fine-tune a language model to translate between a language and others, and watch alignment and quality.

python recipes/translation_sft.py --config recipes/configs/icelandic-sft-smoke.yaml [--dry-run] [--max_steps 500 ...]
python recipes/translation_sft.py --config ... --source_lang eng_Latn --target_lang fra_Latn --train_text captions.tsv
python recipes/translation_sft.py --config ... --target_langs fra_Latn deu_Latn --control_langs ces_Latn

Every setting is in the YAML file and can be changed on the command line. After an interruption, the same command goes
on from the last checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import held_out
import languages
import memory
import plan
import preflight
import processes
import run_settings
import training_run
import training_text
from datasets import Dataset, concatenate_datasets
from preflight import PreflightError
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config

from neuronxa_callback.quality.prompts import PLAIN_PROMPT, chat_prompt
from neuronxa_callback.ranks import Ranks
from neuronxa_callback.text.languages import language_name


@dataclass
class RecipeArguments(training_run.WatchArguments):
    """The settings of the training text, beside those of watching."""

    train_text: str = field(
        default="nllb",
        metadata={"help": "nllb, opus100, paracrawl, embedded or a local file; {lang} stands for the target's code."},
    )
    train_pairs: int | None = field(
        default=1_000_000, metadata={"help": "Sentence pairs of each target to keep after cleaning."}
    )
    prompt: str = field(
        default="auto", metadata={"help": "chat, plain, or auto: chat if the tokenizer has a template."}
    )


def prompt_of(source: str, source_lang: str, target_lang: str, chat: bool) -> Any:
    """Return the prompt of a translation, as text or as messages. The callback translates with the same prompt."""
    template = chat_prompt(source) if chat else PLAIN_PROMPT
    text = template.format(
        source=source, source_language=language_name(source_lang), target_language=language_name(target_lang)
    )
    return [{"role": "user", "content": text}] if chat else text


def both_ways(rows: dict[str, list[str]], chat: bool) -> dict[str, list[Any]]:
    """Return two examples for each pair, one from the source and one into it (1:1, as in the paper's appendix B).

    Args:
        rows: the sentences of two languages, by code.
        chat: whether the prompt is a chat message.
    """
    first, second = rows
    examples: dict[str, list[Any]] = {"prompt": [], "completion": []}
    for i in range(len(rows[first])):
        for source, target in ((first, second), (second, first)):
            translation = rows[target][i]
            examples["prompt"].append(prompt_of(rows[source][i], source, target, chat))
            # The loss is computed on the completion only.
            examples["completion"].append(
                [{"role": "assistant", "content": translation}] if chat else f" {translation}"
            )
    return examples


def as_text(example: dict[str, Any], tokenizer: Any, chat: bool) -> str:
    """Return a training example as the text that the model reads."""
    prompt, completion = example["prompt"], example["completion"]
    return str(tokenizer.apply_chat_template(prompt + completion, tokenize=False) if chat else prompt + completion)


def uses_chat(prompt: str, tokenizer: Any) -> bool:
    """Return whether the prompt is a chat message.

    Raises:
        PreflightError: `prompt` is unknown, or it is "chat" and the tokenizer has no chat template.
    """
    has_template = tokenizer.chat_template is not None
    if prompt not in ("auto", "chat", "plain") or (prompt == "chat" and not has_template):
        raise PreflightError(
            f"--prompt {prompt} cannot be used; give auto or plain, or chat with a tokenizer that has a chat template."
        )
    return prompt == "chat" or (prompt == "auto" and has_template)


def examples_of(pairs: Iterable[Dataset], chat: bool) -> Dataset:
    """Return the training examples of sentence pairs, those of each target behind those of the one before."""
    made = [of.map(both_ways, batched=True, remove_columns=of.column_names, fn_kwargs={"chat": chat}) for of in pairs]
    return concatenate_datasets(made)


def main(recipe: RecipeArguments, args: SFTConfig, model_args: ModelConfig) -> None:
    """Check the settings, train, and write the model card."""
    # Everything that can be wrong is checked before anything long starts.
    training_run.check(recipe, args, model_args)
    of_run = languages.of(recipe.source_lang, recipe.target_lang, recipe.target_langs, recipe.control_langs)
    if recipe.train_pairs is not None and recipe.train_pairs < 1:
        raise PreflightError(
            f"--train_pairs {recipe.train_pairs} are too few; give 1 or more, or null in a file for all."
        )
    ranks = Ranks.of_group()
    with processes.whole_models(args):
        empty = preflight.empty_model(model_args)
    needed = memory.estimate(empty, args, model_args)
    with ranks.together():  # each process has a device of its own
        memory.check(needed, args)
    tokenizer = preflight.tokenizer(model_args)
    chat = uses_chat(recipe.prompt, tokenizer)
    train_texts = [languages.filled(recipe.train_text, target) for target in of_run.targets]
    for text, target in zip(train_texts, of_run.targets, strict=True):
        ranks.first_does(partial(training_text.check_pairs, text, (of_run.source, target)))
    # Of the network each process might get something else.
    held = ranks.first_does(lambda: held_out.load(recipe.held_out, of_run, recipe.held_out_pairs))
    prompt = partial(prompt_of, chat=chat)
    callbacks = training_run.callbacks(recipe, held, prompt)
    settings_of_run = run_settings.of(recipe, args, model_args, held, train_texts)

    # The training text is streamed and cleaned, and holds no held-out pair.
    with args.main_process_first(desc="cleaning the training text"):
        pairs, counts = training_text.pairs_of_targets(
            recipe.train_text, of_run, held.all_pairs, recipe.train_pairs, Path(args.output_dir) / "training_text"
        )
    train_dataset = examples_of(pairs, chat)
    watched = [
        Dataset.from_dict({pair.source_lang: list(pair.source), pair.target_lang: list(pair.target)})
        for pair in held.translated
    ]

    # The plan: steps, evaluations, memory.
    sample = [
        as_text(example, tokenizer, chat) for example in train_dataset.select(range(min(200, len(train_dataset))))
    ]
    planned = plan.estimate(
        tokenizer, args, sample, len(train_dataset), held, recipe.score_every, training_run.direction_of(recipe)
    )
    plan.show(planned, needed, args, counts, [held.left_out] if held.left_out else [])
    if recipe.dry_run:
        return

    trainer = SFTTrainer(
        model=training_run.load_model(model_args, args),
        args=args,
        train_dataset=train_dataset,
        eval_dataset=examples_of(watched, chat) if args.eval_strategy != "no" else None,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
        callbacks=callbacks,
    )
    training_run.train(trainer, settings_of_run)
    training_run.finish(recipe, model_args, trainer, held, prompt, counts)


if __name__ == "__main__":
    processes.run(main, (RecipeArguments, SFTConfig, ModelConfig))
