"""Runs whose scores.jsonl is a recorded one's, changed where a test needs it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

GOLDEN = ROOT / "tests" / "golden" / "run"
FRENCH = ROOT / "docs" / "results" / "french-sft"
Lines = list[dict[str, Any]]
BY_METHOD = {"score", "ci", "chance", "p_value", "per_layer", "chance_per_layer", "p_per_layer", "per_pair"}


def lines_of(run_dir: Path, *methods: str) -> Lines:
    """The recorded lines with the numbers of some methods alone, of NASCA by default: each method takes its time."""
    text = (run_dir / "neuronxa" / "scores.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    for part in (part for line in lines for part in (line, *line["languages"].values())):
        for name in BY_METHOD & part.keys():
            part[name] = {
                method: numbers for method, numbers in part[name].items() if method in (methods or ("nasca",))
            }
    return lines


def write_run(run_dir: Path, lines: Lines) -> Path:
    """Write the scores.jsonl of a run and return the run's folder."""
    path = run_dir / "neuronxa" / "scores.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return run_dir


def many_languages(lines: Lines, codes: Sequence[str]) -> Lines:
    """The lines with a copy of Icelandic's scores and translations for each code, from English and back."""
    made = copy.deepcopy(lines)
    for line in made:
        scores, quality = line["languages"]["eng_Latn-isl_Latn"], line["quality"]["eng_Latn-isl_Latn"]
        line["languages"] = {
            f"eng_Latn-{code}": scores
            | {"signature": scores["signature"].replace("eng_Latn-isl_Latn", f"eng_Latn-{code}")}
            for code in codes
        }
        line["quality"] = {name: quality for code in codes for name in (f"eng_Latn-{code}", f"{code}-eng_Latn")}
    return made


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that writes a run into a folder of this test's own."""
    return lambda lines, name="run": write_run(tmp_path / name, lines)
