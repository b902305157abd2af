"""What the docs show of benchmarks is what their result files hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import correlations, coverage, signal, stopping

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent


def test_the_table_of_stopping_is_that_of_its_results() -> None:
    rows = json.loads(stopping.RESULTS.read_text(encoding="utf-8"))["drawn"]
    assert stopping.markdown(rows) in (ROOT / "docs" / "stopping.md").read_text(encoding="utf-8")


def test_the_figures_of_the_correlations_are_those_of_their_results() -> None:
    made = json.loads(correlations.RESULTS.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
    assert correlations.markdown(made["coverage"]) in page
    page = " ".join(page.split())
    at = {(row["case"].rpartition(" ")[2], row["n"]): f"{100 * row['size']:.0f} %" for row in made["runs"]}
    first, second, third = (at["values", n] for n in (10, 20, 30))
    assert f"below 0.05 in {first} of the cases at 10 evaluations, {second} at 20 and {third} at 30." in page
    assert {at["changes", n] for n in (10, 20, 30)} == {"5 %"}
    assert "from one evaluation to the next it lies below 0.05 in 5 %." in page

    page = " ".join((ROOT / "docs" / "command-line.md").read_text(encoding="utf-8").split())
    null = [row for row in made["differences"] if row["r"][0] == row["r"][1]]

    def shares(data: str, test: str, languages: tuple[int, ...]) -> str:
        found = [row for row in null if row["data"] == data and row["test"].endswith(test) and row["n"] in languages]
        low, high = (100 * extreme(row["rejected"] for row in found) for extreme in (min, max))
        return f"{low:.0f} to {high:.0f} %"

    many = (20, 40)
    assert f"the test calls {shares('normal', 'ours', many)} of them different for 20 and 40 languages" in page
    assert f"and {shares('normal', 'ours', (8,))} for 8." in page
    assert f"A percentile bootstrap calls {shares('normal', 'percentile bootstrap', many)}" in page
    williams = (
        f"Of lognormal scores Williams's t calls {shares('lognormal', 'Williams', (8, *many))}, where this test calls"
    )
    assert f"{williams} {shares('lognormal', 'ours', (8, *many))}." in page


def test_the_tables_of_chance_and_coverage_are_those_of_their_results() -> None:
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    for table in json.loads(signal.RESULTS.read_text(encoding="utf-8"))["tables"]:
        assert signal.markdown(signal.Rows(**table)) in page
    rows = json.loads(coverage.RESULTS.read_text(encoding="utf-8"))["rows"]
    assert coverage.markdown([coverage.Row(**row) for row in rows]) in page
    # Intervals of a mean over layers, for scores from 0.01 to 0.9.
    of_means = [coverage.Row(**row) for row in rows if "layer" not in row["score"]]
    assert min(row.truth for row in of_means) < 0.015
    assert max(row.truth for row in of_means) > 0.85
    assert all(0.93 <= row.coverage <= 0.98 for row in of_means)


def test_the_figures_of_the_overlap_search_are_those_of_its_results() -> None:
    made = json.loads((ROOT / "benchmarks" / "results" / "overlap.json").read_text(encoding="utf-8"))
    page = " ".join((ROOT / "docs" / "stopping.md").read_text(encoding="utf-8").split())
    assert made["rows"] == 1_000_000
    (peak,) = set(made["peak_mebibytes"].values())  # the same for ten times the rows
    assert f"took {made['seconds']:.0f} s on one core; a search takes {peak:g} MiB at its peak" in page
    alone = made["share_found_alone"]
    one, two = (f"{100 * alone[f'{changed} changed']:.0f} %" for changed in ("one word", "two words"))
    assert f"found {one} of the held-out sentences with one word changed, and {two} of those with two words" in page


def test_the_cost_of_the_maps_is_that_of_its_results() -> None:
    made = json.loads((ROOT / "benchmarks" / "results" / "maps.json").read_text(encoding="utf-8"))
    page = " ".join((ROOT / "docs" / "quality.md").read_text(encoding="utf-8").split())
    cost = made["figures"]["both maps"]
    assert f"For {made['evaluations']} evaluations" in page
    assert f"took {cost['milliseconds']} ms of one core and {cost['kibibytes']} KiB of the event file" in page


def test_a_drawn_curve_rises_from_the_recorded_beginning_to_its_end() -> None:
    curve = stopping.recorded(stopping.FRENCH)
    scores = [stopping.SCENARIOS[2].draw(np.random.default_rng(seed)).mean(axis=1) for seed in range(200)]
    mean = sum(scores) / len(scores)
    assert abs(mean[0] - curve[:3].mean()) < 0.005
    assert abs(mean[20:].mean() - curve[-9:].mean()) < 0.005
    assert mean[10] < mean[20]
