"""How alignment and translation quality go together over the sentences of one evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from neuronxa_callback.correlation import FEWEST_POINTS, Correlation, spearman
from neuronxa_callback.training.records import Evaluation
from neuronxa_callback.vocabulary import ALIGNMENT, Method


@dataclass(frozen=True)
class OverSentences:
    """One direction's sentences, by an alignment score and a quality metric.

    Attributes:
        direction: such as "eng_Latn-isl_Latn".
        method: the alignment score, a value per sentence pair.
        metric: the quality metric, a score per translation.
        n: the number of sentences.
        found: Spearman's correlation. None if there is none.
        missing: the reason why there is none, None if there is one.
    """

    direction: str
    method: Method
    metric: str
    n: int
    found: Correlation | None
    missing: str | None


def over_sentences(evaluation: Evaluation) -> list[OverSentences]:
    """Return Spearman's correlation of the alignment of each held-out pair and the score of its translation.

    Held-out sentences are drawn independently of each other, so these p-values and intervals hold. They are
    not corrected for their number. Both scores depend on the sentence: a short one may be easy to align and easy to
    translate. So a correlation does not say that better alignment makes the translation better.

    Returns:
        a row for each direction between the languages of a language pair, alignment score and quality metric, where
        both have a value per sentence.
    """
    return [
        _row(direction, method, metric, aligned, scored.segments)
        for direction, made in evaluation.quality.items()
        for method, aligned in _aligned(evaluation, direction)
        for metric, scored in made.scored.items()
        if scored.segments is not None and len(scored.segments) == len(aligned)
    ]


def correlations_over_sentences(evaluation: Evaluation) -> dict[str, dict[str, Correlation]]:
    """Return the correlations of `over_sentences`, by direction and by "nasca_comet" and the like."""
    found: dict[str, dict[str, Correlation]] = {}
    for row in over_sentences(evaluation):
        if row.found is not None:
            found.setdefault(row.direction, {})[f"{row.method}_{row.metric}"] = row.found
    return found


def _aligned(evaluation: Evaluation, direction: str) -> Iterator[tuple[Method, list[float]]]:
    """Yield the methods that have a value for each sentence pair of a direction, with those of the translated ones."""
    name, places = evaluation.language_pair(direction), evaluation.quality[direction].places
    if name is not None:
        for method, of_all in evaluation.languages[name].per_pair.items():
            yield method, of_all if places is None else [of_all[place] for place in places]


def _row(direction: str, method: Method, metric: str, aligned: list[float], segments: list[float]) -> OverSentences:
    found = spearman(aligned, segments)
    missing = None if found is not None else _why_none(method, aligned)
    return OverSentences(direction, method, metric, len(aligned), found, missing)


def _why_none(method: Method, aligned: list[float]) -> str:
    if len(aligned) < FEWEST_POINTS:
        return "fewer than three sentences"
    if method in ALIGNMENT and not any(aligned):
        return "no pair is aligned"
    if len(set(aligned)) == 1:
        return "all pairs are aligned alike"
    return "all translations have the same score"
