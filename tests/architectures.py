"""Tiny models with random weights of every gated architecture that the README names."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    GlmConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from tests.conftest import VOCABULARY

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
}

CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SIZES),
    "llama-with-bias": LlamaConfig(**SIZES, mlp_bias=True),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
    "mistral-sliding-window": MistralConfig(**SIZES, sliding_window=8),
    "olmo2": Olmo2Config(**SIZES),
    "gemma": GemmaConfig(**SIZES),
    "gemma2": Gemma2Config(**SIZES, sliding_window=8),
    "gemma3": Gemma3TextConfig(**SIZES, sliding_window=8),
    "granite": GraniteConfig(**SIZES),
    "glm-fused": GlmConfig(**SIZES),
    "glm4-fused": Glm4Config(**SIZES),
    "phi3-fused": Phi3Config(**SIZES),
}


def tiny(name: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name], dtype=dtype).eval()
