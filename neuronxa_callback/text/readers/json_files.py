"""Rows of JSON: objects in an array, or one object a line. The content says which it is, not the file's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from neuronxa_callback.text.languages import PairsError
from neuronxa_callback.text.readers.content import lines_of
from neuronxa_callback.text.readers.rows import Located, Row

_SPACE = " \t\r\n"


def json_rows(path: Path, text: str) -> Located:
    """Yield the objects of an array, or of lines, with the lines where they begin."""
    return _array_rows(path, text) if text.lstrip().startswith("[") else _line_rows(path, text)


def _line_rows(path: Path, text: str) -> Located:
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            raise PairsError(f"{path}, line {number}, is empty; fill it in or remove it.")
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            if number == 1:
                _refuse_one_object(path, text)
            raise _not_json(path, number, _reason(error)) from None
        yield f"{path}, line {number},", _checked(path, number, row)


def _refuse_one_object(path: Path, text: str) -> None:
    """Refuse a file that is one object over several lines, such as {"data": [...]}."""
    try:
        whole = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return
    raise PairsError(
        f"{path} is one JSON object with the keys {', '.join(list(whole)[:5])}; write an array of objects or one "
        "object per line, each with a pair."
    )


def _array_rows(path: Path, text: str) -> Located:
    decoder = json.JSONDecoder()
    place = _skip_space(text, text.index("[") + 1)
    number, counted = 1, 0
    while not text.startswith("]", place):
        number, counted = number + text.count("\n", counted, place), place
        try:
            row, end = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise _not_json(path, error.lineno, _reason(error)) from None
        except RecursionError as error:
            raise _not_json(path, number, _reason(error)) from None
        yield f"{path}, line {number},", _checked(path, number, row)
        place = _skip_space(text, end)
        if text.startswith(",", place):
            comma, place = place, _skip_space(text, place + 1)
            if text.startswith("]", place):
                raise _not_json(path, _line(text, comma), "a ',' before ']'")
        elif not text.startswith("]", place):
            raise _not_json(path, _line(text, place), "no ',' or ']' after an object")
    rest = _skip_space(text, place + 1)
    if rest < len(text):
        raise _not_json(path, _line(text, rest), "text after the array's ']'")


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _skip_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in _SPACE:
        place += 1
    return place


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"


def _not_json(path: Path, number: int, reason: str) -> PairsError:
    return PairsError(f"{path}, line {number}, is not JSON ({reason}); correct or remove that line.")


def _checked(path: Path, number: int, row: Any) -> Row:
    if not isinstance(row, dict):
        raise PairsError(
            f"{path}, line {number}, is not a JSON object; write one object per pair, in an array or lines."
        )
    return row
