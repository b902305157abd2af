"""Losses with the beginning read once, against a plain loop without batch or cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from benchmarks.architectures import configs
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.state import TokenBudget
from neuronxa_callback.survey.knowledge import likelihood
from neuronxa_callback.survey.knowledge.likelihood import LikelihoodError, mean_losses
from tests.architectures import SIZES, tiny
from tests.quality.test_generation import Read
from tests.support import SMOLLM, make_tokenizer, tiny_llama

# Groups that begin alike for long, for a token, not at all without a BOS; one sentence, and one that begins another.
GROUPS = [
    [
        "The capital of Iceland is Reykjavik.",
        "The capital of Iceland is Oslo.",
        "The capital of Iceland is a big city.",
    ],
    ["The dog sleeps.", "The cat of my old neighbour sleeps in the garden all day."],
    ["Paris is the capital of France.", "London is the capital of France."],
    ["Water boils at one hundred degrees."],
    ["The sun is", "The sun is a star"],
    ["The capital of Norway is Reykjavik.", "The capital of Norway is Oslo."],
]
SHARING = (
    "llama",
    "qwen3",
    "gpt2",  # learned positions
    "falcon-alibi",
    "mixtral",
    "deepseek-v3",  # keys and values of other sizes
)
# The last two have windows of eight tokens.
WHOLE = ("mamba", "qwen3_next", "openai-gpt", "bloom", "mistral-sliding-window", "gemma2")


def plainly(decoder: Decoder, groups: Sequence[Sequence[str]]) -> list[list[float]]:
    """What BMLAMA's authors compute: one sentence at a time, the mean cross-entropy of its tokens but the first."""
    model: Any = decoder.base

    def loss(sentence: str) -> float:
        ids = torch.tensor([decoder.tokenizer(sentence)["input_ids"]])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].double()
        return float(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))

    return [[loss(sentence) for sentence in group] for group in groups]


def both(model: Any, tokenizer: Any, groups: Any, tokens: int = 200) -> tuple[list[float], list[float]]:
    decoder = Decoder.find(model, tokenizer)
    with decoder.evaluation_mode():
        found, plain = mean_losses(decoder, groups, TokenBudget(tokens)), plainly(decoder, groups)
    assert list(map(len, found)) == list(map(len, groups))
    return [loss for its in found for loss in its], [loss for its in plain for loss in its]


def tokens_read(model: Any, groups: Any) -> int:
    """How many tokens go through the model, padding counted."""
    decoder = Decoder.find(model, make_tokenizer())
    with Read(model) as read, decoder.evaluation_mode():
        mean_losses(decoder, groups)
    return read.tokens


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("tokens", [1, 60, 10_000])
def test_losses_are_those_of_a_plain_loop(bos: bool, tokens: int) -> None:
    found, plain = both(tiny_llama(), make_tokenizer(bos), GROUPS, tokens)
    assert found == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("kind", SHARING)
def test_what_sentences_begin_with_is_read_once(kind: str) -> None:
    model = tiny(kind)
    found, plain = both(model, make_tokenizer(), GROUPS)
    assert found == pytest.approx(plain, rel=2e-5)
    assert tokens_read(model, [GROUPS[0]] * 20) < 0.8 * tokens_read(model, [[s] for s in GROUPS[0]] * 20)


def test_windows_and_soft_caps_of_the_logits() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Gemma2Config(**SIZES, sliding_window=64)).eval()
    found, plain = both(model, make_tokenizer(), GROUPS)
    assert found == pytest.approx(plain, rel=2e-5)
    assert tokens_read(model, [GROUPS[0]] * 20) < 0.8 * tokens_read(model, [[s] for s in GROUPS[0]] * 20)


@pytest.mark.parametrize("kind", WHOLE)
def test_other_models_read_sentences_whole(kind: str) -> None:
    """Their cache is none of keys and values, has a window that is too short, or their positions follow from a mask."""
    model = tiny(kind) if kind in WHOLE[-2:] else configs.tiny_model(kind)
    found, plain = both(model, make_tokenizer(), GROUPS)
    assert found == pytest.approx(plain, rel=2e-5)


def test_a_model_whose_tokens_see_those_behind_them() -> None:
    """Padding must not be seen, and no beginning is the same before two endings."""
    found, plain = both(configs.tiny_model("llama#bidirectional"), make_tokenizer(), GROUPS)
    assert found == pytest.approx(plain, rel=2e-5)


def test_qwen2_vl_remembers_no_positions_of_a_batch() -> None:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0}
    model = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            text_config=SIZES | {"rope_scaling": rope, "rope_parameters": rope},
            vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1},
        )
    ).eval()
    found, plain = both(model, make_tokenizer(), GROUPS)
    assert found == pytest.approx(plain, rel=2e-5)


def test_an_adapter_counts() -> None:
    model = tiny_llama()
    without = both(model, make_tokenizer(), GROUPS)[0]
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    found, plain = both(adapted, make_tokenizer(), GROUPS)
    assert found == pytest.approx(plain, rel=1e-5)
    assert max(abs(one - other) for one, other in zip(found, without, strict=True)) > 0.01


def test_a_real_model() -> None:
    model = AutoModelForCausalLM.from_pretrained(SMOLLM, dtype=torch.float32)
    found, plain = both(model, AutoTokenizer.from_pretrained(SMOLLM), GROUPS)
    assert found == pytest.approx(plain, rel=1e-5)
    assert found[0] < found[1]  # Reykjavik, Oslo


def test_few_tokens_have_probabilities_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = both(tiny_llama(), make_tokenizer(), GROUPS)[0]
    monkeypatch.setattr(likelihood, "CHUNK", 3)
    assert both(tiny_llama(), make_tokenizer(), GROUPS)[0] == pytest.approx(expected, rel=1e-6)


def test_memory_runs_out(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_llama()
    forward = model.forward

    def full(input_ids: torch.Tensor, **more: Any) -> Any:
        if input_ids.numel() > 60:
            raise torch.OutOfMemoryError("out of memory")
        return forward(input_ids=input_ids, **more)

    model.forward = full
    found, plain = both(model, make_tokenizer(), GROUPS * 3, 480)
    assert found == pytest.approx(plain, rel=1e-5)
    assert "out of memory; going on with batches of 240 tokens" in caplog.text


def test_a_sentence_of_one_token_has_no_likelihood() -> None:
    decoder = Decoder.find(tiny_llama(), make_tokenizer(bos=False))
    with pytest.raises(LikelihoodError, match=r"'a' has one token.*remove it"):
        mean_losses(decoder, [["a"]])


def test_numbers_that_are_not_finite_are_an_error() -> None:
    model = tiny_llama()
    model.lm_head.weight.data[5] = float("nan")
    decoder = Decoder.find(model, make_tokenizer())
    with decoder.evaluation_mode(), pytest.raises(LikelihoodError, match="not finite; load it in another dtype"):
        mean_losses(decoder, GROUPS)
