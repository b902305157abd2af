"""The sentence pairs that became aligned or were lost between the first and the best step of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from neuronxa_callback.run_page.document import Block, Cell, Line, Section, Table
from neuronxa_callback.text.languages import language_name
from neuronxa_callback.text.pairs import ParallelPairs
from neuronxa_callback.training.records import DirectionQuality, Evaluation
from neuronxa_callback.vocabulary import ALIGNMENT, Method, score_name

SHOWN = 8  # rows that a reader sees without opening the rest
LONGEST_TEXT = 400  # characters of a sentence or a translation
EMPTY = "(empty)"
REMOVED = "(its text is not in scores.jsonl)"
NO_PAIRS = (
    "Nothing is said of single pairs here: NASCA, NAVCA and MEXA alone align pairs, and the run has values of single "
    "pairs by none of them at two steps."
)
READING = (
    "A pair is aligned at a layer when its similarity is the strictly greatest of its row and its column. The number "
    "of a pair is the share of layers at which it is aligned. A pair became aligned if this share was 0 at the first "
    "step and is above 0 at the other one. A pair was lost if it is the other way round. Rows are in order of the "
    "change. A translation's score is chrF's or another metric's score of this sentence alone."
)


@dataclass(frozen=True)
class Change:
    """A sentence pair at two steps.

    Attributes:
        place: its place among the held-out pairs, from 0 on.
        before: the share of layers at which it is aligned at the first step.
        after: the same at the other step.
    """

    place: int
    before: float
    after: float


@dataclass(frozen=True)
class Changes:
    """The sentence pairs of a language pair at two steps.

    Attributes:
        became: those that became aligned, the greatest change first.
        lost: those that were lost, the greatest change first.
        kept: how many were aligned at both steps.
        never: how many were aligned at neither.
    """

    became: list[Change]
    lost: list[Change]
    kept: int
    never: int


def changes_between(before: Sequence[float], after: Sequence[float]) -> Changes:
    """Return which sentence pairs became aligned or were lost.

    Args:
        before: the share of layers at which each pair is aligned at the first step. NaN means no value.
        after: as many shares at the other step.

    Raises:
        ValueError: the numbers of shares differ.
    """
    both = [
        Change(place, *shares)
        for place, shares in enumerate(zip(before, after, strict=True))
        if not any(map(isnan, shares))
    ]
    became = [change for change in both if change.before == 0 < change.after]
    lost = [change for change in both if change.after == 0 < change.before]
    return Changes(
        sorted(became, key=lambda change: -change.after),
        sorted(lost, key=lambda change: -change.before),
        sum(change.before > 0 < change.after for change in both),
        sum(change.before == 0 == change.after for change in both),
    )


@dataclass(frozen=True)
class TwoSteps:
    """The two evaluations that are compared, of those with values of single pairs.

    Attributes:
        first: the first one.
        other: the one with the highest score; the last one where the first has the highest.
        is_best: whether the other one has the highest score.
    """

    first: Evaluation
    other: Evaluation
    is_best: bool


def two_steps(evaluations: Sequence[Evaluation], method: Method) -> TwoSteps | None:
    """Return the two evaluations to compare, None if there are not two with values of single pairs."""
    having = [e for e in evaluations if method in e.score and any(method in x.per_pair for x in e.languages.values())]
    if len(having) < 2:
        return None
    best = max(having, key=lambda evaluation: evaluation.score[method])
    is_best = best is not having[0]
    return TwoSteps(having[0], best if is_best else having[-1], is_best)


def changes_section(
    evaluations: Sequence[Evaluation],
    methods: Sequence[Method],
    labels: Mapping[str, str],
    texts: Mapping[str, ParallelPairs],
) -> Section:
    """Return the section on the pairs that became aligned or were lost, by the first method that aligns pairs.

    Args:
        evaluations: the run's evaluations in step order.
        methods: the run's methods.
        labels: name of a language pair -> its label.
        texts: name of a language pair -> its sentences, where they are known.
    """
    name, heading = "changes", "Pairs that became aligned or were lost"
    method = next((method for method in methods if method in ALIGNMENT), None)
    steps = None if method is None else two_steps(evaluations, method)
    if method is None or steps is None:
        return Section(name, heading, [NO_PAIRS])
    first, other = steps.first, steps.other
    both = [
        pair
        for pair in labels
        if all(pair in e.languages and method in e.languages[pair].per_pair for e in (first, other))
    ]
    same = [pair for pair in both if _scored(first, pair, method) == _scored(other, pair, method)]
    found = {
        pair: changes_between(first.languages[pair].per_pair[method], other.languages[pair].per_pair[method])
        for pair in same
    }
    blocks: list[Block] = [f"{_which(steps, method)} {READING}"]
    blocks += [_counts(found, labels, steps)] if found else []
    blocks += _of_other_sentences([labels[pair] for pair in both if pair not in found], steps)
    blocks += _unknown(found, texts)
    for pair, changes in found.items():
        told = _Telling(pair, labels[pair], texts.get(pair), first, other)
        blocks += [*told.tables("became aligned", changes.became), *told.tables("was lost", changes.lost)]
    return Section(name, heading, blocks)


def _scored(evaluation: Evaluation, pair: str, method: Method) -> tuple[str | None, str | None, int]:
    """Return what tells which sentence pairs were scored: their fingerprint, their number, and the number of values."""
    language = evaluation.languages[pair]
    return language.signature.get("data"), language.signature.get("n"), len(language.per_pair[method])


def _which(steps: TwoSteps, method: Method) -> str:
    compared = f"By {score_name(method)}, step {steps.first.step} against"
    among = "of the steps with values of single pairs"
    if steps.is_best:
        return f"{compared} step {steps.other.step}, the best {among}."
    return f"{compared} step {steps.other.step}, the last {among}: none of them is better than step {steps.first.step}."


def _of_other_sentences(labels: Sequence[str], steps: TwoSteps) -> list[str]:
    if not labels:
        return []
    return [
        f"The pairs of {', '.join(labels)} are not compared: their signatures do not name the same sentences at step "
        f"{steps.first.step} and at step {steps.other.step}."
    ]


def _counts(found: Mapping[str, Changes], labels: Mapping[str, str], steps: TwoSteps) -> Table:
    rows = [
        [labels[pair], *map(str, (len(c.became), len(c.lost), c.kept, c.never, c.kept + len(c.became)))]
        for pair, c in found.items()
    ]
    caption = f"Pairs by language, step {steps.first.step} against step {steps.other.step}"
    header = (
        "language",
        "became aligned",
        "lost",
        "aligned at both steps",
        "at neither",
        "at the later step",
    )
    return Table(caption, header, rows, list(found))


def _unknown(found: Mapping[str, Changes], texts: Mapping[str, ParallelPairs]) -> list[str]:
    unknown = [pair for pair in found if pair not in texts]
    if not unknown:
        return []
    return [
        f"The sentences of {', '.join(unknown)} are not shown: scores.jsonl keeps their fingerprint and not their "
        "text. Name the held-out pairs of the run with --pairs to see them."
    ]


@dataclass(frozen=True)
class _Telling:
    """What is told of the sentence pairs of one language pair."""

    pair: str
    label: str
    texts: ParallelPairs | None
    first: Evaluation
    other: Evaluation

    def tables(self, what: str, changes: Sequence[Change]) -> list[Table]:
        """Return the table of some changes, and that of the rest, which a reader has to open."""
        if not changes:
            return []
        caption = f"{self.label}: what {what} ({len(changes)} of {self._pairs()} pairs)"
        parts = [(caption, changes[:SHOWN], False), (f"{caption}, the rest", changes[SHOWN:], True)]
        header = ("pair", "share of layers", "sentences", "translations")
        return [
            Table(title, header, [self._row(change) for change in part], [self.pair] * len(part), folded)
            for title, part, folded in parts
            if part
        ]

    def _pairs(self) -> int:
        return int(self.other.languages[self.pair].signature["n"])

    def _row(self, change: Change) -> list[Cell]:
        shares = f"{change.before:.3f} → {change.after:.3f}"
        return [str(change.place + 1), shares, self._sentences(change.place), self._translations(change.place)]

    def _sentences(self, place: int) -> Cell:
        if self.texts is None:
            return "not in scores.jsonl"
        sides = (
            (self.texts.source_lang, self.texts.source[place]),
            (self.texts.target_lang, self.texts.target[place]),
        )
        return [Line(language_name(code), _cut(text), code) for code, text in sides]

    def _translations(self, place: int) -> Cell:
        found = [
            (direction, evaluation.step, made, number)
            for evaluation in (self.first, self.other)
            for direction, made in evaluation.quality.items()
            if evaluation.language_pair(direction) == self.pair and (number := made.at(place)) is not None
        ]
        lines = []
        for direction, step, made, number in sorted(found, key=lambda one: one[0] != self.pair):  # else in steps' order
            target = direction.partition("-")[2]
            label = f"into {language_name(target)}, step {step}{_scores(made, number)}"
            lines.append(Line(label, _translation(made, number), target))
        return lines or "not translated at these steps"


def _scores(made: DirectionQuality, number: int) -> str:
    found = [
        f"{score_name(metric)} {scored.segments[number]:.2f}"
        for metric, scored in made.scored.items()
        if scored.segments is not None and number < len(scored.segments)
    ]
    return f" ({', '.join(found)})" if found else ""


def _translation(made: DirectionQuality, number: int) -> str:
    if len(made.translations) > made.empty and not any(made.translations):
        return REMOVED
    return _cut(made.translations[number])


def _cut(text: str) -> str:
    line = " ".join(text.split()) or EMPTY
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 1]}…"
