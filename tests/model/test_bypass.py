"""FFNs whose forward takes the weights of their projections and calls none of them, as fused kernels do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, BitNetConfig, BitsAndBytesConfig, PreTrainedTokenizerFast

from neuronxa_callback import NeuronXACallback, NeuronXAEvaluator, ParallelPairs, encode
from neuronxa_callback.alignment.encoder import encode_all
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.layers import UnreadableFFNError
from neuronxa_callback.vocabulary import Representation
from tests import reference
from tests.architectures import SIZES, tiny
from tests.support import Forwarding, fused, gated, hooks_of, linear, sft, tiny_llama

PAIRS = ParallelPairs.load("eng_Latn-isl_Latn", n=6)
REPRESENTATIONS: tuple[Representation, ...] = ("nas", "nav", "signed", "embedding")
MLP = ["gate_proj", "up_proj", "down_proj"]


def check(model: Any, tokenizer: Any, *methods: Any) -> None:
    NeuronXAEvaluator(PAIRS, methods or ("nasca",)).check(Decoder.find(model, tokenizer))


def read(model: Any, tokenizer: Any, *, representations: Any = REPRESENTATIONS) -> dict[Any, Tensor]:
    return encode_all(Decoder.find(model, tokenizer), PAIRS.target, representations)


def joined(mlp: Any, hidden_states: Tensor) -> Tensor:
    gate, up = linear(mlp.gate_up_proj, hidden_states).chunk(2, dim=-1)
    return linear(mlp.down_proj, F.silu(gate) * up)


def plain(mlp: Any, x: Tensor) -> Tensor:
    return linear(mlp.c_proj, mlp.act(linear(mlp.c_fc, x)))


def normed(mlp: Any, x: Tensor) -> Tensor:
    neurons = torch.relu(linear(mlp.gate_proj, x)).square() * linear(mlp.up_proj, x)
    scale = torch.rsqrt(neurons.pow(2).mean(-1, keepdim=True) + mlp.ffn_sub_norm.variance_epsilon)
    return linear(mlp.down_proj, mlp.ffn_sub_norm.weight * (neurons * scale))


def lora(model: Any, size: float = 1.0, **options: Any) -> Any:
    """Add a LoRA whose B is not zero, and which is `size` times as large as usual."""
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=MLP, init_lora_weights=False, **options)
    adapted = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter *= size
    return adapted


@pytest.fixture(scope="module")
def in_nf4(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Any]:
    folder: Path = tmp_path_factory.mktemp("llama")
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(folder)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32).eval()

    return load


def assert_reads_the_same(model: Any, forward: Callable[[Any, Tensor], Tensor], tokenizer: Any) -> None:
    expected = read(model, tokenizer)
    fused(model, forward)
    check(model, tokenizer, "nasca", "navca", "sads")
    found = read(model, tokenizer)
    assert all(torch.equal(found[name], expected[name]) for name in REPRESENTATIONS)
    assert found["nas"].any()
    # Alone, a representation is read by fewer of the projections.
    for name in REPRESENTATIONS:
        assert torch.equal(read(model, tokenizer, representations=(name,))[name], expected[name])


FORWARDS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "llama": gated,
    "llama-with-bias": gated,
    "phi3-fused": joined,
    "gpt2": plain,
}


@pytest.mark.parametrize("name", FORWARDS)
def test_what_is_read_is_that_of_the_ordinary_forward(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    assert_reads_the_same(tiny(name), FORWARDS[name], tokenizer)


def test_values_are_those_before_an_inner_norm(tokenizer: PreTrainedTokenizerFast) -> None:
    sizes = {name: value for name, value in SIZES.items() if name != "head_dim"}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(BitNetConfig(**sizes, hidden_act="relu2")).eval()
    assert_reads_the_same(model, normed, tokenizer)


def test_lora_is_in_what_is_read(tokenizer: PreTrainedTokenizerFast) -> None:
    bare = read(tiny_llama(), tokenizer)
    model = lora(tiny_llama(), lora_dropout=0.5)
    assert_reads_the_same(model, gated, tokenizer)
    assert not torch.equal(read(model, tokenizer)["nas"], bare["nas"])
    with model.disable_adapter():
        assert torch.equal(read(model, tokenizer)["nas"], bare["nas"])


@pytest.mark.parametrize("adapted", [False, True])
def test_nf4_is_in_what_is_read(adapted: bool, in_nf4: Callable[[], Any], tokenizer: PreTrainedTokenizerFast) -> None:
    model = lora(in_nf4()) if adapted else in_nf4()
    assert_reads_the_same(model, gated, tokenizer)


def test_what_is_read_equals_the_reference(tokenizer: PreTrainedTokenizerFast) -> None:
    model = lora(tiny_llama().double())
    found = read(fused(model), tokenizer)
    for layer in model.base_model.model.model.layers:
        del layer.mlp.forward
    merged = model.merge_and_unload()
    for name in ("nas", "nav", "embedding"):
        expected = reference.encode(merged, tokenizer, PAIRS.target, name)
        np.testing.assert_allclose(found[name].numpy(), expected, atol=1e-5, rtol=1e-5)


def test_an_ffn_that_layers_share_is_read_in_each(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_llama().eval()
    model.model.layers[2].mlp = model.model.layers[0].mlp
    assert_reads_the_same(model, gated, tokenizer)


def test_scores_are_those_of_the_ordinary_forward(tokenizer: PreTrainedTokenizerFast) -> None:
    evaluator = NeuronXAEvaluator(PAIRS, ("nasca", "navca", "sads", "anc", "mexa"))
    expected = evaluator(lora(tiny_llama()), tokenizer)
    found = evaluator(fused(lora(tiny_llama())), tokenizer)
    assert found.score == expected.score
    assert str(found.signature) == str(expected.signature)


def test_an_ffn_may_begin_and_end_to_bypass(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Unsloth's forward calls the projections in some states of the adapters."""
    expected = read(llama, tokenizer)
    states = {"bypasses": True}

    def forward(mlp: Any, x: Tensor) -> Any:
        return gated(mlp, x) if states["bypasses"] else mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))

    fused(llama, forward)
    for bypasses in (True, False, True):
        states["bypasses"] = bypasses
        found = read(llama, tokenizer)
        assert all(torch.equal(found[name], expected[name]) for name in REPRESENTATIONS)


# ------------------------------------------------------------------------------------------------ what is refused


def with_gelu(mlp: Any, x: Tensor) -> Tensor:
    return linear(mlp.down_proj, F.gelu(linear(mlp.gate_proj, x)) * linear(mlp.up_proj, x))


def with_swapped_weights(mlp: Any, x: Tensor) -> Tensor:
    return linear(mlp.down_proj, linear(mlp.gate_proj, x) * F.silu(linear(mlp.up_proj, x)))


def with_other_neurons(mlp: Any, x: Tensor) -> Tensor:
    return gated(mlp, x) + 0.2 * torch.tanh(x)


def mixing(mlp: Any, x: Tensor) -> Tensor:
    return gated(mlp, x + F.pad(x[:, :-1], (0, 0, 1, 0)))  # each token's, and those of the one before it


def widened(mlp: Any, x: Tensor) -> Any:
    return gated(mlp, x), x


@pytest.mark.parametrize("forward", [with_gelu, with_swapped_weights, with_other_neurons, mixing, widened])
def test_a_forward_that_computes_something_else_is_refused(
    forward: Any, llama: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    fused(llama)
    mlp = llama.model.layers[1].mlp
    mlp.forward = MethodType(forward, mlp)
    if forward is widened:
        mlp.register_forward_hook(lambda module, args, output: output[0])
    with pytest.raises(
        UnreadableFFNError,
        match=r"^model\.layers\.1\.mlp calls none of its projections, and its output is not .*fused kernel",
    ):
        check(llama, tokenizer)
    with pytest.raises(UnreadableFFNError, match="calls none of its projections"):
        encode(llama, tokenizer, PAIRS.target)
    check(llama, tokenizer, "mexa")


@pytest.mark.parametrize("size", [1.0, 1e-3])
@pytest.mark.parametrize("lost", [["gate_proj"], ["up_proj", "down_proj"], MLP])
def test_a_forward_that_leaves_out_adapters_is_refused(
    lost: list[str], size: float, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Also where an adapter changes the output by less than the activation could be wrong."""
    model = fused(lora(tiny_llama(), size))
    check(model, tokenizer)

    class Without:
        def __init__(self, mlp: Any) -> None:
            for name in MLP:
                projection = getattr(mlp, name)
                setattr(self, name, projection.base_layer if name in lost else projection)

    mlp = model.base_model.model.model.layers[1].mlp
    mlp.forward = lambda x: gated(Without(mlp), x)
    with pytest.raises(UnreadableFFNError, match=r"layers\.1\.mlp calls none .* lacks an adapter \(LoRA\) of them"):
        check(model, tokenizer)


def test_an_adapter_that_adds_nothing_yet_is_no_fault(tokenizer: PreTrainedTokenizerFast) -> None:
    model = fused(lora(tiny_llama(), 0.0), lambda mlp, x: gated(_Bare(mlp), x))
    check(model, tokenizer)


def test_an_adapter_that_is_left_out_is_found_once_it_adds_something(tokenizer: PreTrainedTokenizerFast) -> None:
    model = fused(lora(tiny_llama(), 0.0), lambda mlp, x: gated(_Bare(mlp), x))
    encode(model, tokenizer, PAIRS.target)
    encode(model, tokenizer, PAIRS.target)
    with torch.no_grad():
        model.base_model.model.model.layers[1].mlp.up_proj.lora_B["default"].weight += 0.01  # as a first step does
    with pytest.raises(UnreadableFFNError, match=r"layers\.1\.mlp calls none .* lacks an adapter \(LoRA\) of them"):
        encode(model, tokenizer, PAIRS.target)


def test_a_product_that_is_not_finite_is_no_agreement(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """The fused forward is finite where the projections' own product is not."""
    mlp = llama.model.layers[1].mlp
    with torch.no_grad():
        mlp.up_proj.weight.fill_(1e30)
        mlp.gate_proj.weight.fill_(1e30)
    fused(llama, lambda mlp, x: torch.zeros_like(x))
    with pytest.raises(UnreadableFFNError, match=r"by Eq\. 1"):
        check(llama, tokenizer)


class _Bare:
    def __init__(self, mlp: Any) -> None:
        for name in MLP:
            setattr(self, name, getattr(mlp, name).base_layer)


def test_a_forward_that_is_replaced_after_the_check_is_checked_again(
    llama: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    encode(fused(llama), tokenizer, PAIRS.target)
    mlp = llama.model.layers[2].mlp
    mlp.forward = MethodType(with_gelu, mlp)
    with pytest.raises(UnreadableFFNError, match=r"model\.layers\.2\.mlp calls none of its projections"):
        encode(llama, tokenizer, PAIRS.target)


def test_an_ffn_that_runs_twice_is_refused(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    fused(llama)
    mlp = llama.model.layers[1].mlp
    llama.model.layers[1].post_attention_layernorm.register_forward_hook(lambda _, args, output: mlp(output) * 0.1)
    with pytest.raises(UnreadableFFNError, match=r"model\.layers\.1\.mlp ran 2 times in one forward pass"):
        check(llama, tokenizer)


def test_an_ffn_that_does_not_run_as_a_module_is_refused(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    fused(llama)
    llama.model.layers[1].mlp = Forwarding(llama.model.layers[1].mlp)
    with pytest.raises(UnreadableFFNError, match=r"model\.layers\.1\.mlp\.inner called its gate projection 0 times"):
        check(llama, tokenizer)


# ----------------------------------------------------------------------------------------- a training is left alone


@pytest.mark.trainer
def test_a_training_is_the_same_with_and_without_the_callback(tmp_path: Path) -> None:
    """With dropout in the adapters, so that a random number drawn too many would show."""

    def train(name: str, callbacks: list[Any]) -> tuple[dict[str, Tensor], Any]:
        model = fused(lora(tiny_llama(), lora_dropout=0.2)).train()
        trainer = sft(tmp_path / name, callbacks, model=model, max_steps=4)
        trainer.train()
        weights = {key: value.clone() for key, value in trainer.model.state_dict().items()}
        return weights, trainer

    callback = NeuronXACallback(PAIRS, methods=("nasca", "navca", "sads"), eval_steps=1, on_error="raise")
    watched, trainer = train("watched", [callback])
    bare, _ = train("bare", [])
    assert all(torch.equal(watched[name], bare[name]) for name in bare)
    assert [entry["step"] for entry in trainer.state.log_history if "eval_nasca" in entry] == [0, 1, 2, 3, 4]
    assert any("lora_B" in name for name in bare)


def test_reading_leaves_nothing_behind(tokenizer: PreTrainedTokenizerFast) -> None:
    model = fused(lora(tiny_llama(), lora_dropout=0.2)).train()
    gate = model.base_model.model.model.layers[0].mlp.gate_proj
    calls: list[tuple[bool, bool]] = []
    gate.register_forward_hook(lambda module, *call: calls.append((module.training, torch.is_grad_enabled())))
    state = torch.get_rng_state()
    read(model, tokenizer)
    assert set(calls) == {(False, False)}  # a user's hook sees the evaluation's calls, in evaluation mode
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert len(hooks_of(model)) == 1
    calls.clear()
    model(input_ids=torch.tensor([[3, 4, 5]])).logits.sum().backward()
    assert not calls
    assert gate.lora_A["default"].weight.grad.abs().sum() > 0


# ------------------------------------------------------------------------------------------------ the real model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_real_model_is_read(dtype: torch.dtype, smollm: Any, smollm_tokenizer: Any) -> None:
    model = copy.deepcopy(smollm).to(dtype)
    pairs = ParallelPairs.load("eng_Latn-fra_Latn", n=6)
    evaluator = NeuronXAEvaluator(pairs, ("nasca", "navca"))
    expected = evaluator(model, smollm_tokenizer)
    found = evaluator(fused(model), smollm_tokenizer)
    assert found.score == expected.score
    assert all(torch.equal(found.per_layer[name], expected.per_layer[name]) for name in ("nasca", "navca"))
    mlp = model.model.layers[15].mlp
    mlp.forward = MethodType(with_gelu, mlp)
    with pytest.raises(UnreadableFFNError, match=r"model\.layers\.15\.mlp calls none of its projections"):
        evaluator(model, smollm_tokenizer)
