"""The check before a training and before a survey: what is read from this model is what the paper means.

The check runs the model on one sentence. Without it, a fused projection with swapped halves, an expert that is not
read, or padding that leaks into a sentence would give numbers that look right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.dense import DenseFFN
from neuronxa_callback.model.experts import Experts
from neuronxa_callback.model.explained import TOKENS, explained
from neuronxa_callback.model.hooks import watch_inputs
from neuronxa_callback.model.layers import UnreadableFFNError
from neuronxa_callback.model.state import is_out_of_memory
from neuronxa_callback.model.taps import removing
from neuronxa_callback.model.tolerance import of_kernels, rounding, tokens_that_differ

LEAK = 0.01  # share of a hidden state that rounding in all layers together does not reach in float32


@dataclass(frozen=True)
class _Read:
    """What is read of a model, and by which forwards it computes it.

    Attributes:
        layers: the layers with an FFN, or None for hidden states alone.
        forwards: the code of the forward of each module that holds an FFN. A kernel may replace it at any time.
    """

    layers: tuple[int, ...] | None
    forwards: tuple[Any, ...] = ()


# Models that were checked, and what was then read of them.
_checked: WeakKeyDictionary[nn.Module, set[_Read]] = WeakKeyDictionary()


class _NonFiniteError(ArithmeticError):
    """The hidden states are NaN or infinite, so that nothing can be compared."""


def check_once(decoder: Decoder, token_ids: Sequence[int], neurons: bool = True) -> None:
    """Check a model as `check` does, unless this process has checked it before with the FFNs' present forwards.

    It is checked again as long as adapters add too little to tell whether a fused forward leaves them out.

    Raises:
        UnreadableFFNError: the model fails, or a layer that had an FFN at the check before has none any more. Its
            scores would be of other layers than the scores before.
    """
    known = _checked.get(decoder.model, set())
    read = _read_of(decoder, neurons)
    if read in known:
        return
    before = {layer for other in known for layer in other.layers or ()}
    if read.layers is not None and (lost := sorted(before - set(read.layers))):
        names = {module: name for name, module in decoder.model.named_modules()}
        raise UnreadableFFNError(
            f"{names[decoder.layers[lost[0] - 1]]} has no FFN that can be read any more, and had one when the model "
            "was checked. Restore it."
        )
    check(decoder, token_ids, neurons)


def _read_of(decoder: Decoder, neurons: bool) -> _Read:
    if not neurons:
        return _Read(None)
    forwards = [_code_of(ffn.module.forward) for layer in decoder.ffns for ffn in layer]
    return _Read(tuple(decoder.ffn_layers), tuple(forwards))


def _code_of(forward: Any) -> Any:
    """Return the code of a method or function, which holds no model in memory, or the type of another callable."""
    if isinstance(forward, partial):
        return _code_of(forward.func)
    if isinstance(forward, MethodType):
        return _code_of(forward.__func__)
    return getattr(forward, "__code__", type(forward))


def check(decoder: Decoder, token_ids: Sequence[int], neurons: bool = True) -> None:
    """Check on a sentence that this decoder can be measured.

    A pass over the decoder's layers must give what the whole model computes, and padding must not change a sentence.
    A model with NaN or infinite activations passes: an evaluation names the layer where they begin, and a training
    may go on after it.

    Args:
        decoder: the model's.
        token_ids: the sentence.
        neurons: whether FFN neurons will be read. Every FFN must then compute Eq. 1 from the modules that were found,
            and nothing else may add neurons to the residual stream.

    Raises:
        UnreadableFFNError: the model fails; the message names the first module that does and says what to do.
    """
    ids = _of_some_tokens(token_ids, decoder.context_length)
    _check_vocabulary(decoder, ids)
    if neurons and decoder.tensor_mesh is not None:
        _check_no_experts(decoder)
    with decoder.evaluation_mode(), _one_sentence_for(decoder):
        share = rounding(decoder.model, decoder.device)
        undecided: list[DenseFFN] = []
        try:
            alone = _checked_pass(decoder, ids, neurons, share, undecided)
        except _NonFiniteError:
            return
        _check_padding(decoder, ids, alone, max(share, LEAK))
        _check_wrapper(decoder, ids, alone, max(share, LEAK))
    if not undecided:
        _checked.setdefault(decoder.model, set()).add(_read_of(decoder, neurons))


def _of_some_tokens(token_ids: Sequence[int], context_length: int | None) -> list[int]:
    """Return as many tokens of the sentence as the check needs and the context allows. A short one is repeated."""
    times = -(-TOKENS // len(token_ids))
    return (list(token_ids) * times)[: min(2 * TOKENS, context_length or 2 * TOKENS)]


def _check_vocabulary(decoder: Decoder, ids: Sequence[int]) -> None:
    known = getattr(decoder.base.get_input_embeddings(), "num_embeddings", None)  # type: ignore[operator]
    if known is not None and max(ids) >= known:
        raise UnreadableFFNError(
            f"the tokenizer gives the token id {max(ids)}, and {type(decoder.base).__name__} has {known} embeddings; "
            "call model.resize_token_embeddings(len(tokenizer)), or use the model's own tokenizer."
        )


def _check_no_experts(decoder: Decoder) -> None:
    if any(isinstance(ffn, Experts) for layer in decoder.ffns for ffn in layer):
        raise UnreadableFFNError(
            f"the experts of {type(decoder.base).__name__} are split over processes (tensor parallel), and their "
            "neurons cannot be gathered. Load the model without tp_plan, and split it by FSDP or DeepSpeed."
        )


@contextmanager
def _one_sentence_for(decoder: Decoder) -> Iterator[None]:
    """Turn what the model raises on a sentence into one sentence for the user."""
    try:
        yield
    except UnreadableFFNError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            with decoder.in_one_step():  # other faults are those of the model, so that all processes have them
                raise
        reason = " ".join(str(error).split())[:200].rstrip(". ")
        raise UnreadableFFNError(
            f"{type(decoder.base).__name__} cannot be checked on sentences of token ids "
            f"({type(error).__name__}: {reason}). NeuronXA measures decoders that take text alone; use another model."
        ) from error


def _checked_pass(
    decoder: Decoder, ids: Sequence[int], neurons: bool, share: float, undecided: list[DenseFFN]
) -> Tensor:
    """Check the layers in passes over the sentence, and return its last hidden states (tokens, hidden).

    Args:
        decoder: the model's.
        ids: the sentence.
        neurons: whether the FFNs are checked.
        share: what `rounding` returns.
        undecided: gets the FFNs of which nothing tells yet whether their forwards leave their adapters out.
    """
    ran: list[int] = []

    def see(layer: int, hidden: Tensor) -> None:
        decoder.joined_streams(hidden, 1, len(ids))
        ran.append(layer)

    with ExitStack() as checks:
        if neurons:
            # An ExitStack closes in reverse order, so that the first FFN is checked first and its fault is raised.
            for ffn in reversed([ffn for layer in decoder.ffns for ffn in layer]):
                if isinstance(ffn, DenseFFN):
                    checks.enter_context(ffn.checked(of_kernels(share), partial(undecided.append, ffn)))
                else:
                    checks.enter_context(ffn.checked())
        checks.enter_context(watch_inputs(decoder.layers, see))
        alone = decoder.run([ids])[0]
        if not bool(torch.isfinite(alone).all()):
            raise _NonFiniteError
    if ran != list(range(len(decoder.layers))):
        raise UnreadableFFNError(
            f"the layers of {type(decoder.stack).__name__} do not run one after the other, each once, in a forward "
            f"pass, but {', '.join(str(layer + 1) for layer in ran)}. Use another model."
        )
    if neurons:
        names = {module: name for name, module in decoder.model.named_modules()}
        with explained(decoder.layers, decoder.ffns, names, share, decoder.is_sharded):
            decoder.run([ids])
    return alone


def _check_padding(decoder: Decoder, ids: Sequence[int], alone: Tensor, tolerance: float) -> None:
    """Check that a sentence's hidden states (tokens, hidden) stay as they are beside longer sentences.

    Two sizes of batches are tried, because RecurrentGemma of transformers 4.57 fails where a batch has another size
    than the one before.
    """
    longer = [*reversed(ids), *ids][: decoder.context_length]
    for batch in ([ids, longer], [ids, longer, longer]):
        if _is_other(decoder, decoder.run(batch)[0, : len(ids)], alone, tolerance):
            raise UnreadableFFNError(
                f"{type(decoder.base).__name__} gives a sentence other hidden states when the batch holds a longer "
                "one, so its padding or its neighbours leak into it, and no score would mean anything. Use a causal "
                "decoder whose sentences do not depend on their batch."
            )


def _check_wrapper(decoder: Decoder, ids: Sequence[int], alone: Tensor, tolerance: float) -> None:
    """Check that the whole model, with its PEFT wrapper, computes in its layers what a pass over them alone does."""
    if decoder.model is decoder.base:
        return
    seen: list[Tensor] = []
    with removing(decoder.stack.register_forward_hook(lambda module, args, output: seen.append(output[0]))):
        decoder.model(input_ids=torch.tensor([list(ids)], device=decoder.device), use_cache=False)
    if not seen or _is_other(decoder, seen[-1][0], alone, tolerance):
        raise UnreadableFFNError(
            f"{type(decoder.model).__name__} changes the model from outside its layers, so a pass over them alone "
            "would measure another model. Use LoRA or another adapter inside the layers."
        )


def _is_other(decoder: Decoder, found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Return whether hidden states (tokens, hidden) are another sentence's.

    In a mixture of experts, rounding may send a token to another expert. So a tenth of its tokens may differ there.
    """
    mixture = any(name.rpartition(".")[2] == "experts" for name, _ in decoder.base.named_modules())
    allowed = max(1, len(expected) // 10) if mixture else 0
    return tokens_that_differ(found, expected, expected, tolerance) > allowed
