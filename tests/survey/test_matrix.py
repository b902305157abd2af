"""`neuronxa matrix`: every two languages, each encoded once."""

from __future__ import annotations

import csv
import io
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.cli import app
from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.matrix import square_tables
from neuronxa_callback.survey.records import ScoreLine
from tests.support import make_tokenizer, raw_lines, tiny_llama

RUNNER = CliRunner()
LANGUAGES = ("isl_Latn", "deu_Latn", "fra_Latn")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("model")
    tiny_llama().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def command(model: Path, output: Path, *options: str) -> list[str]:
    fixed = ["--langs", ",".join(LANGUAGES), "--n", "20", "--methods", "nasca,cka", "--output", str(output)]
    return ["matrix", str(model), *fixed, *options]


def test_every_pair_scores_what_the_evaluator_says(model: Path, tmp_path: Path) -> None:
    done = RUNNER.invoke(app, command(model, tmp_path, "--format", "csv"))
    assert done.exit_code == 0, done.output
    found = {(row["language"], row["other"], row["method"]): row for row in csv.DictReader(io.StringIO(done.stdout))}
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    for first, second in combinations(LANGUAGES, 2):
        pair = ParallelPairs.load(f"{first}-{second}", n=20)
        report = NeuronXAEvaluator(pair, ("nasca", "cka"))(loaded, tokenizer)
        for method, score in report.score.items():
            row = found.pop((first, second, method))
            assert float(row["score"]) == pytest.approx(score, abs=1e-12)
            assert float(row["chance"]) == pytest.approx(report.chance[method], abs=1e-12)
            assert float(row["p"]) == report.p_value[method]
            assert f"|pair:{first}-{second}|" in row["signature"]
    assert not found
    assert not (tmp_path / "encoded").exists()


def test_each_language_is_encoded_once_and_a_stopped_matrix_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[tuple[str, ...]] = []
    encode = NeuronXAEvaluator.encode

    def counted(self: Any, decoder: Any, sentences: tuple[str, ...], *more: Any) -> Any:
        if len(encoded) == 2 and len(raw_lines(tmp_path / "matrix.jsonl")) == 1:
            encoded.append(())
            raise KeyboardInterrupt
        encoded.append(sentences)
        return encode(self, decoder, sentences, *more)

    monkeypatch.setattr(NeuronXAEvaluator, "encode", counted)
    assert RUNNER.invoke(app, command(model, tmp_path)).exit_code != 0
    assert len(raw_lines(tmp_path / "matrix.jsonl")) == 1
    assert len(list((tmp_path / "encoded").rglob("*.safetensors"))) == 2
    done = RUNNER.invoke(app, command(model, tmp_path, "--format", "json"))
    assert done.exit_code == 0, done.output
    assert len([sentences for sentences in encoded if sentences]) == len(set(encoded) - {()}) == 3
    keys = [record["key"] for record in raw_lines(tmp_path / "matrix.jsonl")]
    assert len(keys) == len(set(keys)) == 3
    fresh = RUNNER.invoke(app, command(model, tmp_path / "unbroken", "--format", "json"))
    assert json.loads(done.stdout) == json.loads(fresh.stdout)


def test_the_square_is_symmetric(model: Path, tmp_path: Path) -> None:
    done = RUNNER.invoke(app, command(model, tmp_path, "--format", "markdown"))
    assert done.exit_code == 0, done.output
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    header, rows = lines[0], {line[0]: line[1:] for line in lines[2:5]}
    assert header == ["language", *LANGUAGES]
    assert rows["isl_Latn"][1] == rows["deu_Latn"][0] != ""
    assert rows["fra_Latn"][:2] == [rows["isl_Latn"][2], rows["deu_Latn"][2]]
    assert "Signature: method:nasca+cka|n:20" in done.stdout


@pytest.mark.parametrize(
    ("langs", "message"),
    [
        ("isl_Latn", "a matrix needs two languages; isl_Latn is one"),
        ("isl_Latn,fao_Latn", "embedded has no fao_Latn"),
        ("isl_Latn,xx", "'xx' is not a FLORES-200 language code"),
    ],
)
def test_bad_languages(langs: str, message: str, model: Path, tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["matrix", str(model), "--langs", langs, "--output", str(tmp_path)])
    assert done.exit_code == 1
    assert message in done.stderr.replace("\n", " ")


def test_what_lies_in_the_output_folder_stays(model: Path, tmp_path: Path) -> None:
    (tmp_path / "encoded").mkdir()
    (tmp_path / "encoded" / "mine.txt").write_text("thesis")
    assert RUNNER.invoke(app, command(model, tmp_path)).exit_code == 0
    assert [path.name for path in (tmp_path / "encoded").iterdir()] == ["mine.txt"]


def test_a_star_says_what_is_above_chance_after_correction() -> None:
    languages = ("isl_Latn", "deu_Latn", "fra_Latn")
    p_values = {("isl_Latn", "deu_Latn"): 0.01, ("isl_Latn", "fra_Latn"): 0.03, ("deu_Latn", "fra_Latn"): 0.04}
    records = [
        ScoreLine(
            model="m",
            pivot=a,
            lang=b,
            score={"nasca": 0.5},
            p_value={"nasca": p},
            signature=Signature.of(n=20),
            key=Signature(),
        )
        for (a, b), p in p_values.items()
    ]
    (table,) = square_tables(records, [])
    assert table.rows == [
        [languages[0], None, "0.5000*", "0.5000"],
        [languages[1], "0.5000*", None, "0.5000"],
        [languages[2], "0.5000", "0.5000", None],
    ]
