"""What the docs show of benchmarks is what their result files hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import stopping

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent


def test_the_table_of_stopping_is_that_of_its_results() -> None:
    rows = json.loads(stopping.RESULTS.read_text(encoding="utf-8"))["drawn"]
    assert stopping.markdown(rows) in (ROOT / "docs" / "stopping.md").read_text(encoding="utf-8")


def test_the_figures_of_the_overlap_search_are_those_of_its_results() -> None:
    made = json.loads((ROOT / "benchmarks" / "results" / "overlap.json").read_text(encoding="utf-8"))
    page = " ".join((ROOT / "docs" / "stopping.md").read_text(encoding="utf-8").split())
    assert made["rows"] == 1_000_000
    (peak,) = set(made["peak_mebibytes"].values())  # the same for ten times the rows
    assert f"took {made['seconds']:.0f} s on one core; a search takes {peak:g} MiB at its peak" in page
    alone = made["share_found_alone"]
    one, two = (f"{100 * alone[f'{changed} changed']:.0f} %" for changed in ("one word", "two words"))
    assert f"found {one} of the held-out sentences with one word changed, and {two} of those with two words" in page


def test_a_drawn_curve_rises_from_the_recorded_beginning_to_its_end() -> None:
    curve = stopping.recorded(stopping.FRENCH)
    scores = [stopping.SCENARIOS[2].draw(np.random.default_rng(seed)).mean(axis=1) for seed in range(200)]
    mean = sum(scores) / len(scores)
    assert abs(mean[0] - curve[:3].mean()) < 0.005
    assert abs(mean[20:].mean() - curve[-9:].mean()) < 0.005
    assert mean[10] < mean[20]
