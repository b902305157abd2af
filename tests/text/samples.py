"""Three pairs, and helpers that write them to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuronxa_callback import ParallelPairs
from neuronxa_callback.text.languages import PairsError

ENGLISH = ("The sea is calm.", "A red door opened.", "Nobody laughed.")
ICELANDIC = ("Sjórinn er lygn.", "Rauð hurð opnaðist.", "Enginn hló.")
CODES = ("eng_Latn", "isl_Latn")
EXPECTED = ParallelPairs(ENGLISH, ICELANDIC, *CODES)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def delimited(separator: str, *rows: tuple[str, ...]) -> str:
    return "".join(separator.join(row) + "\n" for row in rows)


ROWS = list(zip(ENGLISH, ICELANDIC, strict=True))


def refused(match: str, spec: Any, *arguments: Any, **options: Any) -> None:
    """Assert that loading fails with one sentence, which names the file, the line and the remedy."""
    with pytest.raises(PairsError, match=match) as caught:
        ParallelPairs.load(spec, *arguments, **options)
    assert "\n" not in str(caught.value)
