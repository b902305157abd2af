"""Which two columns of a row are the pair, and which languages they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuronxa_callback.text.languages import (
    PairsError,
    code_of,
    doubtful_columns,
    is_language,
    language_columns,
    may_be,
)
from neuronxa_callback.text.readers import Row, flat, languages_of_lp

Columns = tuple[str, str]

SIDES = ("source", "target")  # the usual names of two columns that are not named by their languages


def choose_columns(
    row: Row, columns: Columns | None, source_lang: str | None, target_lang: str | None, origin: str
) -> Columns:
    """Return the names of the source and the target column.

    Args:
        row: the first row.
        columns: the names that the user gives, or None.
        source_lang: the code that the user gives for the source, or None.
        target_lang: the same for the target.
        origin: the words for the file or data set in errors.

    Raises:
        PairsError: the row does not tell, or a column would be compared with itself or bear another language's name.
    """
    names = list(flat(row))
    columns = _spelled(columns, names) if columns else None
    columns = columns or _by_language(names, source_lang, target_lang, origin) or _by_name(names)
    languages = language_columns(names)
    unknown = [code for code in (source_lang, target_lang) if code and not _column_of(names, code, origin)]
    if columns is None and unknown and languages:
        raise PairsError(
            f"{origin} has the columns {', '.join(map(str, names))}, and none of them is {' or '.join(unknown)}; "
            "name that column by its code, or pass columns=(source, target)."
        )
    if columns is None and len(languages) > 2:
        raise PairsError(f"{origin} holds {len(languages)} languages; choose two with source_lang and target_lang.")
    if columns is None or not {*columns} <= {*names}:
        raise PairsError(f"{origin} has the columns {', '.join(map(str, names))}; {_remedy(names)}.")
    _check(columns, source_lang, target_lang, origin)
    pair = languages_of_lp(row) if columns == SIDES else None
    if pair:
        _check_lp(pair, (source_lang, target_lang), f"{origin} says {row['lp']}")
    return pair or columns


def languages_of(columns: Columns, source_lang: str | None, target_lang: str | None) -> tuple[str | None, str | None]:
    """Return the codes that the user gives, or those that the columns' names stand for."""
    return source_lang or code_of(columns[0]), target_lang or code_of(columns[1])


def cells(row: Row, columns: Columns) -> tuple[Any, Any]:
    """Return a row's source and target."""
    flattened = flat(row)
    return flattened.get(columns[0]), flattened.get(columns[1])


def _spelled(columns: Columns, names: Sequence[Any]) -> Columns:
    """Return the user's columns as the file spells them: it may write "EN-us" where the user writes "en-US"."""
    spelled = {str(name).lower(): name for name in names}
    first, second = (name if name in names else spelled.get(str(name).lower(), name) for name in columns)
    return first, second


def _by_language(names: Sequence[Any], source: str | None, target: str | None, origin: str) -> Columns | None:
    """Return the columns that are named by the languages: the given ones, or the only two."""
    first, second = (_column_of(names, code, origin) for code in (source, target))
    if source and target:
        return (first, second) if first and second else None
    languages = list(language_columns(names))
    others = [name for name in languages if name not in (first, second)]
    if first or second:
        return None if len(others) != 1 else (first or others[0], second or others[0])
    if source or target:
        return None  # no column is the given language, so no column may be taken for it
    return (others[0], others[1]) if len(others) == 2 and not doubtful_columns(names) else None


def _column_of(names: Sequence[Any], code: str | None, origin: str) -> str | None:
    if code is None or code in names:
        return code
    found = [name for name in names if may_be(name, code)]
    if len(found) > 1:
        raise PairsError(
            f"{origin} has the columns {' and '.join(found)}, which are all {code}; "
            "choose with columns=(source, target)."
        )
    return found[0] if found else None


def _by_name(names: Sequence[Any]) -> Columns | None:
    return SIDES if {*SIDES} <= {*names} else None


def _remedy(names: Sequence[Any]) -> str:
    two_scripts = [name for name in names if code_of(name) is None and may_be(name, "zho_Hans")]
    if two_scripts:
        return (
            f"{two_scripts[0]} is written in two scripts, so pass source_lang and target_lang, one as zho_Hans or "
            "zho_Hant"
        )
    if doubtful := doubtful_columns(names):
        return f"{doubtful[0]} may be a language, too, so pass source_lang and target_lang, or columns=(source, target)"
    return (
        "name two of them by FLORES-200 codes (in the first line of a TSV or CSV file), or pass "
        "columns=(source, target)"
    )


def _check(columns: Columns, source_lang: str | None, target_lang: str | None, origin: str) -> None:
    """Refuse columns that would compare a text with itself or call it by another language's name."""
    if columns[0] == columns[1]:
        raise PairsError(f"columns={columns} of {origin} is one column twice; a pair needs two.")
    for column, code in zip(columns, (source_lang, target_lang), strict=True):
        if is_language(column) and code is not None and code != column:
            raise PairsError(f"the column {column} of {origin} would be called {code}; give it its own code.")
    if source_lang and target_lang and may_be(columns[0], target_lang) and may_be(columns[1], source_lang):
        raise PairsError(
            f"the column {columns[0]} of {origin} would be called {source_lang}, and {columns[1]} {target_lang}; give "
            "the columns and the languages in one order."
        )


def _check_lp(pair: Columns, given: tuple[str | None, str | None], said: str) -> None:
    for side, tag, code in zip(SIDES, pair, given, strict=True):
        known = code_of(tag)
        if code and known and code[:3] != known[:3]:
            raise PairsError(f"the column lp of {said}, so {side} cannot be {code}; give its languages or none.")
