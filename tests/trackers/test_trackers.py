"""One training with every tracker at once; each test reads back what the tracker itself recorded."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neuronxa_callback.quality.comet import environment as comet_environment
from neuronxa_callback.training.history import History
from tests.support import ROOT, processes_environment
from tests.trackers.readers import READERS, Recorded, trackio_rows

pytestmark = [
    pytest.mark.trainer,
    pytest.mark.once,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in READERS),
        reason="the trackers are not installed; `make test-trackers` installs them and runs these tests",
    ),
]

STEPS = [0, 2, 4, 6]


@pytest.fixture(scope="module")
def trained(comet_models: Path, comet_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("trained")
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "trackers" / "train.py", folder, comet_models / "comet", *READERS],
        cwd=folder,
        env=processes_environment(
            PYTHONPATH=":".join([str(ROOT), *sys.path]),
            WANDB_MODE="offline",
            WANDB_DIR=str(folder),
            MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db",
            TRACKIO_DIR=str(folder / "trackio"),
            COMET_START_ONLINE="0",
            COMET_OFFLINE_DIRECTORY=str(folder / "comet"),
            COMET_DISABLE_AUTO_LOGGING="1",  # it would begin an experiment of its own for MLflow's run
            **{comet_environment.VARIABLE: str(comet_python)},
        ),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def logged(trained: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((trained / "logged.json").read_text(encoding="utf-8"))
    return [entry for entry in entries if any(key.startswith("eval_") for key in entry)]


@pytest.fixture(scope="module", params=READERS)
def recorded(trained: Path, request: pytest.FixtureRequest) -> Recorded:
    return READERS[request.param](trained)


def points(logged: list[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(entry["step"], entry[key]) for entry in logged if key in entry]


def test_an_evaluation_is_one_entry_and_a_late_comet_one_more(logged: list[dict[str, Any]]) -> None:
    measured = [entry for entry in logged if "eval_nasca" in entry]
    assert [entry["step"] for entry in measured] == STEPS
    others = [entry for entry in logged if "eval_nasca" not in entry]
    assert [entry["step"] for entry in others] == STEPS
    assert all("eval_comet" in entry for entry in others)
    assert [entry["step"] for entry in logged] != sorted(entry["step"] for entry in logged)  # COMET came late
    for key in ("chrf", "nasca_best", "nasca_ci_low", "nasca_ci_high", "nasca_chance", "cka_chance"):
        assert all(f"eval_{key}" in entry for entry in measured)
    assert {"eval_nasca_rise", "eval_pearson_nasca_chrf", "eval_translation_length"} <= measured[2].keys()
    assert "eval_pearson_nasca_comet" in others[2]


def test_each_key_is_there_once_at_its_own_step(recorded: Recorded, logged: list[dict[str, Any]]) -> None:
    keys = {key for entry in logged for key in entry if key.startswith("eval_")}
    assert recorded.curves.keys() == keys
    for key in keys:
        assert dict(recorded.curves[key]) == pytest.approx(dict(points(logged, key)), rel=1e-6)
        assert len(recorded.curves[key]) == len(points(logged, key))
    assert sorted(step for step, _ in recorded.curves["eval_comet"]) == STEPS


def test_the_pictures_are_there(recorded: Recorded) -> None:
    assert recorded.pictures == {
        "neuronxa/nasca_per_layer": STEPS,
        "neuronxa/cka_per_layer": STEPS,
        "neuronxa/nasca_layer_map": [2, 6],
        "neuronxa/cka_layer_map": [2, 6],
        "neuronxa/nasca_pair_map": [2, 6],
    }


def test_the_best_step_and_the_signatures_are_there(recorded: Recorded, trained: Path) -> None:
    last = History(trained / "run").read()[-1]
    assert last.stopping is not None
    assert last.stopping.best_step not in (0, None)  # so it was written again
    facts = dict(recorded.facts)
    assert float(facts.pop("neuronxa/best")) == pytest.approx(last.stopping.best)
    assert int(facts.pop("neuronxa/best_step")) == last.stopping.best_step
    assert facts.pop("neuronxa/metric") == "nasca"
    assert facts == {f"neuronxa/signature_{name}": str(pair.signature) for name, pair in last.languages.items()}


def test_trackio_has_one_row_for_an_evaluation_and_one_for_a_late_comet(trained: Path) -> None:
    rows = [(step, set(row)) for step, row in trackio_rows(trained)]
    assert [step for step, keys in rows if "eval/nasca" in keys] == STEPS
    assert [step for step, keys in rows if "eval/comet" in keys and "eval/nasca" not in keys] == STEPS
    assert len([step for step, keys in rows if any(key.startswith("eval/") for key in keys)]) == 2 * len(STEPS)
