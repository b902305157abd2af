from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedTokenizerFast

from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.neurons import find_ffns
from tests.architectures import tiny
from tests.support import tiny_llama


def test_what_is_found(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    model: Any = llama
    decoder = Decoder.find(model, tokenizer)
    assert decoder.base is llama
    assert decoder.stack is llama.model
    assert decoder.layers == tuple(model.model.layers)
    assert decoder.ffns == find_ffns(llama)
    assert (decoder.context_length, decoder.hidden_size, decoder.dtype) == (512, 32, "float32")
    assert (decoder.rule, decoder.special_tokens) == ("sigma(gate)>0", "bos")
    assert decoder.device == torch.device("cpu")


def test_under_an_adapter_the_model_inside_is_found(tokenizer: PreTrainedTokenizerFast) -> None:
    model: Any = tiny_llama()
    adapted: Any = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    decoder = Decoder.find(adapted, tokenizer)
    assert decoder.model is adapted
    assert decoder.base is model


def test_autocast_is_part_of_the_dtype(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        decoder = Decoder.find(llama, tokenizer)
    assert decoder.dtype == "float32/autocast-bfloat16"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_pass_ends_after_the_first_layers_and_all_are_there_again(
    name: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    decoder = Decoder.find(tiny(name), tokenizer)
    run: list[int] = []
    for number, layer in enumerate(decoder.layers):
        layer.register_forward_hook(lambda *_, number=number: run.append(number))
    (ids,) = decoder.tokenize(["A cat."])
    with decoder.evaluation_mode(), decoder.first_layers(2):
        decoder.run([ids])
    assert run == [0, 1]
    with decoder.evaluation_mode():
        decoder.run([ids])
    assert run == [0, 1, 0, 1, 2]
