"""The check before a training: what FFN blocks add comes from what is read, and padding and wrappers change nothing."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from peft import LoHaConfig, LoraConfig, PeftMixedModel, XLoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BitNetConfig,
    Gemma3TextConfig,
    GraniteMoeHybridConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs, encode
from neuronxa_callback.alignment.encoder import NonFiniteActivationError
from neuronxa_callback.model.check import check
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.layers import UnreadableFFNError
from tests import reference
from tests.architectures import SIZES, needs_stacked_experts, tiny
from tests.model.test_architectures import spread
from tests.support import Forwarding, tiny_llama

PAIRS = ParallelPairs.load("eng_Latn-isl_Latn", n=6)
SENTENCES = PAIRS.target


def check_all(model: Any, tokenizer: Any, *methods: Any) -> None:
    NeuronXAEvaluator(PAIRS, methods or ("nasca",)).check(Decoder.find(model, tokenizer))


def made(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


class Sidecar(nn.Module):
    """An FFN with a second one of unknown names inside, as a shared expert stands beside routed ones."""

    def __init__(self, mlp: nn.Module, size: float) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj, self.act_fn = (
            getattr(mlp, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")
        )
        self.into = nn.Parameter(torch.randn(16, 32) * size)
        self.out = nn.Parameter(torch.randn(32, 16) * size)

    def forward(self, x: Tensor) -> Tensor:
        read: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return read + F.linear(F.silu(F.linear(x, self.into)), self.out)


@pytest.mark.parametrize(("size", "refused"), [(0.0, False), (0.2, True), (1.0, True)])
def test_neurons_beside_those_that_are_read_are_refused(
    size: float, refused: bool, llama: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    llama.model.layers[1].mlp = Sidecar(llama.model.layers[1].mlp, size)
    if not refused:
        check_all(llama, tokenizer)
        return
    with pytest.raises(UnreadableFFNError, match=r"model\.layers\.1\.mlp \(Sidecar\) holds neurons that are not read"):
        check_all(llama, tokenizer)
    check_all(llama, tokenizer, "mexa")


def test_a_block_of_its_own_that_is_not_read_is_refused(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """The layer has an FFN that is read, and a block beside it whose projections have other names."""
    layer = llama.model.layers[2]
    other = nn.Sequential(nn.Linear(32, 24), nn.Tanh(), nn.Dropout(), nn.Linear(24, 32))
    layer.extra = other
    layer.register_forward_hook(lambda module, args, output: output + other(output))
    with pytest.raises(UnreadableFFNError, match=r"model\.layers\.2\.extra \(Sequential\) holds neurons that are not"):
        check_all(llama, tokenizer)


def test_an_ffn_that_mixes_tokens_is_refused(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    mlp = llama.model.layers[0].mlp
    forward = mlp.forward
    mlp.forward = lambda x: forward(x + x.mean(dim=1, keepdim=True))
    with pytest.raises(UnreadableFFNError, match=r"model\.layers\.0\.mlp \(LlamaMLP\) mixes the tokens of a sentence"):
        check_all(llama, tokenizer)


def test_linear_parts_and_norms_of_a_block_are_no_neurons(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Gemma 3n has such a block: a low-rank map and a norm."""
    layer = llama.model.layers[1]
    layer.laurel = nn.Sequential(nn.Linear(32, 4), nn.Linear(4, 32))
    layer.laurel.add_module("norm", nn.RMSNorm(32))
    layer.register_forward_hook(lambda module, args, output: output + layer.laurel(output))
    check_all(llama, tokenizer)


@needs_stacked_experts
def test_the_shared_ffn_of_granite_4_is_read(tokenizer: PreTrainedTokenizerFast) -> None:
    sizes = {name: value for name, value in SIZES.items() if name != "head_dim"}
    config = GraniteMoeHybridConfig(
        **sizes | {"num_hidden_layers": 2, "intermediate_size": 16},
        shared_intermediate_size=48,
        num_local_experts=4,
        num_experts_per_tok=2,
        layer_types=["attention"] * 2,
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_n_groups=1,
    )
    model = spread(made(config))
    check_all(model, tokenizer)
    before = encode(model, tokenizer, SENTENCES)
    assert before.shape == (2, 6, 48 + 4 * 16)
    with torch.no_grad():
        model.model.layers[-1].shared_mlp.input_linear.weight[:48] *= -1  # its gate: each neuron fires the other way
    after = encode(model, tokenizer, SENTENCES)
    torch.testing.assert_close(after[-1, :, :48], 1 - before[-1, :, :48])
    assert torch.equal(after[-1, :, 48:], before[-1, :, 48:])


def test_the_values_of_bitnet_are_those_before_its_norm(tokenizer: PreTrainedTokenizerFast) -> None:
    sizes = {name: value for name, value in SIZES.items() if name != "head_dim"}
    model = made(BitNetConfig(**sizes, hidden_act="relu2"))
    check_all(model, tokenizer, "nasca", "navca")
    for read in ("nas", "nav"):
        expected = reference.encode(model, tokenizer, SENTENCES, read)
        np.testing.assert_allclose(encode(model, tokenizer, SENTENCES, read), expected, atol=1e-5, rtol=1e-4)


class TestPadding:
    CONFIGS = (
        LlamaConfig(**SIZES, is_causal=False),
        Gemma3TextConfig(**SIZES, sliding_window=8, use_bidirectional_attention=True),
    )

    @pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
    def test_a_decoder_that_looks_both_ways_gets_a_mask(self, config: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        model = made(config)
        decoder = Decoder.find(model, tokenizer)
        ids = decoder.tokenize(SENTENCES[:1])[0]
        with torch.no_grad():
            forward = decoder.run([[*ids, 5]])[0, : len(ids)]
            if torch.allclose(forward, decoder.run([ids])[0], atol=1e-5):
                pytest.skip("this version of transformers has no such attention")
        assert decoder.bidirectional
        check_all(model, tokenizer)
        alone = encode(model, tokenizer, SENTENCES, "embedding", token_budget=1)
        together = encode(model, tokenizer, SENTENCES, "embedding", token_budget=4096)
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
        check_all(model, tokenizer, "mexa")
        with pytest.raises(UnreadableFFNError, match="gives a sentence other hidden states when the batch holds a lon"):
            check(replace(decoder, bidirectional=False), ids)

    def test_a_layer_that_mixes_the_batch_is_refused(self, llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        llama.model.layers[1].register_forward_hook(lambda _, args, output: output + output.mean(0, keepdim=True) / 2)
        with pytest.raises(UnreadableFFNError, match="its padding or its neighbours leak into it"):
            check_all(llama, tokenizer, "mexa")


class TestWrappers:
    MLP = ("gate_proj", "up_proj", "down_proj")

    def test_x_lora_is_refused(self, tokenizer: PreTrainedTokenizerFast) -> None:
        adapters = {}
        for seed in (1, 2):
            torch.manual_seed(seed)
            adapters[str(seed)] = tempfile.mkdtemp()
            config = LoraConfig(task_type="CAUSAL_LM", target_modules=list(self.MLP), init_lora_weights=False)
            get_peft_model(tiny_llama(), config).save_pretrained(adapters[str(seed)])
        base = tiny_llama()
        base.config.use_cache = False
        mixed = get_peft_model(base, XLoraConfig("CAUSAL_LM", hidden_size=32, xlora_depth=1, adapters=adapters))
        with pytest.raises(UnreadableFFNError, match=r"mixes the adapters of X-LoRA by a pass of its own.* Use LoRA"):
            check_all(mixed, tokenizer)

    def test_a_wrapper_that_changes_the_input_is_refused(self, tokenizer: PreTrainedTokenizerFast) -> None:
        adapted = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules="all-linear"))
        check_all(adapted, tokenizer)
        adapted.register_forward_pre_hook(
            lambda _, args, kwargs: (args, kwargs | {"input_ids": kwargs["input_ids"].flip(1)}), with_kwargs=True
        )
        with pytest.raises(UnreadableFFNError, match="changes the model from outside its layers"):
            check_all(adapted, tokenizer)

    def test_several_kinds_of_adapters_at_once_are_read(self, tokenizer: PreTrainedTokenizerFast) -> None:
        config = LoHaConfig(task_type="CAUSAL_LM", target_modules=list(self.MLP), init_weights=False)
        mixed = PeftMixedModel(tiny_llama(), config, "a")
        mixed.add_adapter("b", LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False))
        mixed.set_adapter(["a", "b"])
        check_all(mixed.eval(), tokenizer)


def test_a_model_that_fails_on_text_gets_one_sentence(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    def fail(*args: Any) -> None:
        raise KeyError("audio_codes")

    llama.model.layers[0].register_forward_pre_hook(fail)
    with pytest.raises(
        UnreadableFFNError, match=r"LlamaForCausalLM cannot be checked on sentences .* \(KeyError: 'audio_codes'\)"
    ):
        check_all(llama, tokenizer)


def test_a_check_leaves_nothing_behind(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    before = [parameter.clone() for parameter in llama.parameters()]
    state = torch.get_rng_state()
    llama.train()
    check_all(llama, tokenizer, "nasca", "mexa")
    assert llama.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, llama.parameters(), strict=True))
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in llama.modules()]
    assert not any(hooks)


@pytest.mark.parametrize("name", ["llama", "phi3-fused", "gpt2", "opt", "bloom"])
def test_a_sentence_of_one_token_is_enough(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    check(Decoder.find(tiny(name), tokenizer), [7])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "bloom", "gpt2"])
def test_rounding_is_not_refused(name: str, dtype: torch.dtype, tokenizer: PreTrainedTokenizerFast) -> None:
    check_all(tiny(name, dtype), tokenizer, "nasca", "mexa")


class TestOnce:
    """What reads a model without having checked it checks it first, once."""

    @staticmethod
    def passes(model: Any) -> list[int]:
        batches: list[int] = []
        model.model.register_forward_pre_hook(
            lambda _, args, kwargs: batches.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        return batches

    def test_a_model_is_checked_by_its_first_reading(self, llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        batches = self.passes(llama)
        encode(llama, tokenizer, SENTENCES)
        # Alone for the FFNs and for the blocks around them, beside one other, beside two others, and the reading.
        assert batches == [1, 1, 2, 3, 6]
        encode(llama, tokenizer, SENTENCES)
        NeuronXAEvaluator(PAIRS)(llama, tokenizer)
        assert batches[5:] == [6, 6, 6]

    def test_a_wrong_reading_is_refused_without_a_trainer(self, tokenizer: PreTrainedTokenizerFast) -> None:
        model = tiny_llama()
        model.model.layers[1].mlp = Sidecar(model.model.layers[1].mlp, 1.0)
        with pytest.raises(UnreadableFFNError, match="holds neurons that are not read"):
            encode(model, tokenizer, SENTENCES)
        with pytest.raises(UnreadableFFNError, match="holds neurons that are not read"):
            NeuronXAEvaluator(PAIRS)(model, tokenizer)
        assert encode(model, tokenizer, SENTENCES, "embedding").shape == (4, 6, 32)

    def test_a_layer_that_loses_its_ffn_is_refused(self, llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        encode(llama, tokenizer, SENTENCES)
        llama.model.layers[1].mlp = nn.Identity()
        with pytest.raises(UnreadableFFNError, match=r"model\.layers\.1 has no FFN that can be read any more"):
            encode(llama, tokenizer, SENTENCES)


def test_what_cannot_be_compared_passes_and_the_reading_names_it(
    llama: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    llama.model.layers[1].mlp.down_proj.weight.data[0, 0] = float("nan")
    check_all(llama, tokenizer)
    with pytest.raises(NonFiniteActivationError, match=r"layer 1 \(model\.layers\.1\)"):
        encode(llama, tokenizer, SENTENCES)


def test_one_large_token_hides_nothing(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """The first token of real models is often a hundred times larger than the others."""
    llama.model.layers[1].mlp = Sidecar(llama.model.layers[1].mlp, 0.2)
    llama.model.layers[1].register_forward_pre_hook(
        lambda _, args: (torch.cat([args[0][:, :1] * 1000, args[0][:, 1:]], dim=1), *args[1:])
    )
    llama.model.layers[1].post_attention_layernorm = nn.Identity()
    with pytest.raises(UnreadableFFNError, match=r"model\.layers\.1\.mlp \(Sidecar\) holds neurons that are not read"):
        check_all(llama, tokenizer)


class Packed(nn.Module):
    """A projection that holds its weight in a buffer, as many quantised ones do."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("packed", linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.get_buffer("packed"))


def test_weights_in_buffers_are_looked_at(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    mlp = Sidecar(llama.model.layers[1].mlp, 0.5)
    into, out = mlp.into.detach(), mlp.out.detach()
    del mlp.into, mlp.out
    mlp.register_buffer("into", into)
    mlp.register_buffer("out", out)
    for name in ("gate_proj", "up_proj", "down_proj"):
        setattr(mlp, name, Packed(getattr(mlp, name)))
    llama.model.layers[1].mlp = mlp
    with pytest.raises(UnreadableFFNError, match=r"model\.layers\.1\.mlp \(Sidecar\) holds neurons that are not read"):
        check_all(llama, tokenizer)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_the_rounding_of_autocast_is_not_refused(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny(kind)
    for layer in Decoder.find(model, tokenizer).layers:
        down, up = nn.Linear(32, 8), nn.Linear(8, 32)
        layer.laurel = nn.Sequential(down, up)
        layer.laurel.add_module("norm", nn.RMSNorm(32))
        layer.register_forward_hook(_with_laurel)
    with torch.autocast("cpu", torch.bfloat16):
        check_all(model, tokenizer, "nasca", "mexa")


def _with_laurel(layer: Any, args: Any, output: Any) -> Any:
    hidden = output[0] if isinstance(output, tuple) else output
    hidden = hidden + layer.laurel(hidden)
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def test_layers_that_run_twice_are_refused(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    llama.model.layers[2] = llama.model.layers[0]
    with pytest.raises(UnreadableFFNError, match=r"LlamaModel do not run one after the other, each once"):
        check_all(llama, tokenizer, "mexa")


def test_a_token_that_the_model_does_not_know_is_named(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UnreadableFFNError, match="gives the token id 700, and LlamaForCausalLM has 600 embeddings"):
        check(Decoder.find(llama, tokenizer), [5, 700])


def test_an_ffn_that_is_not_called_as_a_module_is_read(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Its projections are called all the same, and its layer may call its forward."""
    expected = encode(tiny_llama(), tokenizer, SENTENCES)
    for layer in llama.model.layers:
        mlp = layer.mlp
        layer.mlp = Forwarding(mlp)
    check_all(llama, tokenizer)
    assert torch.equal(encode(llama, tokenizer, SENTENCES), expected)


class Beside(nn.Module):
    """A real FFN under the names that are read, and another real FFN beside it under other names."""

    def __init__(self, read: Any, other: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj, self.act_fn = (
            read.gate_proj, read.up_proj, read.down_proj, read.act_fn
        )  # fmt: skip
        self.into, self.times, self.out = other.gate_proj, other.up_proj, other.down_proj

    def forward(self, x: Tensor) -> Any:
        read = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return read + self.out(self.act_fn(self.into(x)) * self.times(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("number", [0, 1, 15, 29])
def test_a_real_ffn_that_is_not_read_is_refused(
    number: int, dtype: torch.dtype, smollm: Any, smollm_tokenizer: Any
) -> None:
    """SmolLM2's own activations: some layers have tokens that are hundreds of times larger than others."""
    model = copy.deepcopy(smollm).to(dtype)
    check_all(model, smollm_tokenizer)
    layers = model.model.layers
    layers[number].mlp = Beside(layers[number].mlp, copy.deepcopy(layers[(number + 1) % 30].mlp))
    with pytest.raises(UnreadableFFNError, match=rf"model\.layers\.{number}\.mlp \(Beside\) holds neurons that"):
        check_all(model, smollm_tokenizer)
