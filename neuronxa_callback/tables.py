"""Tables of results: on a terminal, and as JSON, CSV, Markdown or LaTeX for files and papers."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

Cell: TypeAlias = str | float | int | None
TableFormat = Literal["json", "csv", "markdown", "latex"]

# Below this a probability is written with an exponent rather than as 0.0000.
SMALL = 0.001

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


@dataclass(frozen=True)
class Table:
    """Rows under named columns, with what a reader must know to trust them.

    Attributes:
        title: what the table shows.
        columns: their names.
        rows: as many cells each as there are columns; None where there is no value.
        notes: signatures, and what was left out and why.
    """

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)


def render(table: Table, table_format: TableFormat) -> str:
    """The table as text.

    JSON and CSV hold numbers in full; CSV holds the rows alone, JSON also title and notes. Markdown and LaTeX (a
    `tabular` of the package booktabs) round to four decimals.

    Raises:
        ValueError: an unknown format.
    """
    if table_format not in get_args(TableFormat):
        raise ValueError(f"format {table_format!r} is unknown; choose from {', '.join(get_args(TableFormat))}.")
    writers = {"json": _json, "csv": _csv, "markdown": _markdown, "latex": _latex}
    return writers[table_format](table)


def show(table: Table, console: Console) -> None:
    """Print the table on a terminal, its notes below."""
    printed = RichTable(title=escape(table.title), title_justify="left", box=box.SIMPLE_HEAD)
    for index, column in enumerate(table.columns):
        printed.add_column(escape(column), justify="right" if _is_numeric(table, index) else "left", overflow="fold")
    for row in table.rows:
        printed.add_row(*(escape(rounded(cell)) for cell in row))
    console.print(printed)
    for note in table.notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)


def rounded(cell: Cell) -> str:
    """A cell for reading: four decimals, an exponent for what these would make 0, nothing for None."""
    if cell is None:
        return ""
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.1e}" if 0 < abs(cell) < SMALL else f"{cell:.4f}"


def _is_numeric(table: Table, index: int) -> bool:
    cells = [row[index] for row in table.rows if row[index] is not None]
    return bool(cells) and not any(isinstance(cell, str) for cell in cells)


def _json(table: Table) -> str:
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    content = {"title": table.title, "rows": rows, "notes": table.notes}
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(["" if cell is None else cell for cell in row] for row in table.rows)
    return text.getvalue()


def _markdown(table: Table) -> str:
    lines = [f"**{table.title}**", "", _markdown_row(table.columns), _markdown_row(["---"] * len(table.columns))]
    lines += [_markdown_row([rounded(cell) for cell in row]) for row in table.rows]
    lines += ["", *(f"* {note}" for note in table.notes)] if table.notes else []
    return "\n".join(lines) + "\n"


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _latex(table: Table) -> str:
    alignment = "".join("r" if _is_numeric(table, index) else "l" for index in range(len(table.columns)))
    body = [_latex_row([rounded(cell) for cell in row]) for row in table.rows]
    notes = [f"% {note}" for note in table.notes]
    return "\n".join(
        [
            f"% {table.title}",
            *notes,
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            _latex_row(table.columns),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _latex_row(cells: list[str]) -> str:
    return " & ".join("".join(_LATEX.get(character, character) for character in cell) for cell in cells) + r" \\"
