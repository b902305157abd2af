"""Find a decoder's FFN neurons and hand over their states and values (paper, section 2).

A gated FFN computes FFN^I(x) = sigma(W_G x + b_G) * (W_I x + b_I) (Eq. 1). A plain FFN computes sigma(W_I x + b_I).
Neurons are read at two places. Most implementations pass through both, even if their forward was replaced. Where one
calls no projection at all, `dense` calls them on the FFN's input:

* the output of the projection before the activation function. It gives the activation state (NAS):
  sigma(W_G x + b_G) > 0, or sigma(W_I x + b_I) > 0 in a plain FFN;
* the input of the down projection. It is FFN^I(x), the signed value. Its absolute value is the activation value (NAV).

The experts of a mixture have no such projections of their own; see `experts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from torch import nn

from neuronxa_callback.model.dense import DenseFFN, read_dense
from neuronxa_callback.model.experts import Experts, read_experts
from neuronxa_callback.model.layers import REMEDY, UnreadableFFNError, find_stack

FFN: TypeAlias = DenseFFN | Experts

# Parts of the names of modules that hold no FFN neurons. Routers choose experts, a gated norm (A.X K2) scales its
# input, and hyper-connections mix residual streams, all with small projections of their own. Attention has experts in
# JetMoE.
NO_FFNS = ("router", "norm", "hyper_connection", "attn", "attention")
ROUTERS = ("gate", "gating")  # the whole name of a router in most mixtures


def find_ffns(model: nn.Module) -> list[tuple[FFN, ...]]:
    """Find the FFNs of every decoder layer, in layer order.

    A layer has one FFN, or routed experts with or without an FFN that all tokens share. The layers of hybrid stacks
    may have none.

    Raises:
        UnreadableFFNError: no layer has an FFN, or one cannot be read; the message names it and says what to do.
    """
    stack = find_stack(model)
    return ffns_of(model, stack.layers, getattr(stack.config, "hidden_size", None))


def ffns_of(model: nn.Module, layers: Sequence[nn.Module], hidden_size: int | None = None) -> list[tuple[FFN, ...]]:
    """Find the FFNs of known layers, as `find_ffns` does.

    Args:
        model: the model, whose names messages use.
        layers: its decoder layers in order.
        hidden_size: features of the residual stream, where each FFN leads; None asks for nothing.
    """
    names = {module: name for name, module in model.named_modules()}
    found = [_ffns_of_layer(layer, names.get(layer, f"layer {i}"), i, hidden_size) for i, layer in enumerate(layers)]
    if not any(found):
        first = layers[0]
        held = ", ".join(f"{name} ({type(child).__name__})" for name, child in first.named_children())
        raise UnreadableFFNError(
            f"no layer of {type(model).__name__} holds an FFN that can be read; {names.get(first, 'layer 0')} holds "
            f"{held}. {REMEDY} The methods mexa, cka, svcca and anc need no FFN."
        )
    uses = Counter(ffn.module for ffns in found for ffn in ffns)
    return [
        tuple(replace(ffn, layer=layer) if isinstance(ffn, DenseFFN) and uses[ffn.module] > 1 else ffn for ffn in ffns)
        for layer, ffns in zip(layers, found, strict=True)
    ]


def _ffns_of_layer(layer: nn.Module, layer_name: str, place: int, hidden_size: int | None) -> tuple[FFN, ...]:
    dense: list[FFN] = []
    experts: list[FFN] = []
    mixed = False
    for name, module in _searched(layer, layer_name):
        mixed = mixed or name.rpartition(".")[2] == "experts"
        if mixture := read_experts(module, name):
            experts.append(mixture)
        elif ffn := read_dense(module, name, place, hidden_size):
            dense.append(ffn)
    if mixed and len(experts) != 1:
        raise UnreadableFFNError(
            f"{layer_name} holds a mixture of experts ({len(experts)} readable): transformers 5 and experts that it "
            f"holds in one tensor are needed. {REMEDY}"
        )
    if len(dense) > 1:
        raise UnreadableFFNError(
            f"{layer_name} holds {len(dense)} FFNs, {' and '.join(ffn.name for ffn in dense)}; only one per layer can "
            f"be read. {REMEDY}"
        )
    return (*dense, *experts)


def _searched(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield a module and those inside it with their names, without those that hold no FFN."""
    yield name, module
    for child_name, child in module.named_children():
        one_by_one = child_name == "experts" and isinstance(child, nn.ModuleList)
        if one_by_one:
            yield f"{name}.{child_name}", child
        elif may_hold_ffn(child_name):
            yield from _searched(child, f"{name}.{child_name}" if name else child_name)


def may_hold_ffn(name: str) -> bool:
    """Return whether a module of this name may be an FFN or hold one: it is no router, norm, attention or the like."""
    return name not in ROUTERS and not any(part in name for part in NO_FFNS)
