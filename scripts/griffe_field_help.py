"""A griffe extension for the page of the API: what the package says once, in settings, is shown where it is used.

The help in the metadata of a dataclass's fields becomes the section "Attributes" of a docstring that has none. The
default of an argument that is written as `AlignmentSettings.methods` is shown as its value.
"""

from __future__ import annotations

import ast
from typing import Any

import griffe

from neuronxa_callback.alignment.settings import AlignmentSettings

SETTINGS = "AlignmentSettings."
HELP = "field_help"


class FieldHelp(griffe.Extension):
    """Document fields by their help, and show defaults as values."""

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Remember the help of a field that is made by `field(metadata={"help": ...})`."""
        value = getattr(node, "value", None)
        if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
            metadata = next((keyword.value for keyword in value.keywords if keyword.arg == "metadata"), None)
            help_text = _help_in(metadata)
            if help_text is not None:
                attr.extra[HELP]["text"] = help_text

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """List the fields of a class by their help."""
        helps = {name: attr.extra[HELP]["text"] for name, attr in cls.attributes.items() if attr.extra.get(HELP)}
        if helps and cls.docstring is not None and "Attributes:" not in cls.docstring.value:
            listed = "\n".join(f"    {name}: {text}" for name, text in helps.items())
            cls.docstring.value += f"\n\nAttributes:\n{listed}"

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Show the defaults of a function or method."""
        for parameter in func.parameters:
            written = str(parameter.default)
            if written.startswith(SETTINGS):
                parameter.default = repr(getattr(AlignmentSettings, written.removeprefix(SETTINGS)))


def _help_in(metadata: ast.expr | None) -> str | None:
    """Return the text under "help" in a dictionary as it is written; None if there is none."""
    if not isinstance(metadata, ast.Dict):
        return None
    for name, text in zip(metadata.keys, metadata.values, strict=True):
        if isinstance(name, ast.Constant) and name.value == "help" and isinstance(text, ast.Constant):
            return str(text.value)
    return None
