"""Tables of results for the terminal, and as JSON, CSV, Markdown or LaTeX for files and papers."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, get_args

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from neuronxa_callback.signature import Signature
from neuronxa_callback.vocabulary import TableFormat

Cell: TypeAlias = str | float | int | Signature | None

# A number below this is written with an exponent, because four decimals would show little of it or 0.0000.
SMALL = 0.001

# Characters with a meaning in Markdown or in HTML inside it. An underscore has one at the edge of a word.
_MARKUP = re.compile(r"[\\`*\[\]<>|&~$]|\b_+|_+\b")

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
    """Rows under named columns, with the notes that a reader needs to trust them.

    Attributes:
        title: the title, which says what the table shows.
        columns: the names of the columns.
        rows: the rows, with one cell per column. A cell without a value is None.
        notes: signatures, and the reasons for everything that was left out.
    """

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)


def render(table: Table, table_format: TableFormat) -> str:
    """Return the table as text.

    JSON and CSV hold numbers in full. JSON also holds the title and the notes; CSV holds only the rows. Markdown and
    LaTeX (a `tabular` of the package booktabs) round to four decimals.

    Raises:
        ValueError: the format is unknown.
    """
    if table_format not in get_args(TableFormat):
        raise ValueError(f"format {table_format!r} is unknown; choose from {', '.join(get_args(TableFormat))}.")
    writers = {"json": _json, "csv": _csv, "markdown": _markdown, "latex": _latex}
    return writers[table_format](table)


def show(table: Table, console: Console) -> None:
    """Print the table on a terminal, with its notes below it."""
    printed = RichTable(title=escape(table.title), title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True)
    for index, column in enumerate(table.columns):
        printed.add_column(escape(column), justify="right" if _is_numeric(table, index) else "left", overflow="fold")
    for row in table.rows:
        printed.add_row(*(escape(rounded(cell)) for cell in row))
    console.print(printed)
    for note in table.notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)


def rounded(cell: Cell) -> str:
    """Return a cell's text: four decimals, an exponent below `SMALL`, nothing for None."""
    if cell is None:
        return ""
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.1e}" if 0 < abs(cell) < SMALL else f"{cell:.4f}"


def plain(text: str) -> str:
    """Return Markdown that shows the text as it is, on one line, also inside a table."""
    return _MARKUP.sub(lambda found: "".join(f"&#{ord(character)};" for character in found[0]), one_line(text))


def one_line(text: str) -> str:
    """Return the text on one line, with a space for line breaks and other unprintable characters."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], escaped: Callable[[str], str] = plain) -> str:
    """Return a Markdown table.

    Args:
        header: the names of the columns.
        rows: the rows, with one cell per column.
        escaped: turns a cell's text into Markdown that does not break the table.
    """
    lines = [[escaped(cell) for cell in header], ["---"] * len(header)]
    lines += [[escaped(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _is_numeric(table: Table, index: int) -> bool:
    cells = [row[index] for row in table.rows if row[index] is not None]
    return bool(cells) and not any(isinstance(cell, str) for cell in cells)


def _json(table: Table) -> str:
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    content = {"title": table.title, "rows": rows, "notes": table.notes}
    return json.dumps(content, ensure_ascii=False, indent=1, default=str) + "\n"  # signatures as text


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(["" if cell is None else cell for cell in row] for row in table.rows)
    return text.getvalue()


def _markdown(table: Table) -> str:
    rows = ([rounded(cell) for cell in row] for row in table.rows)
    # People also read a command's Markdown unrendered, so only what would break the table is escaped.
    lines = [f"**{table.title}**", "", markdown_table(table.columns, rows, _without_bars)]
    lines += ["", *(f"* {note}" for note in table.notes)] if table.notes else []
    return "\n".join(lines) + "\n"


def _without_bars(text: str) -> str:
    return one_line(text).replace("|", r"\|")


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
