"""Each architecture of docs/reference/architectures.md as a tiny random model: numbers equal those made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.alignment.encoder import encode_all
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.layers import UnreadableFFNError
from neuronxa_callback.model.neurons import find_ffns
from neuronxa_callback.vocabulary import Representation
from tests import reference
from tests.architectures import MIXTURES, MULTIMODAL, PLAIN, needs_stacked_experts, tiny, tiny_multimodal

PAIRS = ParallelPairs.load("eng_Latn-isl_Latn", n=6)
SENTENCES = PAIRS.target
READ: tuple[Representation, ...] = ("nas", "nav", "embedding", "signed")
ByHand = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]


def expected(model: Any, tokenizer: Any, blocks: list[Any], by_hand: ByHand) -> dict[Representation, Any]:
    """Compute pooled states and values of each block from its input, one unpadded sentence at a time."""
    pooled: dict[Representation, list[Any]] = {read: [] for read in READ}

    def run(sentence: str, special_tokens: bool) -> tuple[list[tuple[Tensor, Tensor]], Any]:
        inputs: list[Tensor] = []
        hooks = [block.register_forward_pre_hook(_keep_input(inputs)) for block in blocks]
        ids = torch.tensor([tokenizer(sentence, add_special_tokens=special_tokens)["input_ids"]])
        with torch.no_grad():
            output = Decoder.find(model, tokenizer).stack(input_ids=ids, use_cache=False, output_hidden_states=True)
            for hook in hooks:
                hook.remove()
            found = [by_hand(block, x.reshape(-1, x.shape[-1])) for block, x in zip(blocks, inputs, strict=True)]
        return found, output

    for sentence in SENTENCES:
        bare, _ = run(sentence, special_tokens=False)
        pooled["signed"].append([reference.pool(values.double().numpy(), "average") for _, values in bare])
        found, output = run(sentence, special_tokens=True)
        pooled["nas"].append([reference.pool(states.double().numpy(), "weighted") for states, _ in found])
        pooled["nav"].append([reference.pool(values.double().abs().numpy(), "weighted") for _, values in found])
        pooled["embedding"].append([reference.pool(h[0].double().numpy(), "weighted") for h in output.hidden_states])
    return pooled


def _keep_input(inputs: list[Tensor]) -> Callable[[nn.Module, Any], None]:
    return lambda module, args: inputs.append(args[0])


def assert_captured(model: Any, tokenizer: Any, blocks: list[Any], by_hand: ByHand) -> None:
    NeuronXAEvaluator(PAIRS).check(Decoder.find(model, tokenizer))
    captured = encode_all(Decoder.find(model, tokenizer), SENTENCES, READ)
    assert len(captured["embedding"]) == len(blocks) + 1
    for read, sentences in expected(model, tokenizer, blocks, by_hand).items():
        for row, layers in enumerate(sentences):
            for layer, values in enumerate(layers):
                found = captured[read][layer, row].numpy()
                np.testing.assert_allclose(found[: len(values)], values, atol=1e-5, rtol=1e-5)
                assert not found[len(values) :].any()
    assert 0 < captured["nas"].mean() < 1


def linear(module: Any, x: Tensor) -> Tensor:
    """Apply a linear layer through its weights, which GPT-2 holds transposed."""
    weight = module.weight.T if type(module).__name__ == "Conv1D" else module.weight
    result: Tensor = x @ weight.T + (0 if module.bias is None else module.bias)
    return result


def plain_by_hand(ffn: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    names = ("c_fc", "dense_h_to_4h", "fc1", "fc_in", "up_proj")
    first = next(getattr(ffn, name) for name in names if hasattr(ffn, name))
    activation: Any = next(module for name, module in ffn.named_children() if "act" in name or "gelu" in name)
    values = activation(linear(first, x))
    return values > 0, values


@pytest.mark.parametrize("name", PLAIN)
def test_plain_ffns(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny(name, torch.float64)
    _, place = PLAIN[name]
    layers: list[Any] = [
        module
        for list_ in Decoder.find(model, tokenizer).stack.children()
        if isinstance(list_, nn.ModuleList)
        for module in list_
    ]
    # OPT's layers hold the projections themselves, so the FFN's input is the input of the first projection.
    ffns = [layer.get_submodule(place) if place else layer for layer in layers]
    if name == "opt":
        assert_captured(model, tokenizer, [layer.fc1 for layer in layers], opt_by_hand(layers))
    else:
        assert_captured(model, tokenizer, ffns, plain_by_hand)
    assert "|neurons:sigma(up)>0|" in str(NeuronXAEvaluator(PAIRS).signature(PAIRS, Decoder.find(model, tokenizer)))


def opt_by_hand(layers: list[Any]) -> ByHand:
    activation_of = {layer.fc1: layer.activation_fn for layer in layers}

    def by_hand(first: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        values = activation_of[first](linear(first, x))
        return values > 0, values

    return by_hand


def gated_by_hand(ffn: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    gate = ffn.act_fn(linear(ffn.gate_proj, x))
    return gate > 0, gate * linear(ffn.up_proj, x)


def mixture_by_hand(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the shared experts' neurons, then those of every routed expert. Experts that are not chosen give 0."""
    if not hasattr(block, "experts"):
        return gated_by_hand(block, x)
    router = block.router if hasattr(block, "router") else block.gate
    _, _, chosen = router(x)
    experts = block.experts
    rows: list[tuple[Tensor, Tensor]] = []
    for token, routed in zip(x, chosen, strict=True):
        states, values = [], []
        for expert in range(experts.num_experts):
            state, value = one_expert(experts, expert, token)
            here = bool((routed == expert).any())
            states.append(state & here)
            values.append(value * here)
        rows.append((torch.cat(states), torch.cat(values)))
    routed_states, routed_values = torch.stack([s for s, _ in rows]), torch.stack([v for _, v in rows])
    shared = getattr(block, "shared_experts", None) or getattr(block, "shared_expert", None)
    if shared is None:
        return routed_states, routed_values
    shared_states, shared_values = gated_by_hand(shared, x)
    return torch.cat([shared_states, routed_states], dim=1), torch.cat([shared_values, routed_values], dim=1)


def one_expert(experts: Any, expert: int, x: Tensor) -> tuple[Tensor, Tensor]:
    weight = experts.gate_up_proj[expert]
    # GPT-OSS has transposed, interleaved weights, clamps both halves and computes (up + 1) * SiLU_alpha(gate).
    if "GptOss" in type(experts).__name__:
        both = x @ weight + experts.gate_up_proj_bias[expert]
        gate, up = both[0::2].clamp(max=experts.limit), both[1::2].clamp(-experts.limit, experts.limit)
        glu = gate * torch.sigmoid(experts.alpha * gate)
        return glu > 0, glu * (up + 1)
    gate, up = (weight @ x).chunk(2)
    gate = experts.act_fn(gate)
    return gate > 0, gate * up


@needs_stacked_experts
@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_of_experts(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    NeuronXAEvaluator(PAIRS).check(Decoder.find(spread(tiny(name)), tokenizer))  # with transformers' default kernel
    model = spread(tiny(name, torch.float64))
    model.set_experts_implementation("eager")  # the default has no float64
    assert_captured(model, tokenizer, [layer.mlp for layer in model.model.layers], mixture_by_hand)
    rules = {"deepseek-v3": "routed&sigma(gate)>0+sigma(gate)>0", "qwen2-moe": "routed&sigma(gate)>0+sigma(gate)>0"}
    signature = str(NeuronXAEvaluator(PAIRS).signature(PAIRS, Decoder.find(model, tokenizer)))
    assert f"|neurons:{rules.get(name, 'routed&sigma(gate)>0')}|" in signature


def spread(model: Any) -> Any:
    """Set weights that transformers leaves zero or empty to random ones, so that tokens go to different experts."""
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "experts" in name or "router" in name or ".gate." in name:
            nn.init.normal_(parameter, std=0.2)
    return model


@needs_stacked_experts
def test_an_unrouted_experts_neurons_are_not_active(tokenizer: PreTrainedTokenizerFast) -> None:
    model = spread(tiny("mixtral"))
    for layer in model.model.layers:
        with torch.no_grad():
            layer.mlp.gate.weight[:] = 0  # all experts are alike: top-k takes the same two for every token
    states = encode_all(Decoder.find(model, tokenizer), SENTENCES, ("nas",))["nas"].unflatten(2, (4, 48))
    active = states.amax(dim=(1, 3)) > 0
    assert active.sum(dim=1).tolist() == [2, 2, 2]


@needs_stacked_experts
def test_lora_on_the_experts_is_in_their_neurons(tokenizer: PreTrainedTokenizerFast) -> None:
    model = spread(tiny("mixtral"))
    bare = encode_all(Decoder.find(model, tokenizer), SENTENCES, ("nav",))["nav"]
    torch.manual_seed(1)
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = LoraConfig(r=4, target_modules=[], target_parameters=names, init_lora_weights=False)
    adapted = get_peft_model(model, config)
    NeuronXAEvaluator(PAIRS).check(Decoder.find(adapted, tokenizer))
    found = encode_all(Decoder.find(adapted, tokenizer), SENTENCES, ("nav",))["nav"]
    merged = adapted.merge_and_unload()
    expected = encode_all(Decoder.find(merged, tokenizer), SENTENCES, ("nav",))["nav"]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, bare)


@needs_stacked_experts
def test_experts_that_compute_something_else_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    model = spread(tiny("qwen3-moe"))
    experts = model.model.layers[1].mlp.experts
    forward = experts.forward
    experts.forward = lambda hidden, chosen, weights: forward(hidden, chosen.flip(-1), weights)
    with pytest.raises(UnreadableFFNError, match=r"model\.layers\.1\.mlp\.experts does not compute its experts"):
        NeuronXAEvaluator(PAIRS).check(Decoder.find(model, tokenizer))


class LigerExperts(nn.Module):
    """Stands for Liger Kernel's class of this name: the same tensors, in a forward of its own."""

    def __init__(self, experts: Any) -> None:
        super().__init__()
        self.num_experts, self.intermediate_dim = experts.num_experts, experts.intermediate_dim
        self.gate_up_proj, self.down_proj = experts.gate_up_proj, experts.down_proj

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        total = torch.zeros_like(hidden_states)
        for expert in range(self.num_experts):
            gate, up = (hidden_states @ self.gate_up_proj[expert].T).chunk(2, dim=-1)
            weight = (top_k_weights * (top_k_index == expert)).sum(-1, keepdim=True)
            total += weight * ((nn.functional.silu(gate) * up) @ self.down_proj[expert].T)
        return total


@needs_stacked_experts
def test_ligers_experts_are_read(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("mixtral")
    expected = encode_all(Decoder.find(model, tokenizer), SENTENCES, ("nas", "nav"))
    for layer in model.model.layers:
        layer.mlp.experts = LigerExperts(layer.mlp.experts)
    decoder = Decoder.find(model, tokenizer)
    NeuronXAEvaluator(PAIRS).check(decoder)
    assert decoder.rule == "routed&sigma(gate)>0"
    found = encode_all(decoder, SENTENCES, ("nas", "nav"))
    assert torch.equal(found["nas"], expected["nas"])
    torch.testing.assert_close(found["nav"], expected["nav"], atol=1e-5, rtol=1e-5)
    first, second = (model.model.layers[place].mlp.experts for place in (0, 1))
    first.forward = second.forward
    with pytest.raises(UnreadableFFNError, match=r"layers\.0\.mlp\.experts does not compute its experts"):
        NeuronXAEvaluator(PAIRS).check(decoder)


@needs_stacked_experts
def test_quantised_experts_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("mixtral")
    experts = model.model.layers[0].mlp.experts
    experts.gate_up_proj = nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(UnreadableFFNError, match=r"layers\.0\.mlp\.experts .* without quantising its experts"):
        find_ffns(model)


@pytest.mark.parametrize("name", MULTIMODAL)
def test_language_towers_of_multimodal_models(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_multimodal(name).double()
    stack: Any = Decoder.find(model, tokenizer).stack
    layers = [layer for layer in stack.layers if not hasattr(layer, "cross_attn")]
    assert len(layers) == 3
    assert_captured(model, tokenizer, [layer.mlp for layer in layers], gated_by_hand)


@pytest.mark.parametrize("name", ["gpt2", "opt", "deepseek-v3", "llama-3.2-vision"])
def test_chosen_layers_are_those_of_the_whole_pass(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    if name == "deepseek-v3" and int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("transformers 4 holds its experts one by one")
    model = tiny_multimodal(name) if name in MULTIMODAL else spread(tiny(name))
    whole = encode_all(Decoder.find(model, tokenizer), SENTENCES, READ)
    part = encode_all(Decoder.find(model, tokenizer), SENTENCES, READ, layers=[2, 1])
    for read, values in part.items():
        first = 0 if read == "embedding" else 1
        width = values.shape[2]
        assert torch.equal(values, whole[read][[1 - first, 2 - first], :, :width])
        assert not whole[read][[1 - first, 2 - first], :, width:].any()
