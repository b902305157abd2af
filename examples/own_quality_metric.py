"""Score the model's translations with your own metric: do they keep the numbers of the source?

python examples/own_quality_metric.py MODEL OUTPUT_DIR [STEPS]
"""

import re
import sys
from collections.abc import Sequence

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from neuronxa_callback import NeuronXACallback, ParallelPairs
from neuronxa_callback.text.embedded import embedded


class NumbersKept:
    """The share of a source's numbers that its translation keeps; 1 if the source has no numbers."""

    name = "numbers_kept"

    def score(self, sources: Sequence[str], translations: Sequence[str], references: Sequence[str]) -> list[float]:
        """Return one value for each translation."""
        return [self._kept(*pair) for pair in zip(sources, translations, strict=True)]

    def _kept(self, source: str, translation: str) -> float:
        wanted, found = (set(re.findall(r"\d+", text)) for text in (source, translation))
        return len(wanted & found) / len(wanted) if wanted else 1.0


def main(model_name: str, output_dir: str, steps: str = "100") -> None:
    every = max(1, int(steps) // 2)
    pairs = ParallelPairs.load("eng_Latn-isl_Latn", n=10)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model_name, dtype="float32"),
        args=SFTConfig(output_dir, max_steps=int(steps), bf16=False, save_strategy="no", report_to="tensorboard"),
        train_dataset=Dataset.from_dict({"text": list(embedded("demo_train.tsv")["isl_Latn"])}),
        processing_class=AutoTokenizer.from_pretrained(model_name),
        # The Trainer logs it as eval_numbers_kept, beside eval_nasca and eval_chrf.
        callbacks=[NeuronXACallback(pairs, eval_steps=every, quality=("chrf", NumbersKept()))],
    )
    trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
