"""Watch English and Icelandic align in a plain Trainer.

python examples/quickstart.py MODEL OUTPUT_DIR [STEPS]
"""

import sys

from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

from neuronxa_callback import NeuronXACallback
from neuronxa_callback.text.pairs import embedded


def main(model_name: str, output_dir: str, steps: str = "100") -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    texts = Dataset.from_dict({"text": list(embedded("demo_train.tsv")["isl_Latn"])})
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(model_name, dtype="float32"),
        args=TrainingArguments(
            output_dir,
            max_steps=int(steps),
            per_device_train_batch_size=4,
            save_strategy="no",
            report_to="tensorboard",
        ),
        train_dataset=texts.map(lambda row: tokenizer(row["text"]), remove_columns="text"),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
        callbacks=[NeuronXACallback()],
    )
    trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
