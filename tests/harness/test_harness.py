"""The commands of docs/how-to/against-benchmarks.md, run to their end on a tiny model with a task of our own."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import shlex
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
from scipy import stats
from typer.testing import CliRunner

from neuronxa_callback.cli import app
from tests.docs.pages import blocks_of
from tests.support import ROOT, make_tokenizer, raw_lines, tiny_llama

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(
        importlib.util.find_spec("lm_eval") is None,
        reason="lm-evaluation-harness is not installed; `make test-harness` installs it and runs this test",
    ),
]

PAGE = ROOT / "docs" / "how-to" / "against-benchmarks.md"
PROGRAMS = {"python": [sys.executable], "lm_eval": [sys.executable, "-m", "lm_eval"]}


def commands() -> list[list[str]]:
    """The page's second block of commands."""
    block = list(blocks_of(PAGE, "bash"))[1].code.replace("\\\n", " ")
    return [shlex.split(line) for line in block.splitlines()]


def test_a_task_of_our_own(tmp_path: Path) -> None:
    model = tmp_path / ".models" / "smollm2-135m-instruct"
    tiny_llama(max_position_embeddings=4096).save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    make, evaluate, score, correlate = commands()
    make[1] = str(ROOT / make[1])
    for program, *arguments in (make, [*evaluate, "--limit", "20"]):
        done = subprocess.run(
            [*PROGRAMS[program], *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
                "HF_DATASETS_CACHE": str(tmp_path),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    place = correlate.index("neuronxa-scores") + 1
    (results,) = tmp_path.glob(correlate[place])
    correlate[place] = str(results)
    with chdir(tmp_path):
        for _, *arguments in ([*score, "--methods", "nasca"], [*correlate, "--format", "csv"]):
            shown = CliRunner().invoke(app, arguments)
            assert shown.exit_code == 0, shown.output
    (row,) = csv.DictReader(io.StringIO(shown.stdout))
    found = json.loads(results.read_text(encoding="utf-8"))["results"]
    accuracy = {name.removeprefix("translation_"): values["acc_norm,none"] for name, values in found.items()}
    aligned = {
        line["lang"]: line["score"]["nasca"] for line in raw_lines(tmp_path / "neuronxa-scores" / "scores.jsonl")
    }
    assert (row["task"], row["n"], len(accuracy)) == ("translation", "4", 4)
    r = stats.pearsonr([aligned[code] for code in accuracy], list(accuracy.values())).statistic
    assert float(row["Pearson r"]) == pytest.approx(r)
