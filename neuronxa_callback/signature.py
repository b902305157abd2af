"""Signatures: the choices behind a score, as sacreBLEU has them. Only this module writes and reads their text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, PlainSerializer

# Characters with a meaning in the text. A value such as a path may hold either.
_ESCAPED = (("%", "%25"), ("|", "%7C"))
# Stands for a value that differs between signatures.
DIFFERENT = "(in the file)"
_ABSENT = "none"


@dataclass(frozen=True)
class Signature:
    """Named choices in order, such as method, number of pairs and dtype.

    Usage:
        ```python
        signature = Signature.of(method="nasca", n=100)
        str(signature)  # "method:nasca|n:100"
        Signature.parse("method:nasca|n:100")["n"]  # "100"
        ```

    Attributes:
        fields: (name, value) of each choice.
    """

    fields: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, choices: Mapping[str, Any] | None = None, **more: Any) -> Signature:
        """Build a signature from named choices, in their order."""
        return cls(tuple((name, str(value)) for name, value in {**(choices or {}), **more}.items()))

    @classmethod
    def parse(cls, text: str) -> Signature:
        """Read a signature from the text that `str` made of it.

        A part without a colon belongs to the value before it, because version 0.1 did not escape values.
        """
        fields: list[tuple[str, str]] = []
        for part in text.split("|") if text else ():
            name, colon, value = part.partition(":")
            if colon or not fields:
                fields.append((name, _unescaped(value)))
            else:
                fields[-1] = (fields[-1][0], f"{fields[-1][1]}|{_unescaped(part)}")
        return cls(tuple(fields))

    def __str__(self) -> str:
        return "|".join(f"{name}:{_escaped(value)}" for name, value in self.fields)

    def __getitem__(self, name: str) -> str:
        """Return the value of a field.

        Raises:
            KeyError: the signature has no such field.
        """
        return dict(self.fields)[name]

    def __contains__(self, name: object) -> bool:
        return name in dict(self.fields)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.fields)

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the value of a field, or the default if there is no such field."""
        return dict(self.fields).get(name, default)

    def joined(self, other: Signature) -> Signature:
        """Return these fields followed by the other's. A field in both keeps its place and has the other's value."""
        return Signature.of(dict(self.fields) | dict(other.fields))

    def with_fields(self, **choices: Any) -> Signature:
        """Return the signature with some fields replaced, or added at its end."""
        return self.joined(Signature.of(choices))

    def without(self, names: Iterable[str]) -> Signature:
        """Return the signature without some fields."""
        left_out = set(names)
        return Signature(tuple(field for field in self.fields if field[0] not in left_out))

    def only(self, names: Iterable[str]) -> Signature:
        """Return only the named fields, in the order of the names. Names that the signature lacks are left out."""
        return Signature.of({name: self[name] for name in names if name in self})

    def differences(self, wanted: Signature) -> dict[str, tuple[str, str]]:
        """Return the wanted fields that differ here: field -> (value here or "none", value wanted)."""
        return {name: (self.get(name) or _ABSENT, value) for name, value in wanted.fields if self.get(name) != value}

    @staticmethod
    def common(signatures: Iterable[Signature]) -> Signature:
        """Return the fields of the first signature. A field that is not the same in all has the value `DIFFERENT`."""
        first, *others = dict.fromkeys(signatures)
        return Signature.of(
            {
                name: value if all(other.get(name) == value for other in others) else DIFFERENT
                for name, value in first.fields
            }
        )


def _parsed(value: Any) -> Any:
    return Signature.parse(value) if isinstance(value, str) else value


# A signature as a field of a typed line. It is text only in the file.
SignatureText: TypeAlias = Annotated[Signature, BeforeValidator(_parsed), PlainSerializer(str, return_type=str)]


def _escaped(value: str) -> str:
    for character, code in _ESCAPED:
        value = value.replace(character, code)
    return value


def _unescaped(value: str) -> str:
    for character, code in reversed(_ESCAPED):
        value = value.replace(code, character)
    return value
