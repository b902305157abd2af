"""How certain a score is: p-values by permutation and by Eq. 5 of the paper, intervals, paired test.

What each evaluation needs comes from scipy.special, which transformers imports anyway. scipy.stats, whose import takes
half a second, computes the same by the same functions. Only the tests that resample import it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

RESAMPLES = 9999
SEED = 0
NO_ERROR = 1e-9  # a smaller standard error comes from rounding
ROUNDING = 1e-7  # a score that float32 rounded is still as high as itself


def chance_level(n: int) -> float:
    """Return the paper's chance level: 1 / (2n - 1), the probability that c_ii is best in row and column (Eq. 5).

    Eq. 5 takes the similarities as independent. In real text some sentences are near everything, and then fewer pairs
    find each other by chance.
    """
    return 1 / (2 * n - 1)


def chance_p_value(score: float, n: int) -> float:
    """Return the paper's probability of at least this share of aligned pairs by chance (Eq. 5).

    It is too high for real text; see `chance_level`. `permutation_p_value` measures instead. For a mean over layers,
    all layers are treated as one. The p-value is then conservative, because layers that disagree average chance out and
    make a high mean rarer than Eq. 5 says.

    Args:
        score: share of aligned pairs, in [0, 1].
        n: number of pairs.

    Returns:
        P(X >= k) for X binomial with n trials at the chance level and k = floor(score * n). A share that float32
        rounded down still gives its own k.
    """
    k = int(np.floor(score * n * (1 + 1e-6)))
    return float(special.betainc(k, n - k + 1, chance_level(n))) if k > 0 else 1.0


def permutation_p_value(score: float, permuted: ArrayLike) -> float:
    """Return the probability of at least this score if the pairs did not belong together.

    Args:
        score: the score of the pairs.
        permuted: scores of the same text with its pairs torn apart at random.

    Returns:
        (1 + permuted scores at least as high) / (1 + permuted scores), which is never 0.
    """
    permuted = np.asarray(permuted, dtype=float)
    return float((1 + np.sum(permuted >= score - ROUNDING)) / (1 + len(permuted)))


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


def jackknife_error(without_each: ArrayLike) -> float:
    """Return the standard error of a score over samples of as many pairs, by the jackknife.

    A pair counts twice: it is scored, and the other pairs compete with its sentences. Leaving out a pair leaves out
    both. So this error knows that pairs compete with each other, which the spread of the pairs' own parts does not.

    Args:
        without_each: the score when one pair is left out, for each of at least two pairs.
    """
    values = np.asarray(without_each, dtype=float)
    return float(np.sqrt((len(values) - 1) * values.var()))


def pairs_behind(errors: Sequence[float], counts: Sequence[int]) -> float:
    """Return how many pairs of one kind would give the error of a sum of independent parts (Satterthwaite 1946).

    Args:
        errors: the standard error of each part.
        counts: the number of pairs behind each part.
    """
    total = sum(error**2 for error in errors)
    if total < NO_ERROR**2:
        return min(counts)
    freedom = total**2 / sum(error**4 / (count - 1) for error, count in zip(errors, counts, strict=True))
    return 1 + freedom


def share_interval(score: float, error: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of a score in [0, 1] over samples of as many pairs (Korn and Graubard 1998).

    It is the exact interval of Clopper and Pearson for the number of independent pairs that would have this standard
    error, after Korn and Graubard's correction for an error that is itself estimated. Even a score of 0 or 1 has an
    interval of some width, and so has one to which all pairs contribute the same. docs/explanation/chance.md has its
    measured coverage.

    Args:
        score: the score.
        error: its standard error.
        n: the number of pairs. The error counts as no larger than that of so many independent pairs: at single layers
            the jackknife gives too large an error, and this makes up for it.
        confidence: coverage of the interval.

    Returns:
        (low, high).
    """
    tail = (1 - confidence) / 2
    count = max(n, score * (1 - score) / error**2) if error > NO_ERROR else n
    if n > 1:
        count *= (special.ndtri(tail) / special.stdtrit(n - 1, tail)) ** 2
    aligned = score * count
    low = special.betaincinv(aligned, count - aligned + 1, tail) if score > 0 else 0.0
    high = special.betainccinv(aligned + 1, count - aligned, tail) if score < 1 else 1.0
    return float(low), float(high)


def mean_interval(score: float, error: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of a score that is not bound to [0, 1], such as SADS; see `share_interval`."""
    half = float(-special.stdtrit(n - 1, (1 - confidence) / 2)) * error
    return score - half, score + half


def layer_interval(share: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of the share of n pairs that hold at one layer (docs/explanation/chance.md)."""
    aligned = round(share * n) / n
    z = float(special.ndtri((1 + confidence) / 2))
    twice = 2 * (n + z**2)
    centre, half = (2 * n * aligned + z**2) / twice, z / twice * sqrt(4 * n * aligned * (1 - aligned) + z**2)
    return 0.0 if aligned == 0 else centre - half, 1.0 if aligned == 1 else centre + half


def bootstrap_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean of independent values, with a fixed seed of its own.

    It serves differences between two models and means over languages. Scores have `share_interval`.

    Args:
        values: the values.
        confidence: coverage of the interval.

    Returns:
        (low, high).
    """
    from scipy import stats  # see the module's docstring

    interval = stats.bootstrap(
        (np.asarray(values, dtype=float),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=1000,  # bounds the memory of many values
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)


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
    from scipy import stats  # see the module's docstring

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
