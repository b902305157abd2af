"""Train with checkpoints. The same command, given again, goes on from the last checkpoint.

python examples/resume.py MODEL OUTPUT_DIR [STEPS]

One scores.jsonl has the scores of both parts.
"""

import sys
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from neuronxa_callback import NeuronXACallback
from neuronxa_callback.text.embedded import embedded


def main(model_name: str, output_dir: str, steps: str = "100") -> None:
    every = max(1, int(steps) // 10)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model_name, dtype="float32"),
        args=SFTConfig(
            output_dir,
            max_steps=int(steps),
            per_device_train_batch_size=4,
            bf16=False,
            save_strategy="steps",
            save_steps=every,
            report_to="tensorboard",
        ),
        train_dataset=Dataset.from_dict({"text": list(embedded("demo_train.tsv")["isl_Latn"])}),
        processing_class=AutoTokenizer.from_pretrained(model_name),
        callbacks=[NeuronXACallback(eval_steps=every)],
    )
    last = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
    print(f"from {last or 'the beginning'}")
    trainer.train(resume_from_checkpoint=last)


if __name__ == "__main__":
    main(*sys.argv[1:])
