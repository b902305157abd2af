from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neuronxa_callback import significance


def test_eq5_gives_the_papers_number() -> None:
    assert round(significance.chance_p_value(0.05, 100), 5) == 0.00016


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (7, 50), (100, 100)])
def test_eq5_equals_its_sum(k: int, n: int) -> None:
    p = 1 / (2 * n - 1)
    expected = 1 - sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k))
    assert significance.chance_p_value(k / n, n) == pytest.approx(expected, abs=1e-12)


def test_a_mean_over_layers_rounds_towards_chance() -> None:
    """A score between two counts gets the p-value of the lower one."""
    assert significance.chance_p_value(0.0249, 100) == significance.chance_p_value(0.02, 100)


def test_the_chance_level_is_what_random_sentences_reach() -> None:
    rng = np.random.default_rng(0)
    c = rng.normal(size=(20_000, 10, 10))
    own = np.einsum("kii->ki", c)
    share = ((own == c.max(axis=1)) & (own == c.max(axis=2))).mean()
    assert share == pytest.approx(significance.chance_level(10), abs=0.002)


def test_eq5_is_conservative_for_a_mean_over_layers() -> None:
    """Unrelated sentences, layers that agree in part: p < 0.05 in at most 5 % of the trials."""
    rng = np.random.default_rng(1)
    n, layers, trials = 30, 8, 400
    rejected = 0
    for _ in range(trials):
        c = rng.normal(size=(1, n, n)) + rng.normal(size=(layers, n, n))
        own = np.einsum("lii->li", c)
        score = ((own == c.max(axis=1)) & (own == c.max(axis=2))).mean()
        rejected += significance.chance_p_value(score, n) < 0.05
    assert rejected / trials <= 0.05


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    truth, covered, trials = 0.3, 0, 200
    for _ in range(trials):
        low, high = significance.bootstrap_interval(rng.random(100) < truth)
        covered += low <= truth <= high
    assert 0.90 <= covered / trials <= 0.99


def test_the_interval_is_the_same_each_time_and_leaves_the_global_generator_alone() -> None:
    shares = np.linspace(0, 1, 50)
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    assert significance.bootstrap_interval(shares) == significance.bootstrap_interval(shares)
    assert np.random.random() == expected


def test_a_constant_score_has_an_interval_of_width_zero() -> None:
    assert significance.bootstrap_interval(np.zeros(100)) == (0.0, 0.0)


class TestPearson:
    def test_it_is_the_textbook_formula(self) -> None:
        rng = np.random.default_rng(1)
        x = rng.normal(size=12)
        y = x + rng.normal(size=12)
        found = significance.pearson(x, y)
        assert found is not None
        dx, dy = x - x.mean(), y - y.mean()
        r = (dx * dy).sum() / np.sqrt((dx**2).sum() * (dy**2).sum())
        assert found.r == pytest.approx(r)
        assert found.n == 12
        # Under no correlation t = r sqrt(n - 2) / sqrt(1 - r^2) has Student's distribution.
        t = r * np.sqrt(10) / np.sqrt(1 - r**2)
        assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), 10))

    def test_the_interval_is_that_of_resampled_evaluations(self) -> None:
        rng = np.random.default_rng(2)
        x = rng.normal(size=40)
        y = x + rng.normal(size=40)
        found = significance.pearson(x, y)
        assert found is not None
        drawn = [np.corrcoef(x[rows], y[rows])[0, 1] for rows in rng.integers(0, 40, size=(4000, 40))]
        assert found.ci == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.02)
        assert found == significance.pearson(x, y)  # a seed of its own

    def test_three_points_have_one(self) -> None:
        found = significance.pearson([1, 2, 3], [1, 2, 2.5])
        assert found is not None
        assert -1 <= found.ci[0] <= found.ci[1] <= 1

    @pytest.mark.parametrize(
        ("x", "y"),
        [
            ([], []),
            ([1, 2], [1, 2]),
            ([1, 1, 1], [1, 2, 3]),
            ([1, 2, 3], [0.1, 0.1, 0.1 + 1e-17]),
        ],
        ids=["none", "two points", "constant", "constant but for rounding"],
    )
    def test_where_there_is_none(self, x: list[float], y: list[float]) -> None:
        assert significance.pearson(x, y) is None
        assert significance.pearson(y, x) is None


def test_holm_by_hand() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, none smaller than the one before."""
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([0.9, 0.8]) == [1, 1]
    assert significance.holm([]) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_rejects(p_values: list[float]) -> None:
    for level in (0.01, 0.05, 0.5):
        rejected: set[int] = set()
        for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if p_values[index] * (len(p_values) - rank) > level:
                break
            rejected.add(index)
        assert {i for i, p in enumerate(significance.holm(p_values)) if p <= level} == rejected


def test_a_permutation_p_value_is_a_share_and_never_zero() -> None:
    assert significance.permutation_p_value(0.5, [0.1, 0.5, 0.7, 0.2]) == 3 / 5
    assert significance.permutation_p_value(2, np.zeros(99)) == 0.01


def test_the_two_sided_paired_test_sees_a_fall() -> None:
    rng = np.random.default_rng(3)
    before = rng.random(60)
    now = before - 0.2 + 0.05 * rng.random(60)
    assert significance.paired_p_value(now, before) > 0.99
    assert significance.paired_p_value(now, before, "two-sided") < 0.001
    swapped = significance.paired_p_value(before, now, "two-sided")
    assert swapped == pytest.approx(significance.paired_p_value(now, before, "two-sided"))


@pytest.mark.parametrize("n", [2, 20, 100, 1012])
def test_a_share_that_was_kept_in_float32_has_the_same_p_value(n: int) -> None:
    for k in range(n + 1):
        expected = stats.binom.sf(k - 1, n, 1 / (2 * n - 1))
        assert significance.chance_p_value(k / n, n) == expected
        assert significance.chance_p_value(float(np.float32(k / n)), n) == expected


@pytest.mark.parametrize("k", [0, 1, 7, 50, 99, 100])
def test_the_interval_of_a_share_is_the_bootstraps(k: int) -> None:
    low, high = significance.share_interval(float(np.float32(k / 100)), 100)
    drawn = significance.bootstrap_interval(np.arange(100) < k)
    assert (low, high) == pytest.approx(drawn, abs=0.011)  # a hundredth is one pair
    assert 0 <= low <= k / 100 <= high <= 1
