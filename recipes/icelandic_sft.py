"""Fine-tune a language model to translate between English and Icelandic, with alignment watched.

python recipes/icelandic_sft.py --config recipes/configs/smoke.yaml

Every setting is in the YAML file and can be changed on the command line (--max_steps 500). The sentence pairs are a TSV
file whose columns are named by FLORES-200 codes, or the embedded 240 of the demo, with which the recipe can be tried.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser, get_peft_config, get_quantization_config

from neuronxa_callback import NeuronXACallback, ParallelPairs
from neuronxa_callback.pairs import embedded

NAMES = {"eng_Latn": "English", "isl_Latn": "Icelandic"}


@dataclass
class DataArguments:
    """What is trained on and what is watched."""

    train_file: str | None = field(default=None, metadata={"help": "TSV with columns eng_Latn and isl_Latn."})
    held_out: str = field(default="eng_Latn-isl_Latn", metadata={"help": "Held-out pairs: a file or embedded pair."})
    score_every: float = field(default=0.1, metadata={"help": "Steps between two scores, or a share of all steps."})


def sentence_pairs(train_file: str | None) -> Dataset:
    """English and Icelandic columns of the training text."""
    if train_file is None:
        columns = embedded("demo_train.tsv")
        return Dataset.from_dict({code: list(columns[code]) for code in NAMES})
    # Quoting is off (3 is csv.QUOTE_NONE): in a TSV file a quotation mark is part of the sentence.
    return load_dataset("csv", data_files=train_file, sep="\t", quoting=3, split="train").select_columns(list(NAMES))


def both_ways(rows: dict[str, list[str]]) -> dict[str, list[str]]:
    """One example from English and one into English of each pair (1:1, as in the paper's appendix B)."""
    examples: dict[str, list[str]] = {"prompt": [], "completion": []}
    for english, icelandic in zip(rows["eng_Latn"], rows["isl_Latn"], strict=True):
        for source, target, names in (
            (english, icelandic, ("English", "Icelandic")),
            (icelandic, english, ("Icelandic", "English")),
        ):
            examples["prompt"].append(f"{names[0]}: {source}\n{names[1]}:")
            examples["completion"].append(f" {target}")
    return examples


def main(data: DataArguments, args: SFTConfig, model_args: ModelConfig) -> None:
    """Train, score and save the adapter."""
    pairs = sentence_pairs(data.train_file)
    held_out = ParallelPairs.load(data.held_out)
    leaks = held_out.overlap(text for code in NAMES for text in pairs[code])
    if leaks:
        raise SystemExit(
            f"{len(leaks)} held-out sentences are in the training text, such as {leaks[0].sentence!r}; drop them."
        )
    model = AutoModelForCausalLM.from_pretrained(
        model_args.model_name_or_path,
        dtype=model_args.dtype,
        quantization_config=get_quantization_config(model_args),
    )
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=pairs.map(both_ways, batched=True, remove_columns=list(NAMES)),
        processing_class=AutoTokenizer.from_pretrained(model_args.model_name_or_path),
        peft_config=get_peft_config(model_args),
        callbacks=[NeuronXACallback(held_out, eval_steps=data.score_every)],
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    parser = TrlParser((DataArguments, SFTConfig, ModelConfig))
    main(*parser.parse_args_and_config())
