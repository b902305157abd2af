"""Tiny models with random weights of every architecture that docs/reference/architectures.md names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BloomConfig,
    DeepseekV3Config,
    FalconConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    GlmConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    MllamaConfig,
    NemotronConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    Starcoder2Config,
)

from tests.support import VOCABULARY

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


GPT_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_inner": 48,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 256,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
FALCON_SIZES = {name: value for name, value in SIZES.items() if name != "head_dim"}
# Name -> configuration, and the FFN within a layer ("" where its projections are the layer's own).
PLAIN: dict[str, tuple[Any, str]] = {
    "gpt2": (GPT2Config(**GPT_SIZES), "mlp"),
    "gptj": (GPTJConfig(**GPT_SIZES, rotary_dim=4), "mlp"),
    "gpt-neox": (GPTNeoXConfig(**SIZES), "mlp"),
    "opt": (OPTConfig(**SIZES, ffn_dim=48, init_std=0.2, word_embed_proj_dim=32), ""),
    "bloom": (BloomConfig(**SIZES, n_head=4, n_layer=3), "mlp"),
    "falcon": (FalconConfig(**FALCON_SIZES, ffn_hidden_size=48), "mlp"),
    "falcon-alibi": (FalconConfig(**FALCON_SIZES, ffn_hidden_size=48, alibi=True, parallel_attn=False), "mlp"),
    "phi": (PhiConfig(**SIZES), "mlp"),
    "nemotron": (NemotronConfig(**SIZES), "mlp"),
    "starcoder2": (Starcoder2Config(**SIZES), "mlp"),
}

EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
MIXTURES: dict[str, Any] = {
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
    "qwen2-moe": Qwen2MoeConfig(**SIZES, **EXPERTS, num_experts=4, shared_expert_intermediate_size=24),
    "qwen3-moe": Qwen3MoeConfig(**SIZES, **EXPERTS, num_experts=4),
    "gpt-oss": GptOssConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
    "deepseek-v3": DeepseekV3Config(
        **SIZES | {"head_dim": 4, "num_key_value_heads": 4},
        **EXPERTS,
        n_routed_experts=4,
        n_shared_experts=1,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
    ),
}

ROPE = "rope_parameters" if int(transformers.__version__.split(".")[0]) >= 5 else "rope_scaling"
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "image_size": 28,
    "patch_size": 14,
}
MULTIMODAL: dict[str, Any] = {
    "gemma3-vision": Gemma3Config(
        text_config=SIZES | {"sliding_window": 8}, vision_config=VISION, mm_tokens_per_image=4, image_token_index=5
    ),
    "llama-3.2-vision": MllamaConfig(
        text_config=SIZES
        | {
            "num_hidden_layers": 5,
            "cross_attention_layers": [1, 3],
            ROPE: {"rope_type": "default", "rope_theta": 1e4},
        },
        vision_config=VISION
        | {"attention_heads": 2, "num_global_layers": 1, "vision_output_dim": 32, "intermediate_layers_indices": [0]},
        image_token_index=VOCABULARY,
    ),
}


needs_stacked_experts = pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) < 5, reason="transformers 4 holds its experts one by one"
)


def tiny_multimodal(name: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(MULTIMODAL[name]).eval()


def tiny(name: str, dtype: torch.dtype = torch.float32) -> Any:
    config = CONFIGS.get(name) or MIXTURES.get(name) or PLAIN[name][0]
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
