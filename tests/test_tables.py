from __future__ import annotations

import csv
import io
import json

import pytest
from rich.console import Console

from neuronxa_callback.tables import Table, render, show

pytestmark = pytest.mark.unit

TABLE = Table(
    "Scores of a_model",
    ["language", "score", "p", "pairs"],
    [["isl_Latn", 0.123456789, 1.6e-4, 100], ["a|b & 50%", None, 0.5, 7]],
    ["Signature: method:nasca|n:100"],
)


def test_json_and_csv_hold_numbers_in_full() -> None:
    content = json.loads(render(TABLE, "json"))
    assert content["title"] == "Scores of a_model"
    assert content["notes"] == TABLE.notes
    assert content["rows"] == [dict(zip(TABLE.columns, row, strict=True)) for row in TABLE.rows]
    rows = list(csv.reader(io.StringIO(render(TABLE, "csv"))))
    assert rows == [TABLE.columns, ["isl_Latn", "0.123456789", "0.00016", "100"], ["a|b & 50%", "", "0.5", "7"]]


def test_markdown() -> None:
    assert render(TABLE, "markdown").splitlines() == [
        "**Scores of a_model**",
        "",
        "| language | score | p | pairs |",
        "| --- | --- | --- | --- |",
        "| isl_Latn | 0.1235 | 1.6e-04 | 100 |",
        r"| a\|b & 50% |  | 0.5000 | 7 |",
        "",
        "* Signature: method:nasca|n:100",
    ]


def test_latex() -> None:
    assert render(TABLE, "latex").splitlines() == [
        "% Scores of a_model",
        "% Signature: method:nasca|n:100",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"language & score & p & pairs \\",
        r"\midrule",
        r"isl\_Latn & 0.1235 & 1.6e-04 & 100 \\",
        r"a\textbar{}b \& 50\% &  & 0.5000 & 7 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_the_terminal_shows_every_cell_and_takes_no_markup_from_it() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    show(Table("[red]title", ["a"], [["[bold]x"], [0.5]], ["[note]"]), console)
    text = console.export_text()
    for part in ("[red]title", "[bold]x", "0.5000", "[note]"):
        assert part in text


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format 'html' is unknown; choose from json, csv, markdown, latex"):
        render(TABLE, "html")  # type: ignore[arg-type]
