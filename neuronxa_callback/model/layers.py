"""Find the decoder layers of a model without its LM head, also under PEFT adapters and in a multimodal model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from neuronxa_callback.model.engine import unwrapped

REMEDY = (
    "NeuronXA reads the FFNs of most decoders; docs/reference/architectures.md lists them with the names of their "
    "projections. "
    "If this FFN was replaced or wrapped, keep modules with these names in it and call them."
)


class UnreadableFFNError(ValueError):
    """A model whose FFN neurons cannot be found or do not behave as Eq. 1 says; the message names the module."""


@dataclass(frozen=True, eq=False)
class Stack:
    """The stack of a model's decoder layers.

    Attributes:
        base: the transformers model, without the PEFT wrapper.
        module: the stack without the LM head, with PEFT adapters in place. In a multimodal model it is the text tower.
        config: the configuration of the text decoder, which is the model's own unless the model is multimodal.
        list_name: the name of the list of layers in `module`.
        layers: the layers in order, without those that only an image brings into use (Llama 3.2 Vision).
    """

    base: nn.Module
    module: nn.Module
    config: Any
    list_name: str
    layers: tuple[nn.Module, ...]


def find_stack(model: nn.Module) -> Stack:
    """Find the decoder layers of a model.

    Raises:
        UnreadableFFNError: the model is not a decoder whose layers can be read; the message says what to do.
    """
    base = _base_model(model)
    _check_decoder(base)
    config = base.config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]
    stacks = _stacks_of(base)
    for module in stacks:
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == config.num_hidden_layers:
                return Stack(base, module, config, name, tuple(layer for layer in child if not _is_for_images(layer)))
    raise UnreadableFFNError(
        f"{type(stacks[0]).__name__} has no list of {config.num_hidden_layers} decoder layers of its own, as encoders "
        f"such as BERT have none. {REMEDY}"
    )


def _base_model(model: nn.Module) -> nn.Module:
    """Return the transformers model inside an engine's and a PEFT wrapper, with its adapters, or `model` itself.

    Raises:
        UnreadableFFNError: the adapters act outside the layers (prompt and prefix tuning, X-LoRA). A pass through the
            layers alone would not see them.
    """
    model = unwrapped(model)
    if not hasattr(model, "get_base_model"):
        return model
    if getattr(model.active_peft_config, "peft_type", None) == "XLORA":
        raise UnreadableFFNError(
            f"{type(model).__name__} mixes the adapters of X-LoRA by a pass of its own before the real one, and a pass "
            "over the layers alone would measure another model. Use LoRA or another adapter inside the layers."
        )
    if model.active_peft_config.is_prompt_learning:  # type: ignore[union-attr]
        raise UnreadableFFNError(
            f"the adapter {model.active_adapter!r} is prompt learning ({type(model).__name__}): it adds tokens in "
            "front of the sentence instead of changing the FFNs. Use LoRA or another adapter inside the layers."
        )
    return unwrapped(model.get_base_model())  # type: ignore[operator]


def _is_for_images(layer: nn.Module) -> bool:
    """Return whether a layer attends to an image alone. ProphetNet's layers also have self-attention."""
    return isinstance(getattr(layer, "cross_attn", None), nn.Module) and not hasattr(layer, "self_attn")


def _check_decoder(base: nn.Module) -> None:
    if getattr(getattr(base, "config", None), "is_encoder_decoder", False):
        raise UnreadableFFNError(
            f"{type(base).__name__} is an encoder-decoder; NeuronXA is defined for decoder-only models. "
            "Use a causal language model."
        )
    if not hasattr(base, "get_decoder"):
        raise UnreadableFFNError(
            f"{type(base).__name__} is not a transformers model: it has no get_decoder(). "
            "Pass the model that AutoModelForCausalLM.from_pretrained returned, or a PEFT model around it."
        )


def _stacks_of(base: Any) -> list[nn.Module]:
    """Return the modules that may hold the list of decoder layers, the most likely one first.

    * `get_decoder()` is right in most models. A multimodal model may hold a whole language model (Llama 3.2 Vision);
      its decoder is inside that one.
    * transformers 4.57 returns the whole model if its decoder is not named "model" (GPT-2); `base_model` is right then.
    * `model` is right in Llama 3.2 Vision's text model, loaded without its vision tower, and in ModernBERT's decoder,
      which gives its LM head the name "decoder".
    """
    decoder = base.get_decoder()
    found = [getattr(decoder, "get_decoder", lambda: decoder)(), decoder, base.base_model, getattr(base, "model", None)]
    return [stack for stack in dict.fromkeys(found) if isinstance(stack, nn.Module) and stack is not base]
