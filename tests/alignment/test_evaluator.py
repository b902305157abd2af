from __future__ import annotations

import gc
import weakref
from typing import Any, get_args

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs, __version__, alignment_score, encode
from neuronxa_callback.alignment import encoder
from neuronxa_callback.alignment.pair_scores import layer_numbers
from neuronxa_callback.alignment.scores import measure, measure_all, random_orders
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.signature import Signature
from neuronxa_callback.significance import RESAMPLES, chance_p_value
from neuronxa_callback.vocabulary import REPRESENTATION_OF, LayerPooling, Method
from tests import reference
from tests.support import make_tokenizer, tiny_llama

ICELANDIC = ParallelPairs.load("eng_Latn-isl_Latn", n=20)
FRENCH = ParallelPairs.load("eng_Latn-fra_Latn", n=20)
GERMAN_FRENCH = ParallelPairs.load("deu_Latn-fra_Latn", n=12)
METHODS: tuple[Method, ...] = ("nasca", "nasca_rank", "navca", "mexa", "sads")


def test_a_report_says_what_the_parts_say(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    report = NeuronXAEvaluator(FRENCH, methods=METHODS)(llama, tokenizer)
    for method in METHODS:
        representation = REPRESENTATION_OF[method]
        source, target = (encode(llama, tokenizer, side, representation) for side in (FRENCH.source, FRENCH.target))
        per_layer = measure(source, target, method, joined=method == "sads").per_layer.float()
        assert torch.equal(report.per_layer[method], per_layer)
        assert report.score[method] == pytest.approx(per_layer.mean().item())
        assert report.per_pair[method].shape == (20,)
        assert report.score[method] == pytest.approx(report.per_pair[method].mean().item())
        orders = {method: random_orders(20, RESAMPLES)}
        torn = measure_all(source, target, orders, joined=representation == "signed")[method].torn
        assert torn is not None
        higher = sum(value >= report.score[method] - 1e-7 for value in torn.mean(dim=1).tolist())
        assert report.p_value[method] == (1 + higher) / 10_000
        assert report.chance[method] == pytest.approx(torn.mean().item(), abs=0.002)
        low, high = report.ci[method]
        assert low <= report.score[method] <= high
    assert report.paper_p_value["nasca"] == chance_p_value(report.score["nasca"], 20)
    assert report.paper_p_value.keys() == {"nasca", "navca", "mexa"}


def test_the_real_models_scores_equal_the_reference(smollm: Any, smollm_tokenizer: Any) -> None:
    pairs = ParallelPairs.load("eng_Latn-spa_Latn", n=25)
    report = NeuronXAEvaluator(pairs)(smollm, smollm_tokenizer)
    slow = [reference.encode(smollm, smollm_tokenizer, side, "nas") for side in (pairs.source, pairs.target)]
    assert report.per_layer["nasca"].tolist() == pytest.approx(reference.alignment(*slow), abs=1e-7)
    assert 0.05 < report.score["nasca"] < 1


def test_several_languages(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    report = NeuronXAEvaluator([FRENCH, ICELANDIC])(llama, tokenizer)
    assert list(report.by_language) == ["eng_Latn-fra_Latn", "eng_Latn-isl_Latn"]
    parts = [NeuronXAEvaluator(pair)(llama, tokenizer) for pair in (FRENCH, ICELANDIC)]
    assert report.score["nasca"] == sum(part.score["nasca"] for part in parts) / 2
    assert torch.equal(report.per_layer["nasca"], (parts[0].per_layer["nasca"] + parts[1].per_layer["nasca"]) / 2)
    assert report.signature == f"{parts[0].signature} {parts[1].signature}"
    # One English side: a sentence's translations are resampled together.
    per_sentence = (parts[0].per_pair["nasca"] + parts[1].per_pair["nasca"]) / 2
    assert torch.equal(report.per_pair["nasca"], per_sentence)


def test_several_languages_with_different_pivots(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    report = NeuronXAEvaluator([FRENCH, GERMAN_FRENCH])(llama, tokenizer)
    assert report.per_pair == {}
    assert report.score["nasca"] == pytest.approx(sum(part.score["nasca"] for part in report.by_language.values()) / 2)


def test_a_tuple_of_pairs_and_a_list_of_rows_are_what_they_look_like() -> None:
    names = ("eng_Latn-isl_Latn", "eng_Latn-fra_Latn")
    assert [pair.name for pair in NeuronXAEvaluator(names).pairs] == list(names)
    rows = [{"eng_Latn": "One.", "isl_Latn": "Einn."}, {"eng_Latn": "Two.", "isl_Latn": "Tveir."}]
    assert [len(pair) for pair in NeuronXAEvaluator(rows).pairs] == [2]
    assert NeuronXAEvaluator(names, methods="mexa").methods == ("mexa",)


@pytest.mark.parametrize("budget", [0, -1, "x", 2.5])
def test_a_token_budget_that_is_none_is_refused(budget: Any) -> None:
    with pytest.raises(ValueError, match="must be a number of tokens"):
        NeuronXAEvaluator(FRENCH, token_budget=budget)


def test_the_pivot_is_encoded_once(
    llama: Any, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[tuple[str, ...]] = []
    encode_all = encoder.encode_all

    def counted(decoder: Any, sentences: Any, *rest: Any) -> Any:
        texts.append(sentences)
        return encode_all(decoder, sentences, *rest)

    monkeypatch.setattr(encoder, "encode_all", counted)
    NeuronXAEvaluator([FRENCH, GERMAN_FRENCH, ICELANDIC], methods=METHODS)(llama, tokenizer)
    assert sorted(texts) == sorted(
        [FRENCH.source, FRENCH.target, ICELANDIC.target, GERMAN_FRENCH.source, GERMAN_FRENCH.target]
    )


def test_the_signature_holds_every_choice(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    evaluator = NeuronXAEvaluator(FRENCH, token_pooling="last", methods=("nasca", "mexa"))
    fields = dict(evaluator.signature(FRENCH, Decoder.find(llama, tokenizer)).fields)
    assert fields == {
        "method": "nasca+mexa",
        "n": "20",
        "pair": "eng_Latn-fra_Latn",
        "data": FRENCH.fingerprint,
        "tokens": "last",
        "layers": "mean",
        "special": "bos",
        "neurons": "sigma(gate)>0",
        "dtype": "float32",
        "version": __version__,
    }


def test_the_signature_says_autocast(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        signature = NeuronXAEvaluator(FRENCH).signature(FRENCH, Decoder.find(llama, tokenizer))
    assert "|dtype:float32/autocast-bfloat16|" in str(signature)


def test_pooling_is_in_float32_under_autocast(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """States are 0 or 1 and their weights whole numbers: under autocast too, each value times T(T+1)/2 is whole."""
    with torch.autocast("cpu", torch.bfloat16):
        encoded = encode(llama, tokenizer, FRENCH.source[:1])
    tokens = len(tokenizer(FRENCH.source[0])["input_ids"])
    sums = encoded.double() * tokens * (tokens + 1) / 2
    torch.testing.assert_close(sums, sums.round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", get_args(Method))
@pytest.mark.once
def test_every_method_on_the_real_model_equals_its_slow_reference(
    method: Method, smollm: Any, smollm_tokenizer: Any
) -> None:
    pairs = ParallelPairs.load("eng_Latn-spa_Latn", n=8)
    report = NeuronXAEvaluator(pairs, method)(smollm, smollm_tokenizer)
    if method == "sads":
        score = reference.sads_of_its_source(smollm, smollm_tokenizer, pairs.source, pairs.target)
        assert report.per_layer[method].tolist() == pytest.approx([score], abs=1e-6)
        return
    read = REPRESENTATION_OF[method]
    source, target = (reference.encode(smollm, smollm_tokenizer, side, read) for side in (pairs.source, pairs.target))
    # Features within rounding of a constant are left out by us and are noise in the reference: 1e-4 covers them.
    assert report.per_layer[method].tolist() == pytest.approx(reference.measure(source, target, method), abs=1e-4)


def test_chosen_layers_are_those_of_all(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    last: list[int] = []
    llama.model.layers[2].register_forward_hook(lambda *_: last.append(1))
    methods: list[Method] = ["nasca", "mexa", "cka"]
    chosen = NeuronXAEvaluator(FRENCH, methods, layers=(2, 1), representations={"cka": "nav"})
    chosen.check(Decoder.find(llama, tokenizer))
    last.clear()
    some = chosen(llama, tokenizer)
    assert not last  # the pass ended before
    every = NeuronXAEvaluator(FRENCH, methods, representations={"cka": "nav"})(llama, tokenizer)
    for method in methods:
        first = 1 if method == "mexa" else 0
        assert torch.equal(some.per_layer[method], every.per_layer[method][first : first + 2])
        assert layer_numbers(Signature.parse(some.signature), method, len(some.per_layer[method])) == [1, 2]
    assert "|layers:mean(1,2)|" in some.signature
    assert layer_numbers(Signature.parse(every.signature), "mexa", 4) == [0, 1, 2, 3]
    assert layer_numbers(Signature.parse(every.signature), "cka", 3) == [1, 2, 3]


@pytest.mark.parametrize("layers", [(), (4,), (0, 1), (2, 2)])
def test_layers_that_are_not_there(layers: tuple[int, ...], llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="must be different numbers from 1 to 3 for nas: FFNs count from 1"):
        NeuronXAEvaluator(FRENCH, layers=layers).check(Decoder.find(llama, tokenizer))


def test_the_greatest_layer(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    mean, best = (
        NeuronXAEvaluator([FRENCH, ICELANDIC], ("nasca", "anc"), layer_pooling=pooling)(llama, tokenizer)
        for pooling in get_args(LayerPooling)
    )
    sides = {pair.name: (pair.source, pair.target) for pair in (FRENCH, ICELANDIC)}
    for name, report in best.by_language.items():
        layers = mean.by_language[name].per_layer
        assert report.score["nasca"] == pytest.approx(layers["nasca"].max().item())
        assert report.score["anc"] == pytest.approx(layers["anc"].max().item())
        assert set(report.per_pair["nasca"].tolist()) <= {0.0, 1.0}
        assert report.per_pair["nasca"].mean().item() == pytest.approx(report.score["nasca"])
        assert "anc" not in {*report.per_pair, *report.ci}
        # The greatest of the torn layers, at each order: a maximum statistic, no multiple of a p-value.
        source, target = (encode(llama, tokenizer, side) for side in sides[name])
        torn = measure(source, target, "nasca", random_orders(20, RESAMPLES)).torn
        assert torn is not None
        higher = int((torn.amax(dim=1) >= report.score["nasca"] - 1e-7).sum())
        assert report.p_value["nasca"] == (1 + higher) / 10_000
        assert torch.equal(mean.by_language[name].torn["nasca"].score, torn.mean(dim=1))
    assert "|layers:max|" in best.signature


def test_pairs_torn_apart_give_the_other_methods_a_p_value(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    methods: tuple[Method, ...] = ("cka", "svcca", "anc")
    report = NeuronXAEvaluator(FRENCH, methods, permutations=19)(llama, tokenizer)
    source, target = (encode(llama, tokenizer, side, "embedding") for side in (FRENCH.source, FRENCH.target))
    for method in methods:
        torn = measure(source, target, method, random_orders(20, 19)).torn
        assert torn is not None
        higher = sum(value >= report.score[method] for value in torn.mean(dim=1).tolist())
        assert report.p_value[method] == pytest.approx((1 + higher) / 20)
        assert report.chance[method] == pytest.approx(torn.mean().item())
    assert NeuronXAEvaluator(FRENCH, methods, permutations=0)(llama, tokenizer).p_value == {}
    with pytest.raises(ValueError, match="permutations=-1 must be a number"):
        NeuronXAEvaluator(FRENCH, permutations=-1)


def test_language_pairs_of_unequal_numbers_are_named(caplog: pytest.LogCaptureFixture) -> None:
    NeuronXAEvaluator([FRENCH, ParallelPairs.load("deu_Latn-fra_Latn", n=20)])
    assert not caplog.records
    NeuronXAEvaluator([FRENCH, GERMAN_FRENCH])
    assert "the language pairs have 12 and 20 sentence pairs" in caplog.text


def test_a_language_pair_and_its_reverse_are_refused_together() -> None:
    back = ParallelPairs(FRENCH.target, FRENCH.source, "fra_Latn", "eng_Latn")
    with pytest.raises(ValueError, match="eng_Latn-fra_Latn and fra_Latn-eng_Latn hold the same sentences"):
        NeuronXAEvaluator([ICELANDIC, FRENCH, back])


def test_another_representation_is_read_and_signed(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    report = NeuronXAEvaluator(FRENCH, ("nasca", "cka"), representations={"cka": "nas"})(llama, tokenizer)
    source, target = (encode(llama, tokenizer, side, "nas") for side in (FRENCH.source, FRENCH.target))
    assert torch.equal(report.per_layer["cka"], alignment_score(source, target, "cka"))
    assert report.signature.startswith("method:nasca+cka(nas)|")


def test_all_methods_together_take_one_forward_pass_a_sentence(llama: Any) -> None:
    """If the tokenizer adds special tokens, SADS takes a second one: tests/alignment/test_sads.py."""
    tokenizer = make_tokenizer(bos=False)
    tokens = 0

    def count(module: Any, args: Any, output: torch.Tensor) -> None:
        nonlocal tokens
        tokens += output.shape[0]

    evaluator = NeuronXAEvaluator(FRENCH, get_args(Method))
    evaluator.check(Decoder.find(llama, tokenizer))
    with llama.model.embed_tokens.register_forward_hook(count):
        together = evaluator(llama, tokenizer)
    assert tokens == 2 * len(FRENCH)
    for method in get_args(Method):
        alone = NeuronXAEvaluator(FRENCH, method)(llama, tokenizer)
        assert torch.equal(alone.per_layer[method], together.per_layer[method])


def test_what_is_kept_of_the_text_is_one_source_and_one_target(
    llama: Any, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0
    encode_all = encoder.encode_all

    def counted(*args: Any) -> Any:
        nonlocal most
        encoded = encode_all(*args)
        alive.extend(weakref.ref(tensor) for tensor in encoded.values())
        gc.collect()
        most = max(most, sum(reference() is not None for reference in alive))
        return encoded

    monkeypatch.setattr(encoder, "encode_all", counted)
    names = ("isl_Latn", "fra_Latn", "deu_Latn", "spa_Latn")
    pairs = [*(ParallelPairs.load(f"eng_Latn-{name}", n=5) for name in names), GERMAN_FRENCH]
    for _ in NeuronXAEvaluator(pairs).reports(Decoder.find(llama, tokenizer), pairs):
        pass
    assert len(alive) == 7
    assert most == 2


def test_only_the_pair_with_a_sentence_too_long_is_left_out() -> None:
    """In Tatoeba every language has English sentences of its own."""
    long = " ".join(["a"] * 60)
    french = ParallelPairs(("A cat.", long), ("Un chat.", "Long."), "eng_Latn", "fra_Latn")
    icelandic = ParallelPairs(("A dog.", "A cow."), ("Hundur.", "Kýr."), "eng_Latn", "isl_Latn")
    german = ParallelPairs(("A dog.", "A cow."), ("Hund.", long), "eng_Latn", "deu_Latn")
    evaluator = NeuronXAEvaluator([french, icelandic, german])
    decoder = Decoder.find(tiny_llama(max_position_embeddings=40), make_tokenizer())
    fitting, told = evaluator.fitting(decoder)
    assert fitting == [icelandic]
    assert evaluator.pairs == [french, icelandic, german]
    assert [sentence.partition(" is left out: ")[0] for sentence in told] == ["eng_Latn-fra_Latn", "deu_Latn"]
    assert all("more than the model's context of 40" in sentence for sentence in told)
    with pytest.raises(ValueError, match="more than the model's context of 40"):
        NeuronXAEvaluator(german).fitting(decoder)
