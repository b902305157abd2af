"""The choices behind a number, as sacreBLEU signs its scores: fields first, text last, read back here alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# What would be taken for the end of a field. A path may hold either.
_ESCAPED = (("%", "%25"), ("|", "%7C"))
# What stands for a value that signatures do not share.
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
        """The signature of choices by name, in their order."""
        return cls(tuple((name, str(value)) for name, value in {**(choices or {}), **more}.items()))

    @classmethod
    def parse(cls, text: str) -> Signature:
        """The signature that `str` made into this text.

        A part without a colon belongs to the value before it: version 0.1 did not escape what stood in a value.
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
        """The value of a field.

        Raises:
            KeyError: the signature has no such field.
        """
        return dict(self.fields)[name]

    def __contains__(self, name: object) -> bool:
        return name in dict(self.fields)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.fields)

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value of a field, or the default where there is no such field."""
        return dict(self.fields).get(name, default)

    def joined(self, other: Signature) -> Signature:
        """These fields, with the other's behind them; where both have a field, the other's value."""
        return Signature.of(dict(self.fields) | dict(other.fields))

    def with_fields(self, **choices: Any) -> Signature:
        """The signature with some fields set anew, or added at its end."""
        return self.joined(Signature.of(choices))

    def without(self, names: Iterable[str]) -> Signature:
        """The signature without some fields."""
        left_out = set(names)
        return Signature(tuple(field for field in self.fields if field[0] not in left_out))

    def only(self, names: Iterable[str]) -> Signature:
        """The named fields alone, in the order of the names; those that are not there are left out."""
        return Signature.of({name: self[name] for name in names if name in self})

    def differences(self, wanted: Signature) -> dict[str, tuple[str, str]]:
        """The fields in which this is not as wanted: the field -> what is here, and what is wanted."""
        return {name: (self.get(name) or _ABSENT, value) for name, value in wanted.fields if self.get(name) != value}

    @staticmethod
    def common(signatures: Iterable[Signature]) -> Signature:
        """What signatures agree in; a field in which they differ has `DIFFERENT` as its value."""
        first, *others = dict.fromkeys(signatures)
        return Signature.of(
            {
                name: value if all(other.get(name) == value for other in others) else DIFFERENT
                for name, value in first.fields
            }
        )


def _escaped(value: str) -> str:
    for character, code in _ESCAPED:
        value = value.replace(character, code)
    return value


def _unescaped(value: str) -> str:
    for character, code in reversed(_ESCAPED):
        value = value.replace(code, character)
    return value
