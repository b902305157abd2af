"""Commands under two processes, as torchrun and accelerate start them, on the CPU with gloo."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from typer.testing import CliRunner

from neuronxa_callback.cli import app
from neuronxa_callback.ranks import Ranks
from neuronxa_callback.survey.records import ScoreLine
from neuronxa_callback.survey.shares import collected, share
from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.text.languages import language_codes
from tests.support import (
    ROOT,
    TORCHRUN,
    make_tokenizer,
    processes_environment,
    raw_lines,
    run_processes,
    score_lines,
    tiny_llama,
)
from tests.survey.knowledge.test_measure import write_prompts

pytestmark = pytest.mark.distributed

TEXT = embedded("heldout.tsv")
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
WIDE = "200"  # columns of the terminal
MANY = ["--n", "60", "--format", "csv"]
SWEEP = ["--quality", "chrf", "--dtype", "float32", "--pairs"]
KNOWN = ["--langs", "eng_Latn,isl_Latn,deu_Latn", "--format", "csv"]
THREE = ["--langs", "isl_Latn,deu_Latn,fra_Latn", "--n", "12", "--format", "csv"]

# Two processes take seconds to start, so they run many commands. What each process prints and encodes is noted.
SEVERAL = """
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator
from neuronxa_callback.cli import run
from neuronxa_callback.model.loading import Loader, ModelError

folder, rank = Path(sys.argv[1]), os.environ["RANK"]
encode = NeuronXAEvaluator.encode

def noted(self, decoder, sentences, *more, **options):
    with (folder / f"{name}-{rank}.encoded").open("a") as file:
        file.write(sentences[0] + "\\n")
    if name.startswith("failing") and (rank == "1" or name == "failing-on-both"):
        raise ArithmeticError("an activation is not finite")
    return encode(self, decoder, sentences, *more, **options)

def loaded(self, checkpoint):
    if name == "unloadable" and rank == "1" and checkpoint.step == 4:
        raise ModelError("checkpoint-4 is not here")
    return load(self, checkpoint)

NeuronXAEvaluator.encode = noted
load, Loader.model = Loader.model, loaded
for name, command in json.loads((folder / "commands.json").read_text()).items():
    sys.argv = ["neuronxa", *command]
    out, err = ((folder / f"{name}-{rank}.{what}").open("w") for what in ("out", "err"))
    with out, err, redirect_stdout(out), redirect_stderr(err):
        code = 0
        try:
            run()
        except SystemExit as end:
            code = end.code
    (folder / f"{name}-{rank}.code").write_text(str(code))
"""


class Ran(NamedTuple):
    """What one command did: for each process its exit code, its output, and the first sentence of what it encoded."""

    codes: list[int]
    out: list[str]
    err: list[str]
    encoded: list[list[str]]


def run_several(folder: Path, commands: dict[str, Sequence[Any]]) -> dict[str, Ran]:
    """Run commands by their names in two processes, one command after another."""
    (folder / "several.py").write_text(SEVERAL)
    (folder / "commands.json").write_text(json.dumps({name: list(map(str, c)) for name, c in commands.items()}))
    done = run_processes(folder / "several.py", folder, COLUMNS=WIDE)
    assert done.returncode == 0, done.stderr[-3000:]

    def read(name: str, what: str) -> list[str]:
        files = (folder / f"{name}-{rank}.{what}" for rank in (0, 1))
        return [file.read_text() if file.exists() else "" for file in files]

    return {
        name: Ran(
            list(map(int, read(name, "code"))),
            read(name, "out"),
            read(name, "err"),
            [text.splitlines() for text in read(name, "encoded")],
        )
        for name in commands
    }


def alone(*command: Any) -> str:
    """What one process prints."""
    done = CliRunner().invoke(app, list(map(str, command)))
    assert done.exit_code == 0, done.output
    return done.stdout


def by_key(path: Path) -> dict[str, dict[str, Any]]:
    return {line["key"]: line for line in raw_lines(path)}


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, and thirty "languages": those of the embedded set with their words in other orders."""
    folder: Path = tmp_path_factory.mktemp("processes")
    for name, seed in (("one", 0), ("other", 1)):
        tiny_llama(seed).save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    write_run(folder)
    write_prompts(folder / "BMLAMA53")
    (folder / "text").mkdir()
    columns = dict(TEXT) | {
        code: tuple(" ".join(s.split()[number % 7 :] + s.split()[: number % 7]) for s in TEXT["fra_Latn"])
        for number, code in enumerate(sorted(language_codes() - set(TEXT))[:25])
    }
    for code, sentences in columns.items():
        (folder / "text" / f"{code}.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    return folder


def write_run(folder: Path) -> None:
    """Three copies of a finished run of three checkpoints, and short sentences, one of which the third cannot read."""
    english = ["one red cat", "two big dogs", "three old men", "four new cars", "five wet ships", "six ~ birds"]
    french = ["un chat rouge", "deux grands chiens", "trois vieux", "quatre autos", "cinq bateaux", "six oiseaux"]
    rows = zip(["eng_Latn", *english], ["fra_Latn", *french], strict=True)
    (folder / "pairs.tsv").write_text("\n".join(map("\t".join, rows)), encoding="utf-8")
    tokenizer = make_tokenizer()
    for step in (2, 4, 6):
        model = tiny_llama(step)
        if step == 6:
            model.get_input_embeddings().weight.data[tokenizer.convert_tokens_to_ids("~")] = float("nan")
        for run in ("run", "run of one process", "run that fails"):
            model.save_pretrained(folder / run / f"checkpoint-{step}")
            tokenizer.save_pretrained(folder / run / f"checkpoint-{step}")


@pytest.fixture(scope="module")
def killed(places: Path) -> Path:
    """The output of a run of both processes that was killed while each had finished some languages, but not all."""
    output = places / "killed"
    command = ["neuronxa_callback", "score", places / "one", "--pairs", places / "text", *MANY, "--output", output]
    process = subprocess.Popen(
        [*TORCHRUN, "2", "-m", "--", *map(str, command)],
        cwd=ROOT,
        env=processes_environment(COLUMNS=WIDE),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    paths = output / "scores.jsonl", output / "scores.jsonl.process-1"
    while process.poll() is None and not all(path.exists() and path.read_bytes().count(b"\n") > 2 for path in paths):
        time.sleep(0.005)
    assert process.poll() is None
    for worker in psutil.Process(process.pid).children(recursive=True):
        worker.kill()
    process.kill()
    process.wait()
    with paths[1].open("ab") as file:
        file.write(b'{"model": "one", "la')  # as a kill within a write leaves it
    return output


@pytest.fixture(scope="module")
def ran(places: Path, killed: Path) -> dict[str, Ran]:
    """All commands of this module, run by two processes."""
    one, other, out = places / "one", places / "other", places / "two"
    bad = ["--output", places / "bad"]
    return run_several(
        places,
        {
            "score": ["score", one, *THREE, "--output", out],
            "again": ["score", one, *THREE, "--output", out],
            "one-language": ["score", one, "--langs", "spa_Latn", "--n", 12, "--output", places / "single"],
            "layers": ["layers", one, *THREE, "--output", out],
            "compare": ["compare", one, other, *THREE, "--output", out],
            "retrieve": ["retrieve", one, *THREE, "--output", out],
            "matrix": ["matrix", one, *THREE, "--output", out],
            "knowledge": ["knowledge", one, places / "BMLAMA53", *KNOWN, "--output", out],
            "bad-prompts": ["knowledge", one, places / "text", *bad],
            "killed": ["score", one, "--pairs", places / "text", *MANY, "--output", killed],
            "failing": ["score", one, *THREE, "--output", places / "failing"],
            "failing-on-both": ["matrix", one, *THREE, "--output", places / "failing"],
            "bad-language": ["score", one, "--langs", "fao_Latn", *bad],
            "bad-model": ["matrix", places / "none", *bad],
            "bad-format": ["retrieve", one, "--format", "html", *bad],
            "bad-option": ["score", one, "--n", 1, *bad],
            "sweep": ["sweep", places / "run", *SWEEP, places / "pairs.tsv"],
            "sweep-again": ["sweep", places / "run", *SWEEP, places / "pairs.tsv"],
            "unloadable": ["sweep", places / "run that fails", *SWEEP, places / "pairs.tsv"],
            "report": ["report", places / "none"],
            "demo": ["demo", "--output-dir", places / "demo"],
        },
    )


def test_languages_are_split_and_the_table_is_that_of_one_process(ran: dict[str, Ran], places: Path) -> None:
    commands = {
        "score": ["score", places / "one"],
        "layers": ["layers", places / "one"],
        "compare": ["compare", places / "one", places / "other"],
        "retrieve": ["retrieve", places / "one"],
        "matrix": ["matrix", places / "one"],
    }
    alike = {name: [*command, *THREE] for name, command in commands.items()}
    alike["knowledge"] = ["knowledge", places / "one", places / "BMLAMA53", *KNOWN]
    output = places / "one process"
    for name, command in alike.items():
        assert ran[name].codes == [0, 0], ran[name].err
        assert ran[name].out == [alone(*command, "--output", output), ""]
        assert ran[name].err[1] == ""
    assert files(places / "two") == files(output)
    for name in ("scores.jsonl", "retrieval.jsonl", "matrix.jsonl", "knowledge.jsonl"):
        assert by_key(places / "two" / name) == by_key(output / name)
        assert len(raw_lines(places / "two" / name)) == len(raw_lines(output / name))
    assert "the first of 2 processes" in ran["score"].err[0]
    english = TEXT["eng_Latn"][0]
    for name in ("score", "retrieve"):
        sides = [set(encoded) - {english} for encoded in ran[name].encoded]
        assert set.union(*sides) == {TEXT[code][0] for code in ("isl_Latn", "deu_Latn", "fra_Latn")}
        assert sorted(map(len, sides)) == [1, 2]
        assert not set.intersection(*sides)


def test_what_is_measured_is_not_measured_again(ran: dict[str, Ran]) -> None:
    assert ran["again"].out == ran["score"].out
    assert ran["again"].encoded == ran["layers"].encoded == [[], []]


def test_one_language_leaves_one_process_without_work(ran: dict[str, Ran], places: Path) -> None:
    assert ran["one-language"].codes == [0, 0]
    assert ran["one-language"].encoded == [[TEXT["eng_Latn"][0], TEXT["spa_Latn"][0]], []]
    assert [line["lang"] for line in raw_lines(places / "single" / "scores.jsonl")] == ["spa_Latn"]


def test_matrix_encodes_each_language_once(ran: dict[str, Ran]) -> None:
    first, second = ran["matrix"].encoded
    assert sorted(first + second) == sorted(TEXT[code][0] for code in ("isl_Latn", "deu_Latn", "fra_Latn"))
    assert first
    assert second


def test_a_killed_run_goes_on_with_what_both_processes_had_finished(
    ran: dict[str, Ran], places: Path, killed: Path
) -> None:
    table = list(csv.DictReader(io.StringIO(ran["killed"].out[0])))
    codes = [row["language"] for row in table if row["method"] == "nasca"]
    lines = [line["lang"] for line in raw_lines(killed / "scores.jsonl")]
    assert sorted(lines) == sorted(codes)
    assert len(set(codes)) == 29
    encoded = [code for its in ran["killed"].encoded for code in its if code != TEXT["eng_Latn"][0]]
    assert 0 < len(encoded) <= 29 - 6
    assert files(killed) == {"scores.jsonl"}
    # The lines of the killed run come first, and none of them was measured again.
    anew = alone("score", places / "one", "--pairs", places / "text", *MANY, "--output", places / "unbroken")
    assert ran["killed"].out[0] == anew


def test_a_failure_on_one_process_is_the_error_of_all(ran: dict[str, Ran], places: Path) -> None:
    failing = ran["failing"]
    assert failing.codes == [1, 1]
    said = "Error: process 1 failed: ArithmeticError: an activation is not finite"
    assert [text.count(said) for text in failing.err] == [1, 0]
    assert failing.out == ["", ""]
    kept = [line["lang"] for line in raw_lines(places / "failing" / "scores.jsonl")]
    assert len(kept) in (1, 2)  # the first process's share
    both = ran["failing-on-both"]
    assert both.codes == [1, 1]
    assert [text.count("Error: an activation is not finite") for text in both.err] == [1, 0]


def test_a_sweep_writes_the_lines_of_one_process(ran: dict[str, Ran], places: Path) -> None:
    output_dir, of_one = places / "run", places / "run of one process"
    assert ran["sweep"].codes == [0, 0], ran["sweep"].err
    printed = alone("sweep", of_one, *SWEEP, places / "pairs.tsv").replace(str(of_one), str(output_dir))
    tables = [text.partition("Alignment and translation quality")[2] for text in (printed, ran["sweep"].out[0])]
    assert tables[0] == tables[1] != ""
    assert ran["sweep"].out[1] == ""
    found, expected = score_lines(output_dir), score_lines(of_one)
    for line in found + expected:
        del line["runtime"]
    assert found == expected
    assert [line["step"] for line in found] == [2, 4]
    assert found[0]["quality"]
    assert ran["sweep"].err[0].count("checkpoint-6 gets no scores") == 1
    assert ran["sweep"].err[1] == ""
    encoded = [len(sentences) for sentences in ran["sweep"].encoded]
    assert encoded[0] == encoded[1] > 0  # both take part in each checkpoint
    assert ran["sweep-again"].out[0].endswith(tables[0])
    assert len(list(output_dir.rglob("events.out.tfevents.*"))) == len(list(of_one.rglob("events.out.tfevents.*")))


def test_a_checkpoint_that_one_process_cannot_load_ends_the_sweep_of_both(ran: dict[str, Ran], places: Path) -> None:
    assert ran["unloadable"].codes == [1, 1]
    assert ran["unloadable"].out[0].count("Error: process 1 failed: ModelError: checkpoint-4 is not here") == 1
    assert [line["step"] for line in score_lines(places / "run that fails")] == [2]


def test_processes_that_are_announced_and_not_there_are_named(monkeypatch: pytest.MonkeyPatch, places: Path) -> None:
    """As in a command that a script starts within a process of torchrun."""
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    done = CliRunner().invoke(app, ["score", str(places / "one")])
    assert done.exit_code == 1
    assert "the other processes that WORLD_SIZE=2 announces did not come" in done.output


@pytest.mark.parametrize(
    ("name", "codes", "message"),
    [
        ("bad-language", [1, 1], "Error: embedded has no fao_Latn"),
        ("bad-model", [1, 1], "none could not be loaded"),
        ("bad-prompts", [1, 1], "text holds no files of prompts"),
        ("bad-format", [1, 1], "format 'html' is unknown"),
        ("bad-option", [2, 0], "Invalid value for '--n'"),
        ("report", [1, 0], "none is not a folder"),
        ("demo", [1, 0], "the demo trains in one process"),
    ],
)
def test_bad_input_is_said_once(name: str, codes: list[int], message: str, ran: dict[str, Ran]) -> None:
    found = ran[name]
    assert found.codes == codes
    said = [out + err for out, err in zip(found.out, found.err, strict=True)]
    assert said[0].count(message) == 1
    assert said[1] == ""
    assert "Traceback" not in said[0]


def test_accelerate_launches_the_command_itself(places: Path) -> None:
    """Its `--multi_gpu` starts torchrun, with GPUs and without. `--cpu` would start one process."""
    options = [*THREE, "--device", "cpu", "--output"]
    command = ["--main_process_port", "0", "-m", "neuronxa_callback", "score", str(places / "one"), *options]
    done = subprocess.run(
        [*ACCELERATE, *command, str(places / "launched")],
        cwd=ROOT,
        env=processes_environment(COLUMNS=WIDE),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == alone("score", places / "one", *options, places / "one process")
    assert "the first of 2 processes" in done.stderr


@pytest.mark.unit
def test_shares_cost_about_the_same_and_leave_nothing_out() -> None:
    costs = [1, 9, 2, 3, 8, 3, 1, 1]
    shares = [share(costs, int, Ranks(rank, 3)) for rank in range(3)]
    assert sorted(cost for its in shares for cost in its) == sorted(costs)
    assert sorted(map(sum, shares)) == [9, 9, 10]
    assert share(costs, int, Ranks()) == costs


@pytest.mark.unit
def test_lines_that_a_killed_process_left_are_put_into_the_file_once(tmp_path: Path) -> None:
    def line(lang: str) -> bytes:
        fields = {"format": 3, "model": "m", "pivot": "eng_Latn", "lang": lang, "score": {"nasca": 0.5}}
        return json.dumps(fields | {"signature": "n:20", "key": f"model:m|pair:{lang}"}).encode() + b"\n"

    (tmp_path / "scores.jsonl").write_bytes(line("isl_Latn") + b'{"mod')
    (tmp_path / "scores.jsonl.process-1").write_bytes(line("isl_Latn") + line("fra_Latn"))
    (tmp_path / "scores.jsonl.process-2").write_bytes(line("deu_Latn") + b'{"mod')
    for _ in range(2):
        found = collected(tmp_path / "scores.jsonl", ScoreLine)
        assert [record.lang for record in found.values()] == ["isl_Latn", "fra_Latn", "deu_Latn"]
        assert [record["lang"] for record in raw_lines(tmp_path / "scores.jsonl")] == [
            "isl_Latn",
            "fra_Latn",
            "deu_Latn",
        ]
        assert files(tmp_path) == {"scores.jsonl"}
