"""Check that the package reads a model whose FFNs run Axolotl's LoRA kernels, and measure what the kernels change.

The kernels need a GPU. On a CPU they need Triton's interpreter, which is slow and knows no bfloat16, so the models are
tiny and in float32. Axolotl's own code attaches the kernels; the rest of it is not needed:

    pip install --no-deps axolotl==0.19.0 addict triton
    TRITON_INTERPRET=1 python -m scripts.try_axolotl
"""

from __future__ import annotations

import sys
import types
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.alignment.encoder import encode_all
from neuronxa_callback.model.decoder import Decoder
from tests.architectures import tiny
from tests.support import make_tokenizer

# Imported by the attaching code for attention alone, with the whole of Axolotl behind it.
for name in ("axolotl.utils.callbacks", "axolotl.utils.callbacks.models"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["axolotl.utils.callbacks.models"].get_causal_lm_model_cls_prefix = None  # type: ignore[attr-defined]

from axolotl.monkeypatch.lora_kernels import apply_lora_kernel_patches  # noqa: E402
from axolotl.utils.dict import DictDefault  # noqa: E402

PAIRS = ParallelPairs.load("eng_Latn-isl_Latn", n=2)
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"lora_dropout": 0.1},
    "mistral-sliding-window": {"use_dora": True},
    "gemma": {},
}


def main() -> None:
    tokenizer = make_tokenizer()
    for name, options in KINDS.items():
        model = adapted(name, options)
        expected = encode_all(Decoder.find(model, tokenizer), PAIRS.source, ("nas", "nav"))
        apply_lora_kernel_patches(model, DictDefault(lora_mlp_kernel=True))
        decoder = Decoder.find(model, tokenizer)
        NeuronXAEvaluator(PAIRS).check(decoder)
        found = encode_all(decoder, PAIRS.source, ("nas", "nav"))
        differences = {read: float((found[read] - expected[read]).abs().max()) for read in found}
        forward = model.base_model.model.model.layers[0].mlp.forward.__name__
        print(f"{name} {options}, {forward}: read; differs by at most {differences}", flush=True)


def on_the_cpu(*size: Any, device: Any = None, **options: Any) -> Any:
    """Make the tensors on the CPU that the kernels ask for on a GPU."""
    return empty(*size, device="cpu" if device == "cuda" else device, **options)


def adapted(name: str, options: dict[str, Any]) -> Any:
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM", **options)
    return get_peft_model(tiny(name), config).eval()


if __name__ == "__main__":
    empty, torch.empty = torch.empty, on_the_cpu
    main()
