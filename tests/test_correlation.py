"""Correlations against scipy, formulas written out, and their coverage and size on drawn data."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import atanh, factorial, sqrt, tanh
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from neuronxa_callback.correlation import Correlation, difference, over_run, pearson, spearman

pytestmark = pytest.mark.unit

Correlated = Callable[[Any, Any], Correlation | None]


def drawn(seed: int, draws: int, n: int, r: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bivariate normal points with a true correlation r, a row a draw."""
    x, noise = np.random.default_rng(seed).normal(size=(2, draws, n))
    return x, r * x + sqrt(1 - r**2) * noise


def certain(found: Correlation | None) -> Correlation:
    assert found is not None
    return found


class TestPearson:
    def test_it_is_the_textbook_formula(self) -> None:
        (x,), (y,) = drawn(1, 1, 12, 0.7)
        found = certain(pearson(x, y))
        dx, dy = x - x.mean(), y - y.mean()
        r = (dx * dy).sum() / np.sqrt((dx**2).sum() * (dy**2).sum())
        assert found.r == pytest.approx(r)
        assert found.n == 12
        # Under no correlation t = r sqrt(n - 2) / sqrt(1 - r^2) has Student's distribution.
        t = r * np.sqrt(10) / np.sqrt(1 - r**2)
        assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), 10))
        half = 1.959964 / sqrt(12 - 3)
        assert found.ci == pytest.approx((tanh(atanh(r) - half), tanh(atanh(r) + half)))

    def test_points_on_a_line_have_no_interval_and_no_p_value_of_zero(self) -> None:
        found = certain(pearson(range(12), range(12)))
        assert found.r == pytest.approx(1)
        assert found.p_value == 2 / factorial(12)
        assert found.ci is None


class TestSpearman:
    def test_it_is_scipys_with_ties_and_monotone_curves(self) -> None:
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 8, 30), rng.normal(size=30)
        found, expected = certain(spearman(x, y)), stats.spearmanr(x, y)
        assert found.r == pytest.approx(expected.statistic)
        assert found.p_value == pytest.approx(expected.pvalue)
        half = 1.959964 * sqrt((1 + found.r**2 / 2) / (30 - 3))  # Bonett and Wright
        assert found.ci == pytest.approx((tanh(atanh(found.r) - half), tanh(atanh(found.r) + half)))
        curve = np.linspace(0, 5, 20)
        assert certain(spearman(curve, np.exp(curve))).r == pytest.approx(1)
        assert certain(pearson(curve, np.exp(curve))).r < 0.9

    @pytest.mark.parametrize("sign", [1, -1])
    def test_scores_that_agree_in_every_rank_still_have_an_interval(self, sign: int) -> None:
        found = certain(spearman(range(8), [sign * 2**i for i in range(8)]))
        assert found.r == pytest.approx(sign)
        assert found.ci is not None
        near, far = sorted(abs(end) for end in found.ci)
        assert far == 1
        assert 0.8 < near < 0.95

    def test_three_points_that_agree_say_nearly_nothing(self) -> None:
        """One of six orders agrees and one is the reverse."""
        assert certain(spearman([1, 2, 3], [1, 5, 7])).p_value == pytest.approx(1 / 3)


@pytest.mark.parametrize("correlated", [pearson, spearman])
class TestBoth:
    @pytest.mark.parametrize("n", [3, 4, 6])
    def test_below_ten_points_p_is_that_of_all_pairings(self, correlated: Correlated, n: int) -> None:
        rng = np.random.default_rng(n)
        for x, y in (rng.normal(size=(2, n)), rng.integers(0, 3, (2, n)) + np.eye(1, n)):
            sides = (x, y) if correlated is pearson else (stats.rankdata(x), stats.rankdata(y))
            every = stats.PermutationMethod(n_resamples=factorial(n))
            found = certain(correlated(x, y))
            assert found.p_value == pytest.approx(stats.pearsonr(*sides, method=every).pvalue)
            assert found.ci is None

    def test_nine_points_are_exact_and_ten_are_scipys(self, correlated: Correlated) -> None:
        x, y = np.arange(10.0), np.arange(10.0) ** 2
        assert certain(correlated(x[:9], y[:9])).p_value == pytest.approx(2 / factorial(9))
        theirs = stats.pearsonr if correlated is pearson else stats.spearmanr
        x[:4] = x[3::-1]
        assert certain(correlated(x, y)).p_value == pytest.approx(theirs(x, y).pvalue)

    def test_intervals_begin_at_eight_points(self, correlated: Correlated) -> None:
        (x,), (y,) = drawn(3, 1, 8, 0.5)
        assert certain(correlated(x[:7], y[:7])).ci is None
        low, high = certain(correlated(x, y)).ci or (0, 0)
        assert -1 < low < high < 1

    @pytest.mark.parametrize("n", [3, 5, 7, 12])
    def test_of_points_that_have_nothing_to_do_with_each_other_one_in_twenty_is_significant(
        self, correlated: Correlated, n: int
    ) -> None:
        x, y = drawn(n, 400, n, 0)
        size = np.mean([certain(correlated(a, b)).p_value <= 0.05 for a, b in zip(x, y, strict=True)])
        assert size <= 0.075  # 0.05 and less where few pairings make few p-values
        assert n < 5 or size >= 0.015

    @pytest.mark.parametrize(("n", "draws"), [(8, 300), (20, 1000)])
    @pytest.mark.parametrize("r", [0, 0.5, 0.9])
    def test_the_interval_covers_what_it_says(self, correlated: Correlated, n: int, draws: int, r: float) -> None:
        x, y = drawn(n, draws, n, r)
        truth = r if correlated is pearson else 6 / np.pi * np.arcsin(r / 2)
        intervals = [certain(correlated(a, b)).ci or (1, -1) for a, b in zip(x, y, strict=True)]
        coverage = np.mean([low <= truth <= high for low, high in intervals])
        assert 0.93 <= coverage <= 0.975

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
    def test_where_there_is_none(self, correlated: Correlated, x: list[float], y: list[float]) -> None:
        assert correlated(x, y) is None
        assert correlated(y, x) is None


class TestOverRun:
    def test_both_are_scipys(self) -> None:
        x, y = [0.1, 0.2, 0.4, 0.3, 0.6], [0.5, 0.7, 0.6, 0.9, 0.8]
        found = over_run(x, y)
        assert found is not None
        assert found.r == pytest.approx(stats.pearsonr(x, y).statistic)
        assert found.n == 5
        changes = [[b - a for a, b in pairwise(side)] for side in (x, y)]
        assert found.r_diff == pytest.approx(stats.pearsonr(*changes).statistic)

    def test_changes_need_four_evaluations_and_must_vary(self) -> None:
        assert over_run([1, 2], [1, 2]) is None
        assert over_run([1, 1, 1, 1], [1, 2, 4, 8]) is None
        three, steady = over_run([1, 2, 4], [1, 3, 4]), over_run([0.1, 0.2, 0.3, 0.4], [1, 3, 4, 9])
        assert three is not None
        assert steady is not None
        assert three.r_diff is steady.r_diff is None

    @pytest.mark.parametrize("n", [4, 5, 20])
    def test_the_partial_correlation_is_that_of_residuals_and_of_the_formula(self, n: int) -> None:
        z, noise, more = np.random.default_rng(n).normal(size=(3, n))
        x, y = 3 * z + noise, 50 - 2 * z + noise + more
        found = over_run(x, y, z)
        assert found is not None
        assert found.r == pytest.approx(stats.pearsonr(x, y).statistic)
        assert found.n == n
        line = np.column_stack([np.ones(n), z])
        left = [score - line @ np.linalg.lstsq(line, score, rcond=None)[0] for score in (x, y)]
        assert found.r_partial == pytest.approx(stats.pearsonr(*left).statistic)
        xy, xz, yz = (stats.pearsonr(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
        assert found.r_partial == pytest.approx((xy - xz * yz) / sqrt((1 - xz**2) * (1 - yz**2)))

    def test_two_scores_that_only_follow_a_third_have_no_partial_correlation_left(self) -> None:
        z, first, second = np.random.default_rng(1).normal(size=(3, 400))
        found = over_run(z + first / 4, z + second / 4, z)
        assert found is not None
        assert found.r > 0.9
        assert abs(found.r_partial or 9) < 0.1

    def test_a_third_score_that_does_not_vary_leaves_r(self) -> None:
        found = over_run([0.1, 0.2, 0.4, 0.3], [5, 7, 6, 9], [12.5, 12.5, 12.5, 12.5 + 1e-13])
        assert found is not None
        assert found.r_partial == found.r

    def test_where_there_is_no_partial_correlation(self) -> None:
        x, y = [0.1, 0.2, 0.4, 0.3], [5, 7, 6, 9]
        given: list[Any] = [
            over_run(x, y),
            over_run(x[:3], y[:3], [1, 5, 3]),
            over_run(x, y, [100 + 30 * score for score in x]),
            over_run(x, y, [-score for score in y]),
        ]
        assert [found.r_partial for found in given] == [None] * 4
        assert [found.n for found in given] == [4, 3, 4, 4]

    def test_random_walks_fool_r_and_not_that_of_their_changes(self) -> None:
        """By Student's distribution, which holds for independent points."""
        x, y = np.random.default_rng(4).normal(size=(2, 400, 20)).cumsum(axis=2)
        found = [one for a, b in zip(x, y, strict=True) if (one := over_run(a, b)) is not None]
        r, r_diff = np.array([(one.r, one.r_diff) for one in found], dtype=float).T
        levels, changes = (
            np.mean(2 * stats.t.sf(abs(r) * np.sqrt((n - 2) / (1 - r**2)), n - 2) < 0.05)
            for r, n in ((r, 20), (r_diff, 19))
        )
        assert levels > 0.35
        assert changes < 0.08


class TestDifference:
    @staticmethod
    def scores(seed: int, n: int, first: float, second: float) -> Any:
        """Two scores that correlate at 0.9, and what they correlate with at `first` and at `second`."""
        covariance = [[1, 0.9, first], [0.9, 1, second], [first, second, 1]]
        return np.random.default_rng(seed).multivariate_normal([0, 0, 0], covariance, n).T

    def test_it_is_the_bootstrap_t_of_fishers_z(self) -> None:
        first, second, result = self.scores(1, 20, 0.7, 0.6)
        found = difference(first, second, result, coefficient="Pearson")
        assert found is not None
        assert (found.first, found.second) == pytest.approx(
            (stats.pearsonr(first, result).statistic, stats.pearsonr(second, result).statistic)
        )
        rng = np.random.default_rng(5)  # other resamples than the package's
        z, error = self.gap(first, second, result)
        t = []
        for _ in range(1500):
            rows = rng.integers(0, 20, 20)
            there, its_error = self.gap(first[rows], second[rows], result[rows])
            t.append(abs(there - z) / its_error)
        assert found.p_value == pytest.approx(np.mean(np.array(t) >= abs(z) / error), abs=0.04)
        half = np.quantile(t, 0.95) * error
        assert found.z == pytest.approx(z)
        assert found.ci == pytest.approx((z - half, z + half), abs=0.05)
        assert found == difference(first, second, result, coefficient="Pearson")  # a seed of its own

    @staticmethod
    def gap(first: Any, second: Any, result: Any) -> tuple[float, float]:
        """The difference of the z's, and its standard error by leaving each point's infinitesimal weight out."""
        n, influences, z = len(result), [], []
        for score in (first, second):
            r = stats.pearsonr(score, result).statistic
            u, v = ((side - side.mean()) / side.std() for side in (score, result))
            influences.append([(a * b - r * (a * a + b * b) / 2) / (1 - r * r) for a, b in zip(u, v, strict=True)])
            z.append(atanh(r))
        apart = [a - b for a, b in zip(*influences, strict=True)]
        return z[0] - z[1], sqrt(sum(a * a for a in apart) / (n * (n - 1)))

    @pytest.mark.parametrize("coefficient", ["Pearson", "Spearman"])
    def test_equal_correlations_differ_in_one_test_of_twenty(self, coefficient: Any) -> None:
        found = [difference(*self.scores(seed, 20, 0.5, 0.5), coefficient=coefficient) for seed in range(80)]
        rejected = np.mean([one is not None and one.p_value < 0.05 for one in found])
        assert 0 < rejected <= 0.1

    @pytest.mark.parametrize("coefficient", ["Pearson", "Spearman"])
    def test_a_difference_is_seen_and_its_sign_is_that_of_the_first(self, coefficient: Any) -> None:
        first, second, result = self.scores(2, 60, 0.9, 0.65)
        found = difference(first, second, result, coefficient=coefficient)
        swapped = difference(second, first, result, coefficient=coefficient)
        assert found is not None
        assert swapped is not None
        assert found.p_value < 0.01
        assert found.ci[0] > 0
        assert swapped.ci == pytest.approx((-found.ci[1], -found.ci[0]))
        assert swapped.p_value == found.p_value

    def test_spearman_is_that_of_the_ranks(self) -> None:
        sides = self.scores(3, 15, 0.5, 0.4)
        assert difference(*np.exp(3 * sides), coefficient="Spearman") == difference(*sides, coefficient="Spearman")
        assert difference(*np.exp(3 * sides), coefficient="Pearson") != difference(*sides, coefficient="Pearson")

    def test_where_there_is_none(self) -> None:
        first, second, result = self.scores(4, 8, 0.5, 0.4)
        assert difference(first, second, result, coefficient="Pearson") is not None
        assert difference(first[:7], second[:7], result[:7], coefficient="Pearson") is None
        assert difference(first, np.ones(8), result, coefficient="Pearson") is None
        assert difference(first, 2 * first + 1, result, coefficient="Pearson") is None
        assert difference(result, second, result, coefficient="Pearson") is None
