"""Correlate alignment with task results over languages (paper, Tables 3, 4 and 6 to 11)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import PurePath
from statistics import fmean
from typing import cast, get_args

from neuronxa_callback.correlation import (
    FEWEST_FOR_INTERVAL,
    FEWEST_POINTS,
    Coefficient,
    Correlation,
    Difference,
    difference,
    pearson,
    spearman,
)
from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.results import AlignmentScore, ResultsError, TaskResult
from neuronxa_callback.survey.tables import holm
from neuronxa_callback.tables import Cell, Table
from neuronxa_callback.text.corpora import HUB_NAME

COLUMNS = ["model", "method", "pivot", "task", "n", "Pearson r", "low", "high", "p", "p (Holm)"]
COLUMNS += ["Spearman rho", "rho low", "rho high", "rho p", "rho p (Holm)", "signature"]
DIFFERENCE_COLUMNS = ["model", "pivot", "task", "first", "second", "correlation", "n", "r first", "r second"]
DIFFERENCE_COLUMNS += ["z difference", "low", "high", "p", "p (Holm)", "signature"]
# The correlations of different models are averaged only if their signatures agree in these fields.
SHARED_CHOICES = ("n", "tokens", "layers")
ALL_TASKS = "all tasks"

NO_TEST = "a score does not vary, follows the result exactly, or equals the other"
NOT_INDEPENDENT = (
    "n is the number of languages. They are not independent (families, scripts), so the p-values and intervals are too "
    "optimistic."
)


@dataclass(frozen=True)
class Joined:
    """A method's scores of a model beside the model's results at a task.

    Attributes:
        model: the model's name.
        method: the method's name, such as "nasca".
        pivot: FLORES-200 code.
        task: the task's name.
        signature: the choices behind the scores.
        values: language -> its score and its result.
    """

    model: str
    method: str
    pivot: str
    task: str
    signature: Signature
    values: dict[str, tuple[float, float]]

    @property
    def scores(self) -> list[float]:
        """The scores of the languages."""
        return [score for score, _ in self.values.values()]

    @property
    def results(self) -> list[float]:
        """The results of the languages, in the same order."""
        return [result for _, result in self.values.values()]


def join(scores: Iterable[AlignmentScore], results: Iterable[TaskResult]) -> list[Joined]:
    """Join scores and results by model and language.

    Returns:
        one entry for each model, method, pivot, signature and task.

    Raises:
        ResultsError: no model is in both, or a language is there twice with different numbers.
    """
    wanted: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for result in results:
        _put(wanted[result.model, result.task], result.lang, result.value, f"task {result.task}")
    aligned: dict[tuple[str, str, str, Signature], dict[str, float]] = defaultdict(dict)
    for score in scores:
        key = score.model, score.method, score.pivot, score.signature
        _put(aligned[key], score.lang, score.score, f"{score.method} of {score.model} ({score.signature})")
    found = [
        Joined(model, method, pivot, task, signature, {x: (by_lang[x], values[x]) for x in by_lang if x in values})
        for (model, method, pivot, signature), by_lang in aligned.items()
        for (theirs, task), values in wanted.items()
        if _same_model(model, theirs)
    ]
    if not found:
        raise ResultsError(
            f"no model is in both the scores ({_names(key[0] for key in aligned)}) and the results "
            f"({_names(key[0] for key in wanted)}). Score the model that was evaluated, or remove the column model."
        )
    return found


def correlate(joined: Sequence[Joined]) -> Table:
    """Correlate alignment with task results over languages, by Pearson and by Spearman.

    Returns:
        a table with one row for each model, method, pivot and task. A row holds the number n of languages, and both
        correlations with their 95 % intervals over the languages, their two-sided p-values, and these p-values
        corrected over all rows (Holm), for each of the two correlations by itself.
    """
    by_r = _correlation_cells([pearson(entry.scores, entry.results) for entry in joined])
    by_rho = _correlation_cells([spearman(entry.scores, entry.results) for entry in joined])
    rows: list[list[Cell]] = [
        [entry.model, entry.method, entry.pivot, entry.task, len(entry.values), *r, *rho, entry.signature]
        for entry, r, rho in zip(joined, by_r, by_rho, strict=True)
    ]
    left_out = [
        f"{entry.model}, {entry.method}, {entry.task}: {len(entry.values)} languages in both, but three are needed."
        for entry in joined
        if len(entry.values) < FEWEST_POINTS
    ]
    few = [f"There is no interval below {FEWEST_FOR_INTERVAL} languages."]
    notes = [NOT_INDEPENDENT, *(few if any(len(e.values) < FEWEST_FOR_INTERVAL for e in joined) else []), *left_out]
    return Table("Alignment against task results over languages", COLUMNS, rows, notes)


def _correlation_cells(found: Sequence[Correlation | None]) -> list[list[Cell]]:
    """Return r, its interval, its p-value and the corrected p-value of each correlation."""
    corrected = holm(None if one is None else one.p_value for one in found)
    return [
        [None] * 5 if one is None else [one.r, *(one.ci or (None, None)), one.p_value, p_value]
        for one, p_value in zip(found, corrected, strict=True)
    ]


def differences(joined: Sequence[Joined]) -> Table:
    """Test for each two methods which of them goes closer together with the results; see `correlation.difference`.

    Returns:
        a table with one row for each model, pivot, task, two methods and kind of correlation. A row holds the number n
        of languages that both methods scored, both correlations over these, the difference of their Fisher z's with
        its 95 % interval, its two-sided p-value, and the p-value corrected (Holm) over all rows of this kind of
        correlation.
    """
    rows: list[list[Cell]] = []
    notes = ["z is atanh r. The difference is the first method's z minus the second's.", NOT_INDEPENDENT]
    compared = list(_two_methods(joined))
    for coefficient in get_args(Coefficient):
        found = [_difference(first, second, coefficient) for first, second in compared]
        corrected = holm(None if tested is None else tested.p_value for _, tested in found)
        for (first, second), (n, tested), p_value in zip(compared, found, corrected, strict=True):
            named: list[Cell] = [first.model, first.pivot, first.task, first.method, second.method, coefficient, n]
            rows.append([*named, *_difference_cells(tested), p_value, first.signature.without(["method"])])
            if tested is None:
                why = f"{n} languages in both, but eight are needed" if n < FEWEST_FOR_INTERVAL else NO_TEST
                notes.append(f"{first.model}, {first.method} and {second.method}, {first.task}, {coefficient}: {why}.")
    return Table("Differences between the correlations of two methods", DIFFERENCE_COLUMNS, rows, notes)


def _two_methods(joined: Sequence[Joined]) -> Iterator[tuple[Joined, Joined]]:
    """Yield every two methods whose scores of a model, a pivot and a task differ in the method alone."""
    groups: dict[tuple[str, str, str, Signature], list[Joined]] = defaultdict(list)
    for entry in joined:
        groups[entry.model, entry.pivot, entry.task, entry.signature.without(["method"])].append(entry)
    for group in groups.values():
        yield from combinations(group, 2)


def _difference(first: Joined, second: Joined, coefficient: Coefficient) -> tuple[int, Difference | None]:
    """Return how many languages both methods scored, and the test over these."""
    shared = [lang for lang in first.values if lang in second.values]
    ours, theirs = ([entry.values[lang][0] for lang in shared] for entry in (first, second))
    results = [first.values[lang][1] for lang in shared]
    return len(shared), difference(ours, theirs, results, coefficient=coefficient)


def _difference_cells(tested: Difference | None) -> list[Cell]:
    if tested is None:
        return [None] * 6
    return [tested.first, tested.second, tested.z, *tested.ci, tested.p_value]


def averages(table: Table) -> Table:
    """Average correlations over models, for each task and over all tasks (paper, Tables 6 to 11).

    Args:
        table: the table that `correlate` returned.

    Returns:
        a table with one row for each method, pivot and task. A row holds the number of correlations and their means.
        Measurements on different numbers of pairs or with different pooling have separate rows.
    """
    found: dict[tuple[str, str, str, Signature], list[tuple[float, float]]] = defaultdict(list)
    for row in table.rows:
        named = dict(zip(table.columns, row, strict=True))
        if named["Pearson r"] is None:
            continue
        choices = cast("Signature", named["signature"]).only(SHARED_CHOICES)
        for task in (named["task"], ALL_TASKS):
            key = str(named["method"]), str(named["pivot"]), str(task), choices
            found[key].append((named["Pearson r"], named["Spearman rho"]))  # type: ignore[arg-type]
    rows: list[list[Cell]] = [
        [method, pivot, task, len(pairs), *(fmean(values) for values in zip(*pairs, strict=True)), choices]
        for (method, pivot, task, choices), pairs in sorted(found.items(), key=lambda item: item[0][2] == ALL_TASKS)
    ]
    columns = ["method", "pivot", "task", "correlations", "mean Pearson r", "mean Spearman rho", "signature"]
    return Table("Correlations averaged over models", columns, rows)


def _put(values: dict[str, float], lang: str, value: float, what: str) -> None:
    if values.setdefault(lang, value) != value:
        raise ResultsError(f"{what}: {lang} is there twice, with {values[lang]:g} and {value:g}; keep one.")


def _same_model(ours: str, theirs: str) -> bool:
    """Return whether two names mean the same model.

    A folder goes by its last part, as in `neuronxa score`. Results that name no model fit any model.
    """
    (base, *rest), (their_base, *their_rest) = (name.split(" + ") for name in (ours, theirs or ours))
    if rest != their_rest:
        return False
    on_the_hub = all(HUB_NAME.fullmatch(name.removesuffix(" (nf4)")) for name in (base, their_base))
    return base == their_base or (not on_the_hub and PurePath(base).name == PurePath(their_base).name)


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))
