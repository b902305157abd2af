"""FFNs that every token passes through: where their neurons are read, and the check that they compute Eq. 1.

The forward of an FFN may bypass its projections: the LoRA kernels of Axolotl and Unsloth take the weights, adapters and
quantisation states out of the projections, and call none of them. Its neurons are then computed by the projections
from the FFN's input, once more and beside the forward, whose output stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from neuronxa_callback.model import taps
from neuronxa_callback.model.activation import NAMES as ACTIVATION_NAMES
from neuronxa_callback.model.activation import Activation, activation_of, preserves_sign
from neuronxa_callback.model.bypass import fault_of, shows_no_adapter
from neuronxa_callback.model.layers import REMEDY, UnreadableFFNError
from neuronxa_callback.model.tolerance import differ
from neuronxa_callback.vocabulary import NeuronRepresentation

Layout = Literal["gated", "fused", "plain"]


class Projections(NamedTuple):
    """The names of an FFN's projections.

    Attributes:
        gate: the projection before sigma. In a fused FFN its output also holds the input projection, the gate first.
        down: the last projection.
        up: the input projection of a gated FFN.
        activation: sigma in transformers' naming, for FFNs that do not name it.
    """

    gate: str
    down: str
    up: str | None = None
    activation: str | None = None


GATED = (
    Projections("gate_proj", "down_proj", "up_proj"),  # Llama and most others
    Projections("w1", "w2", "w3", activation="silu"),  # LFM2
)
FUSED = (
    Projections("gate_up_proj", "down_proj"),  # Phi-3, GLM
    Projections("Wi", "Wo"),  # ModernBERT's decoder
    Projections("input_linear", "output_linear"),  # Granite 4.0
)
PLAIN = (
    Projections("c_fc", "c_proj"),  # GPT-2
    Projections("dense_h_to_4h", "dense_4h_to_h"),  # GPT-NeoX, BLOOM, Falcon
    Projections("fc1", "fc2"),  # OPT, Phi; Moshi's is fused
    Projections("fc_in", "fc_out"),  # GPT-J
    Projections("up_proj", "down_proj"),  # Nemotron, Apertus
    Projections("0", "2"),  # CTRL, a Sequential
)
# The norm between the product of Eq. 1 and the last projection, where there is one (BitNet).
INNER_NORM = "ffn_sub_norm"


@dataclass(frozen=True)
class DenseFFN:
    """An FFN that every token passes through, and the modules at which its neurons are read.

    Attributes:
        name: the FFN's module name inside the model, for messages.
        module: the module that holds the projections. In OPT it is the decoder layer.
        layout: "gated" (gate and up are two modules), "fused" (one output holds both, the gate first) or "plain" (no
            gate).
        gates: modules whose outputs, added up, hold the input of sigma: W_G x + b_G, or W_I x + b_I in a plain FFN.
            There is one, or a projection and its adapter (Zamba 2).
        up: module whose output is W_I x + b_I; None if `gates` compute it.
        inner: module whose input is FFN^I(x). It is the last projection, or a norm before it.
        down: the last projection.
        neurons: the number of neurons, which is the FFN's width.
        activation: sigma.
        sign_preserving: whether sigma(z) > 0 exactly where z > 0. If so, states are read without computing sigma.
        layer: the decoder layer during which the FFN is read; None if only one layer uses it.
    """

    name: str
    module: nn.Module
    layout: Layout
    gates: tuple[nn.Module, ...]
    up: nn.Module | None
    inner: nn.Module
    down: nn.Module
    neurons: int
    activation: Activation
    sign_preserving: bool
    layer: nn.Module | None = None

    @property
    def rule(self) -> str:
        """The condition under which a neuron is active."""
        return "sigma(up)>0" if self.layout == "plain" else "sigma(gate)>0"

    def gate_of(self, output: Tensor) -> Tensor:
        """Return the input of sigma, (..., neurons), from the output of `gates`."""
        return output[..., : output.shape[-1] // 2] if self.layout == "fused" else output

    def firing_of(self, output: Tensor) -> Tensor:
        """Return (..., neurons) from the output of `gates`; it is > 0 exactly where sigma of the gate is > 0 (NAS)."""
        gate = self.gate_of(output)
        return gate if self.sign_preserving else self.activation(gate)

    @property
    def projections(self) -> tuple[nn.Module, ...]:
        """The modules that a forward which does not bypass them calls."""
        return (*self.gates, *(() if self.up is None else (self.up,)), self.down)

    def values_of(self, output: Tensor, x: Tensor) -> Tensor:
        """Return FFN^I(x), (..., neurons), from the output of `gates` and from x, (..., hidden)."""
        return self._product(output, None if self.up is None else self.up(x))

    def output_of(self, x: Tensor) -> Tensor:
        """Return what the FFN's modules compute of x, (..., hidden), when each is called once."""
        return self._contribution(self.values_of(self._gated(x), x))

    def _gated(self, x: Tensor) -> Tensor:
        return taps.added([gate(x) for gate in self.gates])

    def _product(self, gate: Tensor, up: Tensor | None) -> Tensor:
        active = self.activation(self.gate_of(gate))
        if self.layout == "plain":
            return active
        return active * (gate[..., gate.shape[-1] // 2 :] if up is None else up)

    def _contribution(self, values: Tensor) -> Tensor:
        """Return what neurons of these values add to the residual stream."""
        output: Tensor = self.down(values if self.inner is self.down else self.inner(values))
        return output

    @contextmanager
    def watch(self, receive: Mapping[NeuronRepresentation, taps.Receive]) -> Iterator[None]:
        """While open, hand over states, or absolute or signed values in the model's dtype, at every pass.

        States are handed over as a tensor that is > 0 exactly where a neuron is active.

        Args:
            receive: what to read -> the function that gets it, a tensor of (batch * tokens) x neurons elements. The
                function must neither keep nor change the tensor.
        """
        receive_values = {read: its for read, its in receive.items() if read != "nas"}

        def hand_over(values: Tensor) -> None:
            for read, its in receive_values.items():
                its(values.abs() if read == "nav" else values)

        def compute(x: Tensor, output: Any) -> None:
            gate = self._gated(x)  # the hook on the gates hands the states over
            if receive_values:
                hand_over(taps.local(self.values_of(gate, x)))

        with ExitStack() as stack:
            if "nas" in receive:
                states = receive["nas"]
                stack.enter_context(taps.outputs(self.gates, lambda output: states(self.firing_of(output)), self.layer))
            if receive_values:
                stack.enter_context(taps.inputs(self.inner, hand_over, self.layer))
            stack.enter_context(taps.bypassed(self.module, self.projections, compute, self.layer))
            yield

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """While open, set every neuron to 0 in forward passes."""

        def silence(x: Tensor, output: Tensor) -> Tensor:
            return self._contribution(torch.zeros_like(self.values_of(self._gated(x), x)))

        with ExitStack() as stack:
            stack.enter_context(taps.bypassed(self.module, self.projections, silence))
            silent = self.inner.register_forward_pre_hook(lambda _, args: (torch.zeros_like(args[0]), *args[1:]))
            stack.callback(silent.remove)
            yield

    @contextmanager
    def checked(self, tolerance: float, undecided: Callable[[], None]) -> Iterator[None]:
        """Watch one forward pass, and raise UnreadableFFNError at its end if the FFN does not compute Eq. 1.

        Args:
            tolerance: the share by which the output of an FFN that bypasses its projections may differ from theirs.
            undecided: is called if nothing tells yet whether such an FFN leaves its adapters out.
        """
        gate: list[Tensor] = []
        up: list[Tensor] = []
        inner: list[Tensor] = []
        bypassing: list[str | None] = []

        def compare(x: Tensor, output: Any) -> None:
            called = len(gate), len(up), len(inner)
            fault = fault_of(self, x, output, tolerance)
            bypassing.append(fault)
            if fault is None and shows_no_adapter(self, x, output):
                undecided()
            for its, count in zip((gate, up, inner), called, strict=True):
                del its[count:]  # these were the comparison's own calls

        with ExitStack() as stack:
            stack.enter_context(taps.outputs(self.gates, gate.append, self.layer))
            if self.up is not None:
                stack.enter_context(taps.outputs([self.up], up.append, self.layer))
            stack.enter_context(taps.inputs(self.inner, inner.append, self.layer))
            stack.enter_context(taps.bypassed(self.module, self.projections, compare, self.layer))
            yield
        called = len(gate), len(up), len(inner)
        if bypassing:
            self._check_bypassing(bypassing, called)
            return
        if called != (1, 0 if self.up is None else 1, 1):
            raise UnreadableFFNError(
                f"{self.name} called its gate projection {len(gate)} times and its down projection {len(inner)} times "
                f"in one forward pass; it must call each exactly once. {REMEDY}"
            )
        expected = self._product(gate[0], up[0] if up else None)
        if inner[0].shape != expected.shape or differ(inner[0], expected):
            raise UnreadableFFNError(
                f"{self.name} does not multiply the activated gate with the input projection as Eq. 1 of the paper "
                f"does, so its neurons' states cannot be read from its gate. {REMEDY}"
            )

    def _check_bypassing(self, faults: Sequence[str | None], called: tuple[int, ...]) -> None:
        """Raise UnreadableFFNError if the FFN ran more than once, or if its only run had a fault.

        Args:
            faults: the fault of each run that bypassed the projections; None for none.
            called: how often other runs called the projections.
        """
        if len(faults) + max(called) > 1:
            raise UnreadableFFNError(
                f"{self.name} ran {len(faults) + max(called)} times in one forward pass; it must run exactly once. "
                f"{REMEDY}"
            )
        if faults[0] is not None:
            raise UnreadableFFNError(
                f"{self.name} calls none of its projections, and {faults[0]}, so its neurons cannot be read from its "
                f"input. Restore its forward, or turn off the fused kernel that replaced it."
            )


def read_dense(ffn: nn.Module, name: str, place: int, hidden_size: int | None = None) -> DenseFFN | None:
    """Return the FFN whose projections a module holds, or None if it is something else.

    Args:
        ffn: the module.
        name: its name inside the model, for messages.
        place: the place of its decoder layer in the stack, from 0.
        hidden_size: features of the residual stream. The last projection of an FFN leads there; None asks for nothing.
    """
    found = _projections_of(ffn)
    if found is None:
        return None
    layout, names = found
    gate, down = getattr(ffn, names.gate), getattr(ffn, names.down)
    if hasattr(down, "num_experts"):  # JetMoE's experts have Granite's names
        return None
    if hidden_size is not None and _width(down, "out_features", "nf") not in (hidden_size, None):
        return None
    neurons = _width(down, "in_features", "nx")
    if neurons is None:  # a Sequential that is no FFN has a module "2", too
        return None
    if layout == "plain" and _width(gate, "out_features", "nf") == 2 * neurons:
        layout = "fused"
    activation = activation_of(ffn, names.activation)
    if activation is None:
        raise UnreadableFFNError(
            f"{name} ({type(ffn).__name__}) has no activation function named {', '.join(ACTIVATION_NAMES[:-2])} or "
            f"{ACTIVATION_NAMES[-2]}. {REMEDY}"
        )
    return DenseFFN(
        name=name,
        module=ffn,
        layout=layout,
        gates=(gate, *_adapters(ffn, place)),
        up=getattr(ffn, names.up) if names.up else None,
        inner=getattr(ffn, INNER_NORM, down),
        down=down,
        neurons=neurons,
        activation=activation,
        sign_preserving=preserves_sign(activation),
    )


def _projections_of(ffn: nn.Module) -> tuple[Layout, Projections] | None:
    for layout, known in (("gated", GATED), ("fused", FUSED), ("plain", PLAIN)):
        for names in known:
            if all(isinstance(getattr(ffn, name, None), nn.Module) for name in names[:3] if name):
                return layout, names  # type: ignore[return-value]
    return None


def _width(projection: Any, *attributes: str) -> int | None:
    """Return a projection's width by the first attribute that it has; GPT-2's Conv1D has other names than Linear."""
    return next((int(getattr(projection, name)) for name in attributes if hasattr(projection, name)), None)


def _adapters(ffn: Any, place: int) -> tuple[nn.Module, ...]:
    """Return what a layer adds to the gate of an FFN that several layers share (Zamba 2)."""
    adapters = getattr(ffn, "gate_up_proj_adapter_list", None)
    return () if adapters is None else (adapters[ffn.layer_dic[place]],)
