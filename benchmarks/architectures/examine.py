"""Examine one model type: is it read, and is what is read right?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.architectures import configs, oracle
from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.alignment.encoder import encode_all
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.layers import UnreadableFFNError

SENTENCES = (
    "the weather is fine today and we walk to the sea",
    "nobody knew where the old man had come from",
    "yes of course we will",
)
OTHERS = (
    "veðrið er gott í dag og við göngum niður að sjó",
    "enginn vissi hvaðan gamli maðurinn hafði komið",
    "já auðvitað gerum við það",
)
PAIRS = ParallelPairs(SENTENCES, OTHERS, "eng_Latn", "isl_Latn")
CLOSE = 1e-3  # share of a hidden state's largest feature by which batches of other shapes may round

Outcome = Literal["read", "read in part", "hidden states alone", "refused", "crashed", "not built"]
Hidden = Literal["equal", "equal but the last", "different", "not given"]


class Examined(BaseModel):
    """What was found for one model type.

    Attributes:
        kind: the model type in transformers' naming; a variant has its name behind a #.
        model: the model's class.
        outcome: "read": the neurons of all layers; "read in part": some layers have none; "hidden states alone": its
            neurons cannot be read, and MEXA, CKA, SVCCA and ANC can; "not built": the tiny model does not run by
            itself.
        reason: why it is not read, or why it was not built.
        neurons: when a neuron is active, as the signature says it.
        ffn_layers: the layers that have an FFN and the number of layers, as the signature says it; "" if all have.
        states_exact: whether all states equal those of a plain forward pass, one sentence at a time; None if not read,
            or if an FFN calls no activation function to listen to (gpt-oss writes its own with a sigmoid).
        beside: activations in its layers that belong to no FFN, by name and width. Attention, other mixers, routers and
            norms are left out.
        hidden: how the hidden states compare with the model's own `output_hidden_states`. Gemma 3n gives its last one
            before the final norm, where the package reads it behind the norm, as in other models.
    """

    kind: str
    model: str = ""
    outcome: Outcome = "not built"
    reason: str = ""
    neurons: str = ""
    ffn_layers: str = ""
    states_exact: bool | None = None
    beside: list[str] = []
    hidden: Hidden = "not given"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows the words of the sentences."""
    words = sorted({word for sentence in SENTENCES + OTHERS for word in sentence.split()})
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>")


def examine(kind: str, built: Callable[[], None] = lambda: None) -> Examined:
    """Build a tiny model of a type, check it, read it and compare it with a plain forward pass.

    Args:
        kind: the type.
        built: is called when the model has been built and has run by itself. What fails later is our fault.
    """
    tokenizer = make_tokenizer()
    try:
        model = configs.tiny_model(kind)
        with torch.no_grad():
            model(input_ids=torch.tensor([tokenizer(SENTENCES[0])["input_ids"]]), use_cache=False)
    except Exception as error:  # whatever transformers raises on a tiny model of a type
        return Examined(kind=kind, reason=_sentence(error))
    built()
    found = Examined(kind=kind, model=type(model).__name__)
    refusal = _refusal(model, tokenizer, ("nasca", "navca", "mexa"))
    if refusal is None:
        return _compared(found, Decoder.find(model, tokenizer), neurons=True)
    if _refusal(model, tokenizer, ("mexa",)) is None:
        alone = found.model_copy(update={"outcome": "hidden states alone", "reason": refusal})
        return _compared(alone, Decoder.find(model, tokenizer), neurons=False)
    return found.model_copy(update={"outcome": "refused", "reason": refusal})


def _refusal(model: Any, tokenizer: Any, methods: Any) -> str | None:
    """Return the sentence that a user gets before a training starts, or None if the model is measured."""
    evaluator = NeuronXAEvaluator(PAIRS, methods)
    try:
        evaluator.check(Decoder.find(model, tokenizer))
    except UnreadableFFNError as error:
        return str(error)
    evaluator(model, tokenizer)
    return None


def _compared(found: Examined, decoder: Decoder, neurons: bool) -> Examined:
    """Return what was found, with the comparison to a plain forward pass."""
    ffns = decoder.ffns if neurons else [()] * len(decoder.layers)
    heard = [oracle.listen(decoder.model, decoder.layers, ffns, ids) for ids in decoder.tokenize(SENTENCES)]
    update: dict[str, Any] = {}
    if neurons:
        choices = decoder.neuron_choices
        update["outcome"] = "read in part" if "ffns" in choices else "read"
        agree = _states_agree(decoder, heard)
        update |= {
            "neurons": choices["neurons"],
            "ffn_layers": choices.get("ffns", ""),
            "states_exact": False if False in agree else None if None in agree else True,
            "beside": sorted(set.union(*(its.beside for its in heard))),
        }
    if all(its.hidden_states for its in heard):
        hidden = encode_all(decoder, SENTENCES, ("embedding",))["embedding"]  # in one batch, with padding
        update["hidden"] = _hidden([_agrees(its.hidden_states, hidden[:, s]) for s, its in enumerate(heard)])
    return found.model_copy(update=update)


def _states_agree(decoder: Decoder, heard: Sequence[oracle.Heard]) -> list[bool | None]:
    """Return for each FFN and sentence whether its states are right; see `oracle.states_agree`.

    Each sentence is read alone. In a batch of another shape, rounding flips a state now and then.
    """
    weighted, average = (
        encode_all(decoder, SENTENCES, ("nas",), pooling, token_budget=1)["nas"] for pooling in ("weighted", "average")
    )
    agree = []
    for row, number in enumerate(decoder.ffn_layers):
        first = 0
        for part, ffn in enumerate(decoder.ffns[number - 1]):
            its = slice(first, first := first + ffn.neurons)
            for s, of in enumerate(heard):
                rows = of.of.get((number - 1, part), [])
                agree.append(oracle.states_agree(ffn, rows, weighted[row, s, its], average[row, s, its], of.tokens))
    return agree


def _agrees(states: Any, pooled: torch.Tensor) -> list[bool]:
    """Return for each hidden state of a sentence whether what was read (layers, features) is its weighted mean."""
    agree = []
    for state, read in zip(states, pooled, strict=True):
        weights = torch.arange(1, len(state) + 1) / sum(range(1, len(state) + 1))
        expected = weights @ state.float()
        agree.append(bool((read[: len(expected)] - expected).abs().max() <= CLOSE * expected.abs().max()))
    return agree


def _hidden(agree: list[list[bool]]) -> Hidden:
    by_layer = [all(layer) for layer in zip(*agree, strict=True)]
    if all(by_layer):
        return "equal"
    return "equal but the last" if all(by_layer[:-1]) else "different"


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
