from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from neuronxa_callback import significance

pytestmark = pytest.mark.unit


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


def test_the_jackknife_of_a_plain_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).random(30)
    without = (values.sum() - values) / 29
    assert significance.jackknife_error(without) == pytest.approx(values.std(ddof=1) / np.sqrt(30))


@pytest.mark.parametrize(("k", "n"), [(0, 20), (1, 20), (7, 50), (50, 50)])
def test_the_interval_of_independent_pairs_is_clopper_and_pearsons(k: int, n: int) -> None:
    """But for the error being estimated: Student's quantile takes the place of the normal one."""
    error = np.sqrt(k / n * (1 - k / n) / n)
    count = n * (stats.norm.isf(0.025) / stats.t.isf(0.025, n - 1)) ** 2
    low, high = significance.share_interval(k / n, error, n)
    exact = stats.binomtest(k, n).proportion_ci()
    assert low <= exact.low + 1e-12
    assert high >= exact.high - 1e-12
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=0.04)
    assert low == (0 if k == 0 else pytest.approx(stats.beta.ppf(0.025, k / n * count, count - k / n * count + 1)))


def test_the_interval_narrows_with_the_error_and_is_never_wider_than_that_of_independent_pairs() -> None:
    intervals = [significance.share_interval(0.3, error, 100) for error in (0.01, 0.03, 0.046, 0.2)]
    widths = [high - low for low, high in intervals]
    assert widths == sorted(widths)
    assert widths[2] == pytest.approx(widths[3], rel=0.01)


def test_the_interval_of_a_score_without_bounds_is_students() -> None:
    values = np.random.default_rng(1).normal(size=15)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    found = significance.mean_interval(values.mean(), values.std(ddof=1) / np.sqrt(15), 15)
    assert found == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("k", [0, 1, 7, 50, 99, 100])
def test_the_interval_of_a_layer_is_wilsons(k: int) -> None:
    """Its ends solve (k/n - p)^2 = z^2 p (1 - p) / n."""
    low, high = significance.layer_interval(float(np.float32(k / 100)), 100)
    assert 0 <= low <= k / 100 <= high <= 1
    assert high - low > 0.03
    for p in {low, high} - {0.0, 1.0}:
        assert (k / 100 - p) ** 2 == pytest.approx(stats.norm.isf(0.025) ** 2 * p * (1 - p) / 100)


def test_a_bootstrap_is_the_same_each_time_and_leaves_the_global_generator_alone() -> None:
    values = np.linspace(0, 1, 50)
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    assert significance.bootstrap_interval(values) == significance.bootstrap_interval(values)
    assert np.random.random() == expected


def test_holm_by_hand() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, none smaller than the one before."""
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([0.9, 0.8]) == [1, 1]
    assert significance.holm([]) == []


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
    assert significance.permutation_p_value(float(np.float32(0.05)), [0.05, 0.0]) == 2 / 3  # rounded up by float32


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


@pytest.mark.parametrize("n", [2, 3, 10, 100, 997])
def test_the_functions_of_scipy_special_are_those_of_scipy_stats_to_the_last_digit(n: int) -> None:
    tail = (1 - 0.95) / 2
    for k in range(n + 1):
        wilson = stats.binomtest(k, n).proportion_ci(method="wilson")
        assert significance.layer_interval(k / n, n) == (wilson.low, wilson.high)
        assert significance.chance_p_value(k / n, n) == stats.binom.sf(k - 1, n, 1 / (2 * n - 1))
        for error in (0.003, 0.04):
            score = k / n
            count = max(n, score * (1 - score) / error**2) * (stats.norm.isf(tail) / stats.t.isf(tail, n - 1)) ** 2
            low = stats.beta.ppf(tail, score * count, count - score * count + 1) if k else 0.0
            high = stats.beta.isf(tail, score * count + 1, count - score * count) if k < n else 1.0
            assert significance.share_interval(score, error, n) == (low, high)
    half = stats.t.isf(tail, n - 1) * 0.1
    assert significance.mean_interval(0.5, 0.1, n) == (0.5 - half, 0.5 + half)
