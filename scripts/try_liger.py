"""Check that the package can read a model whose FFNs Liger Kernel replaced, and measure what the replacement changes.

Liger's kernels need a GPU. On a CPU they need Triton's interpreter, which can run only the SwiGLU kernel. Newer
versions than this one do not run in the interpreter, and transformers must be 4.57:

    pip install liger-kernel==0.6.4 triton
    TRITON_INTERPRET=1 python -m scripts.try_liger
"""

from __future__ import annotations

from typing import Any

import torch
from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.alignment.encoder import encode_all
from neuronxa_callback.model.decoder import Decoder
from tests.architectures import CONFIGS, tiny
from tests.support import make_tokenizer

ARCHITECTURES = ("llama", "qwen3", "mistral-sliding-window", "phi3-fused")
PAIRS = ParallelPairs.load("eng_Latn-isl_Latn", n=4)


def main() -> None:
    tokenizer = make_tokenizer()
    plain = {
        name: encode_all(Decoder.find(tiny(name), tokenizer), PAIRS.source, ("nas", "nav")) for name in ARCHITECTURES
    }
    # The Trainer's use_liger_kernel replaces the forwards of a loaded model. Liger applied before loading replaces the
    # classes.
    for when in ("forwards replaced", "classes replaced"):
        for name in ARCHITECTURES:
            model = replaced(name, when)
            decoder = Decoder.find(model, tokenizer)
            NeuronXAEvaluator(PAIRS).check(decoder)
            found = encode_all(decoder, PAIRS.source, ("nas", "nav"))
            differences = {read: float((found[read] - plain[name][read]).abs().max()) for read in plain[name]}
            print(
                f"{name}, {when} ({type(model.model.layers[0].mlp).__name__}): read; differs by at most {differences}"
            )


def replaced(name: str, when: str) -> Any:
    options = {"rope": False, "rms_norm": False}  # the interpreter cannot run these two kernels
    apply = MODEL_TYPE_TO_APPLY_LIGER_FN[CONFIGS[name].model_type]
    if when == "classes replaced":
        apply(**options)
        return tiny(name)
    model = tiny(name)
    apply(model=model, **options)
    return model


if __name__ == "__main__":
    with torch.no_grad():
        main()
