from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.history import History, record_of

PAIRS = ParallelPairs.load("eng_Latn-isl_Latn", n=9)


def test_a_record_is_self_contained(llama: Any, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    report = NeuronXAEvaluator(PAIRS)(llama, tokenizer)
    history = History(tmp_path)
    history.append(record_of(report, 5, 0.5, 1.25))
    (line,) = (tmp_path / "neuronxa" / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads(line)
    assert record == history.read()[0]
    assert (record["step"], record["epoch"], record["runtime"]) == (5, 0.5, 1.25)
    language = record["languages"]["eng_Latn-isl_Latn"]
    assert language["score"] == report.score == record["score"]
    assert language["ci"]["nasca"] == list(report.ci["nasca"])
    assert language["signature"] == report.signature
    assert len(language["per_layer"]["nasca"]) == 3
    assert len(language["per_pair"]["nasca"]) == 9


def test_it_is_read_in_step_order_and_the_last_of_a_step_counts(tmp_path: Path) -> None:
    history = History(tmp_path)
    assert history.read() == []
    for step, mark in [(0, "a"), (20, "b"), (10, "c"), (20, "d")]:
        history.append({"step": step, "mark": mark})
    assert [(record["step"], record["mark"]) for record in history.read()] == [(0, "a"), (10, "c"), (20, "d")]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 60))
def test_a_line_that_a_crash_cut_short_costs_that_line_alone(cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        history = History(folder)
        for step in (0, 10, 20):
            history.append({"step": step, "text": "þæð"})
        content = history.path.read_bytes()
        history.path.write_bytes(content[: len(content) - cut])
        whole = [record["step"] for record in history.read()]
        history.append({"step": 30})
        assert [record["step"] for record in history.read()] == [*whole, 30]
        assert whole == [0, 10, 20][: len(whole)]


def test_beginning_anew_keeps_what_was_there(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.begin()
    for mark in "ab":
        history.append({"step": 0, "mark": mark})
        history.begin()
    assert history.read() == []
    assert '"a"' in (tmp_path / "neuronxa" / "scores.1.jsonl").read_text()
    assert '"b"' in (tmp_path / "neuronxa" / "scores.2.jsonl").read_text()


def test_beginning_anew_overwrites_nothing(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.append({"step": 0, "mark": "new"})
    for number in (2, 3):
        history.path.with_name(f"scores.{number}.jsonl").write_text("old")
    history.begin()
    history.append({"step": 0, "mark": "newer"})
    history.begin()
    texts = {path.name: path.read_text() for path in history.path.parent.iterdir()}
    assert texts["scores.2.jsonl"] == texts["scores.3.jsonl"] == "old"
    assert '"new"' in texts["scores.1.jsonl"]
    assert '"newer"' in texts["scores.4.jsonl"]
