"""`recipes/knowledge_bmlama.py`: knowledge and alignment of one model, and their correlation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from tests.support import ROOT, make_tokenizer, raw_lines, tiny_llama
from tests.survey.knowledge.test_measure import FACTS, write_prompts

pytestmark = pytest.mark.recipe


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("bmlama")
    tiny_llama().save_pretrained(folder / "one")
    make_tokenizer().save_pretrained(folder / "one")
    write_prompts(folder / "BMLAMA53")
    return folder


def run(places: Path, *more: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "recipes/knowledge_bmlama.py", "--model", places / "one"]
    command += ["--prompts", places / "BMLAMA53", "--pairs", "embedded", "--sentences", 20]
    return subprocess.run(
        [*map(str, command), *map(str, more)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", **environment},
        check=False,
    )


def test_it_runs_to_its_page_and_goes_on(places: Path) -> None:
    output = places / "run"
    done = run(places, "--output_dir", output)
    assert done.returncode == 0, done.stderr
    known = {line["lang"]: line["accuracy"] for line in raw_lines(output / "knowledge.jsonl")}
    aligned = {line["lang"]: line["score"]["nasca"] for line in raw_lines(output / "scores.jsonl")}
    assert next(iter(known)) == "eng_Latn"
    assert aligned.keys() == known.keys() - {"eng_Latn"}
    r = stats.pearsonr(list(aligned.values()), [known[code] for code in aligned]).statistic
    page = (output / "knowledge.md").read_text(encoding="utf-8")
    assert f"| nasca | eng\\_Latn | BMLAMA53, {FACTS} facts | 4 | {r:.4f} |".replace("\\", "") in page.replace("\\", "")
    assert f"Page: {output / 'knowledge.md'}" in done.stdout
    lines = (output / "knowledge.jsonl").read_bytes(), (output / "scores.jsonl").read_bytes()
    again = run(places, "--output_dir", output)
    assert (output / "knowledge.md").read_text(encoding="utf-8") == page
    assert again.stdout == done.stdout
    assert ((output / "knowledge.jsonl").read_bytes(), (output / "scores.jsonl").read_bytes()) == lines


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--langs", "fao_Latn"], "BMLAMA53 has no fao_Latn; the two texts share deu_Latn, eng_Latn"),
        (
            ["--langs", "isl_Latn", "deu_Latn"],
            "share 2 languages beside eng_Latn, and three or more",
        ),
        (["--methods", "nonsense"], "method 'nonsense' is unknown"),
        (["--facts", "13"], "has 12 facts; ask for no more"),
        (["--pivot", "is"], "BMLAMA53 has no is; the two texts share"),
    ],
)
def test_bad_settings(places: Path, more: list[str], said: str) -> None:
    done = run(places, "--output_dir", places / "bad", *more)
    assert done.returncode == 1
    assert said in " ".join(done.stderr.split())
    assert len(done.stderr.splitlines()) == 1
    assert not (places / "bad").exists()


def test_a_launcher_is_refused(places: Path) -> None:
    done = run(places, "--output_dir", places / "bad", RANK="0", LOCAL_RANK="0", WORLD_SIZE="2")
    assert done.returncode == 1
    assert "This recipe runs in one process" in done.stderr
