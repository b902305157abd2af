"""What the activation functions of a model really give, one unpadded sentence at a time, in its own forward pass.

This knows nothing of how the package finds neurons but the modules that it found. It listens to every activation
function that the model calls, as a module or as a function of torch, also to those outside of these modules: they may
belong to neurons that the package left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
import transformers.activations
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from neuronxa_callback.model.dense import DenseFFN
from neuronxa_callback.model.neurons import FFN, may_hold_ffn

FUNCTIONS = frozenset({F.silu, F.gelu, F.relu, torch.relu, F.relu6, F.mish})
_OF_TORCH = (nn.SiLU, nn.GELU, nn.ReLU, nn.ReLU6, nn.Mish)
# Parts of the names of modules that mix tokens and call activation functions for that.
MIXERS = ("mamba", "mixer", "conv", "temporal", "recurrent", "mlstm", "slstm", "ssm")
_OF_TRANSFORMERS = tuple(
    kind for kind in vars(transformers.activations).values() if isinstance(kind, type) and issubclass(kind, nn.Module)
)


@dataclass
class Heard:
    """The activations of one sentence.

    Attributes:
        tokens: the sentence's length.
        of: layer and FFN -> the outputs (rows, width) of the activation functions that ran inside the FFN, in order.
        beside: the names and widths of activations in layers that belong to no FFN, without those of mixers, routers
            and norms, which are no FFNs.
        hidden_states: the model's own `output_hidden_states`, as (tokens, features) each; None if it gives none.
    """

    tokens: int
    of: dict[tuple[int, int], list[Tensor]] = field(default_factory=dict)
    beside: set[str] = field(default_factory=set)
    hidden_states: list[Tensor] | None = None


class _Functions(TorchFunctionMode):
    """Listens to the activation functions that are called outside of activation modules."""

    def __init__(self, listener: _Listener) -> None:
        super().__init__()
        self.listener = listener

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in FUNCTIONS and not self.listener.inside_activation:
            self.listener.hear(result)
        return result


class _Listener:
    """Knows which FFN runs, and keeps what activation functions give meanwhile."""

    def __init__(self, tokens: int) -> None:
        self.heard = Heard(tokens)
        self.running: list[tuple[int, int]] = []
        self.layer = -1
        self.path: list[str] = []  # the names of the modules that run, from the outermost on
        self.inside_activation = 0

    def hear(self, output: Tensor) -> None:
        rows = output.detach().reshape(-1, output.shape[-1])
        if self.running:
            self.heard.of.setdefault(self.running[-1], []).append(rows)
        elif self.layer >= 0 and all(may_hold_ffn(name) and not _mixes(name) for name in self.path):
            self.heard.beside.add(f"{self.path[-1]} of {rows.shape[1]}")


def _mixes(name: str) -> bool:
    return any(part in name for part in MIXERS)


@contextmanager
def _listening(
    model: Any, layers: Sequence[nn.Module], ffns: Sequence[Sequence[FFN]], tokens: int
) -> Iterator[_Listener]:
    listener = _Listener(tokens)
    numbers = {layer: number for number, layer in enumerate(layers)}
    parts = {ffn.module: part for its in ffns for part, ffn in enumerate(its)}  # layers may share an FFN
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            own = name.rpartition(".")[2]
            hooks.callback(module.register_forward_pre_hook(lambda *_, own=own: listener.path.append(own)).remove)
            # OPT's layers are their own FFNs: a layer starts before its FFN.
            if module in numbers:
                hooks.callback(module.register_forward_pre_hook(partial(_start_layer, listener, numbers)).remove)
                hooks.callback(module.register_forward_hook(partial(_end_layer, listener)).remove)
            if module in parts:
                hooks.callback(module.register_forward_pre_hook(partial(_start_ffn, listener, parts)).remove)
                hooks.callback(module.register_forward_hook(partial(_end_ffn, listener)).remove)
            if isinstance(module, _OF_TORCH + _OF_TRANSFORMERS) or "gelu" in type(module).__name__.lower():
                hooks.callback(module.register_forward_pre_hook(partial(_enter, listener)).remove)
                hooks.callback(module.register_forward_hook(partial(_leave, listener)).remove)
            hooks.callback(module.register_forward_hook(partial(_end_module, listener)).remove)
        hooks.enter_context(_Functions(listener))
        yield listener


def _start_layer(listener: _Listener, numbers: dict[nn.Module, int], layer: nn.Module, args: Any) -> None:
    listener.layer = numbers[layer]


def _end_layer(listener: _Listener, layer: nn.Module, args: Any, output: Any) -> None:
    listener.layer = -1


def _end_module(listener: _Listener, module: nn.Module, args: Any, output: Any) -> None:
    listener.path.pop()


def _start_ffn(listener: _Listener, parts: dict[nn.Module, int], ffn: nn.Module, args: Any) -> None:
    listener.running.append((listener.layer, parts[ffn]))


def _end_ffn(listener: _Listener, ffn: nn.Module, args: Any, output: Any) -> None:
    listener.running.pop()


def _enter(listener: _Listener, activation: nn.Module, args: Any) -> None:
    listener.inside_activation += 1


def _leave(listener: _Listener, activation: nn.Module, args: Any, output: Tensor) -> None:
    listener.inside_activation -= 1
    if not listener.inside_activation:
        listener.hear(output)


@torch.no_grad()
def listen(model: Any, layers: Sequence[nn.Module], ffns: Sequence[Sequence[FFN]], ids: Sequence[int]) -> Heard:
    """Run the whole model on one sentence and return what its activation functions gave."""
    with _listening(model, layers, ffns, len(ids)) as listener:
        output = model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False)
    hidden = getattr(output, "hidden_states", None)
    listener.heard.hidden_states = None if hidden is None else [_of_tokens(state, len(ids)) for state in hidden]
    return listener.heard


def _of_tokens(hidden: Tensor, tokens: int) -> Tensor:
    """Return hidden states as (tokens, features). Several residual streams stand one after the other."""
    if hidden.dim() == 4 and hidden.shape[0] != 1:  # Gemma 3n: (streams, 1, tokens, hidden)
        hidden = hidden.movedim(0, 2)
    return hidden.reshape(tokens, -1)


def states_agree(ffn: FFN, heard: Sequence[Tensor], weighted: Tensor, average: Tensor, tokens: int) -> bool | None:
    """Return whether what was read of an FFN is all that its activation functions gave for one sentence.

    Return None if it called none of its width.

    Args:
        ffn: the FFN.
        heard: the activations (rows, width) inside it.
        weighted: what was read (neurons,): the weighted share of tokens that fire each neuron.
        average: the same, unweighted. Routed experts are compared by it, because an activation does not say its token.
        tokens: the sentence's length.
    """
    width = ffn.neurons if isinstance(ffn, DenseFFN) else ffn.width
    its = [(rows > 0).float() for rows in heard if rows.shape[1] == width]
    if not its:
        return None
    if isinstance(ffn, DenseFFN):
        weights = torch.arange(1, tokens + 1) / sum(range(1, tokens + 1))
        right = any(
            torch.allclose(weights @ rows, weighted, atol=1e-5) for rows in its
        )  # Gemma 3n has a ReLU before it
        return right and len(its) == len(heard)
    active = torch.stack([rows.sum(0) for rows in its]).sum(0)
    read = average.unflatten(0, (ffn.count, ffn.width)).sum(0) * tokens
    return len(its) == len(heard) and torch.allclose(active, read, atol=1e-2)
