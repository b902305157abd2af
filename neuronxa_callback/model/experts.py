"""The experts of a mixture: their neurons, one expert after the other.

transformers 5 holds the weights of all experts of a layer in one tensor, so that an expert has no projections to hook.
Its numbers are computed from that tensor for the tokens that were routed to it. The neurons of the other experts are
not active, and their values are 0. The paper has no mixtures of experts; this is our extension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from neuronxa_callback.model import taps
from neuronxa_callback.model.activation import Activation, preserves_sign
from neuronxa_callback.model.layers import REMEDY, UnreadableFFNError
from neuronxa_callback.model.tolerance import differ
from neuronxa_callback.vocabulary import NeuronRepresentation


@dataclass(frozen=True)
class Experts:
    """The routed experts of one layer, held in one tensor: gate_up_proj, or up_proj where they have no gate.

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
        return self.count * self.width

    @property
    def count(self) -> int:
        """The number of experts."""
        return int(self.module.num_experts)

    @property
    def width(self) -> int:
        """The number of neurons of one expert."""
        return int(self.module.down_proj.shape[1 if self.module.is_transposed else 2])

    @property
    def gated(self) -> bool:
        """Whether the experts have a gate, as those of all models but Nemotron-H have."""
        return _has(self.module, "has_gate", default=True)

    @property
    def activation(self) -> Activation:
        """The activation function sigma, times a positive number."""
        return _sigma_of_experts(self.module) if self.gated else self.module.act_fn

    @property
    def rule(self) -> str:
        """The condition under which a neuron is active."""
        return "routed&sigma(gate)>0" if self.gated else "routed&sigma(up)>0"

    def watch(self, receive: Mapping[NeuronRepresentation, taps.Receive]) -> AbstractContextManager[None]:
        """Hand over states or values as `DenseFFN.watch` does. A value is FFN^I(x) before the router's weight."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden, chosen, _ = _routing(args, kwargs)
            for read, its in receive.items():
                dtype = torch.bool if read == "nas" else hidden.dtype
                its(self._of_routed(hidden, chosen, self._reader(read), dtype))

        return taps.removing(self.module.register_forward_pre_hook(hook, with_kwargs=True))

    def silenced(self) -> AbstractContextManager[None]:
        """While open, make the experts contribute nothing in forward passes."""
        return taps.removing(self.module.register_forward_hook(lambda module, args, output: torch.zeros_like(output)))

    def _of_routed(
        self, hidden: Tensor, chosen: Tensor, read: Callable[[Tensor], Tensor], dtype: torch.dtype
    ) -> Tensor:
        """Return (tokens, neurons): `read` of the chosen experts' projections, and 0 for all other experts."""
        values = torch.zeros(hidden.shape[0], self.count, self.width, dtype=dtype, device=hidden.device)
        for expert in range(self.count):
            routed = (chosen == expert).any(dim=-1)
            if routed.any():
                values[routed, expert] = read(self._projected(hidden[routed], expert)).to(dtype)
        return values.flatten(1)

    def _projected(self, hidden: Tensor, expert: int) -> Tensor:
        """Return the gate and the input projection of one expert, in the layout of its module."""
        return self._linear(hidden, "gate_up_proj" if self.gated else "up_proj", expert)

    def _linear(self, hidden: Tensor, name: str, expert: int) -> Tensor:
        weight = getattr(self.module, name)[expert]
        bias = getattr(self.module, f"{name}_bias")[expert] if self.module.has_bias else None
        return nn.functional.linear(hidden, weight.T if self.module.is_transposed else weight, bias)

    def _reader(self, representation: NeuronRepresentation) -> Callable[[Tensor], Tensor]:
        """Return the function from an expert's projections to its states or values."""
        return {"nas": self._states, "nav": self._absolute, "signed": self._values}[representation]

    def _gate(self, projected: Tensor) -> Tensor:
        """Return the input of sigma from an expert's projections."""
        if not self.gated:
            return projected
        return projected[..., : self.width] if self.module.is_concatenated else projected[..., ::2]

    def _states(self, projected: Tensor) -> Tensor:
        gate = self._gate(projected)
        return gate > 0 if self.sign_preserving else self.activation(gate) > 0

    def _values(self, projected: Tensor) -> Tensor:
        values: Tensor = self.module._apply_gate(projected) if self.gated else self.module.act_fn(projected)
        return values

    def _absolute(self, projected: Tensor) -> Tensor:
        return self._values(projected).abs()

    def _contribution(self, inner: Tensor, expert: int) -> Tensor:
        """Return what an expert adds to the output, before the router's weight, from its neurons' values."""
        output = self._linear(inner, "down_proj", expert)
        return self.module.post_expert_norm(output) if _has(self.module, "has_post_expert_norm") else output

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Watch one forward pass as `DenseFFN.checked` does."""
        differs: list[bool] = []

        # The comparison runs inside the hook, because LoRA on the experts' tensors is in place only during their call.
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            hidden, chosen, weights = _routing(args, kwargs)
            differs.append(differ(output.reshape(hidden.shape), self._output(hidden, chosen, weights)))

        with taps.removing(self.module.register_forward_hook(hook, with_kwargs=True)):
            yield
        _check_once(self.name, len(differs), any(differs))

    def _output(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Return the output that the experts should give, computed for one token and expert after the other."""
        total = torch.zeros_like(hidden)
        for token, experts in enumerate(chosen.tolist()):
            for place, expert in enumerate(experts):
                if expert < self.count:  # the number behind the last expert means none
                    inner = self._values(self._projected(hidden[token], expert))
                    total[token] += weights[token, place] * self._contribution(inner, expert)
        return total


@dataclass(frozen=True)
class _OwnForm(Experts):
    """Experts of a form that one model type has. Their gate comes first, and then the input projection."""

    @property
    def gated(self) -> bool:
        """Whether the experts have a gate: these have."""
        return True

    @property
    def activation(self) -> Activation:
        """The activation function sigma."""
        return self.module.act_fn  # type: ignore[no-any-return]

    def _gate(self, projected: Tensor) -> Tensor:
        return projected[..., : self.width]

    def _values(self, projected: Tensor) -> Tensor:
        gate, up = projected.chunk(2, dim=-1)
        return self.activation(gate) * up


@dataclass(frozen=True)
class LigerExperts(_OwnForm):
    """Liger Kernel's experts, where its class stands in the place of a model's own. They have no biases.

    Where Liger replaced only the forward of a loaded model's experts, these are read as what they are.
    """

    @property
    def width(self) -> int:
        """The number of neurons of one expert."""
        return int(self.module.intermediate_dim)

    @property
    def activation(self) -> Activation:
        """The activation function sigma. Liger refuses configurations that name another one."""
        return nn.functional.silu

    def _linear(self, hidden: Tensor, name: str, expert: int) -> Tensor:
        return nn.functional.linear(hidden, getattr(self.module, name)[expert])

    def _contribution(self, inner: Tensor, expert: int) -> Tensor:
        return self._linear(inner, "down_proj", expert)


@dataclass(frozen=True)
class DbrxExperts(_OwnForm):
    """DBRX's experts. Their three weights are stacked in w1 (gate), v1 (input) and w2 (last, transposed)."""

    @property
    def width(self) -> int:
        """The number of neurons of one expert."""
        return int(self.module.ffn_hidden_size)

    @property
    def activation(self) -> Activation:
        """The activation function sigma."""
        return self.module.mlp.activation_fn  # type: ignore[no-any-return]

    def _weight(self, name: str, expert: int) -> Tensor:
        return getattr(self.module.mlp, name).unflatten(0, (self.count, self.width))[expert]  # type: ignore[no-any-return]

    def _projected(self, hidden: Tensor, expert: int) -> Tensor:
        return torch.cat([hidden @ self._weight(name, expert).T for name in ("w1", "v1")], dim=-1)

    def _contribution(self, inner: Tensor, expert: int) -> Tensor:
        return inner @ self._weight("w2", expert)


@dataclass(frozen=True)
class Llama4Experts(_OwnForm):
    """Llama 4's experts. Each gets all tokens, times the router's score, which is 0 for tokens of other experts.

    So the score is part of a neuron's value, and an input of 0 leaves all neurons of an expert inactive.
    """

    @property
    def width(self) -> int:
        """The number of neurons of one expert."""
        return int(self.module.down_proj.shape[1])

    def watch(self, receive: Mapping[NeuronRepresentation, taps.Receive]) -> AbstractContextManager[None]:
        """Hand over states or values as `DenseFFN.watch` does."""

        def hand_over(hidden: Tensor) -> None:
            projected = self._gate_up(hidden)
            for read, its in receive.items():
                its(self._reader(read)(projected).transpose(0, 1).flatten(1))

        return taps.inputs(self.module, hand_over)

    def _gate_up(self, hidden: Tensor) -> Tensor:
        """Return (experts, tokens, 2 * width) from the input (experts * tokens, hidden)."""
        return hidden.unflatten(0, (self.count, -1)) @ self.module.gate_up_proj  # type: ignore[no-any-return]

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Watch one forward pass as `DenseFFN.checked` does."""
        differs: list[bool] = []

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            expected = self._values(self._gate_up(args[0])) @ self.module.down_proj
            differs.append(differ(output, expected.reshape(output.shape)))

        with taps.removing(self.module.register_forward_hook(hook)):
            yield
        _check_once(self.name, len(differs), any(differs))


@dataclass(frozen=True)
class JetMoeExperts(_OwnForm):
    """JetMoE's experts. Their projections get the tokens sorted by expert, and the router says which is where."""

    @property
    def count(self) -> int:
        """The number of experts."""
        return int(self.module.input_linear.num_experts)

    @property
    def width(self) -> int:
        """The number of neurons of one expert."""
        return int(self.module.output_linear.input_size)

    @property
    def activation(self) -> Activation:
        """The activation function sigma."""
        return self.module.activation  # type: ignore[no-any-return]

    def watch(self, receive: Mapping[NeuronRepresentation, taps.Receive]) -> AbstractContextManager[None]:
        """Hand over states or values as `DenseFFN.watch` does."""

        def hand_over(tokens: int, routed: Any, projected: Tensor) -> None:
            for read, its in receive.items():
                its(self._placed(tokens, routed, self._reader(read)(projected)))

        return self._projecting(hand_over)

    @contextmanager
    def _projecting(self, receive: Callable[[int, Any, Tensor], None]) -> Iterator[None]:
        """While open, hand over the number of tokens, the router's answer and what the first projections gave."""
        routed: list[tuple[int, Any]] = []

        def keep_routing(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            routed.append((len(args[0]), output))

        with ExitStack() as hooks:
            hooks.enter_context(taps.removing(self.module.router.register_forward_hook(keep_routing)))
            hooks.enter_context(
                taps.outputs([self.module.input_linear], lambda projected: receive(*routed.pop(), projected))
            )
            yield

    def _placed(self, tokens: int, routed: Any, values: Tensor) -> Tensor:
        """Return values (tokens * k, width), sorted by expert, as (tokens, neurons)."""
        _, token, _, sizes, _ = routed
        expert = torch.repeat_interleave(torch.tensor(sizes, device=token.device))
        placed = torch.zeros(tokens, self.count, self.width, dtype=values.dtype, device=values.device)
        placed[token, expert] = values
        return placed.flatten(1)

    def silenced(self) -> AbstractContextManager[None]:
        """While open, make the experts contribute nothing in forward passes."""
        return taps.removing(
            self.module.output_linear.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
        )

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Watch one forward pass as `DenseFFN.checked` does."""
        expected: list[Tensor] = []
        inner: list[Tensor] = []
        with (
            self._projecting(lambda hidden, routed, projected: expected.append(self._values(projected))),
            taps.inputs(self.module.output_linear, inner.append),
        ):
            yield
        _check_once(self.name, len(inner), any(map(differ, inner, expected)))


# By the names of their modules' classes.
OWN_FORMS: dict[str, type[Experts]] = {
    "LigerExperts": LigerExperts,
    "DbrxExperts": DbrxExperts,
    "Llama4TextExperts": Llama4Experts,
    "JetMoeMoE": JetMoeExperts,
}


def read_experts(module: Any, name: str) -> Experts | None:
    """Return the experts that a module holds, or None if it is something else.

    Raises:
        UnreadableFFNError: the experts are quantised, or held in a way that is not known.
    """
    kind = type(module).__name__
    if kind not in OWN_FORMS and not hasattr(type(module), "_apply_gate"):
        return None
    form = OWN_FORMS.get(kind, Experts)
    experts = form(name, module, sign_preserving=False)
    if form in (Experts, LigerExperts):
        weights = getattr(module, "gate_up_proj" if experts.gated else "up_proj", None)
        if hasattr(weights, "ds_shape"):
            raise UnreadableFFNError(
                f"{name} ({kind}) is sharded by ZeRO 3, and its experts cannot be read then. Use FSDP or ZeRO 2."
            )
        if not isinstance(weights, Tensor) or not weights.is_floating_point() or weights.dim() != 3:
            raise UnreadableFFNError(
                f"{name} ({kind}) holds no gated experts in one unquantised tensor gate_up_proj. Load the model "
                f"without quantising its experts. {REMEDY}"
            )
    return replace(experts, sign_preserving=preserves_sign(experts.activation))


def _has(module: Any, flag: str, default: bool = False) -> bool:
    """Return a flag of transformers' experts, which older versions do not set."""
    return bool(getattr(module, flag, default))


def _routing(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden states (tokens, hidden), chosen experts and their weights (tokens, k) from a call's arguments."""
    hidden, chosen, weights = (*args, *kwargs.values())
    return _of_tokens(hidden), _of_tokens(chosen), _of_tokens(weights)


def _of_tokens(given: Tensor) -> Tensor:
    return given.reshape(-1, given.shape[-1])


def _sigma_of_experts(module: Any) -> Activation:
    """Return sigma times a positive number: the experts' own gating of an input projection of 1."""

    def sigma(gate: Tensor) -> Tensor:
        halves = (gate, torch.ones_like(gate))
        joined = torch.cat(halves, dim=-1) if module.is_concatenated else torch.stack(halves, dim=-1).flatten(-2)
        return module._apply_gate(joined)  # type: ignore[no-any-return]

    return sigma


def _check_once(name: str, calls: int, differs: bool) -> None:
    if calls != 1:
        raise UnreadableFFNError(
            f"{name} was called {calls} times in one forward pass; it must be called exactly once. {REMEDY}"
        )
    if differs:
        raise UnreadableFFNError(
            f"{name} does not compute its experts as Eq. 1 of the paper from the weights that it holds, so their "
            f"neurons cannot be read. {REMEDY}"
        )
