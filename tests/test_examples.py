"""Every example runs as a reader would run it, on a model small enough for a test."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from neuronxa_callback.text.embedded import embedded
from tests.support import make_tokenizer, score_lines, tiny_llama

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


def test_quickstart(model: str, tmp_path: Path) -> None:
    run("quickstart.py", model, str(tmp_path), "4")
    assert [record["step"] for record in score_lines(tmp_path)] == [0, 1, 2, 3, 4]


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
    assert output.count("chance 0.0") == output.count(", p ") == 6
    assert output.count("method:nasca+navca+mexa|n:100") == 2


def test_plain_pytorch(model: str, tmp_path: Path) -> None:
    output = run("plain_pytorch.py", model, str(tmp_path), "4")
    lines = score_lines(tmp_path)
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    told = [f"step {line['step']}: NASCA {line['score']['nasca']:.4f}, " for line in lines]
    assert all(sentence in output for sentence in told)
    assert len({line["score"]["nasca_rank"] for line in lines}) > 1


def test_own_quality_metric(model: str, tmp_path: Path) -> None:
    run("own_quality_metric.py", model, str(tmp_path), "2")
    records = score_lines(tmp_path)
    assert [record["step"] for record in records] == [0, 1, 2]
    for record in records:
        assert 0 <= record["quality_score"]["numbers_kept"] <= 1
        assert record["quality_score"].keys() == {"chrf", "numbers_kept"}


def test_resume(model: str, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "resume.py"), model, str(tmp_path), "200"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 240
        while not (tmp_path / "checkpoint-20" / "trainer_state.json").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert f"from {tmp_path / 'checkpoint-'}" in run("resume.py", model, str(tmp_path), "200")
    assert [record["step"] for record in score_lines(tmp_path)] == list(range(0, 201, 20))


def test_every_example_is_in_the_list() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"`{example.name} " in listed for example in EXAMPLES.glob("*.py"))


def test_examples_are_short() -> None:
    for example in EXAMPLES.glob("*.py"):
        assert len(example.read_text().splitlines()) < 60
