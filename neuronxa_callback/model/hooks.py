"""Hooks that hand over, while they are open, the tensors of a decoder's layers and FFNs in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from neuronxa_callback.model import taps
from neuronxa_callback.model.neurons import FFN
from neuronxa_callback.vocabulary import NeuronRepresentation


@contextmanager
def watch(
    ffns: Sequence[Sequence[FFN]],
    chosen: Mapping[NeuronRepresentation, Collection[int]],
    receive: Callable[[NeuronRepresentation, int, int, Tensor], None],
) -> Iterator[None]:
    """While open, hand each FFN's states or values to `receive(representation, layer, part, tensor)`.

    Args:
        ffns: the FFNs of all layers, as `neurons.find_ffns` returns them.
        chosen: representation -> the numbers of the layers to read, from 1. "nas" hands over a tensor
            that is > 0 exactly where a neuron is active, "nav" absolute values and "signed" signed ones, both in the
            model's dtype.
        receive: called once per representation, FFN and forward pass with the layer's number, the FFN's place in its
            layer and a tensor of (batch * tokens) x neurons elements. It must neither keep nor change the tensor.
    """
    with ExitStack() as stack:
        for layer, parts in enumerate(ffns, start=1):
            reads = [read for read, layers in chosen.items() if layer in layers]
            for part, ffn in enumerate(parts if reads else ()):
                stack.enter_context(ffn.watch({read: partial(receive, read, layer, part) for read in reads}))
        yield


@contextmanager
def watch_inputs(layers: Sequence[nn.Module], receive: Callable[[int, Tensor], None]) -> Iterator[None]:
    """While open, hand each layer's input hidden states (batch, tokens, hidden) to `receive(place in layers, tensor)`.

    The input of a layer is the output of the layer before it. The first layer's input is the output of the embedding
    layer.
    """
    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            stack.callback(layer.register_forward_pre_hook(_input_hook(index, receive), with_kwargs=True).remove)
        yield


def _input_hook(layer: int, receive: Callable[[int, Tensor], None]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        receive(layer, args[0] if args else kwargs["hidden_states"])

    return hook


def watch_output(layer: nn.Module, receive: Callable[[Tensor], None]) -> AbstractContextManager[None]:
    """While open, hand a layer's output hidden states (batch, tokens, hidden) to `receive`."""
    return taps.removing(
        layer.register_forward_hook(
            lambda module, args, output: receive(output[0] if isinstance(output, tuple) else output)
        )
    )
