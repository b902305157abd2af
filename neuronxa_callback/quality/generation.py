"""Greedy generation for a batch of prompts: what they begin with is read once, and answers that have ended are left.

`generate` of transformers does the work. It is called in rounds, and each round goes on from the last one's KV cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

from neuronxa_callback.model.cache import depends_on_length, is_plain, keeps_positions, shared_tokens
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.tolerance import differ, rounding

# A round ends when this share of its answers has ended. With fewer rounds, more passes are made for answers that have
# ended. With more rounds, the cache is copied more often.
ENDED_SHARE = 0.1


def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    has_ended: Callable[[int, Sequence[int]], bool],
) -> list[list[int]]:
    """Generate the answer to each prompt greedily, with a generation configuration that says no more than where to end.

    Prompts are padded on the left. The answers are those of one plain call of `generate` to within rounding. Two things
    make it faster:

    * The tokens with which all prompts begin are read once. Their keys and values are put in front of every prompt.
    * When a tenth of the answers has ended, these are taken out of the batch.

    Both need a KV cache that holds nothing but keys and values of its own tokens. There is one plain call where the
    model keeps anything else (Mamba's states, Qwen2-VL's positions), and where processes must make the same passes.

    Args:
        decoder: the model, which is set to generate.
        prompts: the token ids of each prompt.
        limits: the largest number of tokens of each answer.
        has_ended: takes a prompt's number and the tokens of its answer so far. It says whether the newest of them ends
            the answer. It is not asked about end tokens and limits.

    Returns:
        the token ids of each answer, with its end token if it has one.
    """
    generator: Any = decoder.base
    longest = max(map(len, prompts))
    padding = [longest - len(ids) for ids in prompts]
    fill = generator.generation_config.pad_token_id
    input_ids = _tensor([[fill] * count + list(ids) for count, ids in zip(padding, prompts, strict=True)], decoder)
    mask = _tensor([[0] * count + [1] * len(ids) for count, ids in zip(padding, prompts, strict=True)], decoder)
    cache, in_rounds = _beginning(decoder, prompts, padding)
    answers = _Answers(limits, generator.generation_config.eos_token_id or (), has_ended)
    while True:
        answers.begin(ENDED_SHARE if in_rounds else 1)
        output = generator.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=answers.room,
            stopping_criteria=StoppingCriteriaList([answers]),
            return_dict_in_generate=True,
            synced_gpus=decoder.in_step,
            **({} if cache is None else {"past_key_values": cache}),
        )
        kept = answers.leave()
        if not kept:
            return answers.made
        places = torch.tensor(kept)  # on the CPU, from where they index tensors on any device
        cache = output.past_key_values
        cache.batch_select_indices(places)
        input_ids = output.sequences[places]
        made = input_ids.shape[1] - mask.shape[1]
        mask = torch.cat([mask[places], mask.new_ones(len(kept), made)], dim=1)


class _Answers(StoppingCriteria):
    """The answers of a batch as they grow. It stops generation when enough of those in the batch have ended.

    Args:
        limits: the largest number of tokens of each answer.
        ends: the end tokens.
        has_ended: see `generate`.

    Attributes:
        made: the tokens of each answer.
    """

    def __init__(self, limits: Sequence[int], ends: Sequence[int], has_ended: Callable[[int, Sequence[int]], bool]):
        self.made: list[list[int]] = [[] for _ in limits]
        self._limits, self._ends, self._has_ended = limits, frozenset(ends), has_ended
        self._ended = [False] * len(limits)
        self._rows = list(range(len(limits)))  # the answers in the batch
        self._share, self._is_over = 1.0, False

    def begin(self, share: float) -> None:
        """Begin a round that ends when this share of the answers in the batch has ended."""
        self._share, self._is_over = share, False

    @property
    def room(self) -> int:
        """The largest number of tokens that an answer in the batch may still get."""
        return max(self._limits[row] - len(self.made[row]) for row in self._rows)

    def leave(self) -> list[int]:
        """Take the answers that have ended out of the batch, and return the places of the others in it."""
        kept = [place for place, row in enumerate(self._rows) if not self._ended[row]]
        self._rows = [self._rows[place] for place in kept]
        return kept

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        # transformers may make a step more on Apple's GPUs before it stops, and takes its tokens back.
        if not self._is_over:
            for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
                if not self._ended[row]:
                    self.made[row].append(token)
                    self._ended[row] = self._ends_with(row, token)
            ended = [self._ended[row] for row in self._rows]
            self._is_over = sum(ended) >= self._share * len(ended)
        return torch.tensor([self._is_over or self._ended[row] for row in self._rows], device=input_ids.device)

    def _ends_with(self, row: int, token: int) -> bool:
        made = self.made[row]
        return token in self._ends or len(made) >= self._limits[row] or self._has_ended(row, made)


def _beginning(
    decoder: Decoder, prompts: Sequence[Sequence[int]], padding: Sequence[int]
) -> tuple[DynamicCache | None, bool]:
    """Read what all prompts begin with.

    It is read twice in one pass: as it is, and moved by a token of padding. Tokens whose keys and values are the same
    in both can be read once for all prompts.

    Args:
        decoder: the model.
        prompts: the token ids of each prompt.
        padding: the number of tokens of padding in front of each.

    Returns:
        the KV cache of the first tokens of each padded prompt, None if they must be read with the others; whether
        answers can be taken out of the batch.
    """
    if len(prompts) == 1 or decoder.in_step or keeps_positions(decoder):
        return None, False
    # At least one token of every prompt is left, because the model says what follows it.
    first = list(prompts[0][: max(1, min(shared_tokens(prompts), min(map(len, prompts)) - 1))])
    generator: Any = decoder.base
    fill = generator.generation_config.pad_token_id
    output = generator.generate(
        input_ids=_tensor([first, [fill, *first[:-1]]], decoder),
        attention_mask=_tensor([[1] * len(first), [0, *[1] * (len(first) - 1)]], decoder),
        max_new_tokens=1,
        return_dict_in_generate=True,
    )
    cache = getattr(output, "past_key_values", None)
    if not is_plain(cache, len(first)):
        return None, False
    longest = len(prompts[0]) + padding[0]
    if len(first) < 2 or not _is_alike_behind_padding(decoder, cache) or depends_on_length(decoder, cache, longest):
        return None, True
    _repeat(cache, padding)
    return cache, True


def _is_alike_behind_padding(decoder: Decoder, cache: DynamicCache) -> bool:
    """Return whether tokens have the same keys and values behind padding, whatever token follows them.

    Other keys and values mean that the model takes the padding for text (CTRL in transformers 4), or that tokens see
    those behind them.

    Args:
        decoder: the model.
        cache: its KV cache of a row, and of the row without its last token behind a token of padding.
    """
    states = [state for layer in cache.layers if layer.get_seq_length() for state in (layer.keys, layer.values)]
    tolerance = rounding(decoder.model, decoder.device)
    is_alike = not any(differ(state[1, :, 1:], state[0, :, :-1], tolerance) for state in states)
    return is_alike and not decoder.bidirectional


def _repeat(cache: DynamicCache, padding: Sequence[int]) -> None:
    """Give a cache the first of its rows for each prompt, with its tokens moved to the right by the prompt's padding.

    The first places of a row are those of the padding, which no token sees. What the padding pushes out at the end is
    read again with the rest of the prompt.
    """
    there = torch.arange(cache.get_seq_length())
    places = (there - torch.tensor(padding)[:, None]).clamp(min=0)  # (prompts, tokens)
    for layer in cache.layers:
        if layer.get_seq_length() > 0:
            layer.keys = layer.keys[0][:, places].transpose(0, 1)
            layer.values = layer.values[0][:, places].transpose(0, 1)


def _tensor(rows: Sequence[Sequence[int]], decoder: Decoder) -> Tensor:
    return torch.tensor(rows, device=decoder.device)
