"""Find a decoder's FFN neurons and hand over their states and values (paper, section 2).

A gated FFN computes FFN^I(x) = sigma(W_G x + b_G) * (W_I x + b_I) (Eq. 1). A plain FFN computes sigma(W_I x + b_I).
Neurons are read at two places. Every implementation passes through both, even if its forward was replaced:

* the output of the projection before the activation function. It gives the activation state (NAS):
  sigma(W_G x + b_G) > 0, or sigma(W_I x + b_I) > 0 in a plain FFN;
* the input of the down projection. It is FFN^I(x), the signed value. Its absolute value is the activation value (NAV).

The experts of a mixture have no such projections of their own, because transformers holds all their weights in one
tensor. The same numbers are computed from that tensor for the experts that each token was routed to. The neurons of the
other experts are not active, and their values are 0. The paper has no mixtures of experts; this is our extension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.activations import ACT2FN

from neuronxa_callback.model.layers import REMEDY, UnreadableFFNError, find_stack

NeuronRepresentation = Literal["nas", "nav", "signed"]
Layout = Literal["gated", "fused", "plain"]

# Names of the first and the last projection of plain FFNs in transformers, in this order: GPT-2; GPT-NeoX, BLOOM and
# Falcon; OPT and Phi; GPT-J; Nemotron.
PLAIN = (
    ("c_fc", "c_proj"),
    ("dense_h_to_4h", "dense_4h_to_h"),
    ("fc1", "fc2"),
    ("fc_in", "fc_out"),
    ("up_proj", "down_proj"),
)
ACTIVATIONS = ("act_fn", "activation_fn", "act", "gelu_impl")

# Leaves room for kernels that fuse or round differently in bfloat16. Swapped halves differ by far more.
TOLERANCE = 0.05


@dataclass(frozen=True)
class DenseFFN:
    """An FFN that every token passes through, and the modules at which its neurons are read.

    Attributes:
        name: the FFN's module name inside the model, for messages.
        layout: "gated" (gate and up are two modules), "fused" (one output holds both, the gate first) or "plain" (no
            gate).
        gate: module whose output holds the input of sigma: W_G x + b_G, or W_I x + b_I in a plain FFN.
        up: module whose output is W_I x + b_I; None if `gate` computes it.
        down: module whose input is FFN^I(x).
        activation: sigma.
        sign_preserving: whether sigma(z) > 0 exactly where z > 0. If so, states are read without computing sigma.
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
        """The number of neurons, which is the FFN's width."""
        width = getattr(self.down, "in_features", None) or getattr(self.down, "nx", None)  # Conv1D calls it nx
        if width is None:
            raise UnreadableFFNError(f"the width of {self.name} is unknown: its last projection has no in_features.")
        return int(width)

    @property
    def rule(self) -> str:
        """The condition under which a neuron is active."""
        return "sigma(up)>0" if self.layout == "plain" else "sigma(gate)>0"

    def gate_of(self, output: Tensor) -> Tensor:
        """Return the input of sigma, (..., neurons), from the output of `gate`."""
        return output[..., : output.shape[-1] // 2] if self.layout == "fused" else output

    def states_of(self, output: Tensor) -> Tensor:
        """Return the NAS from the output of `gate`: boolean (..., neurons), true where sigma of the gate is > 0."""
        gate = self.gate_of(output)
        return gate > 0 if self.sign_preserving else self.activation(gate) > 0

    def watch(self, representation: NeuronRepresentation, receive: Callable[[Tensor], None]) -> RemovableHandle:
        """Hand over boolean states, or absolute or signed values in the model's dtype, at every forward pass.

        `receive` gets a tensor of (batch * tokens) x neurons elements. It must neither keep nor change the tensor.
        """
        if representation == "nas":
            return self.gate.register_forward_hook(lambda module, args, output: receive(self.states_of(output)))
        return self.down.register_forward_pre_hook(
            lambda module, args: receive(args[0].abs() if representation == "nav" else args[0])
        )

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Watch one forward pass, and raise UnreadableFFNError at its end if the FFN does not compute Eq. 1."""
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
                f"in one forward pass; it must call each exactly once. {REMEDY}"
            )
        expected = self.activation(self.gate_of(gate[0]))
        if self.layout != "plain":
            expected = expected * (up[0] if up else gate[0][..., gate[0].shape[-1] // 2 :])
        if _differ(down[0], expected):
            raise UnreadableFFNError(
                f"{self.name} does not multiply the activated gate with the input projection as Eq. 1 of the paper "
                f"does, so its neurons' states cannot be read from its gate. {REMEDY}"
            )


@dataclass(frozen=True)
class Experts:
    """The routed experts of one layer. transformers 5 holds the weights of all of them in one tensor.

    Attributes:
        name: the module's name inside the model, for messages.
        module: the module that is called with hidden states (tokens, hidden), the chosen experts (tokens, k) and their
            weights.
        sign_preserving: as in `DenseFFN`.
    """

    name: str
    module: Any
    sign_preserving: bool

    @property
    def neurons(self) -> int:
        """The number of neurons of all experts. The neurons are ordered by expert."""
        return int(self.module.num_experts) * self.width

    @property
    def width(self) -> int:
        """The number of neurons of one expert."""
        return int(self.module.down_proj.shape[1 if self.module.is_transposed else 2])

    @property
    def rule(self) -> str:
        """The condition under which a neuron is active."""
        return "routed&sigma(gate)>0"

    def watch(self, representation: NeuronRepresentation, receive: Callable[[Tensor], None]) -> RemovableHandle:
        """Hand over states or values as `DenseFFN.watch` does. A value is FFN^I(x) before the router's weight."""
        read = {"nas": self._states, "nav": self._absolute, "signed": self._values}[representation]

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden, chosen, _ = _routing(args, kwargs)
            receive(self._of_routed(hidden, chosen, read, torch.bool if representation == "nas" else hidden.dtype))

        handle: RemovableHandle = self.module.register_forward_pre_hook(hook, with_kwargs=True)
        return handle

    def _of_routed(
        self, hidden: Tensor, chosen: Tensor, read: Callable[[Tensor], Tensor], dtype: torch.dtype
    ) -> Tensor:
        """Return (tokens, neurons): `read` of the chosen experts' projections, and 0 for all other experts."""
        experts = int(self.module.num_experts)
        values = torch.zeros(hidden.shape[0], experts, self.width, dtype=dtype, device=hidden.device)
        for expert in range(experts):
            routed = (chosen == expert).any(dim=-1)
            if routed.any():
                values[routed, expert] = read(self._projected(hidden[routed], expert)).to(dtype)
        return values.flatten(1)

    def _projected(self, hidden: Tensor, expert: int) -> Tensor:
        """Return the gate and the input projection of one expert, in the layout of its module."""
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
        return self.module._apply_gate(projected)  # type: ignore[no-any-return]

    def _absolute(self, projected: Tensor) -> Tensor:
        return self._values(projected).abs()

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Watch one forward pass as `DenseFFN.checked` does."""
        differs: list[bool] = []

        # The comparison runs inside the hook, because LoRA on the experts' tensors is in place only during their call.
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
                f"{self.name} was called {len(differs)} times in one forward pass; it must be called exactly once. "
                f"{REMEDY}"
            )
        if differs[0]:
            raise UnreadableFFNError(
                f"{self.name} does not compute its experts as Eq. 1 of the paper from the weights that it holds, so "
                f"their neurons cannot be read. {REMEDY}"
            )

    def _output(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Return the output that the experts should give, computed for one token and expert after the other."""
        total = torch.zeros_like(hidden)
        for token, experts in enumerate(chosen.tolist()):
            for place, expert in enumerate(experts):
                inner = self.module._apply_gate(self._projected(hidden[token], expert))
                total[token] += weights[token, place] * self._linear(inner, "down_proj", expert)
        return total


FFN: TypeAlias = DenseFFN | Experts


def _routing(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden states (tokens, hidden), chosen experts and their weights (tokens, k) from a call's arguments."""
    hidden, chosen, weights = (*args, *kwargs.values())
    return hidden.reshape(-1, hidden.shape[-1]), chosen, weights


def _keep(calls: list[Tensor]) -> Callable[[nn.Module, Any, Tensor], None]:
    return lambda module, args, output: calls.append(output)


def _differ(found: Tensor, expected: Tensor) -> bool:
    expected = expected.float()
    distance = torch.linalg.vector_norm(found.float() - expected)
    return bool(distance > TOLERANCE * torch.linalg.vector_norm(expected))


def find_ffns(model: nn.Module) -> list[tuple[FFN, ...]]:
    """Find the FFNs of every decoder layer, in layer order.

    A layer has one FFN, or routed experts with or without an FFN that all tokens share.

    Raises:
        UnreadableFFNError: a layer or FFN cannot be read; the message names it and says what to do.
    """
    return ffns_of(model, find_stack(model).layers)


def ffns_of(model: nn.Module, layers: Sequence[nn.Module]) -> list[tuple[FFN, ...]]:
    """Find the FFNs of known layers, as `find_ffns` does."""
    names = {module: name for name, module in model.named_modules()}
    return [_ffns_of_layer(layer, names.get(layer, f"layer {i}")) for i, layer in enumerate(layers)]


def _ffns_of_layer(layer: nn.Module, layer_name: str) -> tuple[FFN, ...]:
    experts = [(name, module) for name, module in layer.named_modules() if hasattr(type(module), "_apply_gate")]
    mixed = any(name.rpartition(".")[2] == "experts" for name, _ in layer.named_modules())
    if mixed and len(experts) != 1:
        raise UnreadableFFNError(
            f"{layer_name} holds a mixture of experts ({len(experts)} readable): transformers 5 and experts that it "
            f"holds in one tensor are needed. {REMEDY}"
        )
    dense = [ffn for name, module in layer.named_modules() if (ffn := _read_dense(module, _join(layer_name, name)))]
    if len(dense) > 1 or not (dense or experts):
        held = ", ".join(f"{name} ({type(child).__name__})" for name, child in layer.named_children())
        raise UnreadableFFNError(f"{layer_name} holds {len(dense)} FFNs among {held}. {REMEDY}")
    return (*dense, *(_read_experts(module, _join(layer_name, name)) for name, module in experts))


def _join(layer_name: str, name: str) -> str:
    return f"{layer_name}.{name}" if name else layer_name


def _has_module(module: nn.Module, *names: str) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Module) for name in names)


def _read_dense(ffn: nn.Module, name: str) -> DenseFFN | None:
    """Return the FFN that a module is, or None if it is something else."""
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
    config = getattr(ffn, "config", None)  # the only place where Liger's FFNs name it
    hidden_act = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    if hidden_act in ACT2FN:
        return ACT2FN[hidden_act]  # type: ignore[no-any-return]
    raise UnreadableFFNError(
        f"{name} ({type(ffn).__name__}) has no activation function named {', '.join(ACTIVATIONS[:-1])} or "
        f"{ACTIVATIONS[-1]}. {REMEDY}"
    )


def _read_experts(module: Any, name: str) -> Experts:
    weights = getattr(module, "gate_up_proj", None)
    if not isinstance(weights, Tensor) or not weights.is_floating_point() or weights.dim() != 3:
        raise UnreadableFFNError(
            f"{name} ({type(module).__name__}) holds no gated experts in one unquantised tensor gate_up_proj. Load the "
            f"model without quantising its experts. {REMEDY}"
        )
    return Experts(name, module, _preserves_sign(_sigma_of_experts(module)))


def _sigma_of_experts(module: Any) -> Callable[[Tensor], Tensor]:
    """Return sigma times a positive number: the experts' own gating of an input projection of 1."""

    def sigma(gate: Tensor) -> Tensor:
        halves = (gate, torch.ones_like(gate))
        joined = torch.cat(halves, dim=-1) if module.is_concatenated else torch.stack(halves, dim=-1).flatten(-2)
        return module._apply_gate(joined)  # type: ignore[no-any-return]

    return sigma


@torch.no_grad()
def _preserves_sign(activation: Callable[[Tensor], Tensor]) -> bool:
    """Return whether sigma(z) > 0 exactly where z > 0, tried on a grid (true of SiLU, GELU and ReLU)."""
    grid = torch.linspace(-20, 20, 4001)
    return torch.equal(activation(grid) > 0, grid > 0)
