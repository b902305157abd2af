"""How measures of alignment go together with knowledge over languages.

English is in no correlation with English as pivot: it has no alignment with itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.table3.alignment import METHODS, NGRAMS
from benchmarks.table3.recorded import Recorded
from benchmarks.table3.records import ENGLISH, PAIRS, POOLINGS, Setting
from neuronxa_callback.correlation import FEWEST_FOR_INTERVAL, RESAMPLES, SEED, Coefficient, pearson, spearman
from neuronxa_callback.survey.knowledge.consistency import consistency, rank_consistency
from neuronxa_callback.text.languages import language_name
from neuronxa_callback.vocabulary import score_name

Numbers: TypeAlias = NDArray[np.float64]

TOKENS, LOSS_OF_TOKEN, LOSS_OF_SENTENCE = (
    "tokens per character, falling",
    "loss per token, falling",
    "loss per sentence, falling",
)
DEFAULT = Setting("weighted", ENGLISH, PAIRS)
# SADS averages the tokens whatever is chosen (vocabulary.REPRESENTATION_OF), and 4-grams have none.
MEASURES = (*METHODS, NGRAMS)
ONE_POOLING = ("sads", NGRAMS)


class Estimate(NamedTuple):
    """A correlation over languages.

    Attributes:
        r: Pearson's r or Spearman's rho.
        ci: its 95 % interval by the bootstrap over languages (BCa). None if it cannot be had.
    """

    r: float
    ci: tuple[float, float] | None


class Series(NamedTuple):
    """A measure of each language.

    Attributes:
        name: its name in tables.
        pooling: how tokens became a sentence, "" if that is no choice.
        values: a number for each language; more is better.
    """

    name: str
    pooling: str
    values: Numbers


# ---------------------------------------------------------------------------------------------- of a model


def all_series(found: Recorded, languages: Sequence[str]) -> list[Series]:
    """Return each method in each pooling, with English and 100 pairs, and what needs no method."""
    series = [Series(score_name(name), "", aligned(found, languages, name)) for name in ONE_POOLING]
    series += [
        Series(score_name(name), pooling, aligned(found, languages, name, DEFAULT._replace(pooling=pooling)))
        for pooling in POOLINGS
        for name in MEASURES
        if name not in ONE_POOLING
    ]
    text = [found.text[lang] for lang in languages]
    needing_none = {
        TOKENS: [-line.tokens_per_character for line in text],
        LOSS_OF_TOKEN: [-line.loss_per_token for line in text],
        LOSS_OF_SENTENCE: [-line.loss_per_sentence for line in text],
    }
    return series + [Series(name, "", np.array(values)) for name, values in needing_none.items()]


def aligned(found: Recorded, languages: Sequence[str], name: str, setting: Setting = DEFAULT) -> Numbers:
    """Return the alignment of each language with the setting's pivot, by a method or 4-grams."""
    return np.array([found.alignment[lang, setting].score[name] for lang in languages])


def targets(found: Recorded, languages: Sequence[str], pivot: str = ENGLISH) -> dict[str, Numbers]:
    """Return what each language is to be predicted: its accuracy, and its RankC with the pivot."""
    lines = [found.knowledge[lang] for lang in languages]
    return {
        "accuracy": np.array([line.accuracy for line in lines]),
        f"RankC with {language_name(pivot)}": np.array([consistency(line, found.knowledge[pivot]) for line in lines]),
    }


# ---------------------------------------------------------------------------------------------- how reliable


def known_by_fact(found: Recorded, languages: Sequence[str]) -> Numbers:
    """Return the share of each fact's answers that each language knows: (languages, facts)."""
    return np.array([found.knowledge[lang].known for lang in languages])


def consistency_by_fact(found: Recorded, languages: Sequence[str]) -> Numbers:
    """Return each fact's part of each language's RankC with English: (languages, facts).

    Facts that have other numbers of candidates in some language are left out, as in `consistency`.
    """
    lines = [found.knowledge[ENGLISH], *(found.knowledge[lang] for lang in languages)]
    of_facts = zip(*(line.rankings for line in lines), strict=True)
    english, *others = zip(*(of_fact for of_fact in of_facts if _alike(of_fact)), strict=True)
    return np.array(
        [[rank_consistency([one], [other]) for one, other in zip(its, english, strict=True)] for its in others]
    )


def _alike(rankings: Sequence[Sequence[int]]) -> bool:
    return len(set(map(len, rankings))) == 1


def alpha(items: Numbers) -> float | None:
    """Return Cronbach's alpha (1951): how far the facts agree on the order of the languages.

    It is k / (k - 1) (1 - sum of the facts' variances over languages / variance of their sum). A correlation with the
    languages' means can hardly be higher than its square root.

    Args:
        items: (languages, facts).

    Returns:
        alpha, 1 at most; None if there are fewer than two languages or facts, or all languages are alike.
    """
    languages, facts = items.shape
    if languages < 2 or facts < 2:
        return None
    of_sum = items.sum(axis=1).var(ddof=1)
    if of_sum <= 1e-12:
        return None
    return float(facts / (facts - 1) * (1 - items.var(axis=0, ddof=1).sum() / of_sum))


# ---------------------------------------------------------------------------------------------- correlations


def estimate(x: Numbers, y: Numbers, coefficient: Coefficient, resamples: int = RESAMPLES) -> Estimate | None:
    """Return the correlation of two numbers of each language, with its BCa interval (Efron 1987).

    The bootstrap draws languages with both numbers, with a fixed seed. Ranks are taken anew in each resample. There is
    no interval below eight languages, and where a resample has no correlation because a number is the same throughout.

    Returns:
        the correlation, or None if there are fewer than three languages or one of the numbers does not vary.
    """
    found = (pearson if coefficient == "Pearson" else spearman)(x, y)
    if found is None:
        return None
    return Estimate(found.r, _interval(x, y, coefficient, resamples) if found.n >= FEWEST_FOR_INTERVAL else None)


def _interval(x: Numbers, y: Numbers, coefficient: Coefficient, resamples: int) -> tuple[float, float] | None:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # scipy warns of an interval that cannot be had, and returns nan
        low, high = stats.bootstrap(
            (x, y),
            _pearson if coefficient == "Pearson" else _spearman,
            paired=True,
            vectorized=True,
            method="BCa",
            n_resamples=resamples,
            rng=np.random.default_rng(SEED),
        ).confidence_interval
    return (float(low), float(high)) if np.isfinite([low, high]).all() else None


def _pearson(x: Numbers, y: Numbers, axis: int = -1) -> Numbers:
    x, y = (values - values.mean(axis=axis, keepdims=True) for values in (x, y))
    return np.asarray((x * y).sum(axis=axis) / np.sqrt((x**2).sum(axis=axis) * (y**2).sum(axis=axis)))


def _spearman(x: Numbers, y: Numbers, axis: int = -1) -> Numbers:
    return _pearson(stats.rankdata(x, axis=axis), stats.rankdata(y, axis=axis), axis)
