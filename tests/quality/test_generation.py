"""Generation in rounds against one plain call of `generate`, and what it saves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from benchmarks.architectures import configs
from neuronxa_callback import ParallelPairs
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality.generation import generate
from neuronxa_callback.quality.prompts import prompt_ids
from tests.architectures import SIZES, tiny, tiny_multimodal
from tests.support import tiny_llama

END, PAD = 1, 2
LIMITS = [12, 3, 9, 1, 12, 7]
SHARED = [0, *range(50, 62)]
# Prompts of several lengths that begin alike.
ALIKE = [[*SHARED, *range(70, 70 + length)] for length in (5, 1, 12, 3, 4, 2)]
PROMPTS = {
    "that begin alike": ALIKE,
    "that begin otherwise": [ids[number:] for number, ids in enumerate(ALIKE)],
    "that are equal": [SHARED] * 6,
    "of which one begins the others": [SHARED, *ALIKE[1:]],
    "with more padding than they share": [[*SHARED[:2], *range(70, 70 + length)] for length in (40, 1, 30, 2, 3, 4)],
    "of one token": [[50]] * 6,
}
# Models by how they tell where a token stands, by their attention, and by what else they remember.
IN_ROUNDS = (
    "llama",
    "qwen3",
    "gemma2",  # soft caps, windows of 8 tokens
    "gemma3",
    "mistral-sliding-window",
    "gpt2",  # learned positions
    "opt",
    "falcon",  # multi-query
    "falcon-alibi",
    "mixtral",
    "deepseek-v3",  # keys and values of other sizes
    "bloom",  # takes no positions, and makes them of the mask
)
HasEnded: TypeAlias = Callable[[int, Sequence[int]], bool]
IN_ONE_CALL = ("mamba", "qwen3_next", "openai-gpt")


def is_sign(row: int, made: Sequence[int]) -> bool:
    """Whether an answer has ended, in these tests: at some tokens, which differ from answer to answer."""
    return made[-1] % 7 == row


@contextmanager
def generating(model: Any) -> Iterator[Decoder]:
    """Yield a decoder that is set to generate greedily."""
    decoder: Any = Decoder.find(model, None)
    own = decoder.base.generation_config
    decoder.base.generation_config = GenerationConfig(use_cache=True, eos_token_id=[END], pad_token_id=PAD)
    with decoder.evaluation_mode():
        yield decoder
    decoder.base.generation_config = own


def plainly(
    decoder: Any,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    has_ended: Callable[[int, Sequence[int]], bool],
) -> list[list[int]]:
    """One call of `generate`, whose answers are cut afterwards."""
    longest = max(map(len, prompts))
    made = decoder.base.generate(
        input_ids=torch.tensor([[PAD] * (longest - len(ids)) + list(ids) for ids in prompts]),
        attention_mask=torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]),
        max_new_tokens=max(limits),
    )
    cut = []
    for row, ids in enumerate(made[:, longest:].tolist()):
        ends = [token == END or has_ended(row, [token]) for token in ids[: limits[row]]]
        cut.append(ids[: ends.index(True) + 1 if any(ends) else limits[row]])
    return cut


class Read:
    """How many tokens, with padding, a model's passes read while it is open."""

    def __init__(self, model: Any) -> None:
        self.tokens = 0
        self._handle = model.get_input_embeddings().register_forward_pre_hook(self._count)

    def _count(self, module: Any, given: tuple[Any, ...]) -> None:
        self.tokens += given[0].numel()

    def __enter__(self) -> Read:
        return self

    def __exit__(self, *exception: object) -> None:
        self._handle.remove()


def both(
    model: Any,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int] = LIMITS,
    has_ended: HasEnded = is_sign,
) -> tuple[int, int]:
    """Check that the answers are those of one plain call. Return how many tokens ours and the plain call read."""
    with generating(model) as decoder:
        with Read(decoder.base) as ours:
            made = generate(decoder, prompts, limits, has_ended)
        with Read(decoder.base) as plain:
            expected = plainly(decoder, prompts, limits, has_ended)
    assert made == expected
    return ours.tokens, plain.tokens


def in_one_call(model: Any) -> tuple[int, int]:
    """The same with answers that their limits end at once, so that one call reads as much as plain generation."""
    return both(model, ALIKE, [12] * len(ALIKE), lambda *_: False)


class TestAgainstOneCall:
    @pytest.mark.parametrize("kind", IN_ROUNDS)
    def test_a_model_in_rounds(self, kind: str) -> None:
        ours, plain = both(tiny(kind), ALIKE)
        assert ours < plain

    def test_a_model_whose_tokens_see_those_behind_them(self) -> None:
        """After the look at its cache, every prompt is read as a whole."""
        ours, plain = both(configs.tiny_model("llama#bidirectional"), ALIKE, [2] * 6, lambda *_: False)
        assert ours == plain + 2 * len(SHARED)

    @pytest.mark.parametrize("kind", IN_ONE_CALL)
    def test_a_model_with_another_state(self, kind: str) -> None:
        """There is one call after a look at its cache, which reads what the prompts share twice."""
        ours, plain = in_one_call(configs.tiny_model(kind))
        assert ours == plain + 2 * len(SHARED)

    @pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
    @pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
    def test_prompts(self, kind: str, prompts: list[list[int]]) -> None:
        both(tiny(kind), prompts)

    def test_one_prompt(self) -> None:
        ours, plain = both(tiny("llama"), ALIKE[:1], LIMITS[:1])
        assert ours <= plain

    def test_a_window_that_all_prompts_fit_into(self) -> None:
        """What the prompts share is read once. In a smaller window it is read with each prompt."""
        shared = [
            both(configs.tiny_model("gemma2"), ALIKE),  # 64 tokens
            both(tiny("gemma2"), ALIKE),  # 8 tokens
        ]
        assert shared[0][0] / shared[0][1] < shared[1][0] / shared[1][1]

    @pytest.mark.parametrize("name", ["gemma3-vision", "llama-3.2-vision"])
    def test_a_multimodal_model(self, name: str) -> None:
        both(tiny_multimodal(name), ALIKE)

    def test_a_model_that_remembers_positions(self) -> None:
        """Qwen2-VL has one call."""
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
        torch.manual_seed(0)
        model = Qwen2VLForConditionalGeneration(
            Qwen2VLConfig(
                text_config=SIZES | {"rope_scaling": rope, "rope_parameters": rope},
                vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1},
                image_token_id=590,
                video_token_id=591,
                vision_start_token_id=592,
                vision_end_token_id=593,
            )
        ).eval()
        ours, plain = in_one_call(model)
        assert ours == plain

    def test_with_an_adapter_and_gradient_checkpointing(self) -> None:
        base = tiny_llama()
        model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        model.gradient_checkpointing_enable()
        model.train()
        ours, plain = both(model, ALIKE)
        assert ours < plain
        assert model.training

    def test_without_an_end_token(self) -> None:
        model = tiny("llama")
        with generating(model) as decoder:
            model.generation_config.eos_token_id = None
            made = generate(decoder, ALIKE, LIMITS, lambda *_: False)
        assert [len(answer) for answer in made] == LIMITS

    def test_on_the_real_model(self, smollm: Any, smollm_tokenizer: Any) -> None:
        sources = sorted(ParallelPairs.load("eng_Latn-isl_Latn").source, key=len)[:6]
        prompts = prompt_ids(smollm_tokenizer, sources, "eng_Latn", "isl_Latn")
        ours, plain = both(smollm, prompts)
        assert ours < plain / 2


def test_an_answer_has_no_tokens_behind_its_end() -> None:
    """It is taken out at once, or its row is padded until enough others have ended."""
    with generating(tiny_llama()) as decoder:
        made = generate(decoder, ALIKE, [20] * 6, is_sign)
    for row, answer in enumerate(made):
        ends = [token == END or is_sign(row, [token]) for token in answer]
        assert not any(ends[:-1])
        assert ends[-1] or len(answer) == 20
