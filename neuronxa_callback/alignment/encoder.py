"""Sentences to pooled representations: batches by token budget, one forward pass, pooling inside the hooks.

Batches are padded on the right, where a causal decoder cannot see the padding, whatever the tokenizer's padding side,
and they are cut from the sentences sorted by length and token ids, so that the order of the sentences cannot change a
single bit. Another token budget, or other sentences beside one, make batches of other shapes, whose matrix products
round differently: see docs/method.md for how much.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neuronxa_callback.alignment.pooling import pool_tokens, token_weights
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.hooks import watch, watch_inputs, watch_output
from neuronxa_callback.model.layers import UnreadableFFNError
from neuronxa_callback.model.neurons import FFN, NeuronRepresentation
from neuronxa_callback.vocabulary import Representation, TokenPooling, check_choice

# Measured, not derived: on a CPU small batches stay in its caches; an accelerator wants fewer, larger ones.
CPU_TOKEN_BUDGET = 512
ACCELERATOR_TOKEN_BUDGET = 8192


class NonFiniteActivationError(ArithmeticError):
    """The model produced NaN or infinite activations, of which no score can be made."""


def encode(
    model: nn.Module,
    tokenizer: Any,
    sentences: Sequence[str],
    representation: Representation = "nas",
    token_pooling: TokenPooling = "weighted",
    token_budget: int | None = None,
    layers: Sequence[int] | None = None,
) -> Tensor:
    """Represent each sentence at each layer by its pooled neuron states, neuron values or hidden states.

    Args:
        model: a decoder-only transformers model, plain, quantised or under PEFT, on any one device. Its mode, random
            state and configuration are as before when the call returns.
        tokenizer: its tokenizer. Special tokens are added as the tokenizer does by default, and pooled.
        sentences: the sentences.
        representation: "nas" (activation states, share of weighted tokens that fire each neuron), "nav" (absolute
            activation values) or "embedding" (hidden states as `output_hidden_states=True` orders them).
        token_pooling: "weighted" (Eq. 3 of the paper), "average" or "last" token.
        token_budget: padded tokens in a batch at most (a longer sentence gets a batch of its own). Default 512 on
            a CPU, 8192 elsewhere. Smaller needs less memory.
        layers: which of them, FFNs counted from 1 and hidden states from 0, the embedding layer's; all for None. The
            forward pass ends after the deepest.

    Returns:
        float32 tensor (layers, sentences, features) on the CPU. Features are the layer's FFN neurons, or the hidden
        size for "embedding", which has one layer more: the embedding layer comes first, the last is after the
        final norm. Where layers have different numbers of neurons, the narrower ones are filled up with zeros, which
        change no score.

    Raises:
        UnreadableFFNError: the model's FFNs cannot be read.
        NonFiniteActivationError: the model's activations are NaN or infinite.
        ValueError: an unknown representation or pooling, a layer that is not there, or a sentence without tokens or
            longer than the context.
    """
    decoder = Decoder.find(model, tokenizer)
    return encode_all(decoder, sentences, (representation,), token_pooling, token_budget, layers)[representation]


def encode_all(
    decoder: Decoder,
    sentences: Sequence[str],
    representations: Sequence[Representation],
    token_pooling: TokenPooling = "weighted",
    token_budget: int | None = None,
    layers: Sequence[int] | None = None,
) -> dict[Representation, Tensor]:
    """As `encode`, for several representations from the same forward passes."""
    for representation in representations:
        check_choice("representation", representation, Representation)
    check_choice("token_pooling", token_pooling, TokenPooling)
    token_ids = decoder.tokenize(sentences)
    chosen = {read: check_layers(layers, read, len(decoder.layers)) for read in representations}
    encoded = {read: _room_for(read, numbers, decoder, len(token_ids)) for read, numbers in chosen.items()}
    with decoder.evaluation_mode():
        for rows in batches(token_ids, token_budget or default_token_budget(decoder)):
            _encode_batch(decoder, chosen, token_ids, rows, token_pooling, encoded)
    return {representation: values.cpu() for representation, values in encoded.items()}


def check_layers(layers: Sequence[int] | None, representation: Representation, depth: int) -> list[int]:
    """The chosen layers' numbers, all there are for None.

    Raises:
        ValueError: one that is not there, or there twice, or none.
    """
    first = 0 if representation == "embedding" else 1
    there = range(first, depth + 1)
    if layers is None:
        return list(there)
    if not layers or len(set(layers)) < len(layers) or not set(layers) <= set(there):
        raise ValueError(
            f"layers={list(layers)} must be different numbers from {first} to {depth} for {representation}: FFNs count "
            "from 1, hidden states from 0, the embedding layer's."
        )
    return sorted(layers)


def _room_for(representation: Representation, layers: Sequence[int], decoder: Decoder, sentences: int) -> Tensor:
    """(layers, sentences, features) for the results on the model's device."""
    if representation == "embedding":
        return torch.zeros(len(layers), sentences, decoder.hidden_size, device=decoder.device)
    width = max(sum(ffn.neurons for ffn in decoder.ffns[layer - 1]) for layer in layers)
    return torch.zeros(len(layers), sentences, width, device=decoder.device)


def default_token_budget(decoder: Decoder) -> int:
    """Padded tokens in a batch where nothing else is asked for."""
    return decoder.budget(CPU_TOKEN_BUDGET, ACCELERATOR_TOKEN_BUDGET)


def batches(token_ids: Sequence[Sequence[int]], token_budget: int) -> list[list[int]]:
    """Row numbers in batches of at most `token_budget` padded tokens, shortest sentences first.

    Sorting by length keeps padding small; sorting equal lengths by their tokens makes the batches, and so every
    rounding, the same for any order of the sentences.
    """
    order = sorted(range(len(token_ids)), key=lambda row: (len(token_ids[row]), list(token_ids[row])))
    cut: list[list[int]] = []
    for row in order:
        if cut and (len(cut[-1]) + 1) * len(token_ids[row]) <= token_budget:
            cut[-1].append(row)
        else:
            cut.append([row])
    return cut


class _Reader:
    """Puts what the layers hand over in one forward pass into its rows of the results, pooled inside the hooks.

    Nothing of a batch is kept beside the results.

    Args:
        ffns: of all layers.
        chosen: representation -> the layers to read, as `check_layers` returns them.
        encoded: representation -> (layers, sentences, features), to be filled.
        weights: of the batch's tokens, as `token_weights` returns them.
        places: the batch's rows.
    """

    def __init__(
        self,
        ffns: Sequence[Sequence[FFN]],
        chosen: Mapping[Representation, Sequence[int]],
        encoded: Mapping[Representation, Tensor],
        weights: Tensor,
        places: Tensor,
    ) -> None:
        self.ffns = ffns
        self.chosen = chosen
        self.encoded = encoded
        self.weights = weights
        self.places = places
        self.due = {
            (read, layer, part)
            for read, layers in chosen.items()
            for layer in layers
            for part in range(1 if read == "embedding" else len(ffns[layer - 1]))
        }

    @contextmanager
    def watching(self, layers: Sequence[nn.Module], deepest: int) -> Iterator[None]:
        """While open, read a pass through the first `deepest` layers; the last one's norm is behind all of them."""
        hidden = [layer for layer in self.chosen.get("embedding", ()) if layer < deepest]
        with ExitStack() as hooks:
            for read in self.chosen:
                if read != "embedding":
                    ffns = [self.ffns[layer - 1] for layer in self.chosen[read]]
                    hooks.enter_context(watch(ffns, read, partial(self.keep_ffn, read)))
            inputs = [layers[layer] for layer in hidden]
            hooks.enter_context(watch_inputs(inputs, lambda index, values: self.keep_hidden(hidden[index], values)))
            if deepest < len(layers) and deepest in self.chosen.get("embedding", ()):
                hooks.enter_context(watch_output(layers[deepest - 1], partial(self.keep_hidden, deepest)))
            yield

    def keep_hidden(self, layer: int, values: Tensor) -> None:
        """Hidden states (batch, tokens, hidden) of a layer."""
        self._keep("embedding", layer, 0, values)

    def keep_ffn(self, read: NeuronRepresentation, index: int, part: int, values: Tensor) -> None:
        """States or values, (batch * tokens) x neurons, of one of the FFNs of a chosen layer."""
        self._keep(read, self.chosen[read][index], part, values)

    def _keep(self, read: Representation, layer: int, part: int, values: Tensor) -> None:
        if (read, layer, part) not in self.due:
            raise UnreadableFFNError(
                f"layer {layer} was read twice in one forward pass: a module was replaced and no longer calls its "
                "projections once. Restore its forward."
            )
        self.due.remove((read, layer, part))
        # Some FFNs, and all experts, see the batch's tokens in one row.
        pooled = pool_tokens(values.reshape(*self.weights.shape, -1), self.weights).to(self.places.device)
        first = 0 if read == "embedding" else sum(ffn.neurons for ffn in self.ffns[layer - 1][:part])
        room = self.encoded[read][self.chosen[read].index(layer)]
        room[:, first : first + pooled.shape[1]].index_copy_(0, self.places, pooled)

    def end(self) -> None:
        """Raise UnreadableFFNError if something was not read."""
        if self.due:
            _, layer, part = min(self.due)
            raise UnreadableFFNError(
                f"layer {layer} was not read in a forward pass: {self.ffns[layer - 1][part].name} was replaced and no "
                "longer calls its projections. Restore its forward."
            )


def _encode_batch(
    decoder: Decoder,
    chosen: Mapping[Representation, Sequence[int]],
    token_ids: Sequence[Sequence[int]],
    rows: Sequence[int],
    token_pooling: TokenPooling,
    encoded: Mapping[Representation, Tensor],
) -> None:
    """Fill the batch's rows of `encoded`, (layers, sentences, features) on the model's device."""
    batch = [token_ids[row] for row in rows]
    weights = token_weights(torch.tensor([len(ids) for ids in batch], device=decoder.device), token_pooling)
    reader = _Reader(decoder.ffns, chosen, encoded, weights, torch.tensor(rows, device=decoder.device))
    deepest = max(1, *(max(layers) for layers in chosen.values()))
    with reader.watching(decoder.layers, deepest), decoder.first_layers(deepest):
        last_hidden = decoder.run(batch)
    if not bool(torch.isfinite(last_hidden).all()):
        raise NonFiniteActivationError(
            f"the model's activations are NaN or infinite from {_first_non_finite(decoder, batch)} on, so its neurons' "
            "states mean nothing. Its weights have probably diverged, or its dtype overflows: look at the training "
            "loss, or use bfloat16 or float32."
        )
    if len(decoder.layers) in chosen.get("embedding", ()):
        reader.keep_hidden(len(decoder.layers), last_hidden)
    reader.end()


def _first_non_finite(decoder: Decoder, batch: Sequence[Sequence[int]]) -> str:
    """The first module whose output is NaN or infinite in a forward pass that is made anew to find it."""
    layers = decoder.layers
    names = {module: name for name, module in decoder.model.named_modules()}
    found: list[int] = []

    def look(layer: int, hidden: Tensor) -> None:
        if not found and not bool(torch.isfinite(hidden).all()):
            found.append(layer)

    with watch_inputs(layers, look):
        decoder.run(batch)
    if found == [0]:
        return "the embedding layer"
    layer = found[0] - 1 if found else len(layers) - 1
    return f"layer {layer} ({names[layers[layer]]})" + ("" if found else ", or the norm behind it,")
