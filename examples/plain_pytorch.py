"""Watch alignment in a training loop of your own, with no trainer at all.

python examples/plain_pytorch.py MODEL OUTPUT_DIR [STEPS]

OUTPUT_DIR gets scores.jsonl, which `neuronxa report OUTPUT_DIR` draws.
"""

import sys
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuronxa_callback import NeuronXAEvaluator
from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.training.history import History
from neuronxa_callback.training.records import Evaluation


def main(model_name: str, output_dir: str, steps: str = "100") -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(model_name, dtype="float32").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    texts = list(embedded("demo_train.tsv")["isl_Latn"])
    evaluator = NeuronXAEvaluator(["eng_Latn-isl_Latn", "eng_Latn-deu_Latn"])
    history = History(output_dir)
    history.begin()
    every = max(1, int(steps) // 10)
    for step in range(int(steps) + 1):
        if step % every == 0:
            start = time.perf_counter()
            report = evaluator(model, tokenizer)  # the model's mode and the random state stay as they were
            runtime = time.perf_counter() - start
            history.put(Evaluation.of_report(report, step, None, runtime, evaluator.pairs))
            print(f"step {step}: NASCA {report.score['nasca']:.4f}, rank score {report.score['nasca_rank']:.4f}")
        if step == int(steps):
            break
        texts = texts[4:] + texts[:4]
        batch = tokenizer(texts[:4], return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main(*sys.argv[1:])
