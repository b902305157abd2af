"""The recipe runs from its smoke config, on a model small enough for a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from neuronxa_callback.history import History
from neuronxa_callback.pairs import embedded
from tests.conftest import make_tokenizer, tiny_llama

RECIPES = Path(__file__).parent.parent / "recipes"


def run(model: Path, output_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    command = [sys.executable, str(RECIPES / "icelandic_sft.py"), "--config", str(RECIPES / "configs" / "smoke.yaml")]
    overrides = ["--model_name_or_path", str(model), "--output_dir", str(output_dir)]
    return subprocess.run([*command, *overrides, *arguments], capture_output=True, text=True, timeout=300, check=False)


def tsv(path: Path, set_name: str) -> str:
    columns = embedded(set_name)
    rows = zip(columns["eng_Latn"], columns["isl_Latn"], strict=True)
    path.write_text("\n".join(["eng_Latn\tisl_Latn", *("\t".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return str(path)


def test_it_trains_scores_and_saves(tmp_path: Path) -> None:
    done = run(tmp_path / "model", tmp_path / "run", "--train_file", tsv(tmp_path / "train.tsv", "demo_train.tsv"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert [record["step"] for record in History(tmp_path / "run").read()] == [0, 3, 6]
    assert (tmp_path / "run" / "adapter_model.safetensors").exists()


def test_a_leak_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path / "model", tmp_path / "run", "--train_file", tsv(tmp_path / "train.tsv", "heldout.tsv"))
    assert done.returncode != 0
    assert "200 held-out sentences are in the training text" in done.stderr
