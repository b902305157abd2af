from __future__ import annotations

import json
from pathlib import Path

import datasets
import pandas as pd
import pytest

from neuronxa_callback import ParallelPairs
from tests.text.samples import CODES, EXPECTED, ROWS, refused, write

pytestmark = pytest.mark.unit

OBJECTS = [dict(zip(CODES, row, strict=True)) for row in ROWS]
kinds = pytest.mark.parametrize("kind", ["json", "jsonl"])


@kinds
@pytest.mark.parametrize("indent", [None, 1])
def test_an_array(kind: str, indent: int | None, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.{kind}", json.dumps(OBJECTS, indent=indent, ensure_ascii=False))
    assert ParallelPairs.load(path) == EXPECTED


@kinds
def test_lines(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"l.{kind}", "\n".join(map(json.dumps, OBJECTS)) + "\n")
    assert ParallelPairs.load(path) == EXPECTED


@kinds
@pytest.mark.parametrize("lines", [False, True])
def test_what_pandas_and_datasets_write_comes_back(kind: str, lines: bool, tmp_path: Path) -> None:
    path = tmp_path / f"p.{kind}"
    pd.DataFrame(OBJECTS).to_json(path, orient="records", lines=lines, force_ascii=False)
    assert ParallelPairs.load(path) == EXPECTED
    datasets.Dataset.from_list(OBJECTS).to_json(path, lines=lines)
    assert ParallelPairs.load(path) == EXPECTED


@kinds
def test_a_fault_in_an_array_has_its_line(kind: str, tmp_path: Path) -> None:
    text = json.dumps(OBJECTS, indent=1, ensure_ascii=False)
    missing = write(tmp_path / f"m.{kind}", text.replace('  "eng_Latn": "A red door opened.",\n', ""))
    refused(rf"m\.{kind}, line 6, holds None where the eng_Latn sentence should be", missing)
    refused(rf"c\.{kind}, line 4, is not JSON \(Expecting", write(tmp_path / f"c.{kind}", text.replace('.",', '."')))
    refused(rf"n\.{kind}, line 1, is not JSON \(no ','", write(tmp_path / f"n.{kind}", "[{} {}]"))
    refused(
        rf"s\.{kind}, line 3, is not a JSON object; write one object per pair",
        write(tmp_path / f"s.{kind}", '[\n{},\n"x"]'),
    )
    refused(rf"e\.{kind}, line 1, is not JSON", write(tmp_path / f"e.{kind}", "["))
    refused(rf"d\.{kind}, line 1, is not JSON \(nested too deeply\)", write(tmp_path / f"d.{kind}", "[" * 100_000))


@kinds
@pytest.mark.parametrize("behind", ['{"eng_Latn": "A.", "isl_Latn": "B."}', "]", "[]", ","])
def test_text_behind_an_array(kind: str, behind: str, tmp_path: Path) -> None:
    text = json.dumps(OBJECTS, indent=1, ensure_ascii=False)
    lines = text.count("\n") + 1
    path = write(tmp_path / f"b.{kind}", f"{text}\n{behind}\n")
    refused(rf"b\.{kind}, line {lines + 1}, is not JSON \(text after the array's '\]'\); correct", path)
    assert ParallelPairs.load(path, n=2).source == EXPECTED.source[:2]  # only what is read is checked
    assert ParallelPairs.load(write(path, f"\n{text}\r\n \t\n")) == EXPECTED
    refused(rf"b\.{kind}, line {lines - 1}, is not JSON \(a ',' before '\]'\)", write(path, text[:-2] + ",\n]"))


@kinds
def test_one_object_is_named(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"o.{kind}", json.dumps({"version": 1, "data": OBJECTS}, indent=1))
    refused(rf"o\.{kind} is one JSON object with the keys version, data; write an array of objects or one", path)


def test_no_pairs(tmp_path: Path) -> None:
    refused(r"n\.json holds no pairs", write(tmp_path / "n.json", "[]"))
    refused(r"n\.json holds no pairs", write(tmp_path / "n.json", ""))
