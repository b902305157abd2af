"""The commands about COMET and what commands import; the other commands are tested beside their rooms."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from neuronxa_callback.cli import app
from neuronxa_callback.quality.comet import environment as comet_environment
from tests.support import loaded_by_transformers, make_tokenizer, tiny_llama


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def loaded_by(*commands: list[str]) -> set[str]:
    """The modules that are loaded after these commands, in a process of their own."""
    code = f"""
import sys
from neuronxa_callback.cli import app
for command in {commands!r}:
    app(command, standalone_mode=False)
print()
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


class TestImports:
    def test_help_imports_neither_torch_nor_transformers(self) -> None:
        top: Any = get_command(app)
        names = [[name] for name in top.commands] + [["comet", name] for name in top.commands["comet"].commands]
        assert len(names) == 15
        loaded = loaded_by(["--help"], *([*name, "--help"] for name in names))
        assert "neuronxa_callback.cli.survey" in loaded
        assert not loaded & {"torch", "transformers", "scipy", "matplotlib", "huggingface_hub", "numpy"}

    def test_a_score_in_float32_imports_no_bitsandbytes(self, tmp_path: Path) -> None:
        tiny_llama().save_pretrained(tmp_path / "model")
        make_tokenizer().save_pretrained(tmp_path / "model")
        places = [str(tmp_path / "model"), "--output", str(tmp_path / "out")]
        loaded = loaded_by(["score", *places, "--langs", "isl_Latn", "--n", "4", "--dtype", "float32"])
        assert (tmp_path / "out" / "scores.jsonl").exists()
        assert "torch" in loaded
        heavy = {"bitsandbytes", "peft", "datasets", "trl", "tensorboard", "scipy.stats", "matplotlib"}
        assert not loaded & (heavy - loaded_by_transformers())

    def test_what_reads_scores_imports_neither_torch_nor_transformers(self, tmp_path: Path) -> None:
        numbers = {
            "signature": "method:nasca|n:10",
            "score": {"nasca": 0.5},
            "per_layer": {"nasca": [0.25, 0.75]},
        }
        run = {"format": 3, "step": 0, "score": {"nasca": 0.5}, "languages": {"eng_Latn-isl_Latn": numbers}}
        (tmp_path / "neuronxa").mkdir()
        lines = "".join(json.dumps(run | {"step": step}) + "\n" for step in (0, 10))
        (tmp_path / "neuronxa" / "scores.jsonl").write_text(lines)
        survey, results = tmp_path / "scores.jsonl", tmp_path / "results.csv"
        line = {
            "format": 3,
            "model": "tiny",
            "pivot": "eng_Latn",
            "corpus": "embedded",
            "key": "model:tiny|adapter:|load:auto|quantised:|weights:0",
            **numbers,
        }
        codes = ("isl_Latn", "fra_Latn", "spa_Latn", "deu_Latn")
        survey.write_text(
            "".join(
                json.dumps(line | {"lang": code, "score": {"nasca": 0.2 + place / 10}}) + "\n"
                for place, code in enumerate(codes)
            )
        )
        results.write_text(
            "task,lang,value\n" + "".join(f"xnli,{code},0.{place}\n" for place, code in enumerate(codes))
        )
        loaded = loaded_by(["page", str(tmp_path)], ["report", str(tmp_path)], ["correlate", str(survey), str(results)])
        assert (tmp_path / "neuronxa" / "page.html").exists()
        assert {"neuronxa_callback.training.page", "neuronxa_callback.survey.downstream"} <= loaded
        assert not loaded & {"torch", "transformers", "sacrebleu", "huggingface_hub", "datasets"}

    def test_the_process_of_a_command_spares_the_collector_what_the_imports_leave(self) -> None:
        code = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count() > 0, gc.get_threshold()[0]))
from neuronxa_callback.cli import run
sys.argv = ["neuronxa", "--help"]
run()
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "True 50000"


class TestCheck:
    @pytest.mark.parametrize("name", ["comet", "cometkiwi"])
    def test_it_scores_two_sentences(self, name: str, with_comet: None, comet_models: Path) -> None:
        code, output = run("comet", "check", str(comet_models / name))
        assert code == 0, output
        assert "model:" in output
        references = int(name == "comet")
        assert re.search(rf"^Python3\.1\d\.\d+\|Comet2\.2\.7\|fp32\|\S+\|r{references}$", output, re.M)
        assert output.count("The harbour is frozen.") == 2

    def test_what_the_hub_refuses(self, with_comet: None, hub_says: Callable[[str], None]) -> None:
        hub_says("GatedRepo")
        code, output = run("comet", "check", "Unbabel/wmt22-cometkiwi-da")
        assert code == 1
        assert "Error: Unbabel/wmt22-cometkiwi-da is gated: accept its licence at" in output

    def test_without_an_environment(self, monkeypatch: pytest.MonkeyPatch, comet_models: Path) -> None:
        monkeypatch.setattr(comet_environment, "comet_works_here", lambda: False)
        code, output = run("comet", "check", str(comet_models / "comet"))
        assert code == 1
        assert "`neuronxa comet setup` makes one" in output

    def test_an_unknown_device(self, comet_models: Path) -> None:
        code, output = run("comet", "check", str(comet_models / "comet"), "--device", "tpu")
        assert code == 1
        assert "comet_device='tpu' is unknown" in output


class TestSetup:
    def test_it_says_how_its_environment_is_found(self, comet_python: Path) -> None:
        environment = comet_python.parent.parent
        if not (environment / comet_environment.READY).exists():
            pytest.skip("COMET is in the training interpreter here")
        code, output = run("comet", "setup", "--path", str(environment))
        assert code == 0
        assert f"export NEURONXA_COMET_PYTHON={comet_python}" in output

    def test_a_folder_that_is_in_use(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("")
        code, output = run("comet", "setup", "--path", str(tmp_path))
        assert code == 1
        assert "is in use and no virtual environment; choose another --path" in output
