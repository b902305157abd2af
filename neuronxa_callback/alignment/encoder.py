"""Sentences to pooled representations: batches by token budget, one forward pass, pooling inside the hooks.

Batches are padded on the right, where a causal decoder cannot see the padding, whatever the tokenizer's padding side,
and they are cut from the sentences sorted by length and token ids, so that the order of the sentences cannot change a
single bit. Another token budget, or other sentences beside one, make batches of other shapes, whose matrix products
round differently: see docs/method.md for how much.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from neuronxa_callback.model import neurons
from neuronxa_callback.vocabulary import Representation, TokenPooling, check_choice

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Measured, not derived: on a CPU small batches stay in its caches; an accelerator wants fewer, larger ones.
CPU_TOKEN_BUDGET = 512
ACCELERATOR_TOKEN_BUDGET = 8192
# Elements weighted at once while pooling, which bounds the hook's own memory: what a CPU's cache holds, and enough
# to fill an accelerator.
CPU_POOLING_CHUNK = 200_000
ACCELERATOR_POOLING_CHUNK = 16_000_000


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
    return encode_all(model, tokenizer, sentences, (representation,), token_pooling, token_budget, layers)[
        representation
    ]


def encode_all(
    model: nn.Module,
    tokenizer: Any,
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
    token_ids = tokenize(tokenizer, sentences, context_length(model))
    if token_budget is None:
        token_budget = default_token_budget(model)
    ffns = neurons.find_ffns(model)
    chosen = {read: check_layers(layers, read, len(ffns)) for read in representations}
    encoded = {read: _room_for(read, numbers, ffns, model, len(token_ids)) for read, numbers in chosen.items()}
    with undisturbed(model):
        for rows in batches(token_ids, token_budget):
            _encode_batch(model, ffns, chosen, token_ids, rows, token_pooling, encoded)
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


def _room_for(
    representation: Representation,
    layers: Sequence[int],
    ffns: Sequence[Sequence[neurons.FFN]],
    model: nn.Module,
    sentences: int,
) -> Tensor:
    """(layers, sentences, features) for the results on the model's device."""
    if representation == "embedding":
        return torch.zeros(len(layers), sentences, neurons.text_config(model).hidden_size, device=device_of(model))
    width = max(sum(ffn.neurons for ffn in ffns[layer - 1]) for layer in layers)
    return torch.zeros(len(layers), sentences, width, device=device_of(model))


def default_token_budget(model: nn.Module) -> int:
    """Padded tokens in a batch where nothing else is asked for."""
    return CPU_TOKEN_BUDGET if device_of(model).type == "cpu" else ACCELERATOR_TOKEN_BUDGET


def tokenize(tokenizer: Any, sentences: Sequence[str], max_tokens: int | None = None) -> list[list[int]]:
    """Token ids of each sentence with the tokenizer's own special tokens, without padding or truncation.

    Sentences are tokenised one by one: the parallel mode of fast tokenizers would make every DataLoader worker that
    is forked afterwards print a warning.

    Raises:
        ValueError: a sentence gives no token, or more than `max_tokens`; the message shows it.
    """
    token_ids: list[list[int]] = []
    for sentence in sentences:
        ids = list(tokenizer(sentence, padding=False, truncation=False, verbose=False)["input_ids"])
        if not ids:
            raise ValueError(f"the tokenizer makes no token of the held-out sentence {sentence!r}; remove it.")
        if max_tokens is not None and len(ids) > max_tokens:
            raise ValueError(
                f"the held-out sentence {sentence[:60]!r}... has {len(ids)} tokens, more than the model's context of "
                f"{max_tokens}; remove or split it."
            )
        token_ids.append(ids)
    return token_ids


def special_tokens(tokenizer: Any) -> str:
    """The special tokens that the tokenizer adds, for the signature: "none", "bos", "bos+eos", ..."""
    text = "a"
    bare = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    added = [token for token in tokenizer(text)["input_ids"] if token not in bare]
    names = {getattr(tokenizer, f"{name}_token_id", None): name for name in ("sep", "cls", "eos", "bos")}
    return "+".join(names.get(token, str(token)) for token in added) or "none"


def compute_dtype(model: nn.Module) -> str:
    """What the arithmetic runs in, for the signature: "float32", "bfloat16/nf4", "float32/autocast-bfloat16", ..."""
    base = neurons.base_model(model)
    parts = [str(base.dtype).removeprefix("torch.")]
    quantization = getattr(base.config, "quantization_config", None)  # type: ignore[union-attr]
    if quantization is not None:
        name = quantization.quantization_method() if hasattr(quantization, "quantization_method") else "quantised"
        parts.append(str(name))
    device_type = device_of(model).type
    if torch.is_autocast_enabled(device_type):
        parts.append(f"autocast-{torch.get_autocast_dtype(device_type)}".replace("torch.", ""))
    return "/".join(parts)


def context_length(model: nn.Module) -> int | None:
    """The model's longest input in tokens, None where its configuration does not say."""
    return getattr(neurons.text_config(model), "max_position_embeddings", None)


def device_of(model: nn.Module) -> torch.device:
    """The device that the model's input goes to."""
    return neurons.base_model(model).get_input_embeddings().weight.device  # type: ignore[operator, no-any-return]


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


def run_decoder(model: nn.Module, token_ids: Sequence[Sequence[int]]) -> Tensor:
    """One forward pass of the decoder layers, without LM head and KV cache, over right-padded sentences.

    No attention mask is needed: in a causal decoder no token sees the padding to its right.

    Returns:
        last hidden states (batch, tokens, hidden), those of the padding included.
    """
    device = device_of(model)
    longest = max(len(ids) for ids in token_ids)
    padded = torch.tensor([[*ids, *[ids[-1]] * (longest - len(ids))] for ids in token_ids], device=device)
    output = neurons.decoder(model)(input_ids=padded, use_cache=False)
    return output.last_hidden_state  # type: ignore[no-any-return]


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each module's mode and the random state are put back at the end.

    The mode is set module by module, since a module may give `train()` side effects of its own (merging adapters)
    and a user may keep some modules in evaluation mode while training.
    """
    modes = [(module, module.training) for module in model.modules()]
    device = device_of(model)
    devices = [device] if device.type not in ("cpu", "mps", "meta") else []
    with torch.no_grad(), torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        try:
            for module, _ in modes:
                module.training = _rewrites_its_weights(module)
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def _rewrites_its_weights(module: nn.Module) -> bool:
    """Whether a forward pass in evaluation mode would change the weights for good.

    On CPUs with AVX512-BF16, bitsandbytes' Linear4bit repacks its weights at the first such pass: scales are rounded
    to bfloat16, and no gradient goes through it any more (seen in 0.50.2). It has no other use for its mode.
    """
    return bool(getattr(module, "support_avx512bf16_for_cpu", False))


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
        ffns: Sequence[Sequence[neurons.FFN]],
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
                    hooks.enter_context(neurons.watch(ffns, read, partial(self.keep_ffn, read)))
            inputs = [layers[layer] for layer in hidden]
            hooks.enter_context(
                neurons.watch_inputs(inputs, lambda index, values: self.keep_hidden(hidden[index], values))
            )
            if deepest < len(layers) and deepest in self.chosen.get("embedding", ()):
                hooks.enter_context(neurons.watch_output(layers[deepest - 1], partial(self.keep_hidden, deepest)))
            yield

    def keep_hidden(self, layer: int, values: Tensor) -> None:
        """Hidden states (batch, tokens, hidden) of a layer."""
        self._keep("embedding", layer, 0, values)

    def keep_ffn(self, read: neurons.NeuronRepresentation, index: int, part: int, values: Tensor) -> None:
        """States or values, (batch * tokens) x neurons, of one of the FFNs of a chosen layer."""
        self._keep(read, self.chosen[read][index], part, values)

    def _keep(self, read: Representation, layer: int, part: int, values: Tensor) -> None:
        if (read, layer, part) not in self.due:
            raise neurons.UnreadableFFNError(
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
            raise neurons.UnreadableFFNError(
                f"layer {layer} was not read in a forward pass: {self.ffns[layer - 1][part].name} was replaced and no "
                "longer calls its projections. Restore its forward."
            )


def _encode_batch(
    model: nn.Module,
    ffns: Sequence[Sequence[neurons.FFN]],
    chosen: Mapping[Representation, Sequence[int]],
    token_ids: Sequence[Sequence[int]],
    rows: Sequence[int],
    token_pooling: TokenPooling,
    encoded: Mapping[Representation, Tensor],
) -> None:
    """Fill the batch's rows of `encoded`, (layers, sentences, features) on the model's device."""
    batch = [token_ids[row] for row in rows]
    device = device_of(model)
    weights = token_weights(torch.tensor([len(ids) for ids in batch], device=device), token_pooling)
    reader = _Reader(ffns, chosen, encoded, weights, torch.tensor(rows, device=device))
    deepest = max(1, *(max(layers) for layers in chosen.values()))
    layers = neurons.decoder_layers(model)
    with reader.watching(layers, deepest), neurons.first_layers(model, deepest):
        last_hidden = run_decoder(model, batch)
    if not bool(torch.isfinite(last_hidden).all()):
        raise NonFiniteActivationError(
            f"the model's activations are NaN or infinite from {_first_non_finite(model, batch)} on, so its neurons' "
            "states mean nothing. Its weights have probably diverged, or its dtype overflows: look at the training "
            "loss, or use bfloat16 or float32."
        )
    if len(layers) in chosen.get("embedding", ()):
        reader.keep_hidden(len(layers), last_hidden)
    reader.end()


def _first_non_finite(model: nn.Module, batch: Sequence[Sequence[int]]) -> str:
    """The first module whose output is NaN or infinite in a forward pass that is made anew to find it."""
    layers = neurons.decoder_layers(model)
    names = {module: name for name, module in model.named_modules()}
    found: list[int] = []

    def look(layer: int, hidden: Tensor) -> None:
        if not found and not bool(torch.isfinite(hidden).all()):
            found.append(layer)

    with neurons.watch_inputs(layers, look):
        run_decoder(model, batch)
    if found == [0]:
        return "the embedding layer"
    layer = found[0] - 1 if found else len(layers) - 1
    return f"layer {layer} ({names[layers[layer]]})" + ("" if found else ", or the norm behind it,")


def within_memory(run: Callable[[int], T], token_budget: int, longest: Callable[[], int]) -> tuple[T, int]:
    """Run with a token budget, halved as often as memory runs out.

    Args:
        run: is given the budget.
        token_budget: to begin with.
        longest: says the tokens of the longest sentence: at a budget of no more it stands alone, and less would not
            help.

    Returns:
        what `run` returned, and the budget that it fitted in.

    Raises:
        Exception: whatever `run` raised, out of memory at the smallest budget included.
    """
    while True:
        try:
            return run(token_budget), token_budget
        except Exception as error:
            if not is_out_of_memory(error) or token_budget <= longest():
                raise
        # Not in the handler: there the traceback still holds what filled the memory.
        token_budget //= 2
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        logger.warning("NeuronXA: out of memory; going on with batches of %d tokens (token_budget).", token_budget)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory, an accelerator's or the CPU's, for a tensor."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in said or "DefaultCPUAllocator" in said)
    )


def token_weights(lengths: Tensor, token_pooling: TokenPooling) -> Tensor:
    """The share of each token in its sentence's representation; padding has none.

    "weighted" is Eq. 3 of the paper, w_t = t / sum k, t counting the sentence's tokens from 1.

    Args:
        lengths: (batch,) token counts.
        token_pooling: "weighted", "average" or "last".

    Returns:
        float32 (batch, tokens), integers until `pool_tokens` divides by their sum.
    """
    position = torch.arange(1, int(lengths.max()) + 1, device=lengths.device, dtype=torch.float32)
    length = lengths.unsqueeze(1)
    if token_pooling == "weighted":
        return position * (position <= length)
    if token_pooling == "average":
        return (position <= length).float()
    return (position == length).float()


def pool_tokens(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over tokens in float32 (Eq. 3).

    The weights are whole numbers and the division comes last: for states the sum is a whole number below 2^24 (up
    to 5,792 tokens), so the result is exact to one rounding, whatever the order of summation.

    Args:
        values: (batch, tokens, features), of any dtype.
        weights: (batch, tokens), as `token_weights` returns them.

    Returns:
        float32 (batch, features).
    """
    weights = weights.to(values.device)  # layers of a model split over devices
    chunk = CPU_POOLING_CHUNK if values.device.type == "cpu" else ACCELERATOR_POOLING_CHUNK
    rows = max(1, chunk // (values.shape[1] * values.shape[2]))
    dtype = torch.promote_types(values.dtype, weights.dtype)
    sums = torch.empty(values.shape[0], values.shape[2], dtype=dtype, device=values.device)
    # Multiply (which promotes to float32) and sum rather than a matrix product, which autocast and TF32 would run in
    # lower precision.
    for value, weight, place in zip(values.split(rows), weights.split(rows), sums.split(rows), strict=True):
        torch.sum(value * weight.unsqueeze(-1), dim=1, out=place)
    return (sums / weights.sum(dim=1, keepdim=True)).float()
