"""Fine-tune a model in 4-bit with LoRA and watch two languages align with English.

python examples/sft_4bit.py MODEL OUTPUT_DIR [STEPS]
"""

import sys

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

from neuronxa_callback import NeuronXACallback
from neuronxa_callback.text.pairs import embedded


def main(model_name: str, output_dir: str, steps: str = "100") -> None:
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    text = embedded("demo_train.tsv")
    rows = [
        {"prompt": f"English: {english}\nIcelandic:", "completion": f" {icelandic}"}
        for english, icelandic in zip(text["eng_Latn"], text["isl_Latn"], strict=True)
    ]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model_name, quantization_config=nf4, dtype=dtype),
        args=SFTConfig(
            output_dir,
            max_steps=int(steps),
            per_device_train_batch_size=4,
            bf16=on_gpu,
            report_to="tensorboard",
            save_strategy="no",
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model_name),
        peft_config=LoraConfig(target_modules="all-linear"),
        callbacks=[NeuronXACallback(["eng_Latn-isl_Latn", "eng_Latn-deu_Latn"])],
    )
    trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
