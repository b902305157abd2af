"""Check that the package can read a Mixtral whose experts Liger Kernel replaced, and measure what that changes.

Liger's kernels need a GPU. On a CPU they need Triton's interpreter, which takes some minutes:

    pip install --no-deps liger-kernel==0.8.5 triton
    TRITON_INTERPRET=1 LIGER_FUSED_MOE_AUTOTUNE=0 python -m scripts.try_liger_experts
"""

from __future__ import annotations

from typing import Any

import torch
from liger_kernel.transformers import apply_liger_kernel_to_mixtral
from transformers import AutoModelForCausalLM, MixtralConfig

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.alignment.encoder import encode_all
from neuronxa_callback.model.decoder import Decoder
from tests.architectures import SIZES
from tests.support import make_tokenizer

PAIRS = ParallelPairs.load("eng_Latn-isl_Latn", n=2)
CONFIG = MixtralConfig(**SIZES | {"num_hidden_layers": 1}, num_local_experts=4, num_experts_per_tok=2)
OPTIONS = {"rope": False, "rms_norm": False}  # the interpreter cannot run these two kernels


def main() -> None:
    tokenizer = make_tokenizer()
    model = mixtral()
    expected = encode_all(Decoder.find(model, tokenizer), PAIRS.source, ("nas", "nav"))
    apply_liger_kernel_to_mixtral(model=model, **OPTIONS)
    compare("forward replaced", model, tokenizer, expected)
    apply_liger_kernel_to_mixtral(**OPTIONS)
    replaced = mixtral()
    replaced.load_state_dict(model.state_dict())
    compare("class replaced", replaced, tokenizer, expected)


def mixtral() -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG).eval()


def compare(when: str, model: Any, tokenizer: Any, expected: Any) -> None:
    decoder = Decoder.find(model, tokenizer)
    NeuronXAEvaluator(PAIRS).check(decoder)
    found = encode_all(decoder, PAIRS.source, ("nas", "nav"))
    differences = {read: float((found[read] - expected[read]).abs().max()) for read in found}
    kind = type(model.model.layers[0].mlp.experts).__name__
    print(f"{when} ({kind}): read; differs by at most {differences}", flush=True)


if __name__ == "__main__":
    with torch.no_grad():
        main()
