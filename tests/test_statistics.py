from __future__ import annotations

from math import comb

import numpy as np
import pytest

from neuronxa_callback import statistics


def test_eq5_gives_the_papers_number() -> None:
    assert round(statistics.chance_p_value(0.05, 100), 5) == 0.00016


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (7, 50), (100, 100)])
def test_eq5_equals_its_sum(k: int, n: int) -> None:
    p = 1 / (2 * n - 1)
    expected = 1 - sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k))
    assert statistics.chance_p_value(k / n, n) == pytest.approx(expected, abs=1e-12)


def test_a_mean_over_layers_rounds_towards_chance() -> None:
    """A score between two counts gets the p-value of the lower one."""
    assert statistics.chance_p_value(0.0249, 100) == statistics.chance_p_value(0.02, 100)


def test_the_chance_level_is_what_random_sentences_reach() -> None:
    rng = np.random.default_rng(0)
    c = rng.normal(size=(20_000, 10, 10))
    own = np.einsum("kii->ki", c)
    share = ((own == c.max(axis=1)) & (own == c.max(axis=2))).mean()
    assert share == pytest.approx(statistics.chance_level(10), abs=0.002)


def test_eq5_is_conservative_for_a_mean_over_layers() -> None:
    """Unrelated sentences, layers that agree in part: p < 0.05 in at most 5 % of the trials."""
    rng = np.random.default_rng(1)
    n, layers, trials = 30, 8, 400
    rejected = 0
    for _ in range(trials):
        c = rng.normal(size=(1, n, n)) + rng.normal(size=(layers, n, n))
        own = np.einsum("lii->li", c)
        score = ((own == c.max(axis=1)) & (own == c.max(axis=2))).mean()
        rejected += statistics.chance_p_value(score, n) < 0.05
    assert rejected / trials <= 0.05


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    truth, covered, trials = 0.3, 0, 200
    for _ in range(trials):
        low, high = statistics.bootstrap_interval(rng.random(100) < truth)
        covered += low <= truth <= high
    assert 0.90 <= covered / trials <= 0.99


def test_the_interval_is_the_same_each_time_and_leaves_the_global_generator_alone() -> None:
    shares = np.linspace(0, 1, 50)
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    assert statistics.bootstrap_interval(shares) == statistics.bootstrap_interval(shares)
    assert np.random.random() == expected


def test_a_constant_score_has_an_interval_of_width_zero() -> None:
    assert statistics.bootstrap_interval(np.zeros(100)) == (0.0, 0.0)
