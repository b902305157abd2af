"""Tell the weights of one moment from those of another: another adapter, or weights that were swapped in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuronxa_callback.model.engine import free_gathered

# How much of a model is looked at: it happens at each step, so it must cost next to nothing. An average of the weights
# differs nearly everywhere, so a few values show it.
TENSORS = 16
VALUES = 64


@dataclass(frozen=True, eq=False)
class Weights:
    """What a model computes with at a moment, as far as a look at a few values shows.

    Attributes:
        adapters: PEFT's active adapters, and whether they are disabled; None without PEFT.
        parameters: some of the parameters that are trained.
        values: some values of each, copied.
    """

    adapters: tuple[tuple[str, ...], bool] | None
    parameters: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Weights:
        """Look at a model. Nothing waits for the accelerator."""
        free_gathered(model)  # what FSDP 2 leaves after an evaluation is gone by the next look
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad and _is_readable(parameter)]
        parameters = tuple(trained[place] for place in _spread(len(trained), TENSORS))
        return cls(_adapters(model), parameters, tuple(map(_some_values, parameters)))

    def are_in(self, model: nn.Module) -> bool:
        """Return whether the model still computes with these weights.

        The parameters are those of the first look, because a user may have frozen or thawed some since then.
        """
        return self.adapters == _adapters(model) and all(
            _is_same(values, _some_values(parameter))
            for values, parameter in zip(self.values, self.parameters, strict=True)
        )


def _adapters(model: nn.Module) -> tuple[tuple[str, ...], bool] | None:
    """Return the state of the first layer with adapters. PEFT gives all of them the same.

    A layer has this property. transformers' models have a method of the same name.
    """
    for module in model.modules():
        if isinstance(getattr(type(module), "disable_adapters", None), property):
            layer: Any = module
            return tuple(layer.active_adapters), layer.disable_adapters
    return None


def _local(parameter: Tensor) -> Tensor:
    """Return what this process has of a parameter."""
    kept = parameter.detach()
    return kept.to_local() if hasattr(kept, "to_local") else kept


def _is_readable(parameter: Tensor) -> bool:
    """Return whether a parameter has plain values here. Those of quantised classes may not allow slices."""
    kept = _local(parameter)
    return type(kept) is Tensor and not kept.is_meta


def _some_values(parameter: Tensor) -> Tensor:
    flat = _local(parameter).reshape(-1)
    return flat[:: max(1, flat.numel() // VALUES)][:VALUES].clone()


def _is_same(before: Tensor, now: Tensor) -> bool:
    """Return whether values are unchanged. Another shape says nothing: FSDP gathers parameters and frees them again."""
    if before.shape != now.shape:
        return True
    return before.dtype == now.dtype and torch.allclose(before, now.to(before.device), rtol=0, atol=0, equal_nan=True)


def _spread(n: int, most: int) -> Sequence[int]:
    """Return places from 0 to n - 1, evenly spread. There are `most` of them, or n."""
    return range(n) if n <= most else [place * (n - 1) // (most - 1) for place in range(most)]
