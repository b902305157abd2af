"""The encoder: it turns sentences into pooled representations.

A token budget limits each batch. A batch takes one forward pass, and hooks pool its tokens during the pass.

Batches are padded on the right, whatever the tokenizer's padding side, because a causal decoder cannot see padding
there. The sentences are sorted by length and token ids before they are cut into batches. So their order cannot change a
single bit. Another token budget, or other sentences in the same call, change the shapes of the batches. Matrix products
of other shapes round differently; docs/method.md says by how much.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neuronxa_callback.alignment.pooling import pool_tokens, token_weights
from neuronxa_callback.model.check import check_once
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.hooks import watch, watch_inputs, watch_output
from neuronxa_callback.model.layers import UnreadableFFNError
from neuronxa_callback.vocabulary import NeuronRepresentation, Representation, TokenPooling, check_choice, reads_neurons

# Both were found by measurement. Small batches stay in a CPU's caches. An accelerator is faster with few large batches.
CPU_TOKEN_BUDGET = 512
ACCELERATOR_TOKEN_BUDGET = 8192


class NonFiniteActivationError(ArithmeticError):
    """The model produced NaN or infinite activations, and no score can be computed from them."""


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
        model: A decoder-only transformers model, plain, quantised or under PEFT, on any one device. Its mode, random
            state and configuration are as before when the call returns.
        tokenizer: The model's tokenizer. It adds its default special tokens, and they are pooled like other tokens.
            "signed" is read without them.
        sentences: The sentences.
        representation: "nas" (activation states: the weighted share of tokens that fire each neuron), "nav" (absolute
            activation values), "embedding" (hidden states in the order of `output_hidden_states=True`) or "signed"
            (activation values with their sign, as SADS reads them: always averaged, without special tokens).
        token_pooling: How tokens become a sentence: weighted (Eq. 3 of the paper), average or last.
        token_budget: Padded tokens in a batch at most; a smaller budget needs less memory. A sentence that is longer
            gets a batch of its own. Default: 512 on a CPU, 8192 elsewhere.
        layers: Which layers to read, such as 8,16,24; the forward pass ends after the deepest. FFNs count from 1. None
            reads all layers. Hidden states count from 0, the embedding layer.

    Returns:
        float32 tensor (layers, sentences, features) on the CPU. The features of "nas", "nav" and "signed" are the
        layer's FFN neurons. If layers have different numbers of neurons, the narrower ones are padded with zeros, which
        change no score. The features of "embedding" are the hidden size. It has one layer more: the embedding layer
        comes first, and the last layer is read after the final norm.

    Raises:
        UnreadableFFNError: the model's FFNs cannot be read.
        NonFiniteActivationError: the model's activations are NaN or infinite.
        ValueError: an unknown representation or pooling, a layer that the model does not have, a sentence without
            tokens, or a sentence longer than the context.
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
    """Read several representations in the same forward passes; otherwise as `encode`.

    "signed" is read without special tokens. It takes passes of its own beside others if the tokenizer adds any.
    """
    for representation in representations:
        check_choice("representation", representation, Representation)
    check_choice("token_pooling", token_pooling, TokenPooling)
    passes = _passes(decoder, sentences, representations)
    chosen = {read: check_layers(layers, read, decoder) for read in representations}
    shortest = min((ids for _, token_ids in passes for ids in token_ids), key=len)
    check_once(decoder, shortest, neurons=reads_neurons(representations))
    encoded = {read: _room_for(read, numbers, decoder, len(sentences)) for read, numbers in chosen.items()}
    with decoder.evaluation_mode():
        for reads, token_ids in passes:
            its = {read: chosen[read] for read in reads}
            for rows in batches(token_ids, token_budget or default_token_budget(decoder)):
                _encode_batch(decoder, its, token_ids, rows, token_pooling, encoded)
    return {representation: values.cpu() for representation, values in encoded.items()}


def _passes(
    decoder: Decoder, sentences: Sequence[str], representations: Sequence[Representation]
) -> list[tuple[Sequence[Representation], list[list[int]]]]:
    """Return which representations are read from which token ids.

    SADS's published code runs the model on sentences without special tokens (github.com/X-LANCE/LinguaFranca, commit
    03f156a, `run.py`). To leave a BOS out of the mean alone would not do: the model behaves otherwise after it.
    """
    token_ids = decoder.tokenize(sentences)
    bare = decoder.tokenize(sentences, special_tokens=False) if "signed" in representations else token_ids
    if bare == token_ids:
        return [(representations, token_ids)]
    others = [read for read in representations if read != "signed"]
    return [*([(others, token_ids)] if others else []), (["signed"], bare)]


def check_layers(layers: Sequence[int] | None, representation: Representation, decoder: Decoder) -> list[int]:
    """Return the numbers of the chosen layers in order; for None, those of all layers that have the representation.

    Raises:
        UnreadableFFNError: the model's FFNs cannot be read.
        ValueError: `layers` is empty, repeats a number, or names a layer that the model does not have.
    """
    there = list(range(len(decoder.layers) + 1)) if representation == "embedding" else decoder.ffn_layers
    if layers is None:
        return there
    if not layers or len(set(layers)) < len(layers) or not set(layers) <= set(there):
        raise ValueError(
            f"layers={list(layers)} must be different numbers from {_ranges(there)} for {representation}: FFNs count "
            "from 1, and hidden states from 0, which is the embedding layer."
        )
    return sorted(layers)


def _ranges(numbers: Sequence[int]) -> str:
    """Return rising numbers in words: "1 to 30", or each one where some are left out."""
    if len(numbers) == numbers[-1] - numbers[0] + 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def _room_for(representation: Representation, layers: Sequence[int], decoder: Decoder, sentences: int) -> Tensor:
    """Return a tensor of zeros (layers, sentences, features) for the results, on the model's device."""
    if representation == "embedding":
        return torch.zeros(len(layers), sentences, decoder.hidden_size, device=decoder.device)
    width = max(sum(ffn.neurons for ffn in decoder.ffns[layer - 1]) for layer in layers)
    return torch.zeros(len(layers), sentences, width, device=decoder.device)


def default_token_budget(decoder: Decoder) -> int:
    """Return the token budget that is used when none is given."""
    return decoder.budget(CPU_TOKEN_BUDGET, ACCELERATOR_TOKEN_BUDGET)


def batches(token_ids: Sequence[Sequence[int]], token_budget: int) -> list[list[int]]:
    """Group row numbers into batches of at most `token_budget` padded tokens, shortest sentences first.

    Sorting by length keeps padding small. Sentences of equal length are sorted by their tokens. So the batches, and
    with them every rounding, are the same for any order of the sentences.
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
        self.due = {
            (read, layer, part)
            for read, layers in chosen.items()
            for layer in layers
            for part in range(1 if read == "embedding" else len(self.ffns[layer - 1]))
        }

    @contextmanager
    def watching(self, layers: Sequence[nn.Module], deepest: int) -> Iterator[None]:
        """Read a forward pass through the first `deepest` layers while the context is open.

        The model's last hidden state is not read here, because the final norm comes after all layers.
        """
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
        """Pool and keep the hidden states of a layer, of all its residual streams.

        The last hidden state is one stream. It is filled up with zeros, which change no score.
        """
        values = self.decoder.joined_streams(values, *self.weights["embedding"].shape)
        width, room = values.shape[-1], self.encoded["embedding"]
        if width > room.shape[-1]:
            self.encoded["embedding"] = nn.functional.pad(room, (0, width - room.shape[-1]))
        self._keep("embedding", layer, 0, values)

    def keep_ffn(self, read: NeuronRepresentation, index: int, part: int, values: Tensor) -> None:
        """Pool and keep the states or values, (batch * tokens) x neurons, of one FFN of a chosen layer."""
        self._keep(read, self.chosen[read][index], part, values)

    def _keep(self, read: Representation, layer: int, part: int, values: Tensor) -> None:
        if (read, layer, part) not in self.due:
            raise UnreadableFFNError(
                f"layer {layer} was read twice in one forward pass: a module was replaced and no longer calls its "
                "projections exactly once. Restore its forward."
            )
        self.due.remove((read, layer, part))
        # Some FFNs, and all experts, see the batch's tokens in one flat row.
        weights = self.weights[read]
        pooled = pool_tokens(values.reshape(*weights.shape, -1), weights).to(self.places.device)
        first = 0 if read == "embedding" else sum(ffn.neurons for ffn in self.ffns[layer - 1][:part])
        room = self.encoded[read][self.chosen[read].index(layer)]
        room[:, first : first + pooled.shape[1]].index_copy_(0, self.places, pooled)

    def end(self) -> None:
        """Raise UnreadableFFNError if a chosen layer was not read."""
        if self.due:
            read, layer, part = min(self.due)
            where = "the layer" if read == "embedding" else self.ffns[layer - 1][part].name
            raise UnreadableFFNError(
                f"layer {layer} was not read in a forward pass: {where} was replaced and no longer calls its "
                "projections. Restore its forward."
            )


def _encode_batch(
    decoder: Decoder,
    chosen: Mapping[Representation, Sequence[int]],
    token_ids: Sequence[Sequence[int]],
    rows: Sequence[int],
    token_pooling: TokenPooling,
    encoded: dict[Representation, Tensor],
) -> None:
    """Run one batch and fill its rows of `encoded`, tensors (layers, sentences, features) on the model's device."""
    batch = [token_ids[row] for row in rows]
    lengths = torch.tensor([len(ids) for ids in batch], device=decoder.device)
    # The source sums signed values. Their mean has the same cosines, and its size does not grow with the sentence.
    weights = {read: token_weights(lengths, "average" if read == "signed" else token_pooling) for read in chosen}
    reader = _Reader(decoder, chosen, encoded, weights, torch.tensor(rows, device=decoder.device))
    deepest = max(1, *(max(layers) for layers in chosen.values()))
    with reader.watching(decoder.layers, deepest), decoder.first_layers(deepest):
        last_hidden = decoder.run(batch)
    if not bool(torch.isfinite(last_hidden).all()):
        raise NonFiniteActivationError(
            f"the model's activations are NaN or infinite from {_first_non_finite(decoder, batch)} on, so its neurons' "
            "states mean nothing. Its weights have probably diverged, or its dtype overflows. Look at the training "
            "loss, or use bfloat16 or float32."
        )
    if len(decoder.layers) in chosen.get("embedding", ()):
        reader.keep_hidden(len(decoder.layers), last_hidden)
    reader.end()


def _first_non_finite(decoder: Decoder, batch: Sequence[Sequence[int]]) -> str:
    """Run the batch again and name the first module whose output is NaN or infinite."""
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
