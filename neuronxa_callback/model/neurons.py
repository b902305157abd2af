"""Where a decoder's FFN neurons are, and hooks that hand over their states and values (paper, section 2).

A gated FFN computes FFN^I(x) = sigma(W_G x + b_G) * (W_I x + b_I) (Eq. 1), a plain one sigma(W_I x + b_I). Neurons are
read at two places that every implementation passes, also one whose forward was replaced:

* the output of the projection that the activation function is applied to, from which the activation state (NAS)
  follows: sigma(W_G x + b_G) > 0, or sigma(W_I x + b_I) > 0 in a plain FFN;
* the input of the down projection, which is FFN^I(x) and whose absolute value is the activation value (NAV).

The experts of a mixture have no such projections of their own: transformers holds all their weights in one tensor. The
same numbers are computed from that tensor, for the experts that each token was routed to; the neurons of the others are
not active and their values are 0. The paper has no mixtures of experts: this is our extension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.activations import ACT2FN

NeuronRepresentation = Literal["nas", "nav"]
Layout = Literal["gated", "fused", "plain"]

# First and last projection of the plain FFNs in transformers: GPT-2, GPT-NeoX and BLOOM and Falcon, OPT and Phi,
# GPT-J, Nemotron.
PLAIN = (
    ("c_fc", "c_proj"),
    ("dense_h_to_4h", "dense_4h_to_h"),
    ("fc1", "fc2"),
    ("fc_in", "fc_out"),
    ("up_proj", "down_proj"),
)
ACTIVATIONS = ("act_fn", "activation_fn", "act", "gelu_impl")

# Leaves room for kernels that fuse or round differently in bfloat16; swapped halves miss it by far.
TOLERANCE = 0.05

_REMEDY = (
    "NeuronXA reads gated FFNs with gate_proj, up_proj and down_proj or a fused gate_up_proj (Llama, Qwen, Mistral, "
    "Gemma, Phi-3), plain FFNs (GPT-2, GPT-NeoX, OPT, BLOOM, Falcon, Phi-2) and, with transformers 5, mixtures of "
    "experts; docs/architectures.md lists them. If this FFN was replaced or wrapped, keep modules with these names in "
    "it and call them."
)


class UnreadableFFNError(ValueError):
    """A model whose FFN neurons cannot be found or do not behave as Eq. 1 says; the message names the module."""


@dataclass(frozen=True)
class DenseFFN:
    """An FFN that every token passes: the modules whose output and input its neurons are read from.

    Attributes:
        name: the FFN's module name inside the model, for messages.
        layout: "gated" (gate and up apart), "fused" (both in one output, the gate first) or "plain" (no gate).
        gate: module whose output holds what sigma is applied to: W_G x + b_G, in a plain FFN W_I x + b_I.
        up: module whose output is W_I x + b_I; None where it is `gate`'s.
        down: module whose input is FFN^I(x).
        activation: sigma.
        sign_preserving: sigma(z) > 0 exactly where z > 0, so that the state can be read without computing sigma.
    """

    name: str
    layout: Layout
    gate: nn.Module
    up: nn.Module | None
    down: nn.Module
    activation: Callable[[Tensor], Tensor]
    sign_preserving: bool

    @property
    def neurons(self) -> int:
        """The FFN's width."""
        width = getattr(self.down, "in_features", None) or getattr(self.down, "nx", None)  # Conv1D calls it nx
        if width is None:
            raise UnreadableFFNError(f"the width of {self.name} is unknown: its last projection says no in_features.")
        return int(width)

    @property
    def rule(self) -> str:
        """When a neuron counts as active."""
        return "sigma(up)>0" if self.layout == "plain" else "sigma(gate)>0"

    def gate_of(self, output: Tensor) -> Tensor:
        """What sigma is applied to within the output of `gate`: (..., neurons)."""
        return output[..., : output.shape[-1] // 2] if self.layout == "fused" else output

    def states_of(self, output: Tensor) -> Tensor:
        """NAS: boolean (..., neurons), true where sigma of the gate is > 0."""
        gate = self.gate_of(output)
        return gate > 0 if self.sign_preserving else self.activation(gate) > 0

    def watch(self, representation: NeuronRepresentation, receive: Callable[[Tensor], None]) -> RemovableHandle:
        """Hand over boolean states, or absolute values in the model's dtype, at every forward pass.

        `receive` gets a tensor of (batch * tokens) x neurons elements, which it must not keep.
        """
        if representation == "nas":
            return self.gate.register_forward_hook(lambda module, args, output: receive(self.states_of(output)))
        return self.down.register_forward_pre_hook(lambda module, args: receive(args[0].abs()))

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Watch one forward pass and raise UnreadableFFNError at its end if it does not compute what is read."""
        gate: list[Tensor] = []
        up: list[Tensor] = []
        down: list[Tensor] = []
        with ExitStack() as stack:
            stack.callback(self.gate.register_forward_hook(_keep(gate)).remove)
            if self.up is not None:
                stack.callback(self.up.register_forward_hook(_keep(up)).remove)
            stack.callback(self.down.register_forward_pre_hook(lambda module, args: down.append(args[0])).remove)
            yield
        if (len(gate), len(up), len(down)) != (1, 0 if self.up is None else 1, 1):
            raise UnreadableFFNError(
                f"{self.name} called its gate projection {len(gate)} times and its down projection {len(down)} times "
                f"in one forward pass, where once each is needed. {_REMEDY}"
            )
        expected = self.activation(self.gate_of(gate[0]))
        if self.layout != "plain":
            expected = expected * (up[0] if up else gate[0][..., gate[0].shape[-1] // 2 :])
        if _differ(down[0], expected):
            raise UnreadableFFNError(
                f"{self.name} does not multiply the activated gate with the input projection as Eq. 1 of the paper "
                f"does, so its neurons' states cannot be read from its gate. {_REMEDY}"
            )


@dataclass(frozen=True)
class Experts:
    """The routed experts of one layer, whose weights transformers 5 holds in one tensor for all of them.

    Attributes:
        name: the module's name inside the model, for messages.
        module: is called with hidden states (tokens, hidden), the chosen experts (tokens, k) and their weights.
        sign_preserving: as in `DenseFFN`.
    """

    name: str
    module: Any
    sign_preserving: bool

    @property
    def neurons(self) -> int:
        """Those of all experts, one expert's after the other's."""
        return int(self.module.num_experts) * self.width

    @property
    def width(self) -> int:
        """Neurons of one expert."""
        return int(self.module.down_proj.shape[1 if self.module.is_transposed else 2])

    @property
    def rule(self) -> str:
        """When a neuron counts as active."""
        return "routed&sigma(gate)>0"

    def watch(self, representation: NeuronRepresentation, receive: Callable[[Tensor], None]) -> RemovableHandle:
        """As `DenseFFN.watch`. A value is the expert's FFN^I(x), before the router's weight."""
        read = self._states if representation == "nas" else self._values

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden, chosen, _ = _routing(args, kwargs)
            receive(self._of_routed(hidden, chosen, read, torch.bool if representation == "nas" else hidden.dtype))

        handle: RemovableHandle = self.module.register_forward_pre_hook(hook, with_kwargs=True)
        return handle

    def _of_routed(
        self, hidden: Tensor, chosen: Tensor, read: Callable[[Tensor], Tensor], dtype: torch.dtype
    ) -> Tensor:
        """(tokens, neurons): what `read` makes of the projections of the chosen experts, 0 for all others."""
        experts = int(self.module.num_experts)
        values = torch.zeros(hidden.shape[0], experts, self.width, dtype=dtype, device=hidden.device)
        for expert in range(experts):
            routed = (chosen == expert).any(dim=-1)
            if routed.any():
                values[routed, expert] = read(self._projected(hidden[routed], expert)).to(dtype)
        return values.flatten(1)

    def _projected(self, hidden: Tensor, expert: int) -> Tensor:
        """Gate and input projection of one expert, in the layout of its module."""
        return self._linear(hidden, "gate_up_proj", expert)

    def _linear(self, hidden: Tensor, name: str, expert: int) -> Tensor:
        weight = getattr(self.module, name)[expert]
        bias = getattr(self.module, f"{name}_bias")[expert] if self.module.has_bias else None
        return nn.functional.linear(hidden, weight.T if self.module.is_transposed else weight, bias)

    def _states(self, projected: Tensor) -> Tensor:
        half = slice(projected.shape[-1] // 2) if self.module.is_concatenated else slice(None, None, 2)
        gate = projected[..., half]
        return gate > 0 if self.sign_preserving else _sigma_of_experts(self.module)(gate) > 0

    def _values(self, projected: Tensor) -> Tensor:
        values: Tensor = self.module._apply_gate(projected)
        return values.abs()

    @contextmanager
    def checked(self) -> Iterator[None]:
        """As `DenseFFN.checked`."""
        differs: list[bool] = []

        # Compared inside the hook: LoRA on the experts' tensors is in place only while they are called.
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            hidden, chosen, weights = _routing(args, kwargs)
            differs.append(_differ(output.reshape(hidden.shape), self._output(hidden, chosen, weights)))

        handle = self.module.register_forward_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
        if len(differs) != 1:
            raise UnreadableFFNError(
                f"{self.name} was called {len(differs)} times in one forward pass, where once is needed. {_REMEDY}"
            )
        if differs[0]:
            raise UnreadableFFNError(
                f"{self.name} does not compute its experts as Eq. 1 of the paper from the weights that it holds, so "
                f"their neurons cannot be read. {_REMEDY}"
            )

    def _output(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """What the experts should make of the hidden states, one token and expert after the other."""
        total = torch.zeros_like(hidden)
        for token, experts in enumerate(chosen.tolist()):
            for place, expert in enumerate(experts):
                inner = self.module._apply_gate(self._projected(hidden[token], expert))
                total[token] += weights[token, place] * self._linear(inner, "down_proj", expert)
        return total


FFN: TypeAlias = DenseFFN | Experts


def _routing(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (tokens, hidden), chosen experts and their weights (tokens, k) of a call of the experts."""
    hidden, chosen, weights = (*args, *kwargs.values())
    return hidden.reshape(-1, hidden.shape[-1]), chosen, weights


def _keep(calls: list[Tensor]) -> Callable[[nn.Module, Any, Tensor], None]:
    return lambda module, args, output: calls.append(output)


def _differ(found: Tensor, expected: Tensor) -> bool:
    expected = expected.float()
    distance = torch.linalg.vector_norm(found.float() - expected)
    return bool(distance > TOLERANCE * torch.linalg.vector_norm(expected))


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
    """The stack of decoder layers without the LM head, with PEFT adapters in place; a multimodal model's text tower."""
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
    if stack is base:
        stack = base.base_model  # type: ignore[assignment]
    # Llama 3.2 Vision's text model, loaded without its vision tower, names it otherwise than its prefix says.
    if stack is base:
        stack = getattr(base, "model", stack)
    # ... and a whole language model where a multimodal one holds such (Llama 3.2 Vision).
    inner = getattr(stack, "get_decoder", lambda: stack)()
    return inner if isinstance(inner, nn.Module) else stack


def text_config(model: nn.Module) -> Any:
    """The configuration of the text decoder (the model's own, unless it is multimodal)."""
    return base_model(model).config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]


def _layer_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Name within the decoder and list of its layers, those included that only an image brings into use."""
    stack = decoder(model)
    depth = text_config(model).num_hidden_layers
    for name, child in stack.named_children():
        if isinstance(child, nn.ModuleList) and len(child) == depth:
            return name, child
    raise UnreadableFFNError(f"{type(stack).__name__} has no list of {depth} decoder layers. {_REMEDY}")


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The decoder's layers in order, without those that only an image brings into use (Llama 3.2 Vision)."""
    return [layer for layer in _layer_list(model)[1] if not hasattr(layer, "cross_attn")]


@contextmanager
def first_layers(model: nn.Module, count: int) -> Iterator[None]:
    """While open, a forward pass ends after the first `count` of `decoder_layers`."""
    kept = decoder_layers(model)[:count]
    if len(kept) == len(decoder_layers(model)):
        yield
        return
    name, layers = _layer_list(model)
    stack = decoder(model)
    setattr(stack, name, layers[: list(layers).index(kept[-1]) + 1])
    try:
        yield
    finally:
        setattr(stack, name, layers)


def find_ffns(model: nn.Module) -> list[tuple[FFN, ...]]:
    """The FFNs of every decoder layer, in layer order: one, or the routed experts and those that all tokens share.

    Raises:
        UnreadableFFNError: names the layer or FFN that cannot be read and says what to do.
    """
    names = {module: name for name, module in model.named_modules()}
    return [_ffns_of_layer(layer, names.get(layer, f"layer {i}")) for i, layer in enumerate(decoder_layers(model))]


def rule(ffns: Sequence[Sequence[FFN]]) -> str:
    """When neurons count as active, for the signature: "sigma(gate)>0", ..."""
    return "+".join(sorted({ffn.rule for layer in ffns for ffn in layer}))


def _ffns_of_layer(layer: nn.Module, layer_name: str) -> tuple[FFN, ...]:
    experts = [(name, module) for name, module in layer.named_modules() if hasattr(type(module), "_apply_gate")]
    mixed = any(name.rpartition(".")[2] == "experts" for name, _ in layer.named_modules())
    if mixed and len(experts) != 1:
        raise UnreadableFFNError(
            f"{layer_name} holds a mixture of experts ({len(experts)} readable): transformers 5 and experts that it "
            f"holds in one tensor are needed. {_REMEDY}"
        )
    dense = [ffn for name, module in layer.named_modules() if (ffn := _read_dense(module, _join(layer_name, name)))]
    if len(dense) > 1 or not (dense or experts):
        held = ", ".join(f"{name} ({type(child).__name__})" for name, child in layer.named_children())
        raise UnreadableFFNError(f"{layer_name} holds {len(dense)} FFNs among {held}. {_REMEDY}")
    return (*dense, *(_read_experts(module, _join(layer_name, name)) for name, module in experts))


def _join(layer_name: str, name: str) -> str:
    return f"{layer_name}.{name}" if name else layer_name


def _has_module(module: nn.Module, *names: str) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Module) for name in names)


def _read_dense(ffn: nn.Module, name: str) -> DenseFFN | None:
    """The FFN that a module is, None where it is something else."""
    layout: Layout
    if _has_module(ffn, "gate_proj", "up_proj", "down_proj"):
        layout, gate, up, down = "gated", ffn.gate_proj, ffn.up_proj, ffn.down_proj
    elif _has_module(ffn, "gate_up_proj", "down_proj"):
        layout, gate, up, down = "fused", ffn.gate_up_proj, None, ffn.down_proj
    else:
        plain = [names for names in PLAIN if _has_module(ffn, *names)]
        if not plain:
            return None
        layout, gate, up, down = "plain", getattr(ffn, plain[0][0]), None, getattr(ffn, plain[0][1])
    activation = _activation_of(ffn, name)
    return DenseFFN(name, layout, gate, up, down, activation, _preserves_sign(activation))  # type: ignore[arg-type]


def _activation_of(ffn: nn.Module, name: str) -> Callable[[Tensor], Tensor]:
    for attribute in ACTIVATIONS:
        if callable(activation := getattr(ffn, attribute, None)):
            return activation  # type: ignore[no-any-return]
    config = getattr(ffn, "config", None)  # Liger's FFNs name it there alone
    hidden_act = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    if hidden_act in ACT2FN:
        return ACT2FN[hidden_act]  # type: ignore[no-any-return]
    raise UnreadableFFNError(
        f"{name} ({type(ffn).__name__}) has no activation function named {', '.join(ACTIVATIONS[:-1])} or "
        f"{ACTIVATIONS[-1]}. {_REMEDY}"
    )


def _read_experts(module: Any, name: str) -> Experts:
    weights = getattr(module, "gate_up_proj", None)
    if not isinstance(weights, Tensor) or not weights.is_floating_point() or weights.dim() != 3:
        raise UnreadableFFNError(
            f"{name} ({type(module).__name__}) holds no gated experts in one unquantised tensor gate_up_proj. Load the "
            f"model without quantising its experts. {_REMEDY}"
        )
    return Experts(name, module, _preserves_sign(_sigma_of_experts(module)))


def _sigma_of_experts(module: Any) -> Callable[[Tensor], Tensor]:
    """Sigma times a positive number: the experts' own gating of an input projection of 1."""

    def sigma(gate: Tensor) -> Tensor:
        halves = (gate, torch.ones_like(gate))
        joined = torch.cat(halves, dim=-1) if module.is_concatenated else torch.stack(halves, dim=-1).flatten(-2)
        return module._apply_gate(joined)  # type: ignore[no-any-return]

    return sigma


@torch.no_grad()
def _preserves_sign(activation: Callable[[Tensor], Tensor]) -> bool:
    """Whether sigma(z) > 0 exactly where z > 0, tried on a grid (true of SiLU, GELU and ReLU)."""
    grid = torch.linspace(-20, 20, 4001)
    return torch.equal(activation(grid) > 0, grid > 0)


@contextmanager
def watch(
    ffns: Sequence[Sequence[FFN]], representation: NeuronRepresentation, receive: Callable[[int, int, Tensor], None]
) -> Iterator[None]:
    """While open, hand each FFN's states or absolute values to `receive(layer, part, tensor)`.

    Args:
        ffns: as `find_ffns` returns them, or chosen layers of these.
        representation: "nas" hands over boolean states, "nav" absolute values in the model's dtype.
        receive: called once per FFN and forward pass, with the layer's place in `ffns`, the FFN's place in its layer
            and a tensor of (batch * tokens) x neurons elements, which it must not keep.
    """
    with ExitStack() as stack:
        for layer, parts in enumerate(ffns):
            for part, ffn in enumerate(parts):
                stack.callback(ffn.watch(representation, partial(receive, layer, part)).remove)
        yield


@contextmanager
def watch_inputs(layers: Sequence[nn.Module], receive: Callable[[int, Tensor], None]) -> Iterator[None]:
    """While open, hand each layer's input hidden states (batch, tokens, hidden) to `receive(place in layers, tensor)`.

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


@contextmanager
def watch_output(layer: nn.Module, receive: Callable[[Tensor], None]) -> Iterator[None]:
    """While open, hand a layer's output hidden states (batch, tokens, hidden) to `receive`."""
    handle = layer.register_forward_hook(
        lambda module, args, output: receive(output[0] if isinstance(output, tuple) else output)
    )
    try:
        yield
    finally:
        handle.remove()


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
    with ExitStack() as stack:
        # Ended in reverse order: the first FFN's fault is the one to be told.
        for ffn in reversed([ffn for layer in find_ffns(model) for ffn in layer]):
            stack.enter_context(ffn.checked())
        run()
