"""The release: wheel and sdist hold what they must, work where they are installed, and bear one version."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from neuronxa_callback import __version__
from tests.support import ROOT

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    # hatchling of the development environment builds; `make dist` lets pip fetch the one that pyproject.toml asks for.
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_names_say_the_version(dist: Path) -> None:
    wheel, sdist = f"neuronxa_callback-{__version__}-py3-none-any.whl", f"neuronxa_callback-{__version__}.tar.gz"
    assert sorted(path.name for path in dist.iterdir()) == [wheel, sdist]


def test_the_sdist_holds_what_the_repository_tracks(dist: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("these are the files of an sdist, so nothing says what the repository tracks")
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True)
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        held = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    expected = {name for name in tracked.stdout.splitlines() if not name.startswith((".ci/", ".github/"))}
    assert expected - held == set()
    # A file that is new, and not yet tracked, may be there.
    assert {name.split("/")[0] for name in held} - {name.split("/")[0] for name in expected} == {"PKG-INFO"}


def test_the_wheel_holds_the_package_and_no_more(dist: Path) -> None:
    package = ROOT / "neuronxa_callback"
    files = {path.relative_to(ROOT).as_posix() for path in package.rglob("*") if path.is_file()}
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if not name.split("/")[0].endswith(".dist-info")}
    assert held == {name for name in files if "__pycache__" not in name}
    assert {"neuronxa_callback/py.typed", "neuronxa_callback/data/heldout.tsv"} <= held


def test_what_is_installed_works(dist: Path, tmp_path: Path) -> None:
    """Beside this environment's packages; `make dist` installs wheel and sdist into environments with nothing else."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(tmp_path), str(next(dist.glob("*.whl")))], check=True)
    smoke = [sys.executable, str(ROOT / "scripts" / "smoke.py"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(smoke, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"neuronxa-callback {__version__}: NASCA 0.")


def test_the_pages_say_the_version() -> None:
    """A version under development, such as 0.3.0.dev0, has its final number there."""
    number = re.match(r"[\d.]*\d", __version__)
    assert number is not None
    changelog = re.search(r"^## \[(\S+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert changelog is not None
    assert changelog[1] == number[0]
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert citation is not None
    assert citation[1] == number[0]
