"""Every example runs as a reader would run it, on a model small enough for a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from neuronxa_callback.pairs import embedded
from tests.conftest import make_tokenizer, tiny_llama

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_sft_4bit(model: str, tmp_path: Path) -> None:
    run("sft_4bit.py", model, str(tmp_path), "4")
    assert (tmp_path / "neuronxa" / "scores.jsonl").read_text().count('"step"') == 5


def test_best_model_by_alignment(model: str, tmp_path: Path) -> None:
    text = embedded("heldout.tsv")
    rows = zip(text["eng_Latn"], text["isl_Latn"], strict=True)
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("\n".join(["eng_Latn\tisl_Latn", *("\t".join(row) for row in rows)]) + "\n", encoding="utf-8")
    output = run("best_model_by_alignment.py", model, str(pairs), str(tmp_path / "out"), "10")
    assert "best: step" in output


def test_score_without_trainer(model: str) -> None:
    output = run("score_without_trainer.py", model, "eng_Latn-fra_Latn", "deu_Latn-spa_Latn")
    assert output.count("p by chance") == 6
    assert output.count("method:nasca+navca+mexa|n:100") == 2


def test_examples_are_short() -> None:
    for example in EXAMPLES.glob("*.py"):
        assert len(example.read_text().splitlines()) < 60
