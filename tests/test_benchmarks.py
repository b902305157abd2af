"""What the docs show of benchmarks is what their result files hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import (
    candidates,
    comet_precision,
    correlations,
    cost,
    coverage,
    gpu,
    recorded,
    rises,
    rows,
    signal,
    start,
    stopping,
)
from neuronxa_callback.significance import paired_p_value

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent


def test_the_table_of_stopping_is_that_of_its_results() -> None:
    made = json.loads(stopping.RESULTS.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "explanation" / "stopping.md").read_text(encoding="utf-8")
    for score in stopping.NAMES_OF:
        assert stopping.markdown(made["drawn"], score, stopping.BANDWIDTHS[-1]) in page
    assert stopping.recorded_markdown(made["recorded"]) in page
    assert stopping.floor_markdown(made["floor"]) in page
    assert f"--curves {made['command'].rpartition(' ')[2]}`" in page
    page = " ".join(page.split())
    chance = made["looks_too_early_by_chance"]
    looks = f"alone makes {100 * chance['nasca']:.0f} % of the stops with patience 10 look so for NASCA, and"
    assert f"{looks} {100 * chance['nasca_rank']:.0f} % for the rank score." in page
    below = {score: f"{100 * share:.0f} %" for score, share in made["paired_test_on_jitter"].items()}
    assert f"in {below['nasca']} of the comparisons of NASCA and in {below['nasca_rank']} of those of the rank" in page
    early = {
        row["bandwidth"]: f"{row['too_early']:.1%}".replace("%", " %")
        for row in made["drawn"]
        if (row["rule"], row["patience"], row["score"], row["course"]) == ("line", 10, "nasca_rank", "rises over 20")
    }
    assert f"too early in {early[4]} of the rises over 20, and not in {early[8]}." in page
    assert made["runs"] == sorted(path.stem for path in recorded.RECORDED.glob("*.json"))


def test_the_figures_of_the_correlations_are_those_of_their_results() -> None:
    made = json.loads(correlations.RESULTS.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "explanation" / "quality.md").read_text(encoding="utf-8")
    assert correlations.markdown(made["coverage"]) in page
    page = " ".join(page.split())
    at = {(row["case"].rpartition(" ")[2], row["n"]): f"{100 * row['size']:.0f} %" for row in made["runs"]}
    first, second, third = (at["values", n] for n in (10, 20, 30))
    assert f"below 0.05 in {first} of the cases at 10 evaluations, {second} at 20 and {third} at 30." in page
    assert {at["changes", n] for n in (10, 20, 30)} == {"5 %"}
    assert "from one evaluation to the next it lies below 0.05 in 5 %." in page

    page = " ".join((ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8").split())
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


def test_the_table_of_the_gpu_is_that_of_its_results() -> None:
    made = json.loads(gpu.RESULT.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "explanation" / "promises.md").read_text(encoding="utf-8")
    assert gpu.markdown([gpu.Cost(**cost) for cost in made["costs"]]) in page
    assert made["gpu"] in page


def test_the_tables_of_the_cost_are_those_of_its_results() -> None:
    page = (ROOT / "docs" / "explanation" / "promises.md").read_text(encoding="utf-8")
    for results in (cost.RESULT, start.RESULT):
        made = rows.read(results)
        assert rows.markdown(made) in page
    assert {row.section for row in rows.read(cost.RESULT)} == set(cost.SECTIONS)


@pytest.mark.parametrize(
    ("costs", "shown", "met"),
    [((1.03, 1.0), "1.030", "yes"), ((1.0304, 1.0), "1.030", "yes"), ((2.06, 1.0), "2.060", "no: 100% above")],
)
def test_a_row_says_by_how_much_it_misses_its_target(costs: tuple[float, float], shown: str, met: str) -> None:
    row = rows.Row("section", "what", "one", "other", costs, "seconds", 1.03)
    assert row.cells()[3:] == (f"{costs[0]:.2f} s / 1.00 s", shown, "1.03", met)


def test_the_tables_of_chance_and_coverage_are_those_of_their_results() -> None:
    pages = [(ROOT / "docs" / "explanation" / name).read_text(encoding="utf-8") for name in ("chance.md", "limits.md")]
    page = "".join(pages)
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
    page = " ".join((ROOT / "docs" / "how-to" / "own-data.md").read_text(encoding="utf-8").split())
    assert made["rows"] == 1_000_000
    (peak,) = set(made["peak_mebibytes"].values())  # the same for ten times the rows
    assert f"took {made['seconds']:.0f} s on one core; a search takes {peak:g} MiB at its peak" in page
    alone = made["share_found_alone"]
    one, two = (f"{100 * alone[f'{changed} changed']:.0f} %" for changed in ("one word", "two words"))
    assert f"found {one} of the held-out sentences with one word changed, and {two} of those with two words" in page


def test_the_cost_of_the_maps_is_that_of_its_results() -> None:
    made = json.loads((ROOT / "benchmarks" / "results" / "maps.json").read_text(encoding="utf-8"))
    page = " ".join((ROOT / "docs" / "how-to" / "finished-runs.md").read_text(encoding="utf-8").split())
    cost = made["figures"]["both maps"]
    assert f"For {made['evaluations']} evaluations" in page
    assert f"took {cost['milliseconds']} ms of one core and {cost['kibibytes']} KiB of the event file" in page


class TestTheDrawnCurves:
    def test_rise_as_their_names_say(self) -> None:
        time = np.arange(stopping.EVALUATIONS)
        done = {
            "never rises": 0 * time,
            "rises over 10": np.minimum(1, time / 10),
            "rises over 20": np.minimum(1, time / 20),
            "rises over 30": np.minimum(1, time / 30),
            "levels off": 1 - 0.5 ** (time / 5.545),
        }
        for scenario in stopping.SCENARIOS:
            curves = [stopping.drawn(scenario, np.random.default_rng(seed)).mean(axis=1) for seed in range(300)]
            changes = np.mean(curves, axis=0) - np.mean(curves, axis=0)[0]
            assert changes == pytest.approx(0.02 * done[scenario.course.name], abs=0.003)
        assert 0.9 <= done["levels off"][19] <= 0.91

    @pytest.mark.parametrize("bandwidth", stopping.BANDWIDTHS)
    def test_jitter_as_the_recorded_ones_do(self, bandwidth: int) -> None:
        """Its size, and how it goes on from one evaluation to the next."""
        for curve in recorded.curves("nasca_rank"):
            jitter = curve.jitter(bandwidth).mean(axis=1)
            drawn = np.array(
                [stopping.jitter(curve, bandwidth, 40, np.random.default_rng(seed)).mean(axis=1) for seed in range(200)]
            )
            assert np.mean(np.square(drawn)) == pytest.approx(np.mean(jitter**2), rel=0.2)
            neighbours = np.mean(drawn[:, 1:] * drawn[:, :-1]) / np.mean(np.square(drawn))
            assert neighbours == pytest.approx(0.9 * (jitter[1:] @ jitter[:-1]) / (jitter @ jitter), abs=0.1)

    def test_a_wider_smoother_leaves_more_jitter(self) -> None:
        for curve in recorded.curves("nasca_rank"):
            narrow, wide = (curve.jitter(bandwidth).mean(axis=1).std() for bandwidth in stopping.BANDWIDTHS)
            assert narrow < wide

    def test_a_smooth_course_leaves_no_jitter(self) -> None:
        line = np.arange(30.0)
        assert recorded.smoother(30) @ line == pytest.approx(line)
        assert recorded.smoother(30) @ np.ones(30) == pytest.approx(np.ones(30))

    def test_what_is_still_to_come_is_the_rise_after_the_stop(self) -> None:
        values = np.minimum(np.arange(40.0), 20) / 100
        assert stopping.still_to_come(values.tolist(), 5) == pytest.approx(0.15, abs=0.01)
        assert stopping.still_to_come(values.tolist(), 30) == pytest.approx(0, abs=0.001)
        assert stopping.still_to_come(values.tolist(), 40) == 0


class TestTheRules:
    def test_a_line_above_no_jitter_is_the_rule_of_the_package(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(20):
            values = rng.random((30, 1)) + 0.02 * np.arange(30)[:, None]
            assert stopping.line_above(0.0, values, (5, 10)) == stopping.package(values, (5, 10))

    def test_a_median_of_three_by_hand(self) -> None:
        values = np.array([1, 2, 3, 3, 9, 3, 3, 3, 3], dtype=float)[:, None]  # medians 1, 1.5, 2, 3, 3, 3, 3, 3, 3
        assert stopping.counted(stopping.median_rises, values, (2, 5)) == [5, 8]

    def test_transformers_own_is_a_counter_of_rises(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(20):
            values = rng.random((30, 1))
            counter = stopping.counted(lambda now, best: bool(now[-1, 0] > best[-1, 0]), values, (3, 5))
            assert stopping.transformers_own(0.0, values, (3, 5)) == counter

    def test_the_paired_test_is_that_of_the_package(self) -> None:
        rng = np.random.default_rng(0)
        for shift in (0.0, 0.03, 0.06):
            before = rng.random((1, 100)) * 0.2
            now = before + shift + rng.normal(scale=0.2, size=(1, 100))
            p_value = paired_p_value(now[0], before[0])
            assert stopping.rises_in_the_test(p_value + 0.04, now, before)
            assert not stopping.rises_in_the_test(p_value - 0.04, now, before)


class TestTheCandidates:
    def test_the_scores_of_a_layer_by_hand(self) -> None:
        cosines = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.1, 0.2, 0.7]], dtype=torch.float64)[None]
        found = candidates.candidates(cosines, neighbours=1)
        assert found["nasca"].tolist() == [[1, 0, 1]]
        # The second source has its translation on rank 2, and the second target its source on rank 1.
        assert found["reciprocal_rank"].tolist() == [[1, 0.75, 1]]
        # CSLS of the first pair is 2 * 0.9 - 0.9 - 0.9, and its sentences' best others 0.2 * 2 - 0.9 - 0.7 and
        # 2 * 0.8 - 0.8 - 0.9.
        assert found["csls"][0, 0].item() == pytest.approx(0 - (max(0.2 - 1.4, 0.4 - 1.6) + -0.1) / 2)

    def test_the_table_is_that_of_its_results(self) -> None:
        rows = [rises.Row(**row) for row in json.loads(rises.RESULTS.read_text(encoding="utf-8"))["rows"]]
        assert rises.markdown(rows) in (ROOT / "docs" / "explanation" / "method.md").read_text(encoding="utf-8")
        assert rises.jitter_markdown(rows) in (ROOT / "docs" / "explanation" / "stopping.md").read_text(
            encoding="utf-8"
        )
        measured = [rises.measured(curve) for curve in recorded.curves("nasca_rank") if curve.language != recorded.ALL]
        for row, again in zip((row for row in rows if row.score == "nasca_rank"), measured, strict=True):
            expected = {
                name: pytest.approx(value) if isinstance(value, float) else value
                for name, value in row._asdict().items()
            }
            assert again._asdict() == expected


def test_what_the_docs_say_of_comets_precision_is_in_its_results() -> None:
    made = json.loads(comet_precision.RESULTS.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "how-to" / "comet.md").read_text(encoding="utf-8")
    assert comet_precision.markdown(made) in page
    page = " ".join(page.split())
    *small, large = made["models"].values()
    assert f"The last model took {large['time_ratio']:.2f} of the time of float32" in page
    assert made["cpu_computes_in_bfloat16"]
    assert min(one["time_ratio"] for one in small) > 1
    moved = [one["moved_by_segments_at_once"] for one in made["models"].values()]
    assert max(one["float32"] for one in moved) < 0.0000002
    assert f"by up to {max(one['bfloat16'] for one in moved):.4f} in bfloat16" in page
