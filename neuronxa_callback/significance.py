"""How certain a score is: chance level and p-value (paper, Eq. 5), bootstrap interval, paired test, correlations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

FEWEST_POINTS = 3  # for a correlation; two points always lie on a line
RESAMPLES = 9999
SEED = 0


def chance_level(n: int) -> float:
    """Return the score of unrelated sentences: 1 / (2n - 1), the probability that c_ii is best in row and column."""
    return 1 / (2 * n - 1)


def chance_p_value(score: float, n: int, level: float | None = None) -> float:
    """Return the probability of at least this share of aligned pairs by chance (Eq. 5).

    For a mean over layers, all layers are treated as one. The p-value is then conservative, because layers that
    disagree average chance out and make a high mean rarer than Eq. 5 says.

    Args:
        score: share of aligned pairs, in [0, 1].
        n: number of pairs.
        level: a pair's probability of alignment by chance, if it is not Eq. 5's: 1 / n for retrieval in one direction.

    Returns:
        P(X >= k) for X binomial with n trials at the chance level and k = floor(score * n). A share that float32
        rounded down still gives its own k.
    """
    k = np.floor(score * n * (1 + 1e-6))
    return float(stats.binom.sf(k - 1, n, level or chance_level(n)))


def permutation_p_value(score: float, permuted: ArrayLike) -> float:
    """Return the probability of at least this score if the pairs did not belong together.

    Args:
        score: the score of the pairs.
        permuted: scores of the same text with its pairs torn apart at random.

    Returns:
        (1 + permuted scores at least as high) / (1 + permuted scores), which is never 0.
    """
    permuted = np.asarray(permuted, dtype=float)
    return float((1 + np.sum(permuted >= score - 1e-12)) / (1 + len(permuted)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of several tests, such as one per language, after Holm's step-down correction.

    If every hypothesis with a corrected p-value below a level is rejected, the probability of even one wrong rejection
    is at most that level. This holds for any dependence between the tests.

    Args:
        p_values: the p-values in any order.

    Returns:
        the corrected p-values in the same order.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in corrected]


def bootstrap_interval(per_pair: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a score over its pairs, with a fixed seed of its own.

    The pairs are resampled, but not the sentences that each pair was compared with. The interval says how the score
    would vary with other pairs of this kind against the same competitors.

    Args:
        per_pair: each pair's share of aligned layers; their mean is the score.
        confidence: coverage of the interval.

    Returns:
        (low, high).
    """
    shares = np.asarray(per_pair, dtype=float)
    interval = stats.bootstrap(
        (shares,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=1000,  # bounds the memory of many pairs
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def share_interval(share: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return `bootstrap_interval` for pairs that each hold or do not hold, without resampling.

    The number of pairs that hold in a resample is binomial, so its quantiles are known.

    Args:
        share: share of pairs that hold, such as those aligned at one layer.
        n: number of pairs.
        confidence: coverage of the interval.

    Returns:
        (low, high).
    """
    tail = (1 - confidence) / 2
    low, high = stats.binom.ppf([tail, 1 - tail], n, round(share * n) / n) / n
    return max(0.0, float(low)), float(high)


def paired_p_value(
    now: ArrayLike, before: ArrayLike, alternative: Literal["greater", "two-sided"] = "greater"
) -> float:
    """Return the probability of a rise at least this large if two evaluations differed only by chance.

    This is a paired permutation test with a fixed seed of its own. Under the null hypothesis, the two values of a pair
    can be exchanged.

    Args:
        now: one value per held-out pair, such as its share of aligned layers.
        before: the same pairs' values at another evaluation, or with another model.
        alternative: "greater" for a rise, "two-sided" for a difference either way.

    Returns:
        the p-value. It is at least 1 / (RESAMPLES + 1) if there are too many exchanges to try them all.

    Raises:
        ValueError: the two evaluations have different numbers of pairs.
    """
    now, before = np.asarray(now, dtype=float), np.asarray(before, dtype=float)
    if now.shape != before.shape:
        raise ValueError(f"{len(now)} and {len(before)} pairs cannot be compared pair by pair.")
    if np.array_equal(now, before):
        return 1.0
    result = stats.permutation_test(
        (now, before),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        alternative=alternative,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=1000,  # bounds the memory of many pairs
        rng=np.random.default_rng(SEED),
    )
    return float(result.pvalue)


@dataclass(frozen=True)
class Correlation:
    """A correlation of n points with its two-sided p-value and 95 % bootstrap interval."""

    r: float
    p_value: float
    ci: tuple[float, float]
    n: int


def pearson(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Correlation | None:
    """Return the Pearson correlation of two scores over the evaluations of a run (paper, appendix B, Fig. 4).

    The p-value assumes that the points are independent draws from a normal distribution. Successive evaluations of one
    run are neither, so the p-value is optimistic and the interval is too narrow. They show how closely the two curves
    follow each other, not what another run would give.

    Args:
        x: one value per evaluation.
        y: as many values of the other score.
        confidence: coverage of the percentile bootstrap interval, which resamples evaluations. A resample in which a
            score does not vary has no r and is left out.

    Returns:
        the correlation, or None if there are fewer than three points or a score does not vary.
    """
    return _correlation(x, y, stats.pearsonr, confidence)


def spearman(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Correlation | None:
    """Return Spearman's rank correlation, with a p-value and an interval as in `pearson`."""
    return _correlation(x, y, _spearmanr, confidence)


def _spearmanr(x: NDArray[np.float64], y: NDArray[np.float64], axis: int = 0) -> Any:
    """Return Pearson's r of the ranks along an axis, which `scipy.stats.spearmanr` cannot do."""
    return stats.pearsonr(stats.rankdata(x, axis=axis), stats.rankdata(y, axis=axis), axis=axis)


def _correlation(x: ArrayLike, y: ArrayLike, correlate: Callable[..., Any], confidence: float) -> Correlation | None:
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) < FEWEST_POINTS or _is_constant(x) or _is_constant(y):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns about resamples that do not vary
        result = correlate(x, y)
        drawn = stats.bootstrap(
            (x, y),
            lambda x, y, axis: correlate(x, y, axis=axis).statistic,
            paired=True,
            n_resamples=RESAMPLES,
            batch=1000,  # bounds the memory of long runs
            method="percentile",
            rng=np.random.default_rng(SEED),
        ).bootstrap_distribution
    kept = drawn[np.isfinite(drawn)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(kept, [tail, 1 - tail])
    return Correlation(float(result.statistic), float(result.pvalue), (float(low), float(high)), len(x))


def _is_constant(values: NDArray[np.float64]) -> bool:
    return bool(np.ptp(values) <= 1e-12 * np.max(np.abs(values)))  # differences from rounding do not count
