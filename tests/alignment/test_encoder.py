from __future__ import annotations

import random
import weakref
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs, alignment_score, encode
from neuronxa_callback.alignment.encoder import NonFiniteActivationError, encode_all
from neuronxa_callback.alignment.pooling import pool_states, pool_tokens, token_weights
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.vocabulary import ALIGNMENT, REPRESENTATION_OF, Representation
from tests import reference
from tests.architectures import CONFIGS, tiny
from tests.support import hooks_of, make_tokenizer, tiny_llama

PAIRS = ParallelPairs.load("eng_Latn-isl_Latn", n=12)
REPRESENTATIONS: tuple[Representation, ...] = ("nas", "nav", "embedding")


@pytest.mark.parametrize("architecture", CONFIGS)
def test_equals_the_reference_for_every_architecture(architecture: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """In float64, where no rounding can flip a state, batched and hooked equals one sentence after the other."""
    model = tiny(architecture, torch.float64)
    encoded = [
        encode_all(Decoder.find(model, tokenizer), side, REPRESENTATIONS) for side in (PAIRS.source, PAIRS.target)
    ]
    slow = [reference.encode_all(model, tokenizer, side, REPRESENTATIONS) for side in (PAIRS.source, PAIRS.target)]
    for method in ALIGNMENT:
        representation = REPRESENTATION_OF[method]
        expected = [side[representation] for side in slow]
        for side, one in zip(encoded, expected, strict=True):
            np.testing.assert_allclose(side[representation].numpy(), one, atol=1e-5, rtol=1e-6)
        source, target = (side[representation] for side in encoded)
        assert alignment_score(source, target, method).tolist() == pytest.approx(reference.alignment(*expected))


@pytest.mark.parametrize("token_pooling", ["weighted", "average", "last"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_every_pooling_equals_the_reference(
    representation: Any, token_pooling: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny("llama", torch.float64)
    encoded = encode(model, tokenizer, PAIRS.target, representation, token_pooling)
    expected = reference.encode(model, tokenizer, PAIRS.target, representation, token_pooling)
    np.testing.assert_allclose(encoded.numpy(), expected, atol=1e-5, rtol=1e-6)


class TestOnTheRealModel:
    """SmolLM2-135M-Instruct on the embedded English and French sentences."""

    pairs = ParallelPairs.load("eng_Latn-fra_Latn", n=30)

    def test_float64_equals_the_reference_exactly(self, smollm: Any, smollm_tokenizer: Any) -> None:
        model = smollm.double()
        try:
            sides = (self.pairs.source, self.pairs.target)
            encoded = [encode_all(Decoder.find(model, smollm_tokenizer), side, REPRESENTATIONS) for side in sides]
            reference_sides = [reference.encode_all(model, smollm_tokenizer, side, REPRESENTATIONS) for side in sides]
            for method in ALIGNMENT:
                representation = REPRESENTATION_OF[method]
                slow = [side[representation] for side in reference_sides]
                for fast, expected in zip(encoded, slow, strict=True):
                    scale = np.abs(expected).max()
                    np.testing.assert_allclose(fast[representation].numpy(), expected, atol=1e-5 * max(1, scale))
                scores = alignment_score(encoded[0][representation], encoded[1][representation], method)
                assert scores.tolist() == pytest.approx(reference.alignment(*slow), abs=1e-7)
                assert scores.max() > 0.05
        finally:
            smollm.float()

    def test_float32_differs_only_where_a_state_is_rounding_noise(self, smollm: Any, smollm_tokenizer: Any) -> None:
        """Other batches round otherwise: at most one state in a million, and the same scores."""
        sides = (self.pairs.source, self.pairs.target)
        fast = [encode(smollm, smollm_tokenizer, side) for side in sides]
        slow = [reference.encode(smollm, smollm_tokenizer, side, "nas") for side in sides]
        for one, other in zip(fast, slow, strict=True):
            assert (np.abs(one.numpy() - other) > 1e-5).mean() <= 2e-5
        assert alignment_score(fast[0], fast[1]).tolist() == pytest.approx(reference.alignment(*slow), abs=1e-7)

    @pytest.mark.once
    def test_the_token_budget_changes_at_most_a_pair_at_a_layer(self, smollm: Any, smollm_tokenizer: Any) -> None:
        """Other batches round otherwise; benchmarks/arithmetic.py measures how many states that flips."""
        scores: list[torch.Tensor] = []
        for budget in (1, 300, 100_000):
            source, target = (
                encode(smollm, smollm_tokenizer, side, token_budget=budget)
                for side in (self.pairs.source, self.pairs.target)
            )
            scores.append(alignment_score(source, target))
        assert all((other - scores[0]).abs().max() <= 1.001 / len(self.pairs) for other in scores[1:])

    def test_sentence_order_and_padding_side_change_no_bit(self, smollm: Any, smollm_tokenizer: Any) -> None:
        sentences = list(self.pairs.target)
        encoded = encode(smollm, smollm_tokenizer, sentences)
        order = random.Random(0).sample(range(len(sentences)), len(sentences))
        side = smollm_tokenizer.padding_side
        try:
            smollm_tokenizer.padding_side = "right" if side == "left" else "left"
            shuffled = encode(smollm, smollm_tokenizer, [sentences[i] for i in order])
        finally:
            smollm_tokenizer.padding_side = side
        assert torch.equal(shuffled, encoded[:, order])


def test_in_exact_arithmetic_a_sentence_does_not_depend_on_its_company(tokenizer: PreTrainedTokenizerFast) -> None:
    """In float64 no state is close enough to zero to be flipped by a batch of another shape."""
    model = tiny_llama().double()
    alone = encode(model, tokenizer, [PAIRS.target[3]])
    together = encode(model, tokenizer, PAIRS.target)
    assert torch.equal(alone[:, 0], together[:, 3])


def test_a_tokenizer_without_a_pad_token_is_enough(llama: Any) -> None:
    padless = make_tokenizer()
    expected = encode(llama, padless, PAIRS.source)
    padless.pad_token = None
    assert torch.equal(encode(llama, padless, PAIRS.source), expected)


def test_bfloat16_stays_close_to_float32(smollm: Any, smollm_tokenizer: Any) -> None:
    sentences = PAIRS.source[:4]
    exact = encode(smollm, smollm_tokenizer, sentences)
    try:
        rounded = encode(smollm.bfloat16(), smollm_tokenizer, sentences)
    finally:
        smollm.float()
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().mean() < 0.02


def test_shapes_and_device(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = encode_all(Decoder.find(llama, tokenizer), PAIRS.source, REPRESENTATIONS)
    assert encoded["nas"].shape == encoded["nav"].shape == (3, 12, 48)
    assert encoded["embedding"].shape == (4, 12, 32)
    assert {tensor.dtype for tensor in encoded.values()} == {torch.float32}


def test_one_pass_gives_what_separate_passes_give(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    together = encode_all(Decoder.find(llama, tokenizer), PAIRS.source, REPRESENTATIONS)
    for representation in REPRESENTATIONS:
        assert torch.equal(together[representation], encode(llama, tokenizer, PAIRS.source, representation))


def test_the_head_and_the_cache_are_never_touched(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    llama.lm_head.forward = None
    caches: list[Any] = []
    llama.model.layers[0].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: caches.append(kwargs.get("past_key_values")), with_kwargs=True
    )
    encode(llama, tokenizer, PAIRS.source)
    assert caches
    assert all(cache is None for cache in caches)


def test_no_tensor_of_tokens_outlives_its_layer(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """What one layer's hook received is gone when the next layer runs."""
    received: list[weakref.ref[torch.Tensor]] = []  # tensors are freed by reference count, without a collection
    alive: list[int] = []

    def remember(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        received.append(weakref.ref(args[0]))

    encode_all(Decoder.find(llama, tokenizer), PAIRS.source[:4], REPRESENTATIONS)  # the check is behind us
    for layer in llama.model.layers:
        layer.register_forward_pre_hook(lambda module, args: alive.append(sum(ref() is not None for ref in received)))
        layer.mlp.down_proj.register_forward_pre_hook(remember)
        layer.mlp.gate_proj.register_forward_hook(lambda module, args, output: received.append(weakref.ref(output)))
    encode_all(Decoder.find(llama, tokenizer), PAIRS.source[:4], REPRESENTATIONS)
    assert len(received) == 6
    assert alive == [0, 0, 0]


def test_everything_is_as_before(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_llama(attention_dropout=0.5).train()
    model.model.layers[1].eval()
    model.gradient_checkpointing_enable()
    modes = [module.training for module in model.modules()]
    config, hooks = model.config.to_dict(), hooks_of(model)
    backend = tokenizer.backend_tokenizer.to_str()
    first = encode(model, tokenizer, PAIRS.source)
    assert torch.equal(encode(model, tokenizer, PAIRS.source), first)
    assert [module.training for module in model.modules()] == modes
    assert model.is_gradient_checkpointing
    assert model.config.to_dict() == config
    assert tokenizer.backend_tokenizer.to_str() == backend
    assert torch.is_grad_enabled()
    assert hooks_of(model) == hooks
    assert torch.equal(encode(model.eval(), tokenizer, PAIRS.source), first)


def test_the_random_state_is_as_before_even_if_the_model_draws(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    llama.model.norm.register_forward_hook(lambda *_: torch.rand(1) and None)
    state = torch.get_rng_state()
    encode(llama, tokenizer, PAIRS.source)
    assert torch.equal(torch.get_rng_state(), state)


def test_hooks_and_modes_are_restored_when_a_pass_fails(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_llama().train()

    def fail(*args: Any) -> None:
        raise KeyboardInterrupt

    handle = model.model.layers[2].register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        encode(model, tokenizer, PAIRS.source)
    handle.remove()
    assert not hooks_of(model)
    assert all(module.training for module in model.modules())


def test_nan_activations_are_an_error_and_not_a_score(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    llama.model.layers[1].mlp.gate_proj.weight.data[3] = float("nan")
    with pytest.raises(NonFiniteActivationError, match="diverged"):
        encode(llama, tokenizer, PAIRS.source)


def test_a_sentence_beyond_the_context_is_named(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"'word word.*more than the model's context of 16"):
        encode(tiny_llama(max_position_embeddings=16), tokenizer, ["Short.", "word " * 60])


def test_a_sentence_without_tokens_is_named(llama: Any) -> None:
    with pytest.raises(ValueError, match="no token of the sentence ''"):
        encode(llama, make_tokenizer(bos=False), ["Fine.", ""])


@pytest.mark.parametrize(("name", "value"), [("representation", "nac"), ("token_pooling", "first")])
def test_an_unknown_choice_lists_the_known_ones(
    name: str, value: str, llama: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ValueError, match=f"{name} '{value}' is unknown; choose from"):
        encode(llama, tokenizer, PAIRS.source, **{name: value})  # type: ignore[arg-type]


def test_eq3_weights() -> None:
    weights = token_weights(torch.tensor([2, 4]), "weighted")
    assert weights.tolist() == [[1, 2, 0, 0], [1, 2, 3, 4]]
    states = torch.tensor([[[1], [0], [1], [1]], [[0], [0], [0], [1]]], dtype=torch.bool)
    assert pool_tokens(states, weights).squeeze().tolist() == pytest.approx([1 / 3, 4 / 10])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.bool])
@pytest.mark.parametrize("pooling", ["weighted", "average", "last"])
def test_pooled_states_are_the_shares_that_sums_over_tokens_give(dtype: torch.dtype, pooling: Any) -> None:
    """Exactly, also where a batch is pooled in several parts and a sentence has many tokens."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([3, 900, 17, 700])
    firing = torch.randn(4, 900, 500, generator=generator).to(dtype)
    firing[1, 5], firing[2, 3, :9] = 0, float("nan")
    weights = token_weights(lengths, pooling)
    whole = weights.double().unsqueeze(-1) * (firing > 0)
    expected = (whole.sum(dim=1) / weights.double().sum(dim=1, keepdim=True)).float()
    kept = firing.clone()
    torch.testing.assert_close(pool_states(firing, weights), expected, rtol=1e-7, atol=0)
    assert torch.equal(pool_states(firing, weights), pool_tokens(firing > 0, weights))
    assert torch.equal(firing.nan_to_num(), kept.nan_to_num())


class TestTheEndOfAPass:
    """A pass ends behind the last tensor that is read, where nothing has to be done at its end."""

    @staticmethod
    def ran(model: Any, tokenizer: Any, *representations: Representation, layers: Any = None) -> list[str]:
        """Read the representations, and return which of the last modules ran."""
        encode_all(Decoder.find(model, tokenizer), PAIRS.source, representations, layers=layers)  # the check
        ran: list[str] = []
        names = ("layers.1.mlp.down_proj", "layers.2.mlp.up_proj", "layers.2.mlp.down_proj", "norm")
        handles = [
            model.model.get_submodule(name).register_forward_hook(lambda *call, name=name: ran.append(name))
            for name in names
        ]
        encode_all(Decoder.find(model, tokenizer), PAIRS.source, representations, layers=layers)
        for handle in handles:
            handle.remove()
        return list(dict.fromkeys(ran))

    def test_nothing_behind_the_last_one_runs(self, llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        before = ["layers.1.mlp.down_proj"]
        assert self.ran(llama, tokenizer, "nas") == before
        assert self.ran(llama, tokenizer, "nas", "nav") == [*before, "layers.2.mlp.up_proj"]
        assert self.ran(llama, tokenizer, "signed") == [*before, "layers.2.mlp.up_proj"]
        assert self.ran(llama, tokenizer, "nas", "embedding") == [
            *before,
            "layers.2.mlp.up_proj",
            "layers.2.mlp.down_proj",
            "norm",
        ]
        assert self.ran(llama, tokenizer, "embedding", layers=[0, 2]) == before
        assert self.ran(llama, tokenizer, "nas", layers=[2]) == []

    @pytest.mark.parametrize("architecture", CONFIGS)
    def test_it_changes_no_bit(self, architecture: str, tokenizer: PreTrainedTokenizerFast) -> None:
        model = tiny(architecture)
        short = encode(model, tokenizer, PAIRS.source)
        model.config.output_hidden_states = True  # transformers 4.57 has to restore its modules' forwards then
        assert not Decoder.find(model, tokenizer).may_leave_pass
        assert torch.equal(encode(model, tokenizer, PAIRS.source), short)

    def test_modules_that_act_at_its_end_are_waited_for(self, llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        accelerate.hooks.add_hook_to_module(llama.model.layers[0], accelerate.hooks.ModelHook())
        assert "norm" in self.ran(llama, tokenizer, "nas")
        accelerate.hooks.remove_hook_from_module(llama.model.layers[0])
        assert "norm" not in self.ran(llama, tokenizer, "nas")
        llama.model.layers[1].compile()
        assert not Decoder.find(llama, tokenizer).may_leave_pass
        other = tiny_llama()
        other.model.layers[1] = torch.compile(other.model.layers[1], backend="eager")
        assert not Decoder.find(other, tokenizer).may_leave_pass

    def test_nan_behind_it_changes_nothing(self, llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        before = encode(llama, tokenizer, PAIRS.source)
        for place in ("layers.2.mlp.up_proj", "layers.2.mlp.down_proj", "norm"):
            llama.model.get_submodule(place).weight.data.fill_(float("nan"))
        assert torch.equal(encode(llama, tokenizer, PAIRS.source), before)

    @pytest.mark.parametrize("place", ["layers.0.input_layernorm", "layers.2.mlp.gate_proj"])
    def test_nan_in_front_of_it_is_an_error(self, place: str, llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        encode(llama, tokenizer, PAIRS.source)
        llama.model.get_submodule(place).weight.data[3] = float("nan")
        with pytest.raises(NonFiniteActivationError, match="diverged"):
            encode(llama, tokenizer, PAIRS.source)


@pytest.mark.parametrize("bos", [True, False])
def test_the_signature_says_whether_a_bos_was_there(bos: bool, llama: Any) -> None:
    tokenizer = make_tokenizer(bos)
    decoder = Decoder.find(llama, tokenizer)
    assert decoder.special_tokens == ("bos" if bos else "none")
    evaluator = NeuronXAEvaluator(PAIRS)
    assert f"|special:{'bos' if bos else 'none'}|" in str(evaluator.signature(PAIRS, decoder))
