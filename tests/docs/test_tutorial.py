"""The tutorial: its files and commands run as they stand there, and they print what the page shows.

The training runs on a tiny model in the place of SmolLM2, so that only the form of its output can be compared. The
scores before training are those of the real model.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import blocks_of
from tests.support import ROOT, make_tokenizer, processes_environment, tiny_llama

PAGE = ROOT / "docs" / "tutorial.md"
FILES = {block.title: block.code for block in blocks_of(PAGE, "python")}
COMMANDS = [line for block in blocks_of(PAGE, "bash") for line in block.code.splitlines()]
SHOWN = {block.code.split("\n")[0].split()[0]: block.code for block in blocks_of(PAGE, "text")}
# Not run here: CI makes the model with the first, these tests run in the environment, and the last is a server.
NOT_RUN = ["make model", ". .venv/bin/activate", "tensorboard --logdir runs/first-curve"]
NUMBER = re.compile(r"\d+\.\d+(?:e-\d+)?")


def run(command: str, folder: Path, **variables: str) -> str:
    """What a command prints in a folder with the page's files, in the environment of these tests."""
    for name, code in FILES.items():
        (folder / name).write_text(code, encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command.split(),
        cwd=folder,
        env=processes_environment(PATH=path, HF_HUB_OFFLINE="1", **variables),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_command_is_run_or_listed() -> None:
    assert [command for command in COMMANDS if command not in NOT_RUN] == [
        "python score.py",
        "python first_curve.py",
        "neuronxa page runs/first-curve",
    ]
    assert [command for command in NOT_RUN if command not in COMMANDS] == []
    assert sorted(FILES) == ["first_curve.py", "score.py"]
    assert sorted(SHOWN) == ["NASCA", "The", "step"]


def test_the_scores_before_training(smollm_path: Path, tmp_path: Path) -> None:
    """To 0.005: rounding differs between CPUs."""
    (tmp_path / ".models").symlink_to(smollm_path.parent)
    printed = run("python score.py", tmp_path)
    assert NUMBER.sub("0", printed) == NUMBER.sub("0", SHOWN["NASCA"])
    found, shown = ([float(number) for number in NUMBER.findall(text)] for text in (printed, SHOWN["NASCA"]))
    assert found == pytest.approx(shown, abs=0.005)


@pytest.mark.trainer
def test_the_training_and_its_page(tmp_path: Path) -> None:
    model = tmp_path / ".models" / "smollm2-135m-instruct"
    tiny_llama().save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    printed = run("python first_curve.py", tmp_path).splitlines()
    own = [line for line in printed if not line.startswith("{") and line.strip()]  # the Trainer prints its log
    table, shown = own[-len(SHOWN["step"].splitlines()) :], SHOWN["step"].splitlines()
    assert table[0] == shown[0]
    assert [line.split()[0] for line in table] == [line.split()[0] for line in shown]
    assert all(re.fullmatch(r"\d+ \d\.\d+ \d\.\d+", line) for line in (*table[1:], *shown[1:]))
    assert run("neuronxa page runs/first-curve", tmp_path) == SHOWN["The"]
    assert all((tmp_path / line.split()[-1]).is_file() for line in SHOWN["The"].splitlines())
    assert list((tmp_path / "runs" / "first-curve").rglob("events.out.tfevents.*"))
