"""Keep the checkpoint with the best alignment on your own held-out pairs, and stop when alignment no longer rises.

python examples/best_model_by_alignment.py MODEL PAIRS.tsv OUTPUT_DIR [STEPS]

PAIRS.tsv has two columns with FLORES-200 codes as names, such as eng_Latn and isl_Latn.
"""

import sys

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from neuronxa_callback import NeuronXACallback
from neuronxa_callback.text.embedded import embedded


def main(model_name: str, pairs: str, output_dir: str, steps: str = "200") -> None:
    texts = [{"text": sentence} for sentence in embedded("demo_train.tsv")["isl_Latn"]]
    every = max(1, int(steps) // 50)  # fifty evaluations
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model_name, dtype="float32"),
        args=SFTConfig(
            output_dir,
            max_steps=int(steps),
            per_device_train_batch_size=4,
            bf16=False,
            eval_strategy="steps",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every,
            metric_for_best_model="eval_nasca",
            greater_is_better=True,
            load_best_model_at_end=True,
            report_to="tensorboard",
        ),
        train_dataset=Dataset.from_list(texts[20:]),
        eval_dataset=Dataset.from_list(texts[:20]),
        processing_class=AutoTokenizer.from_pretrained(model_name),
        callbacks=[NeuronXACallback(pairs, early_stopping_patience=15)],
    )
    trainer.train()
    print(f"best: step {trainer.state.best_global_step} with NASCA {trainer.state.best_metric:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
