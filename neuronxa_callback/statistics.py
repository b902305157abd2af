"""How sure an alignment score is: chance level, p-value (paper, appendix E, Eq. 5) and bootstrap interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

RESAMPLES = 9999
SEED = 0


def chance_level(n: int) -> float:
    """The score that unrelated sentences reach: one pair is best of its row and column with 1 / (2n - 1)."""
    return 1 / (2 * n - 1)


def chance_p_value(score: float, n: int) -> float:
    """Probability of at least this share of aligned pairs by chance (Eq. 5).

    For a mean over layers this treats the layers as one. It is then conservative: layers that disagree average
    chance out and make a high mean rarer than Eq. 5 says.

    Args:
        score: share of aligned pairs, in [0, 1].
        n: number of pairs.

    Returns:
        P(X >= k) for X binomial with n trials at the chance level and k = floor(score * n).
    """
    k = np.floor(score * n + 1e-9)
    return float(stats.binom.sf(k - 1, n, chance_level(n)))


def bootstrap_interval(per_pair: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of a score over its pairs, with a fixed seed of its own.

    The pairs are resampled, the sentences that each was compared with are not: the interval says how the score
    would vary with other pairs of this kind, against these competitors.

    Args:
        per_pair: each pair's share of aligned layers; their mean is the score.
        confidence: coverage.

    Returns:
        (low, high).
    """
    shares = np.asarray(per_pair, dtype=float)
    interval = stats.bootstrap(
        (shares,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)
