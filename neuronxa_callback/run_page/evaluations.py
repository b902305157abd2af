"""A run's evaluations as the page needs them: without numbers that are none, and with names for its language pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, TypeVar

import numpy as np

from neuronxa_callback.alignment.pair_scores import PairScores
from neuronxa_callback.text.languages import language_name
from neuronxa_callback.training.records import DirectionQuality, Evaluation, MetricScore, NoScore

K = TypeVar("K")
V = TypeVar("V")

NO_NUMBER = "the score is no finite number"


def finite(evaluation: Evaluation) -> Evaluation:
    """Return the evaluation without scores that are NaN or infinite, as if they had not been measured."""
    return evaluation.model_copy(
        update={
            **_numbers(evaluation),
            "languages": {name: scores.model_copy(update=_numbers(scores)) for name, scores in _pairs(evaluation)},
            "quality_score": _finite(evaluation.quality_score),
            "quality": {name: _direction(made) for name, made in evaluation.quality.items()},
        }
    )


def _numbers(scores: Evaluation | PairScores) -> dict[str, Any]:
    """Return the numbers that a page shows of a whole evaluation or of a language pair."""
    return {name: _finite(getattr(scores, name)) for name in ("score", "ci", "chance", "p_value")}


def _pairs(evaluation: Evaluation) -> Iterable[tuple[str, PairScores]]:
    return evaluation.languages.items()


def _finite(numbers: Mapping[K, V]) -> dict[K, V]:
    return {name: value for name, value in numbers.items() if np.isfinite(np.asarray(value, dtype=float)).all()}


def _direction(made: DirectionQuality) -> DirectionQuality:
    metrics: dict[str, MetricScore | NoScore] = {
        name: NoScore(missing=NO_NUMBER) if isinstance(found, MetricScore) and not isfinite(found.score) else found
        for name, found in made.metrics.items()
    }
    return made.model_copy(update={"metrics": metrics})


def pair_names(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the names of a run's language pairs, in the order in which they appear."""
    return list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.languages))


def direction_pairs(evaluations: Sequence[Evaluation]) -> dict[str, str | None]:
    """Return name of each direction of translation -> the language pair of the translated sentences. None: unknown.

    The directions are in the order in which they appear.
    """
    found: dict[str, str | None] = {}
    for evaluation in evaluations:
        for direction in evaluation.quality:
            found[direction] = found.get(direction) or evaluation.language_pair(direction)
    return found


def direction_labels(names: Iterable[str]) -> dict[str, str]:
    """Return name of a direction of translation -> its label, such as "English → Icelandic"."""
    return _distinct({name: _both_sides(name) for name in names})


def pair_labels(names: Sequence[str]) -> dict[str, str]:
    """Return name of a language pair -> its label: the target's name where all have one source, else both names.

    "eng_Latn-isl_Latn" is "Icelandic" beside "eng_Latn-fra_Latn", and "English → Icelandic" beside
    "fra_Latn-isl_Latn".
    """
    sides = {name: name.partition("-") for name in names}
    share = len({source for source, _, _ in sides.values()}) == 1
    found = {}
    for name, (_, dash, target) in sides.items():
        found[name] = language_name(target) if share and dash else _both_sides(name)
    return _distinct(found)


def _both_sides(name: str) -> str:
    source, dash, target = name.partition("-")
    return f"{language_name(source)} → {language_name(target)}" if dash else name


def _distinct(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels, with the names behind them where two are equal."""
    if len(set(labels.values())) == len(labels):
        return dict(labels)
    return {name: f"{label} ({name})" for name, label in labels.items()}
