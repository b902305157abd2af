"""Where a decoder's FFN neurons are, and hooks that hand over their states and values (paper, section 2).

A gated FFN computes FFN^I(x) = sigma(W_G x + b_G) * (W_I x + b_I) (Eq. 1). Its neurons are read at two places
that every implementation passes, also one whose forward was replaced:

* the output of the gate projection, from which the activation state (NAS) follows: sigma(W_G x + b_G) > 0;
* the input of the down projection, which is FFN^I(x) and whose absolute value is the activation value (NAV).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

NeuronRepresentation = Literal["nas", "nav"]

_REMEDY = (
    "NeuronXA reads decoders whose layers hold one gated FFN each: separate gate_proj, up_proj and down_proj "
    "(Llama, Qwen, Mistral, OLMo 2, Gemma) or a fused gate_up_proj and down_proj (GLM-4, Phi-3). "
    "If this FFN was replaced or wrapped, keep modules with these names in it and call them; "
    "mixture-of-experts and ungated FFNs are not supported in this version."
)


class UnreadableFFNError(ValueError):
    """A model whose FFN neurons cannot be found or do not behave as Eq. 1 says; the message names the module."""


@dataclass(frozen=True)
class GatedFFN:
    """One gated FFN: the modules whose output and input its neurons are read from.

    Attributes:
        name: the FFN's module name inside the model, for messages.
        gate: module whose output holds W_G x + b_G, alone or, when `up` is None, followed by W_I x + b_I.
        up: module whose output is W_I x + b_I; None where it is fused with the gate.
        down: module whose input is FFN^I(x).
        activation: sigma.
        sign_preserving: sigma(z) > 0 exactly where z > 0, so that the state can be read without computing sigma.
    """

    name: str
    gate: nn.Module
    up: nn.Module | None
    down: nn.Module
    activation: Callable[[Tensor], Tensor]
    sign_preserving: bool

    def gate_of(self, output: Tensor) -> Tensor:
        """The gate's pre-activation W_G x + b_G within the output of `gate`: (..., neurons)."""
        return output if self.up is not None else output[..., : output.shape[-1] // 2]

    def states_of(self, output: Tensor) -> Tensor:
        """NAS: boolean (..., neurons), true where sigma(W_G x + b_G) > 0."""
        gate = self.gate_of(output)
        return gate > 0 if self.sign_preserving else self.activation(gate) > 0


def base_model(model: nn.Module) -> nn.Module:
    """The transformers model inside a PEFT wrapper (its adapters stay in place), or `model` itself.

    Raises:
        UnreadableFFNError: for adapters that act outside the layers (prompt and prefix tuning), which a pass
            through the layers alone would not see.
    """
    if not hasattr(model, "get_base_model"):
        return model
    if model.active_peft_config.is_prompt_learning:  # type: ignore[union-attr]
        raise UnreadableFFNError(
            f"the adapter {model.active_adapter!r} is prompt learning ({type(model).__name__}): it adds tokens in "  # type: ignore[union-attr]
            "front of the sentence instead of changing the FFNs. Use LoRA or another adapter inside the layers."
        )
    return model.get_base_model()  # type: ignore[operator, no-any-return]


def decoder(model: nn.Module) -> nn.Module:
    """The stack of decoder layers without the LM head, with PEFT adapters in place."""
    base = base_model(model)
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
    stack: nn.Module = base.get_decoder()  # type: ignore[operator]
    # transformers 4.57 gives the whole model back where its decoder is not named "model" (GPT-2, ...).
    return stack if stack is not base else base.base_model  # type: ignore[return-value]


def text_config(model: nn.Module) -> Any:
    """The configuration of the text decoder (the model's own, unless it is multimodal)."""
    return base_model(model).config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder's layers in order."""
    stack = decoder(model)
    depth = text_config(model).num_hidden_layers
    for child in stack.children():
        if isinstance(child, nn.ModuleList) and len(child) == depth:
            return child
    raise UnreadableFFNError(f"{type(stack).__name__} has no list of {depth} decoder layers. {_REMEDY}")


def find_ffns(model: nn.Module) -> list[GatedFFN]:
    """The gated FFN of every decoder layer, in layer order.

    Raises:
        UnreadableFFNError: names the layer or FFN that cannot be read and says what to do.
    """
    names = {module: name for name, module in model.named_modules()}
    return [_ffn_of_layer(layer, names.get(layer, f"layer {i}")) for i, layer in enumerate(decoder_layers(model))]


def _ffn_of_layer(layer: nn.Module, layer_name: str) -> GatedFFN:
    if any(name.rpartition(".")[2] == "experts" for name, _ in layer.named_modules()):
        raise UnreadableFFNError(f"{layer_name} holds a mixture of experts. {_REMEDY}")
    found = [(name, child) for name, child in layer.named_children() if _is_gated(child)]
    if len(found) != 1:
        held = ", ".join(f"{name} ({type(child).__name__})" for name, child in layer.named_children())
        raise UnreadableFFNError(f"{layer_name} holds {len(found)} gated FFNs among {held}. {_REMEDY}")
    name, ffn = found[0]
    return _read_gated(ffn, f"{layer_name}.{name}")


def _has_module(module: nn.Module, name: str) -> bool:
    return isinstance(getattr(module, name, None), nn.Module)


def _is_gated(module: nn.Module) -> bool:
    separate = _has_module(module, "gate_proj") and _has_module(module, "up_proj")
    return _has_module(module, "down_proj") and (separate or _has_module(module, "gate_up_proj"))


def _read_gated(ffn: nn.Module, name: str) -> GatedFFN:
    activation = getattr(ffn, "act_fn", None) or getattr(ffn, "activation_fn", None)
    if not callable(activation):
        raise UnreadableFFNError(
            f"{name} ({type(ffn).__name__}) has no activation function named act_fn or activation_fn. {_REMEDY}"
        )
    fused = _has_module(ffn, "gate_up_proj")
    return GatedFFN(
        name=name,
        gate=ffn.gate_up_proj if fused else ffn.gate_proj,  # type: ignore[arg-type]
        up=None if fused else ffn.up_proj,  # type: ignore[arg-type]
        down=ffn.down_proj,  # type: ignore[arg-type]
        activation=activation,
        sign_preserving=_preserves_sign(activation),
    )


@torch.no_grad()
def _preserves_sign(activation: Callable[[Tensor], Tensor]) -> bool:
    """Whether sigma(z) > 0 exactly where z > 0, tried on a grid (true of SiLU, GELU and ReLU)."""
    grid = torch.linspace(-20, 20, 4001)
    return torch.equal(activation(grid) > 0, grid > 0)


@contextmanager
def watch(
    ffns: list[GatedFFN], representation: NeuronRepresentation, receive: Callable[[int, Tensor], None]
) -> Iterator[None]:
    """While open, hand each FFN's states or absolute values to `receive(layer, tensor)`.

    Args:
        ffns: as `find_ffns` returns them.
        representation: "nas" hands over boolean states, "nav" absolute values in the model's dtype.
        receive: called once per FFN and forward pass with a (batch, tokens, neurons) tensor, which it must not keep.
    """
    with ExitStack() as stack:
        for layer, ffn in enumerate(ffns):
            hook = _state_hook if representation == "nas" else _value_hook
            stack.callback(hook(ffn, layer, receive).remove)
        yield


@contextmanager
def watch_inputs(layers: nn.ModuleList, receive: Callable[[int, Tensor], None]) -> Iterator[None]:
    """While open, hand each layer's input hidden states (batch, tokens, hidden) to `receive(layer, tensor)`.

    A layer's input is the layer before's output, and the first one's is the embedding layer's.
    """
    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            stack.callback(layer.register_forward_pre_hook(_input_hook(index, receive), with_kwargs=True).remove)
        yield


def _input_hook(layer: int, receive: Callable[[int, Tensor], None]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        receive(layer, args[0] if args else kwargs["hidden_states"])

    return hook


def _state_hook(ffn: GatedFFN, layer: int, receive: Callable[[int, Tensor], None]) -> Any:
    return ffn.gate.register_forward_hook(lambda module, args, output: receive(layer, ffn.states_of(output)))


def _value_hook(ffn: GatedFFN, layer: int, receive: Callable[[int, Tensor], None]) -> Any:
    return ffn.down.register_forward_pre_hook(lambda module, args: receive(layer, args[0].abs()))


@torch.no_grad()
def check_readable(model: nn.Module, run: Callable[[], object]) -> None:
    """Show on one pass that every FFN computes Eq. 1 from the modules that `find_ffns` found.

    A fused projection with its halves the other way round, or a replaced forward that no longer calls its
    projections, would otherwise give numbers that look right.

    Args:
        model: the model.
        run: runs one forward pass of the decoder in evaluation mode.

    Raises:
        UnreadableFFNError: names the first FFN that does not, and says what to do.
    """
    ffns = find_ffns(model)
    seen: list[dict[str, list[Tensor]]] = [{"gate": [], "up": [], "down": []} for _ in ffns]
    with ExitStack() as stack:
        for ffn, calls in zip(ffns, seen, strict=True):
            stack.callback(ffn.gate.register_forward_hook(_keep(calls["gate"])).remove)
            if ffn.up is not None:
                stack.callback(ffn.up.register_forward_hook(_keep(calls["up"])).remove)
            stack.callback(ffn.down.register_forward_pre_hook(_keep_input(calls["down"])).remove)
        run()
    for ffn, calls in zip(ffns, seen, strict=True):
        _check_eq1(ffn, **calls)


def _keep(calls: list[Tensor]) -> Callable[[nn.Module, Any, Tensor], None]:
    return lambda module, args, output: calls.append(output)


def _keep_input(calls: list[Tensor]) -> Callable[[nn.Module, Any], None]:
    return lambda module, args: calls.append(args[0])


def _check_eq1(ffn: GatedFFN, gate: list[Tensor], up: list[Tensor], down: list[Tensor]) -> None:
    expected_up = 0 if ffn.up is None else 1
    if (len(gate), len(up), len(down)) != (1, expected_up, 1):
        raise UnreadableFFNError(
            f"{ffn.name} called its gate projection {len(gate)} times and its down projection {len(down)} times in one "
            f"forward pass, where once each is needed. {_REMEDY}"
        )
    w_i = up[0] if up else gate[0][..., gate[0].shape[-1] // 2 :]
    expected = (ffn.activation(ffn.gate_of(gate[0])) * w_i).float()
    # 5 % leaves room for kernels that fuse or round differently in bfloat16; swapped halves miss it by far.
    if torch.linalg.vector_norm(down[0].float() - expected) > 0.05 * torch.linalg.vector_norm(expected):
        raise UnreadableFFNError(
            f"{ffn.name} does not multiply the activated gate with the input projection as Eq. 1 of the paper does, "
            f"so its neurons' states cannot be read from its gate. {_REMEDY}"
        )
