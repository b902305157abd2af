"""One definition of each argument's help and default: docstrings, command line and recipes repeat it exactly."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.main import get_command

from neuronxa_callback.alignment.settings import AlignmentSettings
from neuronxa_callback.cli import app
from neuronxa_callback.quality.settings import Quality
from neuronxa_callback.training.settings import StoppingRule
from neuronxa_callback.vocabulary import (
    Direction,
    LayerPooling,
    Method,
    MetricName,
    Representation,
    TokenPooling,
    help_of,
)

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "neuronxa_callback"

# An argument and the class and field that define it.
Defined = tuple[str, Any, str]


def same_names(settings: Any, *left_out: str) -> list[Defined]:
    return [(part.name, settings, part.name) for part in fields(settings) if part.name not in left_out]


EVALUATOR = same_names(AlignmentSettings)
CALLBACK: list[Defined] = [
    *same_names(AlignmentSettings, "layer_pooling", "representations", "permutations"),
    ("quality", Quality, "metrics"),
    ("early_stopping_patience", StoppingRule, "patience"),
]
ENCODE = [(name, AlignmentSettings, name) for name in ("token_pooling", "token_budget", "layers")]


def words(text: str) -> str:
    return " ".join(text.split())


def described(file: str, name: str) -> dict[str, str]:
    """The arguments in the docstring of a class or function, read from the source as an editor reads it."""
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    node = next(node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name)
    section = re.search(r"^(?:Args|Attributes):\n((?:    .*\n|\n)+)", f"{ast.get_docstring(node)}\n", re.MULTILINE)
    assert section is not None
    parts = re.split(r"^    (\w+): ", section[1], flags=re.MULTILINE)[1:]
    return {argument: words(text) for argument, text in zip(parts[::2], parts[1::2], strict=True)}


@pytest.mark.unit
@pytest.mark.parametrize(
    ("file", "name", "arguments"),
    [
        ("alignment/evaluator.py", "NeuronXAEvaluator", EVALUATOR),
        ("alignment/encoder.py", "encode", ENCODE),
        ("training/callback.py", "NeuronXACallback", CALLBACK),
        ("training/settings.py", "StoppingRule", same_names(StoppingRule)),
    ],
    ids=["NeuronXAEvaluator", "encode", "NeuronXACallback", "StoppingRule"],
)
def test_a_docstring_begins_with_the_help(file: str, name: str, arguments: list[Defined]) -> None:
    found = described(file, name)
    for argument, settings, defined in arguments:
        assert (found[argument] + " ").startswith(help_of(settings, defined) + " "), argument


@pytest.mark.parametrize(("name", "arguments"), [("NeuronXAEvaluator", EVALUATOR), ("NeuronXACallback", CALLBACK)])
def test_a_default_is_the_defined_one(name: str, arguments: list[Defined]) -> None:
    import neuronxa_callback

    parameters = inspect.signature(getattr(neuronxa_callback, name)).parameters
    for argument, settings, defined in arguments:
        assert parameters[argument].default == getattr(settings, defined), argument


def test_every_argument_of_the_evaluator_is_defined() -> None:
    from neuronxa_callback import NeuronXAEvaluator

    assert list(inspect.signature(NeuronXAEvaluator).parameters) == [part.name for part in fields(AlignmentSettings)]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("settings", "name", "choices"),
    [
        (AlignmentSettings, "methods", Method),
        (AlignmentSettings, "token_pooling", TokenPooling),
        (AlignmentSettings, "layer_pooling", LayerPooling),
        (AlignmentSettings, "representations", Representation),
        (Quality, "metrics", MetricName),
        (Quality, "direction", Direction),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_help_names_every_choice(settings: Any, name: str, choices: Any) -> None:
    assert [choice for choice in get_args(choices) if choice not in help_of(settings, name)] == []


@pytest.mark.unit
@pytest.mark.parametrize(
    ("command", "options"),
    [
        (
            ["score"],
            [
                ("representation", AlignmentSettings, "representations"),
                *same_names(AlignmentSettings, "pairs", "representations"),  # its --pairs is a text of many languages
            ],
        ),
        (
            ["sweep"],
            [
                ("pairs", AlignmentSettings, "pairs"),
                ("methods", AlignmentSettings, "methods"),
                *[
                    (name, Quality, name)
                    for name in ("comet_model", "cometkiwi_model", "comet_device", "comet_dtype", "direction")
                ],
                ("quality_pairs", Quality, "pairs"),
                ("translate_n", Quality, "translate_n"),
            ],
        ),
        (
            ["comet", "check"],
            [("model", Quality, "comet_model"), ("device", Quality, "comet_device"), ("dtype", Quality, "comet_dtype")],
        ),
    ],
    ids=["score", "sweep", "comet check"],
)
def test_an_option_begins_with_the_help(command: list[str], options: list[Defined]) -> None:
    found: Any = get_command(app)
    for name in command:
        found = found.commands[name]
    helps = {parameter.name: parameter.help for parameter in found.params}
    for option, settings, defined in options:
        assert helps[option].startswith(help_of(settings, defined)), option


@pytest.mark.recipe
def test_a_setting_of_the_recipes_begins_with_the_help() -> None:
    import training_run

    found = {part.name: part.metadata["help"] for part in fields(training_run.WatchArguments)}
    settings: list[Defined] = [
        ("early_stopping_patience", StoppingRule, "patience"),
        ("comet_device", Quality, "comet_device"),
    ]
    for name, kind, defined in settings:
        assert found[name].startswith(help_of(kind, defined)), name


def test_no_option_has_a_type_that_the_lowest_typer_cannot_read() -> None:
    # Typer reads Literal from 0.19 on, and pyproject.toml allows 0.16; there one such option ends every command.
    for name, command in commands(app):
        for option in inspect.signature(command, eval_str=True).parameters.values():
            assert "Literal" not in str(option.annotation), f"{name} {option.name}"


def commands(group: Any) -> Iterator[tuple[str, Any]]:
    for info in group.registered_commands:
        yield info.name or info.callback.__name__, info.callback
    for info in group.registered_groups:
        yield from commands(info.typer_instance)
