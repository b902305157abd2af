from __future__ import annotations

from dataclasses import astuple
from itertools import permutations
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from neuronxa_callback import alignment_score
from neuronxa_callback.alignment import scores
from neuronxa_callback.alignment.scores import (
    measure,
    measure_all,
    random_orders,
    representations_of,
    retrieved,
)
from neuronxa_callback.vocabulary import ALIGNMENT, OVER_PAIRS, REPRESENTATION_OF, Method
from tests import reference

pytestmark = pytest.mark.unit


def aligned_pairs(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    aligned = measure(source, target, "nasca").per_pair
    assert aligned is not None
    return aligned.bool()


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(2, 9), st.integers(1, 5))
def test_equals_the_loops_of_eq4(seed: int, layers: int, n: int, features: int) -> None:
    rng = np.random.default_rng(seed)
    source, target = rng.normal(size=(2, layers, n, features))
    expected = reference.alignment(source, target)
    assert alignment_score(torch.tensor(source), torch.tensor(target)).tolist() == pytest.approx(expected)


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
        (
            torch.rand(1, 3, 2),
            torch.rand(1, 3, 2),
            "bleu",
            "choose from nasca, nasca_rank, navca, mexa, cka, svcca, anc",
        ),
    ],
)
def test_bad_input_is_explained(source: torch.Tensor, target: torch.Tensor, method: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        alignment_score(source, target, method=method)  # type: ignore[arg-type]


SIMILARITIES: tuple[Method, ...] = ("cka", "svcca", "anc", "sads")


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(0, 10_000), st.integers(1, 2), st.integers(3, 12), st.integers(2, 20))
@pytest.mark.parametrize("method", SIMILARITIES)
def test_a_similarity_equals_its_slow_reference(method: Method, seed: int, layers: int, n: int, features: int) -> None:
    """More sentences than features, and fewer."""
    source, target = normal(seed, 2, layers, n, features)
    found = alignment_score(source, target + source, method)
    assert found.tolist() == pytest.approx(reference.measure(source.numpy(), (target + source).numpy(), method))


@pytest.mark.parametrize("method", ["cka", "svcca", "anc"])
def test_identical_representations_score_one(method: Method) -> None:
    source = normal(0, 1, 40, 6)
    assert alignment_score(source, source, method).item() == pytest.approx(1)
    assert alignment_score(source, 5 * source + 3, method).item() == pytest.approx(1)


def test_the_gap_of_orthogonal_sentences_is_one_and_of_equal_ones_zero() -> None:
    orthogonal = torch.eye(5).unsqueeze(0)
    assert alignment_score(orthogonal, 3 * orthogonal, "sads").item() == pytest.approx(1)
    assert alignment_score(orthogonal, -orthogonal, "sads").item() == pytest.approx(-1)
    equal = torch.ones(1, 5, 4)
    assert alignment_score(equal, equal, "sads").item() == pytest.approx(0)


def test_rotation_matters_to_anc_alone() -> None:
    source = normal(1, 1, 60, 6)
    rotation = torch.linalg.qr(normal(2, 6, 6)).Q
    assert alignment_score(source, source @ rotation, "cka").item() == pytest.approx(1)
    assert alignment_score(source, source @ rotation, "svcca").item() == pytest.approx(1)
    assert alignment_score(source, source @ rotation, "anc").item() < 0.9


def test_one_feature_scaled_changes_cka_and_neither_svcca_nor_anc() -> None:
    source = normal(3, 1, 60, 3)
    scaled = source * torch.tensor([1.0, 2.0, 3.0])
    assert alignment_score(source, scaled, "cka").item() < 0.99
    assert alignment_score(source, scaled, "svcca").item() == pytest.approx(1)
    assert alignment_score(source, scaled, "anc").item() == pytest.approx(1)


@pytest.mark.parametrize("method", SIMILARITIES)
def test_independent_representations_of_many_sentences_score_nothing(method: Method) -> None:
    source, target = normal(4, 2, 1, 2000, 3)
    assert abs(alignment_score(source, target, method).item()) < 0.05


@pytest.mark.parametrize("method", get_args(Method))
def test_torn_apart_pairs_score_what_their_order_scores(method: Method) -> None:
    """The slow way: put the targets into each order and measure anew."""
    source = normal(5, 2, 30, 8)
    target = source + 0.3 * normal(6, 2, 30, 8)
    orders = random_orders(30, 20)
    assert orders is not None
    measured = measure(source, target, method, orders)
    assert measured.torn is not None
    assert measured.chance is not None
    slow = torch.stack([measure(source, target[:, order], method).per_layer for order in orders])
    torch.testing.assert_close(measured.torn, slow)
    assert (measured.per_layer > measured.torn.amax(dim=0)).all()


@pytest.mark.parametrize("method", OVER_PAIRS)
def test_chance_is_the_mean_over_all_orders(method: Method) -> None:
    source, target = normal(15, 2, 2, 5, 4)
    orders = torch.tensor(list(permutations(range(5))))
    measured = measure(source, target, method, orders)
    assert measured.torn is not None
    assert measured.chance is not None
    torch.testing.assert_close(measured.chance, measured.torn.mean(dim=0))


@pytest.mark.parametrize("method", OVER_PAIRS)
@given(values=hnp.arrays(np.float64, (2, 5, 3), elements=st.integers(-2, 2)))
def test_a_pair_left_out_is_left_out_with_both_its_sentences(method: Method, values: np.ndarray) -> None:
    """The slow way: measure the others anew. Small whole numbers make many ties."""
    source, target = torch.tensor(values).unsqueeze(1)
    found = measure(source, target, method).without_pair
    assert found is not None
    for pair in range(5):
        others = [place for place in range(5) if place != pair]
        expected = measure(source[:, others], target[:, others], method).per_layer
        torch.testing.assert_close(found[:, pair], expected)


def test_two_pairs_have_no_value_without_one_of_them() -> None:
    assert measure(torch.rand(1, 2, 3), torch.rand(1, 2, 3), "nasca").without_pair is None


def test_many_layers_are_measured_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = normal(16, 2, 5, 6, 4)
    whole = measure(source, target, "nasca_rank", random_orders(6, 10))
    monkeypatch.setattr(scores, "MOST_NUMBERS", 2 * 6 * 6)
    parts = measure(source, target, "nasca_rank", random_orders(6, 10))
    for one, other in zip(astuple(whole), astuple(parts), strict=True):
        torch.testing.assert_close(one, other)


def test_methods_measured_together_are_what_they_are_alone() -> None:
    source, target = normal(17, 2, 2, 8, 5)
    methods = get_args(Method)
    together = measure_all(source, target, dict.fromkeys(methods))
    assert list(together) == list(methods)
    for method in methods:
        torch.testing.assert_close(together[method].per_layer, measure(source, target, method).per_layer)


@given(hnp.arrays(np.float64, (2, 6, 3), elements=st.integers(-2, 2)))
def test_the_rank_score_equals_its_loops(values: np.ndarray) -> None:
    source, target = torch.tensor(values).unsqueeze(1)
    found = measure(source, target, "nasca_rank").per_layer.item()
    assert found == pytest.approx(reference.rank_score(*values))


def test_the_rank_score_of_first_and_last_places() -> None:
    first = torch.eye(4).unsqueeze(0)
    assert measure(first, first, "nasca_rank").per_layer.item() == pytest.approx(1)
    assert measure(first, -first, "nasca_rank").per_layer.item() == pytest.approx(0)
    equal = torch.ones(1, 4, 2)
    assert measure(equal, equal, "nasca_rank").per_layer.item() == pytest.approx(0)  # a tie counts against the pair


def test_rank_one_both_ways_is_weak_alignment() -> None:
    source = normal(18, 3, 20, 6)
    target = source + normal(19, 3, 20, 6)
    ranks, aligned = (measure(source, target, method).per_pair for method in ("nasca_rank", "nasca"))
    assert ranks is not None
    assert aligned is not None
    assert torch.equal(ranks == 1, aligned == 1)


def test_the_orders_are_the_same_each_time_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    orders = random_orders(50, 1000)
    assert torch.rand(1) == expected
    assert orders is not None
    random_orders.cache_clear()
    again = random_orders(50, 1000)
    assert again is not None
    assert torch.equal(orders, again)
    assert (orders.sort(dim=1).values == torch.arange(50)).all()
    # Each target comes to each place equally often: a chi-square of 49 degrees of freedom at one place.
    counts = torch.bincount(orders[:, 7], minlength=50)
    assert ((counts - 20) ** 2 / 20).sum() < stats.chi2.isf(1e-4, 49)


@pytest.mark.parametrize("method", get_args(Method))
def test_the_order_of_the_pairs_and_the_side_do_not_matter(method: Method) -> None:
    source, target = normal(7, 2, 2, 15, 20)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(1))
    expected = alignment_score(source, target, method)
    torch.testing.assert_close(alignment_score(source[:, order], target[:, order], method), expected)
    torch.testing.assert_close(alignment_score(target, source, method), expected)


@pytest.mark.parametrize("method", SIMILARITIES)
def test_features_without_variation_change_nothing(method: Method) -> None:
    """As a neuron that never fires is one, and the padding of narrower layers."""
    source, target = normal(8, 2, 1, 10, 4)
    zeros = torch.zeros(1, 10, 3, dtype=torch.float64)
    padded = [torch.cat([side, zeros], dim=2) for side in (source, target)]
    one, other = padded
    torch.testing.assert_close(alignment_score(one, other, method), alignment_score(source, target, method))


@pytest.mark.parametrize("method", ["cka", "svcca", "anc"])
def test_a_constant_of_rounding_is_no_variation(method: Method) -> None:
    source, target = normal(9, 2, 1, 10, 4)
    noise = 1 + 1e-8 * normal(10, 1, 10, 1)
    expected = alignment_score(source, target, method)
    torch.testing.assert_close(
        alignment_score(torch.cat([source, 7 * noise], 2), torch.cat([target, 7 * noise.flip(1)], 2), method), expected
    )


@pytest.mark.parametrize("method", SIMILARITIES)
def test_no_variation_at_all_scores_zero(method: Method) -> None:
    same = torch.ones(1, 6, 3)
    assert alignment_score(same, same, method).item() == pytest.approx(0)
    assert alignment_score(torch.zeros(1, 6, 3), torch.rand(1, 6, 3), method).item() == 0


@pytest.mark.parametrize("method", SIMILARITIES)
def test_a_representation_of_low_rank_is_defined(method: Method) -> None:
    direction = normal(11, 1, 1, 5)
    source, target = normal(12, 2, 1, 9, 1)
    one, other = source @ direction, target @ direction
    score = alignment_score(one, other, method).item()
    assert score == pytest.approx(
        reference.measure((source @ direction).numpy(), (target @ direction).numpy(), method)[0]
    )


def test_svcca_of_few_sentences_is_high_by_chance() -> None:
    """What the docstring warns of: two subspaces of more than half the dimensions meet."""
    source, target = normal(13, 2, 1, 30, 200)
    assert alignment_score(source, target, "svcca").item() > 0.9


@pytest.mark.parametrize("method", get_args(Method))
def test_what_is_a_mean_over_pairs_says_each_pairs_part(method: Method) -> None:
    source, target = normal(14, 2, 3, 8, 6)
    measured = measure(source, target, method)
    assert (measured.per_pair is not None) == (method in OVER_PAIRS)
    if measured.per_pair is not None:
        assert measured.per_pair.shape == (3, 8)
        torch.testing.assert_close(measured.per_pair.mean(dim=1), measured.per_layer)


@given(hnp.arrays(np.float64, (2, 5, 3), elements=st.integers(-2, 2)))
def test_retrieval_equals_its_loops(values: np.ndarray) -> None:
    source, target = torch.tensor(values).unsqueeze(1)
    found = retrieved(source, target)
    c = [[reference.cosine(s, t) for t in values[1]] for s in values[0]]
    others = [[j for j in range(5) if j != i] for i in range(5)]
    forward = [all(c[i][i] > c[i][j] + 1e-9 for j in others[i]) for i in range(5)]
    backward = [all(c[i][i] > c[j][i] + 1e-9 for j in others[i]) for i in range(5)]
    both = [f and b for f, b in zip(forward, backward, strict=True)]
    hits = {direction: measured.per_pair for direction, measured in found.items()}
    assert {direction: None if hit is None else hit.bool().tolist() for direction, hit in hits.items()} == {
        "source->target": [forward],
        "target->source": [backward],
        "both": [both],
    }
    assert aligned_pairs(source, target).tolist() == [both]


def test_a_hub_is_found_from_one_side_alone() -> None:
    """A target near every source: each source but one finds it instead of its own, its own targets find theirs."""
    source = torch.eye(4).unsqueeze(0)
    target = source.clone()
    target[0, 0] = 1
    found = retrieved(source * 0.5 + 0.5, target)
    assert (found["source->target"].per_layer < found["target->source"].per_layer).all()


def test_representations_can_be_chosen() -> None:
    methods: tuple[Method, ...] = ("nasca", "cka")
    assert representations_of(methods, {}) == {"nasca": "nas", "cka": "embedding"}
    assert representations_of(methods, {"cka": "nav"}) == {"nasca": "nas", "cka": "nav"}
    assert {method: REPRESENTATION_OF[method] for method in ALIGNMENT} == {
        "nasca": "nas",
        "navca": "nav",
        "mexa": "embedding",
    }


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"anc": "nas"}, "chosen for 'anc', but methods are nasca, nasca_rank, cka"),
        ({"cka": "tokens"}, "representation 'tokens' is unknown; choose from nas, nav, embedding"),
        ({"nasca": "nav"}, "nasca on nav is called navca; ask for that"),
        ({"nasca_rank": "nav"}, "nasca_rank reads nas"),
    ],
)
def test_a_choice_that_means_nothing_is_refused(chosen: dict[Method, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        representations_of(("nasca", "nasca_rank", "cka"), chosen)  # type: ignore[arg-type]
