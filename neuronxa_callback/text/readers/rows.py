"""Rows of parallel text with the words for their places, whatever they were read from."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from neuronxa_callback.text.languages import PairsError

logger = logging.getLogger(__name__)

Row: TypeAlias = Mapping[str, Any]
Located: TypeAlias = Iterator[tuple[str, Row]]  # each row with the words for its place: "pairs.tsv, line 3,"

_PAIR = re.compile(r"([A-Za-z]{2,3})-([A-Za-z]{2,3}(?:[-_][A-Za-z]+)?)")


@dataclass(frozen=True)
class Rows:
    """Rows of parallel text, and the words that errors use for their place.

    Attributes:
        rows: the rows, each of which maps column names to cells. They can be read only once.
        place: returns the words for the place of row i, counted from 0, once it is read.
        origin: the words for the whole file or data set.
        partial: whether a row may lack a side (None), as the units of a translation memory do (`with_sides`).
    """

    rows: Iterator[Row]
    place: Callable[[int], str]
    origin: str
    partial: bool = False


def rows_of(located: Located, origin: str) -> Rows:
    """Return rows that remember their places. A row is read when it is asked for."""
    places: list[str] = []

    def kept() -> Iterator[Row]:
        for place, row in located:
            places.append(place)
            yield row

    return Rows(kept(), places.__getitem__, origin)


@cache  # a corpus opens its file once for each language pair
def say_once(message: str) -> None:
    """Log a warning, unless the same one was logged before."""
    logger.warning("NeuronXA: %s", message)


def say_left_out(origin: str, what: str, places: Sequence[str]) -> None:
    """Log how many parts of a file are left out and where the first one is, if there are any."""
    if places:
        first = places[0].rstrip(",")
        say_once(f"{origin}: {what} are left out, {len(places)} in all; the first is {first}.")


def with_sides(read: Rows, columns: tuple[str, str]) -> Rows:
    """Return the rows of a translation memory that have both sides; a log line says how many others there are.

    Raises:
        PairsError: no row has both.
    """
    if not read.partial:
        return read
    located = [(row, read.place(number)) for number, row in enumerate(read.rows)]
    kept = [(place, row) for row, place in located if None not in (row[columns[0]], row[columns[1]])]
    if not kept:
        raise PairsError(
            f"{read.origin} has no unit with both {columns[0]} and {columns[1]}; choose two languages that stand "
            "together."
        )
    lacking = [place for row, place in located if None in (row[columns[0]], row[columns[1]])]
    say_left_out(read.origin, f"units without {columns[0]} or {columns[1]}", lacking)
    return rows_of(iter(kept), read.origin)


def usable(located: Located, origin: str) -> Located:
    """Yield the rows that are no canary and not marked `is_bad_source`; a log line says where the first one is.

    WMT24++ marks such rows, and its authors leave them out (https://huggingface.co/datasets/google/wmt24pp).
    """
    said = False
    for place, row in located:
        if not _is_bad(row):
            yield place, row
        elif not said:
            said = True
            logger.warning(
                "NeuronXA: %s marks rows as is_bad_source, as WMT24++ does. They are left out; the first is %s.",
                origin,
                place.rstrip(","),
            )


def _is_bad(row: Row) -> bool:
    mark = row.get("is_bad_source")
    return mark is not None and (str(mark).lower() in ("true", "1") or row.get("domain") == "canary")


def flat(row: Row) -> Row:
    """Return the row with its languages as further columns.

    These are the parts of a column "translation" (the hub's layout), those of a column named by two languages ("is-en"
    in ALMA's test set), and "source" and "target" under the names in a column "lp" (WMT24++).
    """
    parts = {
        name: cell
        for column, value in row.items()
        if isinstance(value, Mapping) and _is_translation(column, value)
        for name, cell in value.items()
    }
    if pair := languages_of_lp(row):
        parts |= {pair[0]: row["source"], pair[1]: row["target"]}
    return {**row, **parts} if parts else row


def languages_of_lp(row: Row) -> tuple[str, str] | None:
    """Return the languages of "source" and "target" in WMT24++, whose column "lp" holds "en-is_IS", or None."""
    pair = _PAIR.fullmatch(str(row.get("lp", "")))
    return (pair[1], pair[2]) if pair and "source" in row and "target" in row else None


def _is_translation(column: str, value: Mapping[str, Any]) -> bool:
    return column == "translation" or {*str(column).split("-")} == {*value}
