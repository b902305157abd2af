"""Batches of sentences: as little padding as possible, the same for any order, and as many for each process."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import numpy as np


def batches(token_ids: Sequence[Sequence[int]], token_budget: int, pass_tokens: int | None) -> list[list[int]]:
    """Group row numbers into the batches that cost least, shortest sentences first.

    The cost is that of all padded tokens and of all forward passes. Sentences of equal length are sorted by their
    tokens. So the batches, and with them every rounding, are the same for any order of the sentences.

    Args:
        token_ids: the sentences.
        token_budget: padded tokens in a batch at most. A sentence that is longer gets a batch of its own.
        pass_tokens: the fixed cost of a forward pass, as a number of tokens. The higher it is, the fewer batches there
            are, and the more padding. None makes as few batches as the budget allows.
    """
    order = _by_length(token_ids)
    if pass_tokens is None:  # more than all padding together
        pass_tokens = len(order) * max(token_budget, len(token_ids[order[-1]])) if order else 0
    costs = np.zeros(len(order) + 1)  # of the first sentences, for each number of them
    begins = np.zeros(len(order) + 1, dtype=int)  # where the last batch of the first sentences begins
    for end, row in enumerate(order, start=1):
        longest = len(token_ids[row])
        first = min(end - 1, max(0, end - token_budget // longest))
        candidates = costs[first:end] + longest * np.arange(end - first, 0, -1)
        begins[end] = first + candidates.argmin()
        costs[end] = candidates.min() + pass_tokens
    return list(_cut(order, begins.tolist()))[::-1]


def _cut(order: Sequence[int], begins: Sequence[int]) -> Iterator[list[int]]:
    """Yield the batches, the last one first."""
    end = len(order)
    while end:
        yield list(order[begins[end] : end])
        end = begins[end]


def _full_batches(token_ids: Sequence[Sequence[int]], token_budget: int) -> list[list[int]]:
    """Group row numbers into the fewest batches, each as full as the budget allows."""
    cut: list[list[int]] = []
    for row in _by_length(token_ids):
        if cut and (len(cut[-1]) + 1) * len(token_ids[row]) <= token_budget:
            cut[-1].append(row)
        else:
            cut.append([row])
    return cut


def _by_length(token_ids: Sequence[Sequence[int]]) -> list[int]:
    return sorted(range(len(token_ids)), key=lambda row: (len(token_ids[row]), list(token_ids[row])))


def shares(
    token_ids: Sequence[Sequence[int]], token_budget: int, pass_tokens: int | None, processes: int
) -> list[list[list[int]]]:
    """Deal sentences to processes, so that each has about as many tokens in at most as many batches.

    For one process the batches are those of `batches`. Several processes make as many passes as the fullest batches
    need, and the batches are then made as small as this number allows.

    Args:
        token_ids: the sentences.
        token_budget: padded tokens in a batch at most.
        pass_tokens: as for `batches`.
        processes: how many processes there are.

    Returns:
        each process's batches of row numbers. Some have a batch less than the first process, and none if there are
        fewer sentences than processes.
    """
    if processes == 1:
        return [batches(token_ids, token_budget, pass_tokens)]
    cut = _full_batches(token_ids, token_budget)
    rounds = -(-len(cut) // processes)
    sizes = range(max(map(len, token_ids)), token_budget)
    smallest = bisect_left(sizes, True, key=lambda size: len(_full_batches(token_ids, size)) <= rounds * processes)
    cut = _full_batches(token_ids, sizes[smallest]) if smallest < len(sizes) else cut
    return [cut[process::processes] for process in range(processes)]
