from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neuronxa_callback import alignment_score
from neuronxa_callback.scores import aligned_pairs
from tests import reference


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(2, 9), st.integers(1, 5))
def test_equals_the_loops_of_eq4(seed: int, layers: int, n: int, features: int) -> None:
    rng = np.random.default_rng(seed)
    source, target = rng.normal(size=(2, layers, n, features))
    expected = reference.alignment(source, target)
    assert alignment_score(torch.tensor(source), torch.tensor(target)).tolist() == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, (2, 6, 4), elements=st.integers(0, 2)))
def test_neither_order_nor_side_matters_even_with_many_ties(values: np.ndarray) -> None:
    source, target = torch.tensor(values).unsqueeze(1)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    aligned = aligned_pairs(source, target)
    assert torch.equal(aligned_pairs(source[:, order], target[:, order]), aligned[:, order])
    assert torch.equal(aligned_pairs(target, source), aligned)


def test_identical_sides_are_aligned_and_mirrored_ones_are_not() -> None:
    source = torch.eye(4).unsqueeze(0)
    assert alignment_score(source, source).tolist() == [1.0]
    assert alignment_score(source, source.flip(1)).tolist() == [0.0]


def test_ties_do_not_count() -> None:
    """Two equal targets: neither source is strictly nearer to its own, whatever the last bits of the cosines."""
    generator = torch.Generator().manual_seed(1)
    source = torch.rand(1, 8, 1536, generator=generator)
    target = source.clone()
    target[0, 5] = target[0, 2]
    aligned = aligned_pairs(source, target)[0]
    assert not aligned[2]
    assert not aligned[5]
    assert aligned[[0, 1, 3, 4, 6, 7]].all()


def test_scaling_a_sentence_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(2)
    source, target = torch.rand(2, 2, 20, 30, generator=generator)
    scales = torch.rand(1, 20, 1, generator=generator) * 1000 + 0.001
    assert torch.equal(aligned_pairs(source * scales, target), aligned_pairs(source, target))


def test_zero_vectors_are_defined() -> None:
    source = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    assert aligned_pairs(source, source).tolist() == [[False, True, True]]


def test_the_score_is_a_float_tensor_of_layers() -> None:
    score = alignment_score(torch.rand(5, 3, 2), torch.rand(5, 3, 2), method="mexa")
    assert score.shape == (5,)
    assert score.dtype == torch.float32


@pytest.mark.parametrize(
    ("source", "target", "method", "message"),
    [
        (torch.rand(1, 3, 2), torch.rand(1, 4, 2), "nasca", "must both be"),
        (torch.rand(3, 2), torch.rand(3, 2), "nasca", "must both be"),
        (torch.rand(1, 1, 2), torch.rand(1, 1, 2), "nasca", "one pair"),
        (torch.rand(1, 3, 2), torch.rand(1, 3, 2), "bleu", "choose from nasca, navca, mexa"),
    ],
)
def test_bad_input_is_explained(source: torch.Tensor, target: torch.Tensor, method: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        alignment_score(source, target, method=method)  # type: ignore[arg-type]
