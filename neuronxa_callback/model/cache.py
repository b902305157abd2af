"""What a model's KV cache holds, and when a text's beginning may be read once for several continuations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from neuronxa_callback.model.decoder import Decoder


def shared_tokens(token_ids: Sequence[Sequence[int]]) -> int:
    """Return with how many tokens all texts begin."""
    return len(list(takewhile(lambda column: len(set(column)) == 1, zip(*token_ids, strict=False))))


def is_plain(cache: Any, tokens: int) -> bool:
    """Return whether a cache holds the keys and values of this many tokens, and nothing else.

    Models that have no use for a cache, such as GPT-1, leave it empty.
    """
    if type(cache) is not DynamicCache:
        return False
    known = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
    return known and cache.get_seq_length() == tokens


def keeps_positions(decoder: Decoder) -> bool:
    """Return whether the model itself remembers where a batch's tokens stand, as Qwen2-VL's does."""
    return any(hasattr(module, "rope_deltas") for module in decoder.base.modules())


def depends_on_length(decoder: Decoder, cache: DynamicCache, longest: int) -> bool:
    """Return whether what a token has for keys and values may depend on how much text follows it.

    It may where a window is shorter than the longest prompt, and with angles that follow from the length of the text.
    """
    is_cut = any(longest >= getattr(layer, "sliding_window", longest + 1) for layer in cache.layers)
    kinds = {str(getattr(module, "rope_type", "")) for module in decoder.stack.modules()}
    return is_cut or any(name in kind for kind in kinds for name in ("dynamic", "longrope"))
