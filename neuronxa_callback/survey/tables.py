"""The tables of a survey, made from its lines."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from statistics import fmean

from neuronxa_callback import significance
from neuronxa_callback.alignment.pair_scores import layer_numbers
from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.records import RetrievalLine, ScoreLine, SurveyLine
from neuronxa_callback.tables import Cell, Table
from neuronxa_callback.text.corpora import ENGLISH
from neuronxa_callback.vocabulary import ALIGNMENT, OVER_PAIRS, Method


def score_table(records: Sequence[ScoreLine], notes: Sequence[str]) -> Table:
    """Return a table with one row for each language and method.

    A row holds the score, its 95 % interval, its p-value, and the p-value corrected over the languages (Holm).
    """
    methods = list(records[0].score)
    corrected = {m: holm(record.p_value.get(m) for record in records) for m in methods}
    rows: list[list[Cell]] = []
    for number, record in enumerate(records):
        for method in methods:
            low, high = record.ci.get(method, (None, None))
            numbers = (record.score[method], low, high, record.p_value.get(method), corrected[method][number])
            rows.append([record.lang, method, *numbers, record.signature])
    columns = ["language", "method", "score", "low", "high", "p", "p (Holm)", "signature"]
    title = f"Alignment of {records[0].model} with {records[0].pivot}"
    return Table(title, columns, rows, [*notes, *chance_notes(records)])


def retrieval_table(records: Sequence[RetrievalLine], notes: Sequence[str], head: Container[str]) -> Table:
    """Return a table with one row for each language, representation and direction.

    A row holds the accuracy, its 95 % interval over the sentences, its probability by chance, and that probability
    corrected over the languages (Holm). If the accuracy is that of the best layer, the probability by chance is
    multiplied by the number of layers. `head` holds the languages that the paper calls head.
    """
    rows: list[list[Cell]] = []
    for read, by_direction in records[0].retrieval.items():
        for direction in by_direction:
            found = [record.retrieval[read][direction] for record in records]
            corrected = holm(numbers.p_value for numbers in found)
            for record, numbers, p_value in zip(records, found, corrected, strict=True):
                named = [record.lang, _group(record, head), read, direction]
                rows.append([*named, numbers.accuracy, *numbers.ci, numbers.p_value, p_value])
                rows[-1].append(record.signature)
    columns = ["language", "group", "representation", "direction", "accuracy", "low", "high", "p", "p (Holm)"]
    title = f"Retrieval by {records[0].model}, source {records[0].pivot}"
    return Table(title, [*columns, "signature"], rows, [*notes, *_retrieval_chance(records)])


def _group(record: SurveyLine, head: Container[str]) -> str | None:
    """Return "head" or "long-tail". English has more data than any other and is neither (paper, appendix A.1)."""
    if record.lang in head:
        return "head"
    return None if record.lang == ENGLISH else "long-tail"


def retrieval_summary(records: Sequence[RetrievalLine], head: Container[str]) -> Table:
    """Average the accuracy over head, long-tail and all languages (paper, Tables 1 and 5)."""
    grouped = [(record, _group(record, head)) for record in records]
    groups = {name: [record for record, group in grouped if group == name] for name in ("head", "long-tail")}
    groups["all"] = list(records)
    rows: list[list[Cell]] = []
    for read, by_direction in records[0].retrieval.items():
        for direction in by_direction:
            accuracies = [[r.retrieval[read][direction].accuracy for r in group] for group in groups.values()]
            rows.append([read, direction, *(cell for values in accuracies for cell in _mean_over_languages(values))])
            rows[-1].append(Signature.common(record.signature for record in records))
    columns = ["representation", "direction"]
    columns += [
        column for name, group in groups.items() for column in (f"{name} ({len(group)})", f"{name} low", f"{name} high")
    ]
    title = f"Retrieval by {records[0].model}, source {records[0].pivot}, averaged over languages"
    return Table(title, [*columns, "signature"], rows, ["Intervals: 95 % bootstrap over the languages."])


def _mean_over_languages(values: Sequence[float]) -> list[Cell]:
    """Return the mean and its interval. No language has neither, and one language has no interval."""
    if not values:
        return [None] * 3
    return [fmean(values), *(significance.bootstrap_interval(values) if len(values) > 1 else (None, None))]


def layer_table(records: Sequence[ScoreLine], notes: Sequence[str]) -> Table:
    """Return a table with one row for each language, method and layer (paper, Fig. 2).

    If the method is a share of pairs, the row also holds its 95 % interval over the pairs, Eq. 5's p-value, and the
    p-value corrected over the languages and layers (Holm).
    """
    rows: list[list[Cell]] = []
    for method in records[0].per_layer:
        measured = [(record, layer, value) for record in records for layer, value in _layers_of(record, method)]
        counts = [record.n for record, _, _ in measured]
        is_share = method in ALIGNMENT
        p_values = [
            significance.chance_p_value(value, n) if is_share else None
            for (*_, value), n in zip(measured, counts, strict=True)
        ]
        for (record, layer, value), n, *ps in zip(measured, counts, p_values, holm(p_values), strict=True):
            ci = significance.share_interval(value, n) if is_share else (None, None)
            rows.append([record.lang, method, layer, value, *ci, *ps, record.signature])
    columns = ["language", "method", "layer", "score", "low", "high", "p", "p (Holm)", "signature"]
    title = f"Alignment of {records[0].model} with {records[0].pivot} per layer"
    return Table(title, columns, rows, [*notes, *chance_notes(records)])


def _layers_of(record: ScoreLine, method: Method) -> list[tuple[int, float]]:
    scores = record.per_layer[method]
    return list(zip(layer_numbers(record.signature, method, len(scores)), scores, strict=True))


def compare_table(first: Sequence[ScoreLine], second: Sequence[ScoreLine], notes: Sequence[str]) -> Table:
    """Return a table of two models on the same pairs, with one row for each language and method.

    A row holds both scores, their difference with its 95 % interval over the sentence pairs, the p-value of the
    two-sided paired permutation test, and the p-value corrected over the languages (Holm).
    """
    rows: list[list[Cell]] = []
    for method in (method for method in first[0].score if method in OVER_PAIRS):
        compared = [_compare(one, other, method) for one, other in zip(first, second, strict=True)]
        corrected = holm(p_value for *_, p_value in compared)
        for one, cells, p_value in zip(first, compared, corrected, strict=True):
            rows.append([one.lang, method, *cells, p_value, one.signature])
    names = [records[0].model for records in (first, second)]
    if names[0] == names[1]:
        names = ["first", "second"]
    columns = ["language", "method", *names, "difference", "low", "high", "p", "p (Holm)", "signature"]
    other_signature = Signature.common(record.signature for record in second)
    return Table(
        f"{names[1]} against {names[0]}, with {first[0].pivot}",
        columns,
        rows,
        [*notes, *_not_compared(first[0]), f"Signature of {names[1]}: {other_signature}"],
    )


def _not_compared(record: ScoreLine) -> list[str]:
    left_out = [method for method in record.score if method not in OVER_PAIRS]
    if not left_out:
        return []
    return [f"{', '.join(left_out)} left out: the paired test needs a value for each sentence pair."]


def _compare(one: ScoreLine, other: ScoreLine, method: Method) -> tuple[float, float, float, float, float, float]:
    """Return both scores, their difference, its interval and its p-value."""
    before, now = (record.per_pair[method] for record in (one, other))
    low, high = significance.bootstrap_interval([b - a for a, b in zip(before, now, strict=True)])
    p_value = significance.paired_p_value(now, before, "two-sided")
    scores = one.score[method], other.score[method]
    return *scores, scores[1] - scores[0], low, high, p_value


def for_people(table: Table) -> Table:
    """Return the table without its signatures. One note holds what they agree in."""
    at = table.columns.index("signature")
    signatures = [cell for row in table.rows if isinstance(cell := row[at], Signature)]
    rows = [row[:at] + row[at + 1 :] for row in table.rows]
    columns = table.columns[:at] + table.columns[at + 1 :]
    return Table(table.title, columns, rows, [*table.notes, f"Signature: {Signature.common(signatures)}"])


def holm(p_values: Iterable[float | None]) -> list[float | None]:
    """Return Holm's correction over the p-values that are not None."""
    given = list(p_values)
    corrected = iter(significance.holm([p for p in given if p is not None]))
    return [None if p is None else next(corrected) for p in given]


def _retrieval_chance(records: Sequence[RetrievalLine]) -> list[str]:
    counts = sorted({record.n for record in records})
    return [
        f"By chance, a layer reaches {1 / n:.4f} in one direction and {significance.chance_level(n):.4f} in both "
        f"({n} pairs)."
        for n in counts
    ]


def chance_notes(records: Sequence[ScoreLine]) -> list[str]:
    """Return a note with the chance level of the shares of weakly aligned pairs (Eq. 5)."""
    counts = sorted({record.n for record in records})
    levels = ", ".join(f"{significance.chance_level(n):.4f} for {n} pairs" for n in counts)
    return [f"Chance level of NASCA, NAVCA and MEXA (Eq. 5): {levels}."]
