"""Typer cannot read a command that takes groups of options. This module makes one that it can read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer


def flattened(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the fields of its option groups in place of the groups.

    A field without a default becomes an argument. A field with a default becomes an option. The field's metadata are
    the keyword arguments of `typer.Argument` or `typer.Option`. If a parameter has a group as its default, the values
    of that group are the defaults of the options.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            parameters += _options(groups[parameter.name], parameter.default)
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name], kind=parameter.KEYWORD_ONLY))

    @wraps(command)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{part.name: given.pop(part.name) for part in fields(group)})
        command(**given)

    read_by_typer: Any = run
    read_by_typer.__signature__ = inspect.Signature(parameters)
    read_by_typer.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _options(group: Any, given: Any) -> list[inspect.Parameter]:
    """Return a parameter for each field of a group; `given` is the group that holds the defaults, if there is one."""
    hints = get_type_hints(group)
    return [_option(part, hints[part.name], getattr(given, part.name, part.default)) for part in fields(group)]


def _option(part: Field[Any], hint: Any, default: Any) -> inspect.Parameter:
    if any(get_origin(kind) is Literal for kind in (hint, *get_args(hint))):
        hint = str | None  # Typer's message for an unknown choice would differ from the library's
    info: Any
    if default is MISSING:
        default, info = inspect.Parameter.empty, typer.Argument(**part.metadata)
    else:  # Typer adds no --no-... to a flag whose name is given, but shows it as if it took a value
        shown: dict[str, Any] = {"metavar": ""} if hint is bool else {}
        info = typer.Option("--" + part.name.replace("_", "-"), **shown, **part.metadata)
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(part.name, kind, default=default, annotation=Annotated[hint, info])
