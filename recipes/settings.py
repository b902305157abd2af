"""Settings from a YAML file and the command line. A wrong setting gets one sentence."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import yaml
from preflight import PreflightError
from pydantic import TypeAdapter, ValidationError
from trl import TrlParser

# What a value should be, by the kind of pydantic's error. Every other kind, such as an enumeration, is written as text.
WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list", "dict": "a mapping"}

# Two settings of which only one has a meaning. A file may have the one, and the command line then give the other.
ALTERNATIVES = (("target_lang", "target_langs"),)


def parse(types: Sequence[type], arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Return the settings from a YAML file (--config) and the command line, as one object of each type.

    Raises:
        PreflightError: the file cannot be read, no type has one of its keys, or a value has the wrong type.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--config" in arguments:
        place = arguments.index("--config") + 1
        if place == len(arguments):
            raise PreflightError("--config has no file behind it; give one of recipes/configs/.")
        _check_file(Path(arguments[place]), _types_of_settings(types))
    try:
        return _without_displaced(tuple(_Parser(types).parse_args_and_config(arguments)), arguments)
    except PreflightError:
        raise
    except ValueError as error:
        raise PreflightError(f"The settings cannot be used: {' '.join(str(error).split())}") from error


def _without_displaced(parsed: tuple[Any, ...], arguments: Sequence[str]) -> tuple[Any, ...]:
    """Drop the setting of the file in whose place the command line gives another one."""
    given = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in arguments if word.startswith("--")}
    for one, other in (*ALTERNATIVES, *(pair[::-1] for pair in ALTERNATIVES)):
        if one in given and other not in given:
            parsed = tuple(replace(part, **{other: None}) if hasattr(part, other) else part for part in parsed)
    return parsed


class _Parser(TrlParser):
    """TRL's parser. It reports an error in one sentence, and does not print the usage of all settings first."""

    def error(self, message: str) -> NoReturn:
        raise PreflightError(f"The settings cannot be used: {' '.join(message.split()).rstrip('.')}.")


def _types_of_settings(types: Sequence[type]) -> dict[str, Any]:
    found: dict[str, Any] = {"env": dict}
    for kind in types:
        hints = get_type_hints(kind)
        found |= {field.name: hints[field.name] for field in fields(kind)}
    return found


def _check_file(path: Path, known: Mapping[str, Any]) -> None:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PreflightError(f"{path} does not exist; the configurations are in recipes/configs/.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PreflightError(f"{path} cannot be read as YAML ({' '.join(str(error).split())}); mend it.") from None
    if not isinstance(settings, dict):
        raise PreflightError(f"{path} holds no settings; write one `key: value` a line.")
    for key, value in settings.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), sorted(known), n=2)
            hint = f"; the nearest are {', '.join(near)}" if near else "; remove it"
            raise PreflightError(f"{path} has the unknown key {key}{hint}.")
        wanted = _wanted_instead(value, known[key])
        if wanted:
            must = f"which must be {' or '.join(wanted)}{_remedy(key, value, wanted)}"
            raise PreflightError(f"{path} has {key}: {json.dumps(value, default=str)}, {must}.")


def _wanted_instead(value: Any, hint: Any) -> list[str]:
    """Return what a value of a YAML file should be, or nothing if the value is right.

    Text passes for a number or a truth value, because the parser converts it. Every other value must have the right
    type already, because the parser takes it as YAML reads it.
    """
    try:
        TypeAdapter(hint).validate_python(value, strict=not isinstance(value, str))
    except ValidationError as error:
        faults = error.errors()
    else:
        return []
    # The libraries check the items of a list or a mapping.
    if any(fault["input"] is not value for fault in faults):
        return []
    wanted = list(dict.fromkeys(WANTED.get(fault["type"].partition("_")[0], "text") for fault in faults))
    # The parser makes a list, a mapping or a member of an enumeration from text.
    of_text = isinstance(value, str) and not {*wanted} <= {WANTED["int"], WANTED["float"], WANTED["bool"]}
    return [] if of_text else wanted


def _remedy(key: str, value: Any, wanted: Collection[str]) -> str:
    if "text" in wanted and isinstance(value, bool):
        return f'; put the word in quotes (such as {key}: "no"), since YAML takes no and yes for false and true'
    if "text" in wanted and isinstance(value, int | float):
        return f'; put it in quotes, {key}: "{value}"'
    if WANTED["int"] in wanted and not _wanted_instead(value, float) and float(value).is_integer():
        return f"; write {key}: {int(float(value))}"
    return ""
