"""The commands on the pages run, on small parts in the place of the reader's own, or stand in a list with the reason.

A command of `neuronxa` runs as it stands there, in a folder where what it names has been prepared. Of a command that is
not run, the options are read all the same, and the files and targets that it names exist.
"""

from __future__ import annotations

import re
import shlex
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from neuronxa_callback.cli import app
from tests.docs.pages import blocks_of, pages_with
from tests.support import ROOT, make_tokenizer, tiny_llama
from tests.survey.knowledge.test_measure import write_prompts

TUTORIAL = "docs/tutorial.md"  # its commands are run by test_tutorial.py
# How a command that is not run here begins, why not, and the test that runs it or what it is made of.
NOT_RUN = {
    "make ": ("it sets up a machine; CI begins with the targets", ".ci/run"),
    "pip install ": ("it installs what runs these tests", ".ci/run"),
    "hf ": ("it needs an account of the model hub", "tests/quality/test_comet_process.py"),
    "neuronxa comet ": ("it fetches packages and gigabytes of weights", "tests/quality/test_comet_process.py"),
    "accelerate launch --multi_gpu ": ("it starts processes", "tests/survey/test_processes.py"),
    "torchrun ": ("it starts processes", "tests/survey/test_processes.py"),
    "accelerate launch --config_file ": ("it starts processes", "tests/recipes/test_accelerate.py"),
    "lm_eval ": ("it is another program, and reads data sets of the hub", "tests/harness/test_harness.py"),
    "python examples/harness/": ("it writes what lm_eval reads", "tests/harness/test_harness.py"),
    "neuronxa correlate neuronxa-scores results/": ("it reads what lm_eval wrote", "tests/harness/test_harness.py"),
    "neuronxa score meta-llama/": ("it reads a model of the hub", "tests/survey/test_measure.py"),
    "python recipes/": ("it reads corpora that are not there", "tests/recipes/test_recipes.py"),
    "neuronxa sweep ": ("it translates 100 sentences at each checkpoint", "tests/training/test_sweep.py"),
    "mkdir ": ("it fetches corpora", "tests/test_evidence.py"),
    "git ": ("it fetches corpora", "tests/test_evidence.py"),
    "mv ": ("it fetches corpora", "tests/test_evidence.py"),
    "gunzip ": ("it fetches corpora", "tests/test_evidence.py"),
    "cp ": ("it fetches corpora", "tests/test_evidence.py"),
    "cd ": ("it fetches corpora", "tests/test_evidence.py"),
    "(printf ": ("it fetches corpora", "tests/test_evidence.py"),
}
RUNNER = CliRunner()


def commands_of(page: str) -> list[str]:
    """The commands of a page, a line each; a backslash at its end joins a line with the next."""
    text = "".join(block.code for block in blocks_of(ROOT / page, "bash")).replace("\\\n", " ")
    lines = [part for line in text.splitlines() if not line.startswith("#") for part in line.split(" && ")]
    return [" ".join(line.split()) for line in lines if line.strip()]


COMMANDS = {command: page for page in pages_with("bash") if page != TUTORIAL for command in commands_of(page)}
LISTED = {command: start for command in COMMANDS for start in NOT_RUN if command.startswith(start)}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands name."""
    folder: Path = tmp_path_factory.mktemp("reader")
    for seed, name in enumerate((".models/smollm2-135m-instruct", "BEFORE", "AFTER", "one")):
        tiny_llama(seed, max_position_embeddings=1024).save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    for name in ("OUTPUT_DIR", "RUN_A", "RUN_B", "RUN_C"):
        shutil.copytree(ROOT / "tests" / "golden" / "run", folder / name)
    write_prompts(folder / "BMLAMA53", 300)
    shutil.copy(ROOT / "tests" / "data" / "lm_eval" / "results.json", folder)  # of a model named "one"
    transfer = folder / "runs" / "xnli-llama-3.1-8b" / "xnli.csv"  # what recipes/transfer_xnli.py leaves
    transfer.parent.mkdir(parents=True)
    transfer.write_text("task,lang,value\nxnli,deu_Latn,0.5\nxnli,fra_Latn,0.6\nxnli,spa_Latn,0.4\n")
    for command in (["score", "one", "--n", "30", "--methods", "nasca,mexa"], ["knowledge", "one", "BMLAMA53"]):
        with chdir(folder):
            done = RUNNER.invoke(app, command)
        assert done.exit_code == 0, done.output
    return folder


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in LISTED])
def test_a_command_runs(command: str, reader: Path) -> None:
    program, *arguments = shlex.split(command)
    assert program == "neuronxa", f"{COMMANDS[command]} has a command that nothing runs, and NOT_RUN has no reason"
    with chdir(reader):
        done = RUNNER.invoke(app, arguments)
    assert done.exit_code == 0, done.output + done.stderr
    assert done.stdout.strip()


@pytest.mark.unit
@pytest.mark.parametrize("command", LISTED)
def test_a_command_that_is_not_run_is_one_that_there_is(command: str) -> None:
    for word in shlex.split(command, comments=True):
        if re.match(r"(recipes|benchmarks|scripts|tests)/", word):
            assert (ROOT / word).exists(), word
    if "neuronxa_callback " in command or command.startswith("neuronxa "):
        options_are_known(re.sub(r"^.*?\bneuronxa(_callback)? ", "", command))
    if command.startswith("make "):
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = [word for word in shlex.split(command)[1:] if "=" not in word]
        assert [target for target in targets if f"\n{target}:" not in makefile] == []


def options_are_known(arguments: str) -> None:
    """Read a command's arguments as the command line does, and go no further."""
    found: Any = get_command(app)
    words = shlex.split(arguments)
    while hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    found.make_context("neuronxa", words)


@pytest.mark.unit
def test_the_list_names_tests_that_there_are() -> None:
    assert [by for _, by in NOT_RUN.values() if not (ROOT / by).exists()] == []
    assert [start for start in NOT_RUN if start not in LISTED.values()] == []
