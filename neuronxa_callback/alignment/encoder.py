"""The encoder: it turns sentences into pooled representations.

A token budget limits each batch. A batch takes one forward pass, and hooks pool its tokens during the pass.

Batches are padded on the right, whatever the tokenizer's padding side, because a causal decoder cannot see padding
there. The sentences are sorted by length and token ids before they are cut into the batches that cost least. So their
order cannot change a single bit. Another token budget, or other sentences in the same call, change the shapes of the
batches. Matrix products of other shapes round differently; docs/explanation/method.md says by how much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neuronxa_callback.alignment.batches import shares
from neuronxa_callback.alignment.pooling import token_weights
from neuronxa_callback.alignment.reader import Reader
from neuronxa_callback.model.check import check_once
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.hooks import watch, watch_inputs
from neuronxa_callback.ranks import OutOfStepError
from neuronxa_callback.vocabulary import Representation, TokenPooling, check_choice, reads_neurons

# Both were found by measurement. Small batches stay in a CPU's caches. An accelerator is faster with few large batches.
CPU_TOKEN_BUDGET = 512
ACCELERATOR_TOKEN_BUDGET = 8192

# The fixed cost of a forward pass on a CPU, as a number of tokens (benchmarks/README.md). It was not measured on an
# accelerator, which makes as few passes as the budget allows.
CPU_PASS_TOKENS = 64


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

    If several processes share the sentences (`Decoder.readers`), each reads its share, and all make as many forward
    passes. The first process returns the representations of all sentences, and the others return none.

    Raises:
        RankError: another process failed, besides the errors of `encode`.
        OutOfStepError: see `Decoder.in_one_step`.
    """
    for representation in representations:
        check_choice("representation", representation, Representation)
    check_choice("token_pooling", token_pooling, TokenPooling)
    with decoder.ranks.together():
        passes = _passes(decoder, sentences, representations)
        chosen = {read: check_layers(layers, read, decoder) for read in representations}
        shortest = min((ids for _, token_ids in passes for ids in token_ids), key=len)
        check_once(decoder, shortest, neurons=reads_neurons(representations))
    budget = token_budget or default_token_budget(decoder)
    encoded: dict[Representation, Tensor] = {}
    with decoder.evaluation_mode():
        for reads, token_ids in passes:
            its = {read: chosen[read] for read in reads}
            encoded |= _encode_pass(decoder, its, token_ids, token_pooling, budget)
    return encoded


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


def default_token_budget(decoder: Decoder) -> int:
    """Return the token budget that is used when none is given."""
    return decoder.budget(CPU_TOKEN_BUDGET, ACCELERATOR_TOKEN_BUDGET)


def pass_tokens(decoder: Decoder) -> int | None:
    """Return the fixed cost of a forward pass, as `batches` takes it."""
    return CPU_PASS_TOKENS if decoder.device.type == "cpu" else None


def _encode_pass(
    decoder: Decoder,
    chosen: Mapping[Representation, Sequence[int]],
    token_ids: Sequence[Sequence[int]],
    token_pooling: TokenPooling,
    token_budget: int,
) -> dict[Representation, Tensor]:
    """Read each sentence once, on one of the processes, and return the results on the first (on the CPU)."""
    readers = decoder.readers
    dealt = shares(token_ids, token_budget, pass_tokens(decoder), readers.size)
    places = [sorted(row for batch in its for row in batch) for its in dealt]
    with decoder.ranks.together():
        share = _Share(decoder, chosen, token_ids, token_pooling, places[readers.rank])
        share.read(dealt[readers.rank], rounds=len(dealt[0]))
    if any(decoder.ranks.values(bool(share.not_finite))):
        with decoder.ranks.together():
            share.raise_not_finite()
    if readers.size == 1:
        return {read: values.cpu() for read, values in share.encoded.items()}
    # A process that read no sentence does not know how many residual streams a layer has.
    widths = readers.values({read: values.shape[-1] for read, values in share.encoded.items()})
    whole = {
        read: readers.gathered(_widened(values, max(its[read] for its in widths)), places, len(token_ids))
        for read, values in share.encoded.items()
    }
    return {read: values for read, values in whole.items() if values is not None}


def _widened(values: Tensor, features: int) -> Tensor:
    missing = features - values.shape[-1]
    return nn.functional.pad(values, (0, missing)) if missing else values  # pad copies in any case


class _Share:
    """The sentences that this process reads.

    Args:
        decoder: the model's.
        chosen: representation -> the layers to read, as `check_layers` returns them.
        token_ids: all sentences, those of the other processes too.
        token_pooling: how tokens become a sentence.
        rows: the places of this process's sentences among them, rising.

    Attributes:
        encoded: representation -> the results (layers, sentences of this process, features), on the model's device.
        not_finite: a batch whose hidden states were NaN or infinite; empty if there was none.
    """

    def __init__(
        self,
        decoder: Decoder,
        chosen: Mapping[Representation, Sequence[int]],
        token_ids: Sequence[Sequence[int]],
        token_pooling: TokenPooling,
        rows: Sequence[int],
    ) -> None:
        self.decoder = decoder
        self.chosen = chosen
        self.encoded = {read: _room_for(read, layers, decoder, len(rows)) for read, layers in chosen.items()}
        self.not_finite: list[Sequence[int]] = []
        self._token_ids = token_ids
        self._token_pooling = token_pooling
        self._places = {row: place for place, row in enumerate(rows)}
        self._spare = [min(token_ids, key=len)]
        self._deepest = max(1, *(max(layers) for layers in chosen.values()))

    def read(self, batches: Sequence[Sequence[int]], rounds: int) -> None:
        """Read batches of rows in as many forward passes as other processes make.

        A fault ends the reading. Where all processes must make the same passes, it is raised after the last one.

        Args:
            batches: the rows of each batch.
            rounds: the number of passes. Those that have no batch run a sentence for the other processes' sake.
        """
        failed: Exception | None = None
        for number in range(rounds):
            try:
                if number >= len(batches):
                    self._run_spare()
                elif not self.not_finite or self.decoder.in_step:
                    self._read(batches[number])
            except Exception as error:
                if isinstance(error, OutOfStepError) or not self.decoder.in_step:
                    raise
                failed = failed or error
        if failed is not None:
            raise failed

    def _run_spare(self) -> None:
        """Make the pass of a batch, and call the modules that reading a batch calls, without keeping anything."""
        neurons = {read: layers for read, layers in self.chosen.items() if read != "embedding"}
        ffns = self.decoder.ffns if neurons else []
        with self.decoder.in_one_step(), watch(ffns, neurons, lambda *read: None):
            self._run(self._spare)

    def _read(self, rows: Sequence[int]) -> None:
        with self.decoder.in_one_step():
            batch, device = [self._token_ids[row] for row in rows], self.decoder.device
            lengths = torch.tensor([len(ids) for ids in batch], device=device)
            # The source sums signed values. Their mean has the same cosines, and does not grow with the sentence.
            pooling = {read: "average" if read == "signed" else self._token_pooling for read in self.chosen}
            weights = {read: token_weights(lengths, how) for read, how in pooling.items()}
            places = torch.tensor([self._places[row] for row in rows], device=device)
            reader = Reader(self.decoder, self.chosen, self.encoded, weights, places)
            with reader.watching(self.decoder.layers, self._deepest):
                last = reader.last_of(partial(self._run, batch))
        reader.raise_fault()
        if not bool(torch.isfinite(last).all()):
            self.not_finite = batch
            return
        if len(self.decoder.layers) in self.chosen.get("embedding", ()):
            reader.keep_hidden(len(self.decoder.layers), last)
        reader.end()

    def _run(self, batch: Sequence[Sequence[int]]) -> Tensor:
        """Run the layers that are read, and return the last one's hidden states (batch, tokens, hidden)."""
        with self.decoder.first_layers(self._deepest):
            return self.decoder.run(batch)

    def raise_not_finite(self) -> None:
        """Run the batch that was not finite again, and name the first module whose output is NaN or infinite.

        A process without such a batch runs a sentence for the other processes' sake.

        Raises:
            NonFiniteActivationError: this process has such a batch.
        """
        layers = self.decoder.layers
        found: list[int] = []

        def look(layer: int, hidden: Tensor) -> None:
            if not found and not bool(torch.isfinite(hidden).all()):
                found.append(layer)

        with watch_inputs(layers, look), self.decoder.in_one_step():
            self.decoder.run(self.not_finite or self._spare)
        if self.not_finite:
            raise NonFiniteActivationError(
                f"the model's activations are NaN or infinite from {self._beginning(found)} on, so its neurons' states "
                "mean nothing. Its weights have probably diverged, or its dtype overflows. Look at the training loss, "
                "or use bfloat16 or float32."
            )

    def _beginning(self, found: Sequence[int]) -> str:
        if found == [0]:
            return "the embedding layer"
        layers = self.decoder.layers
        names = {module: name for name, module in self.decoder.model.named_modules()}
        layer = found[0] - 1 if found else len(layers) - 1
        return f"layer {layer} ({names[layers[layer]]})" + ("" if found else ", or the norm behind it,")


def _room_for(representation: Representation, layers: Sequence[int], decoder: Decoder, sentences: int) -> Tensor:
    """Return a tensor of zeros (layers, sentences, features) for the results, on the model's device."""
    if representation == "embedding":
        return torch.zeros(len(layers), sentences, decoder.hidden_size, device=decoder.device)
    width = max(sum(ffn.neurons for ffn in decoder.ffns[layer - 1]) for layer in layers)
    return torch.zeros(len(layers), sentences, width, device=decoder.device)
