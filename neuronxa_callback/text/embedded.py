"""Text and tables that come with the package."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def embedded(name: str) -> dict[str, tuple[str, ...]]:
    """Return an embedded multi-way parallel set ("heldout.tsv" or "demo_train.tsv"): language code -> sentences."""
    header, *rows = (line.split("\t") for line in data_file(name).splitlines())
    return {code: tuple(row[i] for row in rows) for i, code in enumerate(header)}


def data_file(name: str) -> str:
    """Return the text of a file in the package's folder data/."""
    return (resources.files("neuronxa_callback") / "data" / name).read_text(encoding="utf-8")
