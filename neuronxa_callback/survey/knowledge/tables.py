"""The tables of `neuronxa knowledge`, made from its lines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.knowledge.consistency import consistency
from neuronxa_callback.survey.knowledge.records import KnowledgeLine
from neuronxa_callback.tables import Cell, Table

ACCURACY = (
    "Accuracy is the share of right answers among as many of the most likely candidates as a fact has right answers. "
    "Chance is the accuracy of a ranking at random."
)
RANKC = (
    "RankC (Qi, Fernandez and Bisazza 2023) says how alike the candidates of the same facts are ranked in two "
    "languages. Rankings at random have a RankC above 0, too."
)


def knowledge_table(lines: Sequence[KnowledgeLine], pivot: str) -> Table:
    """Return a table with a row for each language: accuracy, its 95 % interval, chance, and RankC with the pivot.

    The pivot has no RankC with itself, and nothing has one if the pivot was not measured.
    """
    of_pivot = next((line for line in lines if line.lang == pivot), None)
    rows: list[list[Cell]] = []
    for line in lines:
        alike = consistency(line, of_pivot) if of_pivot is not None and line is not of_pivot else None
        rows.append([line.lang, len(line.facts), line.accuracy, *line.ci, line.chance, alike, line.signature])
    columns = ["language", "facts", "accuracy", "low", "high", "chance", f"RankC with {pivot}", "signature"]
    others = [line.accuracy for line in lines if line is not of_pivot]
    notes = [ACCURACY, RANKC]
    if of_pivot is not None and others:
        notes.append(f"The mean accuracy of the languages but {pivot} is {fmean(others):.4f}.")
    return Table(_title(lines, "What is known"), columns, rows, notes)


def consistency_table(lines: Sequence[KnowledgeLine]) -> Table:
    """Return a table with a row for each two languages: their RankC."""
    rows: list[list[Cell]] = [
        [first.lang, second.lang, consistency(first, second), Signature.common([first.signature, second.signature])]
        for first, second in combinations(lines, 2)
    ]
    return Table(_title(lines, "Consistency"), ["first", "second", "RankC", "signature"], rows, [RANKC])


def _title(lines: Sequence[KnowledgeLine], what: str) -> str:
    return f"{what}: {lines[0].model}, {lines[0].data}"
