from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AwqConfig,
    BitsAndBytesConfig,
    FineGrainedFP8Config,
    GPTQConfig,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
    QuantoConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs, encode
from neuronxa_callback.alignment.encoder import encode_all
from neuronxa_callback.model.activation import preserves_sign
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.dense import DenseFFN
from neuronxa_callback.model.layers import UnreadableFFNError
from neuronxa_callback.model.neurons import find_ffns
from tests import reference
from tests.architectures import CONFIGS, SIZES, tiny
from tests.support import tiny_llama

PAIRS = ParallelPairs.load("eng_Latn-isl_Latn", n=6)


def check(model: Any, tokenizer: Any) -> None:
    NeuronXAEvaluator(PAIRS).check(Decoder.find(model, tokenizer))


def lora(model: Any) -> Any:
    """Add a LoRA whose B is not zero, so that it changes the output."""
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False))


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_gated_architecture_passes_its_check(architecture: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny(architecture)
    check(model, tokenizer)
    ffns = [ffn for (ffn,) in find_ffns(model)]
    assert [ffn.name for ffn in ffns] == [f"model.layers.{i}.mlp" for i in range(3)]
    assert all(isinstance(ffn, DenseFFN) and (ffn.layout == "fused") == architecture.endswith("fused") for ffn in ffns)
    assert all(ffn.sign_preserving for ffn in ffns)


@pytest.mark.parametrize("architecture", ["llama", "phi3-fused"])
def test_lora_deltas_are_in_the_gate(architecture: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = lora(tiny(architecture, torch.float64))
    check(model, tokenizer)
    adapted = encode_all(Decoder.find(model, tokenizer), PAIRS.target, ("nas", "nav", "embedding"))
    with model.disable_adapter():
        bare = encode(model, tokenizer, PAIRS.target)
    merged = model.merge_and_unload()
    for representation, values in adapted.items():
        expected = reference.encode(merged, tokenizer, PAIRS.target, representation)
        np.testing.assert_allclose(values.numpy(), expected, atol=1e-5, rtol=1e-5)
    assert not torch.equal(adapted["nas"], bare)


class TestIn4Bit:
    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory: pytest.TempPathFactory) -> Any:
        folder: Path = tmp_path_factory.mktemp("llama")
        tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(folder)
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
        return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32).eval()

    @staticmethod
    def dequantised(model: Any) -> Any:
        """Return the same model with the NF4 weights as float32, which the reference can read."""
        from bitsandbytes.functional import dequantize_4bit

        plain = tiny_llama(hidden_size=64, intermediate_size=128).eval()
        for name, module in model.named_modules():
            if type(module).__name__ == "Linear4bit":
                weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
                plain.get_submodule(name).weight.data = weight.float()
        return plain

    @pytest.mark.parametrize("representation", ["nas", "nav", "embedding"])
    def test_equals_the_reference_on_the_dequantised_weights(
        self, model: Any, representation: Any, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        check(model, tokenizer)
        encoded = encode(model, tokenizer, PAIRS.target, representation).numpy()
        expected = reference.encode(self.dequantised(model), tokenizer, PAIRS.target, representation)
        if representation == "nas":  # float32: a state within rounding of zero may flip
            assert (np.abs(encoded - expected) > 1e-5).mean() < 1e-3
        else:
            np.testing.assert_allclose(encoded, expected, atol=1e-4, rtol=1e-4)

    def test_sads_equals_its_source_on_the_dequantised_weights(
        self, model: Any, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        found = NeuronXAEvaluator(PAIRS, "sads")(model, tokenizer).score["sads"]
        plain = self.dequantised(model)
        assert found == pytest.approx(
            reference.sads_of_its_source(plain, tokenizer, PAIRS.source, PAIRS.target), abs=1e-6
        )

    def test_a_pass_leaves_the_quantised_weights_alone(self, model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        """In evaluation mode, the kernels of some CPUs would repack them with coarser scales and without gradients."""

        def snapshot() -> list[tuple[Tensor, Tensor]]:
            layers = [module for module in model.modules() if type(module).__name__ == "Linear4bit"]
            return [(layer.weight.data.clone(), layer.weight.quant_state.absmax.clone()) for layer in layers]

        before = snapshot()
        check(model.eval(), tokenizer)
        encode(model, tokenizer, PAIRS.target)
        assert len(before) == 21
        for old, new in zip(before, snapshot(), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))

    def test_with_lora_and_gradient_checkpointing(self, model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        adapted = lora(model)
        expected = encode(adapted, tokenizer, PAIRS.target)
        adapted.enable_input_require_grads()
        adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        adapted.train()
        assert torch.equal(encode(adapted, tokenizer, PAIRS.target), expected)
        assert adapted.training

    def test_the_signature_says_nf4(self, model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        signature = str(NeuronXAEvaluator(PAIRS).signature(PAIRS, Decoder.find(model, tokenizer)))
        assert "|dtype:float32/nf4|" in signature


def test_a_replaced_forward_that_calls_its_projections_is_read(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Kernel libraries do this: they call the same modules with another function between the projections."""
    expected = encode_all(Decoder.find(llama, tokenizer), PAIRS.source, ("nas", "nav"))

    def forward(mlp: Any, x: Tensor) -> Tensor:
        gate, up = mlp.gate_proj(x), mlp.up_proj(x)
        return mlp.down_proj(gate * torch.sigmoid(gate) * up)  # type: ignore[no-any-return]

    for layer in llama.model.layers:
        layer.mlp.forward = forward.__get__(layer.mlp)
    check(llama, tokenizer)
    replaced = encode_all(Decoder.find(llama, tokenizer), PAIRS.source, ("nas", "nav"))
    assert torch.equal(replaced["nas"], expected["nas"])
    torch.testing.assert_close(replaced["nav"], expected["nav"])


def test_a_replaced_forward_that_bypasses_its_projections_is_refused(
    llama: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    mlp = llama.model.layers[1].mlp
    mlp.forward = lambda x: nn.functional.linear(x, mlp.down_proj.weight @ mlp.up_proj.weight)
    with pytest.raises(
        UnreadableFFNError, match=r"model\.layers\.1\.mlp calls none of its projections, and its output is not what"
    ):
        check(llama, tokenizer)
    with pytest.raises(UnreadableFFNError):
        encode(llama, tokenizer, PAIRS.source)


def test_swapped_halves_of_a_fused_projection_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("phi3-fused")
    mlp = model.model.layers[2].mlp

    def forward(x: Tensor) -> Tensor:
        up, gate = mlp.gate_up_proj(x).chunk(2, dim=-1)
        return mlp.down_proj(up * mlp.activation_fn(gate))  # type: ignore[no-any-return]

    mlp.forward = forward
    with pytest.raises(UnreadableFFNError, match=r"model\.layers\.2\.mlp does not multiply"):
        check(model, tokenizer)


def test_an_activation_that_shifts_its_zero_is_computed(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """A neuron is active if sigma(z) > 0, not if z > 0. Here sigma(z) = SiLU(z) - 0.1."""

    class Shifted(nn.SiLU):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) - 0.1

    for layer in llama.model.layers:
        layer.mlp.act_fn = Shifted()
    check(llama, tokenizer)
    assert not find_ffns(llama)[0][0].sign_preserving
    expected = reference.encode(llama, tokenizer, PAIRS.source, "nas")
    np.testing.assert_allclose(encode(llama, tokenizer, PAIRS.source).numpy(), expected, atol=1e-5)


def experts_one_by_one() -> Any:
    """Return a model that holds its experts as transformers 4 does."""
    model = tiny_llama()
    model.model.layers[0].mlp = nn.ModuleDict({"experts": nn.ModuleList([model.model.layers[0].mlp])})
    return model


UNREADABLE = {
    "no FFN at all": (
        lambda: MambaForCausalLM(MambaConfig(vocab_size=600, hidden_size=16, num_hidden_layers=2)),
        r"no layer of MambaForCausalLM holds an FFN .* backbone\.layers\.0 holds norm \(MambaRMSNorm\), mixer ",
    ),
    "experts one by one": (
        experts_one_by_one,
        r"model\.layers\.0 holds a mixture of experts \(0 readable\): transformers 5 and experts .* in one tensor",
    ),
    "an encoder-decoder": (
        lambda: T5ForConditionalGeneration(
            T5Config(vocab_size=600, d_model=16, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
        ),
        "T5ForConditionalGeneration is an encoder-decoder.*Use a causal language model",
    ),
    "prompt tuning": (
        lambda: get_peft_model(tiny_llama(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)),
        "prompt learning.*Use LoRA",
    ),
    "a plain torch module": (lambda: nn.Linear(2, 2), "not a transformers model.*AutoModelForCausalLM"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_refused_with_the_reason(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    make, message = UNREADABLE[kind]
    with pytest.raises(UnreadableFFNError, match=message):
        check(make(), tokenizer)


def test_an_activation_that_only_the_configuration_names_is_found(
    llama: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Liger's FFNs keep it nowhere else."""
    expected = encode(llama, tokenizer, PAIRS.target)
    for layer in llama.model.layers:
        activation = layer.mlp.act_fn
        del layer.mlp.act_fn
        layer.mlp.forward = lambda x, mlp=layer.mlp, activation=activation: mlp.down_proj(
            activation(mlp.gate_proj(x)) * mlp.up_proj(x)
        )
    check(llama, tokenizer)
    assert torch.equal(encode(llama, tokenizer, PAIRS.target), expected)


@pytest.mark.once
def test_an_activation_with_parameters_is_tried_where_they_are() -> None:
    """On a GPU they are there; "meta" stands for one, and has no numbers to try. Apertus' xIELU has parameters."""
    from transformers import ApertusConfig

    model = AutoModelForCausalLM.from_config(ApertusConfig(**SIZES, hidden_act="xielu"))
    # xIELU has the sign of its input, except where its two parameters make it positive below zero.
    on_cpu = [ffn.sign_preserving for (ffn,) in find_ffns(model)]
    assert on_cpu == [preserves_sign(layer.mlp.act_fn) for layer in model.model.layers]
    assert [ffn.sign_preserving for (ffn,) in find_ffns(model.to("meta"))] == [False, False, False]


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (QuantoConfig(weights="int4"), "quanto-int4"),
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}}, "hqq-4bit"),
        (GPTQConfig(bits=3), "gptq-3bit"),
        (AwqConfig(bits=4), "awq-4bit"),
        (FineGrainedFP8Config(), "fp8"),
        (BitsAndBytesConfig(load_in_8bit=True), "llm_int8"),
        (BitsAndBytesConfig(load_in_4bit=True), "fp4"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
    ],
)
def test_the_signature_names_the_quantisation_and_its_bits(
    config: Any, name: str, llama: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    llama.config.quantization_config = config
    assert Decoder.find(llama, tokenizer).dtype == f"float32/{name}"
