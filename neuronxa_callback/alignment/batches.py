"""Batches of sentences: as little padding as possible, the same for any order, and as many for each process."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


def batches(token_ids: Sequence[Sequence[int]], token_budget: int) -> list[list[int]]:
    """Group row numbers into batches of at most `token_budget` padded tokens, shortest sentences first.

    Sorting by length keeps padding small. Sentences of equal length are sorted by their tokens. So the batches, and
    with them every rounding, are the same for any order of the sentences.
    """
    order = sorted(range(len(token_ids)), key=lambda row: (len(token_ids[row]), list(token_ids[row])))
    cut: list[list[int]] = []
    for row in order:
        if cut and (len(cut[-1]) + 1) * len(token_ids[row]) <= token_budget:
            cut[-1].append(row)
        else:
            cut.append([row])
    return cut


def shares(token_ids: Sequence[Sequence[int]], token_budget: int, processes: int) -> list[list[list[int]]]:
    """Deal sentences to processes, so that each has about as many tokens in at most as many batches.

    The number of batches that each process gets is the one that the token budget needs. The batches are then made as
    small as this number allows. For one process they are those of `batches`.

    Args:
        token_ids: the sentences.
        token_budget: padded tokens in a batch at most.
        processes: how many processes there are.

    Returns:
        each process's batches of row numbers. Some have a batch less than the first process, and none if there are
        fewer sentences than processes.
    """
    cut = batches(token_ids, token_budget)
    if processes > 1:
        rounds = -(-len(cut) // processes)
        sizes = range(max(map(len, token_ids)), token_budget)
        smallest = bisect_left(sizes, True, key=lambda tokens: len(batches(token_ids, tokens)) <= rounds * processes)
        cut = batches(token_ids, sizes[smallest]) if smallest < len(sizes) else cut
    return [cut[process::processes] for process in range(processes)]
