"""What a page holds, before it is HTML or Markdown: headings, sentences, tables, charts and code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class Line:
    """A line of a cell: text that somebody else wrote, in a language.

    Attributes:
        label: what stands in front of the text.
        text: the text.
        language: its FLORES-200 code, None if it is in none.
    """

    label: str
    text: str
    language: str | None = None


Cell: TypeAlias = str | Sequence[Line]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what the table shows.
        header: the names of the columns.
        rows: the rows, with one cell per column.
        pairs: the language pair that each row is about; None for a row that is always shown. Without rows' language
            pairs it is empty.
        folded: whether a reader has to open the table.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    pairs: Sequence[str | None] = ()
    folded: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart: pictures for paper and for browsers without JavaScript, and the interactive plot in their place.

    Attributes:
        title: what the chart shows. It is the figure's caption.
        description: the pictures' description for who does not see them.
        pictures: SVG files. A chart of many language pairs has several.
        plots: Plotly figures as JSON.
        choice: "several" shows the traces of all chosen language pairs, "one" those of one view at a time. None shows
            all traces.
        views: view -> its label, for the choice of one.
    """

    title: str
    description: str
    pictures: Sequence[bytes]
    plots: Sequence[str]
    choice: Literal["several", "one"] | None = None
    views: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Code:
    """Lines that are shown as they are.

    Attributes:
        caption: what they are.
        lines: the lines.
    """

    caption: str
    lines: Sequence[str]


Block: TypeAlias = str | Table | Chart | Code  # a string is a paragraph


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        name: the section's name in links.
        heading: its heading.
        blocks: what stands in it.
    """

    name: str
    heading: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class KeyNumber:
    """A number that a reader should see first.

    Attributes:
        label: what is measured.
        value: the number.
        told: where it is from, and what to hold it against.
    """

    label: str
    value: str
    told: str


@dataclass(frozen=True)
class Document:
    """A page.

    Attributes:
        title: its title.
        told: what it is about, in a sentence or two.
        verdict: why training stopped, or that it was not judged.
        numbers: the numbers that come first.
        sections: the rest.
        pairs: name of a language pair -> its label, for the choice of language pairs.
    """

    title: str
    told: str
    verdict: str
    numbers: Sequence[KeyNumber]
    sections: Sequence[Section]
    pairs: Mapping[str, str] = field(default_factory=dict)
