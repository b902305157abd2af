"""The tables of a survey, made from its lines."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from statistics import fmean

from neuronxa_callback import significance
from neuronxa_callback.alignment.pair_scores import layer_numbers
from neuronxa_callback.alignment.surface import FEWEST_CARRIERS
from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.records import RetrievalLine, ScoreLine, SurveyLine
from neuronxa_callback.tables import Cell, Table
from neuronxa_callback.text.corpora import ENGLISH
from neuronxa_callback.vocabulary import ALIGNMENT, OVER_PAIRS, Direction, Method, Representation

GROUPS = ("head", "long-tail", "all")  # of languages, by the amount of their data

SIGNIFICANT = 0.05
MEASURED = (
    "Chance is what the same sentences score on average when their pairs are torn apart, and p is the share of {}, "
    "the true pairing counted, that score as high."
)
LAYERS = (
    '"p (layers)" is corrected over the layers of a language: each re-pairing counts with its greatest layer. '
    '"p (languages)" multiplies it by the number of languages (Bonferroni), because a line does not keep the '
    "re-pairings by which languages could be tested together."
)
SURFACE_COLUMNS = ("no shared form", "4-grams", "carriers")
SURFACE = (
    '"no shared form" is the score of the pairs whose two sides share no word form, such as a name or a number. '
    '"4-grams" is the share of pairs that find each other (Eq. 4) by character 4-grams, with no model. "carriers" is '
    "how many pairs are aligned at a layer that the score reads. A score above chance may come from shared forms alone."
)


def score_table(records: Sequence[ScoreLine], notes: Sequence[str]) -> Table:
    """Return a table with one row for each language and method.

    A row holds the score, its 95 % interval, chance, its p-value, the p-value corrected over the languages (Holm), and
    what the surface of the text has to do with the score.
    """
    methods = list(records[0].score)
    corrected = {m: holm(record.p_value.get(m) for record in records) for m in methods}
    rows: list[list[Cell]] = []
    for number, record in enumerate(records):
        for method in methods:
            low, high = record.ci.get(method, (None, None))
            numbers = (record.score[method], low, high, record.chance.get(method), record.p_value.get(method))
            corrections = (corrected[method][number], *_surface_cells(record, method))
            rows.append([record.lang, method, *numbers, *corrections, record.signature])
    columns = ["language", "method", "score", "low", "high", "chance", "p", "p (Holm)", *SURFACE_COLUMNS, "signature"]
    return Table(_title(records), columns, rows, [*notes, *chance_notes(records), *reach_notes(records)])


def score_tables(records: Sequence[ScoreLine], notes: Sequence[str]) -> list[Table]:
    """Return the table of scores for a reader, without the columns of the surface, and a table of these alone.

    A terminal of 80 columns does not hold both. The second table is missing if no line has a control of the surface.
    """
    table = score_table(records, notes)
    scores = _with_columns(table, [column for column in table.columns if column not in SURFACE_COLUMNS])
    surface = _with_columns(table, ["language", "method", "score", *SURFACE_COLUMNS])
    rows = [row for row in surface.rows if any(cell is not None for cell in row[-len(SURFACE_COLUMNS) :])]
    title = f"{_title(records)}, and the surface of the text"
    return [scores, Table(title, surface.columns, rows, _surface_notes(records))] if rows else [scores]


def _with_columns(table: Table, columns: list[str]) -> Table:
    """Return the table with these of its columns."""
    places = [table.columns.index(column) for column in columns]
    return Table(table.title, columns, [[row[place] for place in places] for row in table.rows], table.notes)


def _title(records: Sequence[ScoreLine]) -> str:
    return f"Alignment of {records[0].model} with {records[0].pivot}"


def _surface_cells(record: ScoreLine, method: Method) -> tuple[Cell, Cell, Cell]:
    """Return the score without pairs that share a form, the 4-gram baseline, and the number of carriers."""
    surface = record.surface
    if surface is None or method not in OVER_PAIRS:
        return None, None, None
    baseline = surface.ngram_baseline if method in ALIGNMENT else None  # it is a share of pairs, as these methods are
    return surface.without_shared.get(method), baseline, surface.carriers.get(method)


def _surface_notes(records: Sequence[ScoreLine]) -> list[str]:
    """Return what the columns of the surface hold, and the languages whose score few pairs carry."""
    few = [record.lang for record in records if record.few_carriers(record.lang)]
    if not few:
        return [SURFACE]
    return [SURFACE, f"Fewer than {FEWEST_CARRIERS} pairs carry a score of {', '.join(few)}. So few say little."]


def retrieval_table(records: Sequence[RetrievalLine], notes: Sequence[str], head: Container[str]) -> Table:
    """Return a table with one row for each language, representation and direction.

    A row holds the number n of sentence pairs, the accuracy, its 95 % interval over the sentences, chance, its
    probability by chance, and that probability corrected over the languages (Holm). If the accuracy is that of the best
    layer, so are chance and its probability: each re-pairing counts with its own best layer. `head` holds the languages
    that the paper calls head.
    """
    rows: list[list[Cell]] = []
    for read, by_direction in records[0].retrieval.items():
        for direction in by_direction:
            found = [record.retrieval[read][direction] for record in records]
            corrected = holm(numbers.p_value for numbers in found)
            for record, numbers, p_value in zip(records, found, corrected, strict=True):
                named = [record.lang, _group(record, head), read, direction, record.n]
                rows.append(
                    [*named, numbers.accuracy, *(numbers.ci or (None, None)), numbers.chance, numbers.p_value, p_value]
                )
                rows[-1].append(record.signature)
    columns = ["language", "group", "representation", "direction", "n"]
    columns += ["accuracy", "low", "high", "chance", "p", "p (Holm)"]
    title = f"Retrieval by {records[0].model}, source {records[0].pivot}"
    return Table(title, [*columns, "signature"], rows, [*notes, *_retrieval_chance(records)])


def _group(record: SurveyLine, head: Container[str]) -> str | None:
    """Return "head" or "long-tail". English has more data than any other and is neither (paper, appendix A.1)."""
    if record.lang in head:
        return "head"
    return None if record.lang == ENGLISH else "long-tail"


def retrieval_summary(records: Sequence[RetrievalLine], head: Container[str]) -> Table:
    """Average the accuracy over head, long-tail and all languages (paper, Tables 1 and 5).

    By chance, accuracy falls with the number n of sentence pairs. So languages with different n have separate rows.
    """
    rows: list[list[Cell]] = []
    counts = sorted({record.n for record in records})
    for read, by_direction in records[0].retrieval.items():
        for direction in by_direction:
            for n in counts:
                alike = [record for record in records if record.n == n]
                rows.append([read, direction, n, *_means_by_group(alike, head, read, direction)])
                rows[-1].append(Signature.common(record.signature for record in alike))
    columns = ["representation", "direction", "n"]
    columns += [column for name in GROUPS for column in (f"{name} languages", name, f"{name} low", f"{name} high")]
    title = f"Retrieval by {records[0].model}, source {records[0].pivot}, averaged over languages"
    notes = ["n is the number of sentence pairs. Intervals: 95 % bootstrap over the languages."]
    if len(counts) > 1:
        notes.append(f"Languages with different n are not averaged together: {', '.join(map(str, counts))}.")
    return Table(title, [*columns, "signature"], rows, notes)


def _means_by_group(
    records: Sequence[RetrievalLine], head: Container[str], read: Representation, direction: Direction
) -> list[Cell]:
    """Return for each group the number of its languages, their mean accuracy and its interval."""
    cells: list[Cell] = []
    for name in GROUPS:
        group = [record for record in records if name in ("all", _group(record, head))]
        cells += [len(group), *_mean_over_languages([one.retrieval[read][direction].accuracy for one in group])]
    return cells


def _mean_over_languages(values: Sequence[float]) -> list[Cell]:
    """Return the mean and its interval. No language has neither, and one language has no interval."""
    if not values:
        return [None] * 3
    return [fmean(values), *(significance.bootstrap_interval(values) if len(values) > 1 else (None, None))]


def layer_table(records: Sequence[ScoreLine], notes: Sequence[str]) -> Table:
    """Return a table with one row for each language, method and layer (paper, Fig. 2).

    A row holds the score, its 95 % interval if the method is a share of pairs, chance, the p-value corrected over the
    layers of the language, and that p-value corrected over the languages as well.
    """
    rows: list[list[Cell]] = []
    for method in records[0].per_layer:
        tested = sum(method in record.p_per_layer for record in records)
        for record in records:
            for layer, value, chance, p_value in _layers_of(record, method):
                ci = significance.layer_interval(value, record.n) if method in ALIGNMENT else (None, None)
                over_languages = None if p_value is None else min(1.0, p_value * tested)
                numbers = (value, *ci, chance, p_value, over_languages)
                rows.append([record.lang, method, layer, *numbers, record.signature])
    columns = [
        "language",
        "method",
        "layer",
        "score",
        "low",
        "high",
        "chance",
        "p (layers)",
        "p (languages)",
        "signature",
    ]
    return Table(
        f"{_title(records)} per layer", columns, rows, [*notes, *chance_notes(records), LAYERS, *reach_notes(records)]
    )


def _layers_of(record: ScoreLine, method: Method) -> list[tuple[int | str, float, float | None, float | None]]:
    """Return the number, the score, the chance and the p-value of each layer; "all" is where layers are joined."""
    scores = record.per_layer[method]
    unknown = [None] * len(scores)
    chance, p_values = (found.get(method, unknown) for found in (record.chance_per_layer, record.p_per_layer))
    layers: Sequence[int | str] = layer_numbers(record.signature, method, len(scores)) or ["all"] * len(scores)
    return list(zip(layers, scores, chance, p_values, strict=True))


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
    signed = [f"Signature: {Signature.common(signatures)}"] if signatures else []  # no score may be worth a row
    return Table(table.title, columns, rows, [*table.notes, *signed])


def holm(p_values: Iterable[float | None]) -> list[float | None]:
    """Return Holm's correction over the p-values that are not None."""
    given = list(p_values)
    corrected = iter(significance.holm([p for p in given if p is not None]))
    return [None if p is None else next(corrected) for p in given]


def _retrieval_chance(records: Sequence[RetrievalLine]) -> list[str]:
    counts = sorted({record.n for record in records})
    paper = "; ".join(f"{1 / n:.4f} and {significance.chance_level(n):.4f} for {n} pairs" for n in counts)
    return [
        MEASURED.format(f"{significance.RESAMPLES:,} random re-pairings"),
        f"The paper's chance of a layer, in one direction and in both (Eq. 5): {paper}.",
    ]


def chance_notes(records: Sequence[ScoreLine]) -> list[str]:
    """Return a note on how chance and p were measured, and one with the paper's chance level (Eq. 5)."""
    methods = list(records[0].score)
    permutations = _permutations(records)
    notes = [MEASURED.format(_re_pairings(permutations))] if permutations else []
    if any(not record.chance and record.p_value for record in records):
        notes.append("Lines of older versions have no chance, and Eq. 5's p for NASCA, NAVCA and MEXA.")
    if set(methods) & set(ALIGNMENT):
        counts = sorted({record.n for record in records})
        levels = ", ".join(f"{significance.chance_level(n):.4f} for {n} pairs" for n in counts)
        notes.append(f"The paper's chance level of NASCA, NAVCA and MEXA (Eq. 5): {levels}.")
    return notes


def _re_pairings(permutations: Mapping[Method, int]) -> str:
    """Return how many re-pairings there were, such as "9,999 random re-pairings (199 of cka)"."""
    most = max(permutations.values())
    fewer = {
        count: [m for m in permutations if permutations[m] == count] for count in {*permutations.values()} - {most}
    }
    told = "; ".join(f"{count:,} of {', '.join(methods)}" for count, methods in fewer.items())
    return f"{most:,} random re-pairings" + (f" ({told})" if told else "")


def _permutations(records: Sequence[ScoreLine]) -> dict[Method, int]:
    """Return method -> how many re-pairings its chance was measured with, for the methods that have one."""
    return {
        method: significance.RESAMPLES if method in OVER_PAIRS else int(record.signature["permutations"])
        for record in records
        for method in record.chance
    }


def reach_notes(records: Sequence[ScoreLine]) -> list[str]:
    """Return a note for each method whose p-value cannot fall below 0.05 after the correction over the lines.

    A p-value by permutation is at least 1 / (re-pairings + 1). Holm's correction multiplies the smallest p-value by the
    number of tests, and so does Bonferroni's.
    """
    notes = []
    for method, permutations in _permutations(records).items():
        tests = sum(method in record.chance for record in records)
        smallest = 1 / (permutations + 1)
        if tests * smallest >= SIGNIFICANT:
            notes.append(
                f"The corrected p of {method} cannot fall below {min(1, tests * smallest):.2g}, because no p is below "
                f"{smallest:.2g} and {tests} tests are corrected. Fewer languages{_or_more(method)} would change that."
            )
    return notes


def _or_more(method: Method) -> str:
    return "" if method in OVER_PAIRS else " or more --permutations"
