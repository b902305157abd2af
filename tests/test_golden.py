"""What the package writes is what 0.1 wrote, and the lines of 0.1 can still be read; see tests/golden/make.py."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from neuronxa_callback.cli import app
from neuronxa_callback.files import read_records
from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.matrix import matrix_table
from neuronxa_callback.survey.records import RetrievalLine, ScoreLine, key_of_version_0_1
from neuronxa_callback.survey.results import read_scores
from neuronxa_callback.survey.tables import retrieval_table, score_table
from neuronxa_callback.training import page as report
from neuronxa_callback.training.history import History
from tests.golden import make
from tests.support import raw_lines

# File -> what a line's key is called in the golden file -> what it is called since.
RENAMED = {name: {"scores": "score"} for name in ("survey/scores.jsonl", "survey/matrix.jsonl")}

# What 0.1 said of r over a run as if its evaluations were independent points. It is not written since.
OF_INDEPENDENT_POINTS = {"p_value", "ci"}

# Another instruction set rounds float32 otherwise, and six training steps make more of it. Of one instruction set, the
# processors of AMD and Intel differ by 2e-6.
SAME_CPU = torch.backends.cpu.get_cpu_capability() == make.CPU
TOLERANCE = {"rel": 1e-5, "abs": 1e-6} if SAME_CPU else {"rel": 1e-3, "abs": 1e-4}

# The runtime is the machine's. When the golden files were made, p-values were Eq. 5's, intervals the bootstrap's, and
# the verdicts of the stopping rule those of a paired test.
LEFT_OUT = {"runtime", "p_value", "ci", "stopping"}
VERSION = re.compile(r"(?<=\bversion:)[^|\s]+")


def assert_holds(now: Any, golden: Any, place: str) -> None:
    """Every key of the golden record is there with its value; others may have joined it."""
    if isinstance(golden, dict):
        assert isinstance(now, dict), place
        assert not golden.keys() - now.keys(), place
        for key in golden.keys() - LEFT_OUT:
            assert_holds(now[key], golden[key], f"{place}, {key}")
    elif isinstance(golden, list):
        assert isinstance(now, list), place
        assert len(now) == len(golden), place
        for number, (ours, theirs) in enumerate(zip(now, golden, strict=True)):
            assert_holds(ours, theirs, f"{place}[{number}]")
    elif isinstance(golden, float):
        assert now == pytest.approx(golden, **TOLERANCE, nan_ok=True), place
    elif isinstance(golden, int) and isinstance(now, float):
        assert now == golden, place  # JSON has one kind of number
    elif isinstance(golden, str):
        assert comparable(now) == comparable(golden), place
    else:
        assert (type(now), now) == (type(golden), golden), place


def comparable(text: str) -> str:
    """A signature without the version and the default number of permutations, any other text as it is.

    What is called sads(nav) was called sads then.
    """
    return VERSION.sub("", text).replace("|permutations:199|", "|").replace("sads(nav)", "sads")


def golden_lines(name: str) -> list[dict[str, Any]]:
    """The lines of 0.1 with their keys of today; what a survey's line is known by is a signature now."""
    renamed = RENAMED.get(name, {})
    lines = [{renamed.get(key, key): value for key, value in line.items()} for line in raw_lines(make.GOLDEN / name)]
    for found in (found for line in lines for found in line.get("pearson", {}).values()):
        for key in OF_INDEPENDENT_POINTS:
            del found[key]
    return [line | {"key": of_model(key_of_version_0_1(line["key"]))} if "key" in line else line for line in lines]


def of_model(key: Signature) -> str:
    """A survey's key without the identity of the weights, which are sizes and times of the model's files."""
    return str(key.without(["weights"]))


def assert_same_lines(folder: Path, name: str) -> None:
    lines, golden = raw_lines(folder / name), golden_lines(name)
    for line in lines:
        if "key" in line:
            line["key"] = of_model(Signature.parse(line["key"]))
    assert len(lines) == len(golden)
    for number, (now, then) in enumerate(zip(lines, golden, strict=True), start=1):
        assert_holds(now, then, f"{name}, line {number}")


class TestWritesTheSame:
    def test_the_scores_of_a_run(self, tmp_path: Path) -> None:
        make.make_run(tmp_path)
        assert_same_lines(tmp_path, make.RUN)

    def test_the_scores_of_a_sweep(self, tmp_path: Path) -> None:
        make.make_sweep(tmp_path)
        assert_same_lines(tmp_path, make.SWEEP)

    def test_the_lines_of_surveys(self, tmp_path: Path) -> None:
        make.make_survey(tmp_path)
        for name in make.SURVEY:
            assert_same_lines(tmp_path, name)

    def test_signatures(self, tmp_path: Path) -> None:
        make.make_signatures(tmp_path)
        now, golden = (json.loads((folder / make.SIGNATURES).read_text()) for folder in (tmp_path, make.GOLDEN))
        assert_holds(now, golden, make.SIGNATURES)


class TestReadsTheLinesOf01:
    @pytest.mark.parametrize(("name", "steps"), [(make.RUN, [0, 2, 4, 6]), (make.SWEEP, [0, 2, 4])])
    def test_history(self, name: str, steps: list[int]) -> None:
        records = History((make.GOLDEN / name).parent.parent).read()
        assert [record.step for record in records] == steps

    @pytest.mark.parametrize("name", [make.RUN, make.SWEEP])
    def test_report(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "neuronxa").mkdir()
        shutil.copyfile(make.GOLDEN / name, tmp_path / "neuronxa" / "scores.jsonl")
        done = CliRunner().invoke(app, ["report", str(tmp_path)])
        assert done.exit_code == 0, done.output
        page = (tmp_path / "neuronxa" / "report" / report.PAGE).read_text(encoding="utf-8")
        lines = raw_lines(make.GOLDEN / name)
        for part, key, title in (("score", "nasca", "NASCA"), ("quality_score", "chrf", "chrF")):
            first, last = (f"{line[part][key]:.4f}" for line in (lines[0], lines[-1]))
            assert f"| {title} | {first} | {last} |" in page

    @pytest.mark.parametrize("name", make.SURVEY)
    def test_what_a_survey_has_done(self, name: str) -> None:
        keys = [key_of_version_0_1(line["key"]) for line in raw_lines(make.GOLDEN / name)]
        kind = RetrievalLine if "retrieval" in name else ScoreLine
        assert [line.key for line in read_records(make.GOLDEN / name, kind)] == keys

    def test_the_tables_of_surveys(self) -> None:
        places = [make.GOLDEN / name for name in make.SURVEY]
        scores, matrix = (list(read_records(place, ScoreLine)) for place in (places[0], places[2]))
        retrieval = list(read_records(places[1], RetrievalLine))
        raw_scores, raw_retrieval, raw_matrix = (raw_lines(make.GOLDEN / name) for name in make.SURVEY)
        table = score_table(scores[:2], [])
        assert [row[2] for row in table.rows] == [value for line in raw_scores[:2] for value in line["scores"].values()]
        accuracies = [row[5] for row in retrieval_table(retrieval[:2], [], ()).rows]
        assert accuracies[:2] == [
            line["retrieval"]["embedding"]["source->target"]["accuracy"] for line in raw_retrieval[:2]
        ]
        nasca = [row[3] for row in matrix_table(matrix, []).rows if row[2] == "nasca"]
        assert nasca == [line["scores"]["nasca"] for line in raw_matrix]

    def test_scores_to_correlate(self) -> None:
        found = read_scores(make.GOLDEN / make.SURVEY[0])
        lines = raw_lines(make.GOLDEN / make.SURVEY[0])
        assert len(found) == sum(len(line["scores"]) for line in lines)
        assert {score.score for score in found} == {value for line in lines for value in line["scores"].values()}
