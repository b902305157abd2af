"""The activation function sigma of an FFN (Eq. 1 of the paper): where its module keeps it, what it does to signs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

Activation: TypeAlias = Callable[[Tensor], Tensor]

# The names under which transformers' FFNs keep it. "1" is CTRL's, whose FFN is a Sequential.
NAMES = ("act_fn", "activation_fn", "act", "gelu_impl", "activation", "activation_func", "1")


def activation_of(ffn: Any, default: str | None = None) -> Activation | None:
    """Return sigma of an FFN as a function of the output of its gate, or None if the FFN does not name it.

    Args:
        ffn: the FFN's module.
        default: the activation in transformers' naming if the FFN keeps none, as LFM2's, which calls `F.silu`.
    """
    activation = _named(ffn) or (ACT2FN[default] if default else None)
    if activation is None:
        return None
    if getattr(ffn, "activation_sparsity", 0):  # Gemma 3n keeps the largest gates of a token alone
        return lambda gate: activation(ffn._gaussian_topk(gate))
    if (scale := getattr(ffn, "gate_multiplier", 1)) != 1:  # Falcon-H1
        return lambda gate: activation(gate * scale)
    return activation


def _named(ffn: Any) -> Activation | None:
    for name in NAMES:
        if callable(activation := getattr(ffn, name, None)):
            return activation  # type: ignore[no-any-return]
    config = getattr(ffn, "config", None)  # the only place where Liger's FFNs name it
    hidden_act = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    return ACT2FN[hidden_act] if hidden_act in ACT2FN else None  # noqa: SIM401  # its get() makes no function


@torch.no_grad()
def preserves_sign(activation: Activation) -> bool:
    """Return whether sigma(z) > 0 exactly where z > 0, tried on a grid (true of SiLU, GELU and ReLU).

    A model on the device "meta" has no numbers to try it with. False is then the safe answer, because it only costs
    the computation of sigma.
    """
    device = _device_of(activation)
    if device.type == "meta":
        return False
    grid = torch.linspace(-20, 20, 4001, device=device)
    return torch.equal(activation(grid) > 0, grid > 0)


def _device_of(activation: Activation) -> torch.device:
    """Return the device of an activation's parameters (xIELU of Apertus has some), or the CPU if it has none."""
    if not isinstance(activation, nn.Module):
        return torch.device("cpu")
    held = chain(activation.parameters(), activation.buffers())
    return next((tensor.device for tensor in held), torch.device("cpu"))
