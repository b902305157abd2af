"""The check before a training and before a survey: what is read from this model is what the paper means.

The check runs the model on one sentence. Without it, a fused projection with swapped halves, an expert that is not
read, or padding that leaks into a sentence would give numbers that look right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.explained import TOKENS, explained
from neuronxa_callback.model.hooks import joined_streams, watch_inputs
from neuronxa_callback.model.layers import UnreadableFFNError
from neuronxa_callback.model.state import is_out_of_memory
from neuronxa_callback.model.tolerance import rounding


def check(decoder: Decoder, token_ids: Sequence[int], neurons: bool = True) -> None:
    """Check on a sentence that this decoder can be measured.

    A pass over the decoder's layers must give what the whole model computes, and padding must not change a sentence.

    Args:
        decoder: the model's.
        token_ids: the sentence.
        neurons: whether FFN neurons will be read. Every FFN must then compute Eq. 1 from the modules that were found,
            and nothing else may add neurons to the residual stream.

    Raises:
        UnreadableFFNError: the model fails; the message names the first module that does and says what to do.
    """
    ids = _of_some_tokens(token_ids, decoder.context_length)
    ffns = [ffn for layer in decoder.ffns for ffn in layer] if neurons else []

    def check_hidden(hidden: Tensor) -> None:
        joined_streams(hidden, 1, len(ids))

    with decoder.evaluation_mode(), _one_sentence_for(decoder):
        with ExitStack() as checks:
            if neurons:
                names = {module: name for name, module in decoder.model.named_modules()}
                checks.enter_context(explained(decoder.layers, decoder.ffns, names))
            # An ExitStack closes in reverse order, so that the first FFN is checked first and its fault is raised.
            for ffn in reversed(ffns):
                checks.enter_context(ffn.checked())
            checks.enter_context(watch_inputs(decoder.layers, lambda _, hidden: check_hidden(hidden)))
            alone = decoder.run([ids])[0]
        _check_padding(decoder, ids, alone)
        _check_wrapper(decoder, ids, alone)


def _of_some_tokens(token_ids: Sequence[int], context_length: int | None) -> list[int]:
    """Return the sentence, repeated until it has as many tokens as the check needs and the context allows."""
    times = -(-TOKENS // len(token_ids))
    return (list(token_ids) * times)[:context_length]


@contextmanager
def _one_sentence_for(decoder: Decoder) -> Iterator[None]:
    """Turn what the model raises on a sentence into one sentence for the user."""
    try:
        yield
    except UnreadableFFNError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200].rstrip(". ")
        raise UnreadableFFNError(
            f"{type(decoder.base).__name__} fails on sentences that it is given as token ids "
            f"({type(error).__name__}: {reason}). NeuronXA measures decoders that take text alone; use another model."
        ) from error


def _check_padding(decoder: Decoder, ids: Sequence[int], alone: Tensor) -> None:
    """Check that a sentence's hidden states (tokens, hidden) stay as they are beside longer sentences.

    Two sizes of batches are tried, because RecurrentGemma of transformers 4.57 fails where a batch has another size
    than the one before.
    """
    longer = [*reversed(ids), *ids][: decoder.context_length]
    for batch in ([ids, longer], [ids, longer, longer]):
        if _tokens_differ(decoder.run(batch)[0, : len(ids)], alone):
            raise UnreadableFFNError(
                f"{type(decoder.base).__name__} gives a sentence other hidden states when the batch holds a longer "
                "one, so its padding or its neighbours leak into it, and no score would mean anything. Use a causal "
                "decoder."
            )


def _check_wrapper(decoder: Decoder, ids: Sequence[int], alone: Tensor) -> None:
    """Check that the whole model, with its PEFT wrapper, computes in its layers what a pass over them alone does."""
    if decoder.model is decoder.base:
        return
    seen: list[Tensor] = []
    handle = decoder.stack.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    try:
        decoder.model(input_ids=torch.tensor([list(ids)], device=decoder.device), use_cache=False)
    finally:
        handle.remove()
    if not seen or _tokens_differ(seen[-1][0], alone):
        raise UnreadableFFNError(
            f"{type(decoder.model).__name__} changes the model from outside its layers, so a pass over them alone "
            "would measure another model. Use LoRA or another adapter inside the layers."
        )


def _tokens_differ(found: Tensor, expected: Tensor) -> bool:
    """Return whether more than a tenth of the tokens, and more than one, have other hidden states (tokens, hidden).

    One may: in a mixture of experts, rounding may send it to another expert.
    """
    distance = torch.linalg.vector_norm(found.float() - expected.float(), dim=-1)
    # TF32, int8 and autocast round float32 hidden states coarser than float32 does.
    tolerance = max(rounding(expected.dtype), 0.01)
    differ = distance > tolerance * torch.linalg.vector_norm(expected.float(), dim=-1)
    return int(differ.sum()) > max(1, len(differ) // 10)
