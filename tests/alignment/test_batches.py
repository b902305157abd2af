from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronxa_callback.alignment.batches import batches, shares

pytestmark = pytest.mark.unit

SENTENCES = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=30)


def padded(token_ids: list[list[int]], batch: list[int]) -> int:
    return len(batch) * max(len(token_ids[row]) for row in batch)


@given(SENTENCES, st.integers(1, 40), st.integers(1, 9))
def test_every_sentence_is_dealt_once(token_ids: list[list[int]], budget: int, processes: int) -> None:
    dealt = shares(token_ids, budget, processes)
    assert len(dealt) == processes
    assert sorted(row for its in dealt for batch in its for row in batch) == list(range(len(token_ids)))
    for batch in (batch for its in dealt for batch in its):
        assert padded(token_ids, batch) <= budget or len(batch) == 1


@given(SENTENCES, st.integers(1, 40), st.integers(1, 9))
def test_no_process_has_more_batches_than_the_budget_needs(
    token_ids: list[list[int]], budget: int, processes: int
) -> None:
    dealt = shares(token_ids, budget, processes)
    rounds = -(-len(batches(token_ids, budget)) // processes)
    assert len(dealt[0]) == max(map(len, dealt)) <= rounds
    assert len(dealt[0]) - len(dealt[-1]) <= 1


@given(SENTENCES, st.integers(1, 40))
def test_one_process_has_the_batches_of_no_process(token_ids: list[list[int]], budget: int) -> None:
    assert shares(token_ids, budget, 1) == [batches(token_ids, budget)]


def test_a_batch_that_fits_one_process_is_cut_for_several() -> None:
    token_ids = [[1] * length for length in (3, 4, 5, 6, 7, 8, 9, 10)]
    assert shares(token_ids, 1000, 1) == [[[0, 1, 2, 3, 4, 5, 6, 7]]]
    dealt = shares(token_ids, 1000, 4)
    assert dealt == [[[0, 1, 2]], [[3, 4]], [[5, 6]], [[7]]]
    assert [sum(padded(token_ids, batch) for batch in its) for its in dealt] == [15, 14, 18, 10]


def test_some_processes_get_nothing_where_sentences_are_few() -> None:
    assert shares([[1, 2], [3]], 1000, 4) == [[[1]], [[0]], [], []]
