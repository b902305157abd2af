"""SADS as its source has it: signed values, no special tokens, plain sums over the tokens, all layers in one vector."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs, alignment_score, encode
from neuronxa_callback.alignment.encoder import encode_all
from neuronxa_callback.alignment.pair_scores import layer_numbers, of_report
from neuronxa_callback.alignment.scores import measure, random_orders, representations_of
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.figures import draw_layers
from neuronxa_callback.survey.records import ScoreLine
from neuronxa_callback.survey.tables import layer_table
from neuronxa_callback.training import page
from neuronxa_callback.training.history import History
from neuronxa_callback.training.maps import PAIR_MAP, run_maps
from neuronxa_callback.training.records import Evaluation
from neuronxa_callback.vocabulary import Method
from tests import reference
from tests.support import make_tokenizer, tiny_llama

PAIRS = ParallelPairs.load("eng_Latn-fra_Latn", n=12)


@pytest.fixture(scope="module")
def bare_tokenizer() -> PreTrainedTokenizerFast:
    """The session's tokenizer, but it adds no BOS."""
    return make_tokenizer(bos=False)


@pytest.mark.parametrize("bos", [True, False])
def test_equals_the_source_for_a_tokenizer_with_and_without_a_bos(
    bos: bool, tokenizer: PreTrainedTokenizerFast, bare_tokenizer: PreTrainedTokenizerFast
) -> None:
    """In float64; the encoder keeps float32 vectors."""
    model, its = tiny_llama().double().eval(), tokenizer if bos else bare_tokenizer
    report = NeuronXAEvaluator(PAIRS, ("nasca", "sads"))(model, its)
    expected = reference.sads_of_its_source(model, its, PAIRS.source, PAIRS.target)
    assert report.score["sads"] == pytest.approx(expected, abs=1e-7)
    assert abs(expected) > 1e-3
    assert report.per_layer["sads"].tolist() == [pytest.approx(expected, abs=1e-7)]
    assert report.per_layer["nasca"].shape == (3,)
    assert report.per_pair["sads"].mean().item() == pytest.approx(expected, abs=1e-6)


def test_a_bos_and_the_token_pooling_change_no_bit_of_it(
    llama: Any, tokenizer: PreTrainedTokenizerFast, bare_tokenizer: PreTrainedTokenizerFast
) -> None:
    with_bos = encode(llama, tokenizer, PAIRS.source, "signed")
    assert torch.equal(encode(llama, bare_tokenizer, PAIRS.source, "signed"), with_bos)
    assert torch.equal(encode(llama, tokenizer, PAIRS.source, "signed", token_pooling="last"), with_bos)
    assert not torch.equal(encode(llama, bare_tokenizer, PAIRS.source), encode(llama, tokenizer, PAIRS.source))


def test_text_that_spells_a_special_token_counts(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    sentence = "A cat <s> sleeps."
    found = encode(llama, tokenizer, [sentence], "signed")[:, 0].numpy()
    count = len(tokenizer(sentence, add_special_tokens=False)["input_ids"])
    assert tokenizer.bos_token_id in tokenizer(sentence, add_special_tokens=False)["input_ids"]
    expected = np.array(reference.signed_sums(llama, tokenizer, sentence)) / count
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("methods", "bos", "passes"),
    [
        (("nasca", "mexa"), True, 1),
        (("sads",), True, 1),
        (("sads", "nasca", "mexa"), True, 2),
        (("sads", "nasca", "mexa"), False, 1),
    ],
)
def test_only_special_tokens_cost_a_pass_of_its_own(
    methods: tuple[Method, ...],
    bos: bool,
    passes: int,
    llama: Any,
    tokenizer: PreTrainedTokenizerFast,
    bare_tokenizer: PreTrainedTokenizerFast,
) -> None:
    sentences = 0

    def count(module: Any, args: Any, output: torch.Tensor) -> None:
        nonlocal sentences
        sentences += output.shape[0]

    its = tokenizer if bos else bare_tokenizer
    evaluator = NeuronXAEvaluator(PAIRS, methods)
    evaluator.check(Decoder.find(llama, its))
    with llama.model.embed_tokens.register_forward_hook(count):
        together = evaluator(llama, its)
    assert sentences == passes * 2 * len(PAIRS)
    for method in methods:
        alone = NeuronXAEvaluator(PAIRS, method)(llama, its)
        assert torch.equal(alone.per_layer[method], together.per_layer[method])


def test_order_and_padding_side_change_no_bit_and_the_budget_rounds(
    llama: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    sentences = list(PAIRS.target)
    expected = encode(llama, tokenizer, sentences, "signed")
    order = random.Random(0).sample(range(len(sentences)), len(sentences))
    right = make_tokenizer()
    right.padding_side = "right"
    assert torch.equal(encode(llama, right, [sentences[i] for i in order], "signed"), expected[:, order])
    alone = encode(llama, tokenizer, sentences, "signed", token_budget=1)
    torch.testing.assert_close(alone, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(3, 9), st.integers(1, 6))
@pytest.mark.unit
def test_joining_layers_equals_one_long_vector(seed: int, layers: int, n: int, features: int) -> None:
    """For its value, what each pair contributes, chance and torn-apart pairs."""
    rng = np.random.default_rng(seed)
    source, target = (torch.tensor(side) for side in rng.normal(size=(2, layers, n, features)))
    orders = random_orders(n, 5)
    found = measure(source, target, "sads", orders, joined=True)
    one, other = (side.permute(1, 0, 2).reshape(1, n, -1) for side in (source, target))
    expected = measure(one, other, "sads", orders)
    slow = reference.sads(one[0].numpy(), other[0].numpy())
    assert found.per_layer.tolist() == [pytest.approx(slow)]
    for name in ("per_layer", "per_pair", "without_pair", "chance", "torn"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))


@pytest.mark.unit
def test_a_layer_counts_by_its_size() -> None:
    """Layer 1 is the same for all sentences, with length r; at layer 2 the sentences are orthogonal, with length 1."""
    r = 2.0
    sides = torch.stack([torch.tensor([[r, 0.0, 0.0]] * 3), torch.eye(3)])
    assert measure(sides, sides, "sads", joined=True).per_layer.item() == pytest.approx(1 / (r**2 + 1))
    assert alignment_score(sides, sides, "sads").tolist() == pytest.approx([0, 1])
    nothing = torch.zeros(2, 3, 3)
    assert measure(sides, nothing, "sads", joined=True).per_layer.item() == 0


@pytest.mark.unit
def test_only_sads_joins_layers() -> None:
    source, target = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    assert measure(source, target, "cka", joined=True).per_layer.shape == (3,)
    with pytest.raises(ValueError, match="nasca reads nas; signed is read by sads"):
        representations_of(("nasca",), {"nasca": "signed"})


def test_what_it_was_is_sads_of_nav(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """It keeps its numbers, and the signatures tell the two apart."""
    report = NeuronXAEvaluator(PAIRS, "sads", representations={"sads": "nav"})(llama, tokenizer)
    source, target = (encode(llama, tokenizer, side, "nav") for side in (PAIRS.source, PAIRS.target))
    assert torch.equal(report.per_layer["sads"], alignment_score(source, target, "sads"))
    assert report.signature.startswith("method:sads(nav)|")
    assert NeuronXAEvaluator(PAIRS, "sads")(llama, tokenizer).signature.startswith("method:sads|")


class TestOnTheRealModel:
    def test_the_figures_of_docs_method(self, smollm: Any, smollm_tokenizer: Any) -> None:
        pairs = ParallelPairs.load("eng_Latn-fra_Latn")
        decoder = Decoder.find(smollm, smollm_tokenizer)
        source, target = (encode_all(decoder, side, ("signed", "nav")) for side in (pairs.source, pairs.target))
        joined = measure(source["signed"], target["signed"], "sads", joined=True)
        assert joined.per_layer.tolist() == [pytest.approx(0.01178, abs=1e-4)]
        assert alignment_score(source["nav"], target["nav"], "sads").mean().item() == pytest.approx(0.01653, abs=1e-4)
        part = slice(8)
        found = measure(source["signed"][:, part], target["signed"][:, part], "sads", joined=True).per_layer.item()
        slow = reference.sads_of_its_source(smollm, smollm_tokenizer, pairs.source[part], pairs.target[part])
        assert found == pytest.approx(slow, abs=1e-6)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("signature", "count", "expected"),
    [
        ("method:nasca+sads|layers:mean", 1, []),
        ("method:nasca+sads|layers:mean(1,3)", 1, []),
        ("method:sads(nav)|layers:mean", 3, [1, 2, 3]),
        ("method:sads(nav)|layers:mean(1,3)", 2, [1, 3]),
        ("method:sads|layers:mean", 3, [1, 2, 3]),  # a line of a version whose `sads` read NAV
    ],
)
def test_one_value_for_all_layers_has_no_number(signature: str, count: int, expected: list[int]) -> None:
    assert layer_numbers(Signature.parse(signature), "sads", count) == expected


def test_tables_figures_and_the_page_take_one_value_for_all_layers(
    llama: Any, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    report = NeuronXAEvaluator(PAIRS, ("cka", "sads"), permutations=0)(llama, tokenizer)
    scores = of_report(report).model_dump()
    line = ScoreLine.model_validate(scores | {"model": "tiny", "lang": "fra_Latn", "pivot": "eng_Latn", "key": ""})
    assert [row[1:4] for row in layer_table([line], []).rows if row[1] == "sads"] == [
        ["sads", "all", scores["per_layer"]["sads"][0]]
    ]
    assert [path.name for path in draw_layers([line], tmp_path)] == ["layers-tiny-cka.png"]

    evaluation = Evaluation.model_validate({"step": 0, "score": report.score, "languages": {PAIRS.name: scores}})
    assert list(run_maps([evaluation], "sads")) == [PAIR_MAP]
    history = History(tmp_path)
    history.put(evaluation)
    history.save()
    text = page.write(tmp_path).read_text(encoding="utf-8")
    assert "(layers-cka.png)" in text
    assert "(alignment-sads.png)" in text
    assert "layers-sads.png" not in text
    assert not page.write(tmp_path).with_name("layers-sads.png").exists()
