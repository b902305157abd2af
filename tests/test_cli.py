"""The commands about COMET; those of the demo, the report and the sweep are tested beside their rooms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from neuronxa_callback.cli import app
from neuronxa_callback.quality.comet import environment as comet_environment


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert "Traceback" not in result.output
    return result.exit_code, result.output


class TestCheck:
    @pytest.mark.parametrize("name", ["comet", "cometkiwi"])
    def test_it_scores_two_sentences(self, name: str, with_comet: None, comet_models: Path) -> None:
        code, output = run("comet", "check", str(comet_models / name))
        assert code == 0, output
        assert "model:" in output
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
