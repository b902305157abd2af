"""The cost model by hand, the benchmark on a tiny model, and the tables of its page."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import ranks
from benchmarks.cost_model import (
    CASES,
    Assumptions,
    Constants,
    OfGPU,
    Reading,
    Setting,
    Shape,
    duration,
    encoding,
    extrapolated,
    memory,
    on_gpus,
    scoring_memory,
    seconds,
    setting_of,
    translation,
)
from benchmarks.page import with_table
from tests.support import ROOT, make_tokenizer, processes_environment, tiny_llama

SHAPE = Shape("s", layers=2, features=4, parameters=10, parameter_bytes=2)
SIDES = ((3, 3), (5, 4))
POWERS = Constants(*(10.0**-power for power in range(10)))
NOTHING = Constants(*([0.0] * 10))
H200 = OfGPU(operation=1e-14, layer=0.01, activation=20, decoded=0.002)


@pytest.mark.unit
class TestTheFormulas:
    def test_two_processes_deal_a_side_by_hand(self) -> None:
        assert Reading.of((5, 4), 100, 2) == Reading(rounds=1, tokens=5, batch=5, sentences=1)
        # Batches of at most 6 tokens: 2 + 2 + 2, 5 and 6. The first process has the first and the last one.
        assert Reading.of((2, 2, 2, 5, 6), 6, 2) == Reading(rounds=2, tokens=12, batch=6, sentences=4)
        assert Reading.of((2, 2, 2, 5, 6), 6, 1) == Reading(rounds=3, tokens=17, batch=6, sentences=5)
        assert Reading.of((7,), 6, 3) == Reading(rounds=1, tokens=7, batch=7, sentences=1)

    def test_the_time_of_two_processes_by_hand(self) -> None:
        time = seconds(Setting(SHAPE, SIDES, 2, True, 100), POWERS)
        # Two rounds, one of 3 tokens and one of 5, through 20 parameters.
        assert time.passes == pytest.approx(2 * 20 * 8 * 1 + 2 * 2 * 0.1)
        # Half of 40 bytes in each round.
        assert time.weights == pytest.approx(2 * 20 * 1e-2)
        # 2 layers, 2 sentences, 4 neurons of 4 bytes, twice.
        assert time.sides == pytest.approx(2 * 64 * 1e-3)
        assert time.agreements == pytest.approx(2 * 4 * 1e-4 + 1e-5)
        assert time.scoring == pytest.approx(2 * 2 * 9999 * 1e-6 + 2 * 16 * 1e-7 + 2 * 16 * 1e-8)
        assert time.total == pytest.approx(320.4 + 0.4 + 0.128 + 0.00081 + time.scoring)

    def test_whole_weights_and_one_process_cost_less(self) -> None:
        assert seconds(Setting(SHAPE, SIDES, 2, False, 100), POWERS).weights == 0
        alone = seconds(Setting(SHAPE, SIDES, 1, False, 100), POWERS)
        assert alone.agreements == alone.weights == 0
        assert alone.passes == pytest.approx(2 * 20 * (6 + 10) + 2 * 2 * 0.1)

    def test_a_language_adds_a_side_and_its_scores(self) -> None:
        one, two = (seconds(Setting(SHAPE, (SIDES[0], *(SIDES[1:] * k)), 2, True, 100), POWERS) for k in (1, 2))
        assert two.scoring == pytest.approx(2 * one.scoring)
        assert two.weights == pytest.approx(1.5 * one.weights)

    def test_first_layers_alone(self) -> None:
        few = seconds(Setting(SHAPE.first(1, 1), SIDES, 2, True, 100), POWERS)
        all_layers = seconds(Setting(SHAPE, SIDES, 2, True, 100), POWERS)
        for part in ("passes", "weights", "sides", "scoring"):
            assert getattr(few, part) == pytest.approx(getattr(all_layers, part) / 2)
        deep = seconds(Setting(SHAPE.first(2, 1), SIDES, 2, True, 100), POWERS)
        assert (deep.passes, deep.weights) == (all_layers.passes, all_layers.weights)
        assert deep.scoring == few.scoring

    def test_the_memory_by_hand(self) -> None:
        constants = replace(NOTHING, activation=1000)
        # One sentence of each process is 32 bytes; a batch of 5 tokens has 5 * 4 neurons.
        assert encoding(SHAPE, Reading(1, 5, 5, 1), 2, constants) == (20_032, 20_032)
        assert encoding(SHAPE, Reading(1, 5, 5, 1), 2, NOTHING) == (32 + 3 * 16, 32 + 16)
        assert encoding(SHAPE, Reading(1, 5, 5, 1), 1, NOTHING) == (32, 0)
        assert scoring_memory(SHAPE, 2) == 3 * 2 * 4 * 8
        assert scoring_memory(Shape("", 80, 28672, 0, 0), 100) == 3 * 100 * 28672 * 8
        held = memory(Setting(SHAPE, SIDES, 2, True, 100), constants)
        reports = 2 * 2 * 9999 * 8
        assert held.first_cpu == 2 * 64 + scoring_memory(SHAPE, 2) + reports
        assert held.others_cpu == reports

    def test_a_step_of_generation_brings_the_weights_together(self) -> None:
        constants = replace(NOTHING, weight=1e-3)
        steps = 4 * 3 + 16
        assert translation(Setting(SHAPE, SIDES, 2, False, 100), constants, 0.5) == pytest.approx(steps * 2 * 0.5)
        expected = steps * (2 * 0.5 + 20 * 1e-3)
        assert translation(Setting(SHAPE, SIDES, 2, True, 100), constants, 0.5) == pytest.approx(expected)

    def test_the_shapes_of_llama(self) -> None:
        small, large = CASES[0].shape, CASES[-1].shape
        assert small.layers * small.parameters == pytest.approx(8.03e9 - 2 * 128256 * 4096, rel=0.001)
        assert large.layers * large.parameters == pytest.approx(70.55e9 - 2 * 128256 * 8192, rel=0.001)

    def test_what_the_page_says_of_70b(self) -> None:
        page = " ".join(ranks.PAGE.read_text(encoding="utf-8").split())
        setting = setting_of(CASES[-1])
        constants = on_gpus(64, H200, POWERS, Assumptions())
        time = seconds(setting, constants)
        gigabytes, each = setting.shape.weights / 1e9, time.weights / 201
        assert f"For 70B these are {gigabytes:.0f} GB, which take {each:.1f} s at 25 GB/s." in page
        minutes = translation(setting, constants, decoded=0) / 60
        steps = f"For 70B a direction takes up to 116 steps of {each:.1f} s, which are {minutes:.0f} minutes."
        assert steps in page
        tokens = sum(map(sum, setting.sides))
        assert f"though {tokens:,} tokens of 201 sides would fit into one round of 64 GPUs." in page
        assert f"A round of 64 GPUs holds {64 * setting.token_budget:,} padded tokens" in page
        assert tokens <= 64 * setting.token_budget

    def test_links_within_a_node_and_between_nodes(self) -> None:
        one, node, nodes = (on_gpus(gpus, H200, POWERS, Assumptions()) for gpus in (1, 8, 16))
        assert one.weight == 0
        assert (1 / node.weight, 1 / nodes.weight) == pytest.approx((200e9, 25e9))
        assert 1 / one.gathered == pytest.approx(2e9)

    def test_durations(self) -> None:
        assert [duration(value) for value in (0, 0.52, 12.3, 150, 3000)] == ["0", "0.5 s", "12 s", "2.5 min", "50 min"]


@pytest.mark.unit
def test_constants_are_solved_from_their_sums() -> None:
    rows = [(10, 1e12), (300, 1e12), (20, 5e12)]
    assert ranks.solved(rows, [0.01 * a + 2e-12 * b for a, b in rows]) == pytest.approx([0.01, 2e-12])
    # Times that fall with a count do not make its constant negative.
    assert ranks.solved([(1, 1), (2, 1)], [1.0, 0.5])[0] == 0


@pytest.mark.unit
def test_a_table_takes_the_place_of_another() -> None:
    page = "a\n<!-- t -->\nold\n<!-- end of t -->\nb"
    assert with_table(page, "t", "| new |") == "a\n<!-- t -->\n\n| new |\n\n<!-- end of t -->\nb"
    with pytest.raises(SystemExit):
        with_table(page, "other", "")


@pytest.mark.unit
def test_the_tables_of_the_page_are_those_of_the_results() -> None:
    made = json.loads(ranks.RESULT.read_text(encoding="utf-8"))
    page = ranks.PAGE.read_text(encoding="utf-8")
    for name, table in ranks.tables(made).items():
        assert with_table(page, name, table) == page
    assert made["assumed"] == vars(Assumptions())  # which the page names
    assert made["machine"]["threads"] == 1


@pytest.mark.once
@pytest.mark.distributed
def test_the_benchmark_measures_and_fills_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_llama().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    results, page = tmp_path / "ranks.json", tmp_path / "page.md"
    page.write_text(ranks.PAGE.read_text(encoding="utf-8"), encoding="utf-8")

    options = ["--model", str(tmp_path / "model"), "--results", str(results), "--page", str(page)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ranks", "--quick", *options],
        cwd=ROOT,
        env=processes_environment(),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    made = json.loads(results.read_text(encoding="utf-8"))
    assert [timing["engine"] for timing in made["timings"]] == [*ranks.ENGINES] * 2
    assert len(made["predictions"]) == 4
    assert all(check["measured"] > 0 for check in made["predictions"] + made["memory"])
    first, second, _ = (check["predicted"] / check["measured"] for check in made["memory"])
    assert 0.5 < first < 2
    assert 0.5 < second < 2
    constants = OfGPU(**made["of_gpu"]), Constants(**made["constants"])
    assert extrapolated(*constants, Assumptions()) in page.read_text(encoding="utf-8")

    # Other assumptions need no new measurement.
    monkeypatch.setattr(sys, "argv", ["ranks", "--recorded", "--link-bytes", "50e9", *options])
    ranks.main()
    assert extrapolated(*constants, Assumptions(link_bytes=50e9)) in page.read_text(encoding="utf-8")
    assert extrapolated(*constants, Assumptions()) not in page.read_text(encoding="utf-8")


@pytest.mark.unit
def test_a_quick_measurement_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ranks", "--quick"])
    with pytest.raises(SystemExit):
        ranks.main()
    assert "too little to be recorded" in capsys.readouterr().err
