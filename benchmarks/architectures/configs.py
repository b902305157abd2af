"""Tiny configurations of every causal language model type of the installed transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 640  # room for the tests' tokenizer
HIDDEN = 64
SPREAD = 0.15  # of random weights: large enough for tokens to differ

# Names of settings -> their tiny value, whichever model type has them.
_NAMES: dict[str, Any] = {
    "vocab_size vocab_size_per_layer_input": VOCABULARY,
    "hidden_size n_embd d_model dim emb_dim n_embed word_embed_proj_dim embedding_size decoder_hidden_size": HIDDEN,
    "embedding_dim text_hidden_size": HIDDEN,
    "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner ffn_hidden_size d_ff feed_forward_size": 96,
    "d_inner dff dim_ff": 96,
    "intermediate_size_mlp": 112,
    "shared_intermediate_size": 40,
    "moe_intermediate_size expert_ffn_hidden_size": 24,
    "shared_expert_intermediate_size moe_shared_expert_intermediate_size": 32,
    "num_hidden_layers n_layer num_layers n_layers": 4,
    "decoder_layers encoder_layers num_decoder_layers num_encoder_layers": 4,
    "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads": 4,
    "num_decoder_attention_heads num_encoder_attention_heads num_kv_heads linear_num_value_heads": 4,
    "num_key_value_heads linear_num_key_heads": 2,
    "head_dim dim_head v_head_dim global_head_dim kv_lora_rank q_lora_rank": 16,
    "linear_key_head_dim linear_value_head_dim": 16,
    "qk_nope_head_dim qk_rope_head_dim rotary_dim laurel_rank hidden_size_per_layer_input": 8,
    "max_position_embeddings n_positions n_ctx max_seq_len max_target_positions max_source_positions": 512,
    "num_experts num_local_experts n_routed_experts moe_num_experts n_experts": 4,
    "num_experts_per_tok num_experts_per_token moe_topk moe_k": 2,
    "n_shared_experts num_shared_experts moe_num_shared_experts n_group topk_group num_expert_group": 1,
    "first_k_dense_replace num_dense_layers num_kv_shared_layers": 1,
    "initializer_range init_std": SPREAD,
    "sliding_window attention_window local_attention attention_window_size": 64,
}
SIZES: dict[str, Any] = {name: size for names, size in _NAMES.items() for name in names.split()}
TOKENS = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
TEXT_CONFIGS = ("text_config", "decoder", "decoder_config", "lm_config")

_ATTENTION = ["sliding_attention", "full_attention"] * 2
_MLA: dict[str, Any] = {
    "num_key_value_heads": 4,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "head_dim": 8,
    "v_head_dim": 16,
}
_INDEXED = _MLA | {"index_n_heads": 4, "index_head_dim": 16, "index_topk": 64}
_GEMMA4: dict[str, Any] = {
    "layer_types": _ATTENTION,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0,
    "num_key_value_heads": 2,
    "global_head_dim": 16,
}
_QWEN4: dict[str, Any] = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
}
_MAMBA: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
    "mamba_chunk_size": 16,
}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

# What a model type needs beyond the sizes. A name with # is a variant of a type: another layout of the same code.
SETTINGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v3", "youtu"), _MLA),
    "deepseek_v2": _MLA | {"topk_method": "greedy", "num_experts_per_tok": 2, "n_routed_experts": 4},
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), _INDEXED),
    "bamba": _MAMBA | {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {
        "layer_types": _ATTENTION,
        "rope_parameters": dict.fromkeys(("sliding_attention", "full_attention"), _ROPE),
    },
    "dbrx": {
        "rope_parameters": _ROPE,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": HIDDEN},
    },
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dots3_note": {"text_config": SIZES | {"num_key_value_heads": 4}},
    "dots3_note_text": {"num_key_value_heads": 4},
    **dict.fromkeys(("gemma4_text", "gemma4_unified_text"), _GEMMA4),
    "gemma4": {"text_config": SIZES | _GEMMA4},
    "gemma4_unified": {"text_config": SIZES | _GEMMA4},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "num_layers": 4},
    "granitemoehybrid": _MAMBA | {"layer_types": ["mamba", "attention"] * 2},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "ministral": {"head_dim": 16},
    "jamba": dict.fromkeys(("attn_layer_period", "expert_layer_period"), 2)
    | dict.fromkeys(("attn_layer_offset", "expert_layer_offset"), 1)
    | {"use_mamba_kernels": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 2, "state_size": 16},
    "qwen4_exp_text": _QWEN4,
    "qwen4_exp": {"text_config": SIZES | _QWEN4},
    "reformer": {
        "is_decoder": True,
        "axial_pos_embds_dim": [32, 32],
        "axial_pos_shape": [16, 32],
        "attn_layers": ["local"] * 4,
    },
    "zamba": {"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 2, "use_mamba_kernels": False},
    "zamba2": {"layer_types": ["mamba", "hybrid"] * 2, "layers_block_type": ["mamba", "hybrid"] * 2}
    | {"hybrid_layer_ids": [1, 3]},
    "longcat_flash": {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "head_dim": 8},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
    "doge#mixture": {"is_moe": True, "num_experts": 16},
    "falcon#new": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon_h1": _MAMBA | {"mamba_d_ssm": 128},
    "falcon_h1#multipliers": _MAMBA | {"mamba_d_ssm": 128, "mlp_multipliers": [0.5, 0.8]},
    "gemma3_text#bidirectional": {"use_bidirectional_attention": True},
    "gemma3n_text#sparse": {"activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0]},
    "gemma4_text#bidirectional": _GEMMA4 | {"use_bidirectional_attention": "all"},
    "gemma4_text#mixture": _GEMMA4
    | {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2}
    | {"moe_intermediate_size": 24},
    "gpt2#cross-attention": {"add_cross_attention": True},
    "granitemoehybrid#dense": dict.fromkeys(("num_local_experts", "num_experts_per_tok"), 0)
    | {"layer_types": ["attention"] * 4},
    "llama#bidirectional": {"is_causal": False},
    "opt#350m": {"word_embed_proj_dim": 32, "do_layer_norm_before": False},
    "qwen3#bidirectional": {"is_causal": False},
    "stablelm#parallel": {"use_parallel_residual": True},
}


def kinds() -> list[str]:
    """Return all causal language model types of the installed transformers, and the variants of those."""
    known = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    variants = [name for name in SETTINGS if "#" in name and name.partition("#")[0] in known]
    return sorted({*known, *variants})


def tiny_model(kind: str) -> Any:
    """Build a tiny model of a type with random weights, in float32 and in evaluation mode."""
    torch.manual_seed(0)
    config = _shrunk(CONFIG_MAPPING[kind.partition("#")[0]], SETTINGS.get(kind, {}))
    model = AutoModelForCausalLM.from_config(config).eval().float()
    for weight in model.parameters():
        if (weight.dim() > 1 and not weight.any()) or not weight.isfinite().all():
            nn.init.normal_(weight, std=SPREAD)  # transformers leaves some weights zero, and some empty
    for name, buffer in model.named_buffers():
        if name.endswith("tid2eid"):  # the experts of each token id, all 0 until a checkpoint is loaded
            buffer.copy_(torch.stack([torch.randperm(SIZES["num_experts"])[: buffer.shape[1]] for _ in buffer]))
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the plain loop, which the oracle can listen to
    return model


def _shrunk(config_class: type[PretrainedConfig], own: dict[str, Any]) -> PretrainedConfig:
    default = config_class()
    names = getattr(config_class, "attribute_map", {})
    settings: dict[str, Any] = {
        names[name]: SIZES[names[name]]
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")
        if names.get(name) in SIZES
    }
    for name, value in vars(default).items():
        if name in TEXT_CONFIGS and isinstance(value, PretrainedConfig):
            settings[name] = _shrunk(type(value), {}).to_dict()
        elif name in SIZES and _is_size(name, value):
            settings[name] = SIZES[name]
    return config_class(**settings | TOKENS | own)


def _is_size(name: str, value: Any) -> bool:
    if value is None:  # the type then takes a multiple of another size
        return name in ("num_key_value_heads", "n_inner")
    return isinstance(value, int | float) and not isinstance(value, bool)
