"""A page as Markdown for a model card: its sentences and tables, without charts and long tables."""

from __future__ import annotations

from collections.abc import Iterator

from neuronxa_callback.run_page.document import Block, Cell, Chart, Code, Document, Table
from neuronxa_callback.tables import markdown_table, one_line, plain


def markdown_page(document: Document, html_name: str) -> str:
    """Return the page as Markdown.

    Args:
        document: what the page holds.
        html_name: the file name of the HTML page, which has the rest.
    """
    parts = [f"# {plain(document.title)}", plain(document.told)]
    parts += [plain(document.verdict)] if document.verdict else []
    if document.numbers:
        rows = [[number.label, number.value, number.told] for number in document.numbers]
        parts.append(markdown_table(("what", "value", "where"), rows))
    parts.append(f"The charts and the tables of all numbers are in {plain(html_name)}.")
    for section in document.sections:
        if shown := [text for block in section.blocks for text in _shown(block)]:
            parts += [f"## {plain(section.heading)}", *shown]
    return "\n\n".join(parts) + "\n"


def _shown(block: Block) -> Iterator[str]:
    if isinstance(block, str):
        yield plain(block)
    elif isinstance(block, Table) and not block.folded:
        rows = [[_cell(cell) for cell in row] for row in block.rows]
        yield f"**{plain(block.caption)}**"
        yield markdown_table(list(map(plain, block.header)), rows, str)
    elif isinstance(block, Code):
        yield f"{plain(block.caption)}:"
        yield "\n".join(f"    {one_line(line)}" for line in block.lines)
    elif isinstance(block, Chart):
        return


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return plain(cell)
    return "<br>".join(f"{plain(line.label)}: {plain(line.text)}" for line in cell)
