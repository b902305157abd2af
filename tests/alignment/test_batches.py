from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronxa_callback.alignment.batches import batches, shares

pytestmark = pytest.mark.unit

SENTENCES = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=30)

PASS = 5


def padded(token_ids: list[list[int]], batch: list[int]) -> int:
    return len(batch) * max(len(token_ids[row]) for row in batch)


def cuts(order: list[int]) -> Iterator[list[list[int]]]:
    """Yield every way to cut a list into parts."""
    if not order:
        yield []
    for end in range(1, len(order) + 1):
        for rest in cuts(order[end:]):
            yield [order[:end], *rest]


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=9),
    st.integers(1, 60),
    st.integers(0, 40),
)
def test_no_other_batches_cost_less(token_ids: list[list[int]], budget: int, pass_tokens: int) -> None:
    def cost(its: list[list[int]]) -> int:
        return sum(padded(token_ids, batch) + pass_tokens for batch in its)

    cut = batches(token_ids, budget, pass_tokens)
    order = sorted(range(len(token_ids)), key=lambda row: (len(token_ids[row]), token_ids[row]))
    assert [row for batch in cut for row in batch] == order
    allowed = [its for its in cuts(order) if all(padded(token_ids, part) <= budget or len(part) == 1 for part in its)]
    assert cut in allowed
    assert cost(cut) == min(map(cost, allowed))


@given(SENTENCES, st.integers(1, 40), st.integers(0, 40), st.randoms(use_true_random=False))
def test_the_order_of_the_sentences_changes_no_batch(
    token_ids: list[list[int]], budget: int, pass_tokens: int, random: Any
) -> None:
    order = list(range(len(token_ids)))
    random.shuffle(order)
    mixed = [token_ids[row] for row in order]
    cut, other = batches(token_ids, budget, pass_tokens), batches(mixed, budget, pass_tokens)
    assert [[token_ids[row] for row in batch] for batch in cut] == [[mixed[row] for row in batch] for batch in other]


@given(st.lists(st.sampled_from([1, 9, 90, 999]), min_size=1, max_size=60), st.integers(1, 1500))
def test_there_are_as_few_batches_as_the_budget_allows(lengths: list[int], budget: int) -> None:
    cut = batches([[1] * length for length in lengths], budget, None)
    full: list[int] = []  # the sizes of batches that are filled one after the other, which are the fewest
    for length in sorted(lengths):
        if full and (full[-1] + 1) * length <= budget:
            full[-1] += 1
        else:
            full.append(1)
    assert len(cut) == len(full)


def test_dear_passes_are_few() -> None:
    token_ids = [[1] * length for length in (2, 2, 9, 10)]
    assert batches(token_ids, 100, pass_tokens=0) == [[0, 1], [2], [3]]
    assert batches(token_ids, 100, pass_tokens=8) == [[0, 1], [2, 3]]
    assert batches(token_ids, 100, pass_tokens=None) == [[0, 1, 2, 3]]


@given(SENTENCES, st.integers(1, 40), st.integers(1, 9))
def test_every_sentence_is_dealt_once(token_ids: list[list[int]], budget: int, processes: int) -> None:
    dealt = shares(token_ids, budget, PASS, processes)
    assert len(dealt) == processes
    assert sorted(row for its in dealt for batch in its for row in batch) == list(range(len(token_ids)))
    for batch in (batch for its in dealt for batch in its):
        assert padded(token_ids, batch) <= budget or len(batch) == 1


@given(SENTENCES, st.integers(1, 40), st.integers(1, 9))
def test_no_process_has_more_batches_than_the_budget_needs(
    token_ids: list[list[int]], budget: int, processes: int
) -> None:
    dealt = shares(token_ids, budget, None, processes)
    rounds = -(-len(batches(token_ids, budget, None)) // processes)
    assert len(dealt[0]) == max(map(len, dealt)) <= rounds
    assert len(dealt[0]) - len(dealt[-1]) <= 1


@given(SENTENCES, st.integers(1, 40))
def test_one_process_has_the_batches_of_no_process(token_ids: list[list[int]], budget: int) -> None:
    assert shares(token_ids, budget, PASS, 1) == [batches(token_ids, budget, PASS)]


def test_a_batch_that_fits_one_process_is_cut_for_several() -> None:
    token_ids = [[1] * length for length in (3, 4, 5, 6, 7, 8, 9, 10)]
    assert shares(token_ids, 1000, 1000, 1) == [[[0, 1, 2, 3, 4, 5, 6, 7]]]
    dealt = shares(token_ids, 1000, 1000, 4)
    assert dealt == [[[0, 1, 2]], [[3, 4]], [[5, 6]], [[7]]]
    assert [sum(padded(token_ids, batch) for batch in its) for its in dealt] == [15, 14, 18, 10]


def test_some_processes_get_nothing_where_sentences_are_few() -> None:
    assert shares([[1, 2], [3]], 1000, 1000, 4) == [[[1]], [[0]], [], []]
