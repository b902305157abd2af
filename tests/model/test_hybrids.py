"""Layers without an FFN, FFNs that layers share, models without FFNs, and several residual streams."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from benchmarks.architectures.configs import tiny_model
from neuronxa_callback import NeuronXAEvaluator, ParallelPairs, encode
from neuronxa_callback.alignment.encoder import encode_all
from neuronxa_callback.alignment.pair_scores import layer_numbers
from neuronxa_callback.cli import app
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.hooks import watch
from neuronxa_callback.model.layers import UnreadableFFNError
from neuronxa_callback.survey.sentence_map import _middle_layer
from tests import reference
from tests.support import make_tokenizer

pytestmark = pytest.mark.once  # transformers 4.57 lacks or holds these models otherwise

PAIRS = ParallelPairs.load("eng_Latn-isl_Latn", n=6)
SENTENCES = PAIRS.target


@pytest.fixture(scope="module")
def zamba2() -> Any:
    """Return a stack in which only layers 2 and 4 have an FFN. They share its weights, and each has an adapter."""
    return tiny_model("zamba2")


def zamba2_by_hand(model: Any, tokenizer: Any, sentence: str) -> list[Tensor]:
    """Return the states (tokens, neurons) of layers 2 and 4, from the inputs of their FFNs."""
    ffns = [model.model.layers[place].shared_transformer.feed_forward for place in (1, 3)]
    inputs: list[Tensor] = []
    hooks = [ffn.register_forward_pre_hook(lambda module, args: inputs.append(args[0][0])) for ffn in ffns]
    with torch.no_grad():
        model(input_ids=torch.tensor([tokenizer(sentence)["input_ids"]]), use_cache=False)
        for hook in hooks:
            hook.remove()
        gates = [
            (ffn.gate_up_proj(x) + ffn.gate_up_proj_adapter_list[use](x)).chunk(2, dim=-1)[0]
            for use, (ffn, x) in enumerate(zip(ffns, inputs, strict=True))
        ]
        return [ffn.act_fn(gate) > 0 for ffn, gate in zip(ffns, gates, strict=True)]


class TestLayersWithoutAnFFN:
    def test_they_are_left_out(self, zamba2: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        states = encode(zamba2, tokenizer, SENTENCES)
        assert len(states) == 2
        for row, sentence in enumerate(SENTENCES):
            for found, layer in zip(states, zamba2_by_hand(zamba2, tokenizer, sentence), strict=True):
                expected = reference.pool(layer.double().numpy(), "weighted")
                np.testing.assert_allclose(found[row].numpy(), expected, atol=1e-6)

    def test_the_signature_says_which_have_one(self, zamba2: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        report = NeuronXAEvaluator(PAIRS, ("nasca", "mexa"))(zamba2, tokenizer)
        assert "|neurons:sigma(gate)>0|ffns:2,4of4|" in str(report.signature)
        for method, layers in (("nasca", [2, 4]), ("mexa", [0, 1, 2, 3, 4])):
            assert len(report.per_layer[method]) == len(layers)  # type: ignore[index]
            assert layer_numbers(report.signatures[0], method, len(layers)) == layers

    def test_a_chosen_layer_has_its_own_number(self, zamba2: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        whole = encode(zamba2, tokenizer, SENTENCES)
        assert torch.equal(encode(zamba2, tokenizer, SENTENCES, layers=[4]), whole[1:])
        assert torch.equal(encode(zamba2, tokenizer, SENTENCES, layers=[2]), whole[:1])
        with pytest.raises(ValueError, match=r"layers=\[3\] must be different numbers from 2, 4 for nas"):
            encode(zamba2, tokenizer, SENTENCES, layers=[3])

    def test_the_map_takes_the_nearest_to_the_middle(self, zamba2: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        decoder = Decoder.find(tiny_model("zamba"), tokenizer)
        assert decoder.ffn_layers == [3, 6]
        assert _middle_layer(decoder, ["nas"]) == 3
        assert _middle_layer(Decoder.find(zamba2, tokenizer), ["nas", "embedding"]) == 2
        assert _middle_layer(Decoder.find(zamba2, tokenizer), ["embedding"]) == 2


def test_layers_that_share_an_ffn_are_told_apart(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Zamba of transformers 4.57 has one module for all its layers."""
    first, last = llama.model.layers[0], llama.model.layers[2]
    last.mlp = copy.deepcopy(first.mlp)
    expected = encode_all(Decoder.find(llama, tokenizer), SENTENCES, ("nas", "nav"))
    np.testing.assert_allclose(expected["nas"], reference.encode(llama, tokenizer, SENTENCES, "nas"), atol=1e-6)
    last.mlp = first.mlp
    NeuronXAEvaluator(PAIRS, ("nasca", "navca")).check(Decoder.find(llama, tokenizer))
    found = encode_all(Decoder.find(llama, tokenizer), SENTENCES, ("nas", "nav"))
    assert all(torch.equal(found[read], expected[read]) for read in found)
    assert torch.equal(encode(llama, tokenizer, SENTENCES, layers=[3]), found["nas"][2:])


class TestWithoutFFNs:
    def test_methods_of_hidden_states_work(self, tokenizer: PreTrainedTokenizerFast) -> None:
        model = tiny_model("mamba")
        evaluator = NeuronXAEvaluator(PAIRS, ("mexa", "cka", "svcca", "anc"))
        evaluator.check(Decoder.find(model, tokenizer))
        report = evaluator(model, tokenizer)
        assert set(report.score) == {"mexa", "cka", "svcca", "anc"}
        assert "neurons:" not in str(report.signature)
        source, target = (
            np.array([[reference.pool(h, "weighted") for h in hidden(model, tokenizer, s)] for s in side])
            for side in (PAIRS.source, PAIRS.target)
        )
        by_hand = reference.alignment(source.transpose(1, 0, 2), target.transpose(1, 0, 2))
        assert report.score["mexa"] == pytest.approx(np.mean(by_hand), abs=1e-6)

    def test_methods_of_neurons_are_refused(self, tokenizer: PreTrainedTokenizerFast) -> None:
        with pytest.raises(UnreadableFFNError, match="The methods mexa, cka, svcca and anc need no FFN"):
            NeuronXAEvaluator(PAIRS, ("mexa", "nasca")).check(Decoder.find(tiny_model("mamba"), tokenizer))


def hidden(model: Any, tokenizer: Any, sentence: str) -> list[Any]:
    """Return Mamba's hidden states (tokens, hidden): the embeddings, each layer's output, the last one normed."""
    ids = torch.tensor([tokenizer(sentence)["input_ids"]])
    with torch.no_grad():
        states = [model.backbone.embeddings(ids)]
        for layer in model.backbone.layers:
            states.append(layer(states[-1]))
        states[-1] = model.backbone.norm_f(states[-1])
    return [state[0].double().numpy() for state in states]


class TestResidualStreams:
    @pytest.mark.parametrize("kind", ["gemma3n_text", "deepseek_v4", "qwen4_exp_text"])
    def test_they_stand_one_after_the_other(self, kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
        model = tiny_model(kind)
        decoder = Decoder.find(model, tokenizer)
        read = encode_all(decoder, SENTENCES, ("embedding",), "last")["embedding"]
        for row, ids in enumerate(decoder.tokenize(SENTENCES)):
            with torch.no_grad():
                states = model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
            for layer, state in enumerate(states[:-1]):
                last = state[:, 0, -1] if kind == "gemma3n_text" else state[0, -1]
                torch.testing.assert_close(read[layer, row], last.reshape(-1), atol=1e-4, rtol=1e-4)
        assert NeuronXAEvaluator(PAIRS, "mexa")(model, tokenizer).score.keys() == {"mexa"}

    def test_as_many_streams_as_sentences_and_tokens_are_told_apart(self, tokenizer: PreTrainedTokenizerFast) -> None:
        of_tokens = torch.randn(4, 4, 2)
        streams = [of_tokens + number for number in range(4)]
        expected = torch.cat(streams, dim=-1)
        gemma, deepseek = (Decoder.find(tiny_model(kind), tokenizer) for kind in ("gemma3n_text", "deepseek_v4"))
        assert torch.equal(gemma.joined_streams(torch.stack(streams), 4, 4), expected)
        assert torch.equal(deepseek.joined_streams(torch.stack(streams, dim=2), 4, 4), expected)
        with pytest.raises(UnreadableFFNError, match=r"the shape \(3, 15, 2\) for 5 tokens"):
            deepseek.joined_streams(torch.zeros(3, 15, 2), 3, 5)


def signed(model: Any, tokenizer: Any, layer: int, part: int) -> Tensor:
    """Return the signed values (tokens, neurons) of one part of a layer for the first sentence."""
    decoder = Decoder.find(model, tokenizer)
    found: list[Tensor] = []
    with (
        decoder.evaluation_mode(),
        watch([[decoder.ffns[layer][part]]], {"signed": [1]}, lambda *read: found.append(read[-1].clone())),
    ):
        decoder.run(decoder.tokenize(SENTENCES[:1]))
    (values,) = found
    return values


def run_of(model: Any, module: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Return the arguments and the output of a module in a plain forward pass over the first sentence."""
    seen: list[Any] = []
    hook = module.register_forward_hook(lambda module, args, output: seen.append((args, output)))
    with torch.no_grad():
        model(input_ids=torch.tensor([tokenizer(SENTENCES[0])["input_ids"]]), use_cache=False)
    hook.remove()
    return seen[0]  # type: ignore[no-any-return]


class TestValuesOfExperts:
    """The experts' own output is the values that were read, times the last projections and the router's weights."""

    def test_nemotron_h(self, tokenizer: PreTrainedTokenizerFast) -> None:
        model = tiny_model("nemotron_h")
        found: tuple[int, int, Any] = next(
            (number, part, ffn.module)
            for number, parts in enumerate(Decoder.find(model, tokenizer).ffns)
            for part, ffn in enumerate(parts)
            if hasattr(ffn, "count")
        )
        layer, part, experts = found
        (_, chosen, weights), output = run_of(model, experts, tokenizer)
        self.assert_explained(signed(model, tokenizer, layer, part), experts.down_proj, chosen, weights, output)

    def test_dbrx(self, tokenizer: PreTrainedTokenizerFast) -> None:
        model = tiny_model("dbrx")
        experts = model.transformer.blocks[0].ffn.experts
        (_, chosen, weights), output = run_of(model, experts, tokenizer)
        down = experts.mlp.w2.view(4, 96, -1).transpose(1, 2)
        self.assert_explained(signed(model, tokenizer, 0, 0), down, chosen, weights, output)

    def test_jetmoe(self, tokenizer: PreTrainedTokenizerFast) -> None:
        model = tiny_model("jetmoe")
        block = model.model.layers[0].mlp
        _, output = run_of(model, block, tokenizer)
        (_, token, gates, sizes, _) = run_of(model, block.router, tokenizer)[1]
        weights = torch.zeros(len(output[0]), 8)
        weights[token, torch.repeat_interleave(torch.tensor(sizes))] = gates
        chosen = torch.arange(len(sizes)).expand(len(output[0]), -1)
        values = signed(model, tokenizer, 0, 0)
        down: Any = block.output_linear.weight
        self.assert_explained(values, down, chosen, weights[:, : len(sizes)], output - block.bias)

    def test_llama_4(self, tokenizer: PreTrainedTokenizerFast) -> None:
        model = tiny_model("llama4_text")
        layer = next(n for n, parts in enumerate(Decoder.find(model, tokenizer).ffns) if len(parts) == 2)
        experts = model.model.layers[layer].feed_forward.experts
        _, output = run_of(model, experts, tokenizer)
        values = signed(model, tokenizer, layer, 1)
        tokens = len(values)
        total = output.reshape(4, tokens, -1).sum(0)
        chosen = torch.arange(4).expand(tokens, -1)
        self.assert_explained(values, experts.down_proj.transpose(1, 2), chosen, torch.ones(tokens, 4), total)

    @staticmethod
    def assert_explained(values: Tensor, down: Tensor, chosen: Tensor, weights: Tensor, output: Tensor) -> None:
        """Compare the output with sums over each token's experts; `down` is (experts, hidden, neurons)."""
        by_expert = values.unflatten(1, (down.shape[0], -1))
        expected = torch.stack(
            [
                sum(
                    (w * (down[e] @ by_expert[t, e]) for e, w in zip(chosen[t], weights[t], strict=True)),
                    torch.zeros(()),
                )
                for t in range(len(values))
            ]
        )
        torch.testing.assert_close(output.reshape(expected.shape), expected, atol=1e-4, rtol=1e-4)
        assert values.any()


class TestTheCommandLine:
    """`neuronxa score` gives numbers or one sentence, and never a traceback."""

    @staticmethod
    def score(kind: str, method: str, folder: Path) -> tuple[int, str]:
        tiny_model(kind).save_pretrained(folder / "model")
        make_tokenizer().save_pretrained(folder / "model")
        arguments = ["score", str(folder / "model"), "--langs", "isl_Latn", "--n", "8", "--methods", method]
        result = CliRunner().invoke(app, [*arguments, "--output", str(folder / "out")], env={"COLUMNS": "400"})
        return result.exit_code, result.output + (result.stderr or "")

    @pytest.mark.parametrize(("kind", "method"), [("mamba", "mexa"), ("gemma3n_text", "mexa"), ("moshi", "nasca")])
    def test_what_can_be_read_is_scored(self, kind: str, method: str, tmp_path: Path) -> None:
        code, output = self.score(kind, method, tmp_path)
        assert code == 0, output
        assert method in output

    @pytest.mark.parametrize(
        ("kind", "method", "message"),
        [
            ("mamba", "nasca", "Error: no layer of MambaForCausalLM holds an FFN that can be read"),
            ("prophetnet", "nasca", "Error: no layer of ProphetNetForCausalLM holds an FFN that can be read"),
            ("prophetnet", "mexa", "Error: a layer of ProphetNetDecoder gets hidden states of the shape"),
        ],
    )
    def test_what_cannot_is_refused(self, kind: str, method: str, message: str, tmp_path: Path) -> None:
        code, output = self.score(kind, method, tmp_path)
        assert code != 0
        assert message in output
        assert "Traceback" not in output
