"""Checks that the recipes can train a model, made before anything long starts."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig

from neuronxa_callback.model.neurons import find_ffns


class PreflightError(ValueError):
    """A run that cannot work. The message says why, and what to do."""


def empty_model(model_args: ModelConfig) -> torch.nn.Module:
    """Return the model without its weights, made from its configuration only.

    Raises:
        PreflightError: the configuration cannot be loaded, the model is no decoder, or its FFNs cannot be read.
    """
    name = model_args.model_name_or_path
    if not name:
        raise PreflightError("No model is named; give --model_name_or_path, a hub name or a folder.")
    try:
        config = AutoConfig.from_pretrained(name, revision=model_args.model_revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if "gated" in str(error).lower():
            raise PreflightError(
                f"{name} is gated: accept its licence on https://huggingface.co/{name} and run `hf auth login`."
            ) from None
        reason = " ".join(str(error).split())[:160]
        raise PreflightError(f"{name} cannot be loaded as a model ({reason}); give a hub name or a folder.") from None
    if getattr(config, "is_encoder_decoder", False):
        raise PreflightError(f"{name} is an encoder-decoder; the recipes train decoders, such as Llama or Qwen.")
    try:
        with torch.device("meta"):
            model: torch.nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        find_ffns(model)
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise PreflightError(f"{name} is no decoder whose neurons can be read: {reason}") from None
    return model


def tokenizer(model_args: ModelConfig) -> Any:
    """Return the model's tokenizer.

    Raises:
        PreflightError: it cannot be loaded.
    """
    name = model_args.model_name_or_path
    try:
        return AutoTokenizer.from_pretrained(name, revision=model_args.model_revision, trust_remote_code=False)
    except Exception as error:  # the reader of a broken file may raise anything, even a bare Exception
        reason = " ".join(str(error).split())[:160]
        raise PreflightError(
            f"{name} has no tokenizer that can be read ({reason}); put the files of its tokenizer beside the model."
        ) from None
