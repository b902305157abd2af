"""The reader of one batch: in the hooks of a forward pass it pools tokens and keeps the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from neuronxa_callback.alignment.pooling import pool_states, pool_tokens
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.hooks import watch, watch_inputs, watch_output
from neuronxa_callback.model.layers import UnreadableFFNError
from neuronxa_callback.vocabulary import Representation, reads_neurons


class _NothingDueError(Exception):
    """Ends a forward pass behind the last tensor that is read, which it carries."""

    def __init__(self, last: Tensor) -> None:
        super().__init__()
        self.last = last


class Reader:
    """Pools the values of one batch in the hooks of its forward pass, and writes them into the results.

    It keeps nothing of the batch but the results.

    Args:
        decoder: the model's.
        chosen: representation -> the layers to read, as `check_layers` returns them.
        encoded: representation -> the results (layers, sentences, features), which the reader fills.
        weights: representation -> the weights of the batch's tokens, as `token_weights` returns them.
        places: the batch's rows in the results.
    """

    def __init__(
        self,
        decoder: Decoder,
        chosen: Mapping[Representation, Sequence[int]],
        encoded: dict[Representation, Tensor],
        weights: Mapping[Representation, Tensor],
        places: Tensor,
    ) -> None:
        self.decoder = decoder
        # A model whose FFNs cannot be read has hidden states all the same.
        self.ffns = decoder.ffns if reads_neurons(chosen) else []
        self.chosen = chosen
        self.encoded = encoded
        self.weights = weights
        self.places = places
        self._fault: Exception | None = None
        self.due = {
            (read, layer, part)
            for read, layers in chosen.items()
            for layer in layers
            for part in range(1 if read == "embedding" else len(self.ffns[layer - 1]))
        }

    def last_of(self, run: Callable[[], Tensor]) -> Tensor:
        """Make the watched pass, and return its last tensor, which is not finite if what was read is not.

        What follows the last tensor that is read changes no result. So the pass ends there if it may be left
        (`Decoder.may_leave_pass`): the layer's last projections and the final norm are not computed, and nobody learns
        whether these are finite. That last tensor is returned then. It holds (batch * tokens) x features numbers.

        Args:
            run: makes the pass, and returns hidden states.
        """
        try:
            return run()
        except _NothingDueError as end:
            return end.last

    @contextmanager
    def watching(self, layers: Sequence[nn.Module], deepest: int) -> Iterator[None]:
        """Read a forward pass through the first `deepest` layers while the context is open.

        The model's last hidden state is not read here, because the final norm comes after all layers.
        """
        hidden = [layer for layer in self.chosen.get("embedding", ()) if layer < deepest]
        with ExitStack() as hooks:
            neurons = {read: chosen for read, chosen in self.chosen.items() if read != "embedding"}
            hooks.enter_context(watch(self.ffns, neurons, partial(self._later, self._keep)))
            inputs = [layers[layer] for layer in hidden]
            keep_hidden = partial(self._later, self.keep_hidden)
            hooks.enter_context(watch_inputs(inputs, lambda index, values: keep_hidden(hidden[index], values)))
            if deepest < len(layers) and deepest in self.chosen.get("embedding", ()):
                hooks.enter_context(watch_output(layers[deepest - 1], partial(keep_hidden, deepest)))
            yield

    def _later(self, keep: Callable[..., None], *values: Any) -> None:
        """Keep values. A fault waits for the end of the pass where the other processes make the same one.

        Those of a tensor-parallel model also keep values together, so that a fault there cannot wait.
        """
        if self._fault is not None:
            return
        try:
            keep(*values)
        except Exception as error:
            if not self.decoder.in_step or self.decoder.tensor_mesh is not None:
                raise
            self._fault = error
        # Booleans, the states of experts, do not tell whether the activations are finite.
        if not self.due and self.decoder.may_leave_pass and values[-1].is_floating_point():
            raise _NothingDueError(values[-1])

    def keep_hidden(self, layer: int, values: Tensor) -> None:
        """Pool and keep the hidden states of a layer, of all its residual streams.

        The last hidden state is one stream. It is filled up with zeros, which change no score.
        """
        values = self.decoder.joined_streams(values, *self.weights["embedding"].shape)
        width, room = values.shape[-1], self.encoded["embedding"]
        if width > room.shape[-1]:
            self.encoded["embedding"] = nn.functional.pad(room, (0, width - room.shape[-1]))
        self._keep("embedding", layer, 0, values)

    def _keep(self, read: Representation, layer: int, part: int, values: Tensor) -> None:
        """Pool and keep what was read of a layer: hidden states, or states or values of one FFN.

        Args:
            read: the representation.
            layer: the layer's number.
            part: the FFN's place in its layer.
            values: (batch, tokens, features), or (batch * tokens) x neurons elements in any shape. States are > 0
                where a neuron is active.
        """
        if (read, layer, part) not in self.due:
            raise UnreadableFFNError(
                f"layer {layer} was read twice in one forward pass: a module was replaced, and runs or calls its "
                "projections more than once. Restore its forward."
            )
        self.due.remove((read, layer, part))
        # Some FFNs, and all experts, see the batch's tokens in one flat row.
        weights = self.weights[read]
        pool = pool_states if read == "nas" else pool_tokens
        pooled = pool(values.reshape(*weights.shape, -1), weights).to(self.places.device)
        first = 0
        if read != "embedding":
            before, ffn = self.ffns[layer - 1][:part], self.ffns[layer - 1][part]
            first = sum(other.neurons for other in before)
            pooled = self.decoder.whole(pooled, ffn.neurons)
        room = self.encoded[read][self.chosen[read].index(layer)]
        room[:, first : first + pooled.shape[1]].index_copy_(0, self.places, pooled)

    def raise_fault(self) -> None:
        """Raise the fault that waited for the end of the pass, if there is one."""
        if self._fault is not None:
            raise self._fault

    def end(self) -> None:
        """Raise UnreadableFFNError if a chosen layer was not read."""
        if self.due:
            read, layer, part = min(self.due)
            where = "the layer" if read == "embedding" else self.ffns[layer - 1][part].name
            raise UnreadableFFNError(
                f"layer {layer} was not read in a forward pass: {where} did not run as a module, and neither did its "
                "projections. Call the module, or restore its forward."
            )
