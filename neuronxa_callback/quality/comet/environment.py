"""Find the Python interpreter that has COMET, and make an environment that has it.

unbabel-comet cannot be installed beside transformers 5. So it runs in its own process, and mostly in its own
environment.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata, resources
from pathlib import Path

from platformdirs import user_cache_path

VARIABLE = "NEURONXA_COMET_PYTHON"
OLDEST, NEWEST = (3, 11), (3, 12)  # the Pythons for which the pinned versions have wheels
READY = "neuronxa-comet-ready"


class CometEnvironmentError(RuntimeError):
    """No environment has COMET, or none can be made. The message says what to do."""


def default_path() -> Path:
    """Return the path of the environment in the user's cache directory."""
    return user_cache_path("neuronxa-callback") / "comet"


def find_python() -> Path:
    """Return the interpreter that has COMET.

    The interpreter that NEURONXA_COMET_PYTHON names comes first, then this one, then the one that `setup` made.

    Raises:
        CometEnvironmentError: no interpreter has COMET, or NEURONXA_COMET_PYTHON names no program.
    """
    named = os.environ.get(VARIABLE)
    if named:
        python = Path(named).expanduser()
        if not os.access(python, os.X_OK) or python.is_dir():
            raise CometEnvironmentError(f"{VARIABLE}={named} is no program; set it to a Python that has unbabel-comet.")
        return python
    if comet_works_here():
        return Path(sys.executable)
    python = python_in(default_path())
    if not (default_path() / READY).exists():
        raise CometEnvironmentError(
            "no environment has unbabel-comet; `neuronxa comet setup` makes one, "
            f"or {VARIABLE} can name a Python that has it."
        )
    return python


def comet_works_here() -> bool:
    """Return whether this interpreter has unbabel-comet and the older transformers that it needs."""
    try:
        metadata.version("unbabel-comet")
    except metadata.PackageNotFoundError:
        return False
    return int(metadata.version("transformers").split(".")[0]) < 5


def python_in(environment: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def setup(path: Path, base_python: str = sys.executable, tell: Callable[[str], None] = print) -> Path:
    """Make a virtual environment with unbabel-comet at pinned versions, unless it exists already.

    Args:
        path: the folder of the environment.
        base_python: the Python to make it with, 3.11 or 3.12.
        tell: a function that is called at each step with a few words about it.

    Returns:
        the environment's interpreter.

    Raises:
        CometEnvironmentError: the folder holds something else, the Python does not fit, or an installation failed.
    """
    requirements = resources.files("neuronxa_callback") / "data" / "comet-requirements.txt"
    fingerprint = hashlib.sha256(requirements.read_bytes()).hexdigest()
    ready, python = path / READY, python_in(path)
    if ready.exists() and ready.read_text() == fingerprint:
        tell(f"{path} is there already.")
        return python
    in_use = path.is_file() or (path.exists() and any(path.iterdir()))
    if in_use and not (path / "pyvenv.cfg").exists():
        raise CometEnvironmentError(f"{path} is in use and no virtual environment; choose another --path.")
    _check_version(base_python)
    ready.unlink(missing_ok=True)
    tell(f"Making a virtual environment in {path}")
    _run([base_python, "-m", "venv", str(path)], "the virtual environment could not be made")
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    with resources.as_file(requirements) as file:
        # torch is installed first and alone, so that pip takes a CPU build if one is configured.
        for what in (["torch", "setuptools"], ["--requirement", str(file)]):
            tell("Installing PyTorch" if "torch" in what else "Installing unbabel-comet and what it needs")
            _run([*install, "--constraint", str(file), *what], "the installation failed")
    ready.write_text(fingerprint)
    return python


def _check_version(python: str) -> None:
    output = _run(
        [python, "-c", "import sys; print(*sys.version_info[:2])"],
        f"{python} does not run; pass --python with a Python {OLDEST[0]}.{OLDEST[1]} or {NEWEST[0]}.{NEWEST[1]}",
    )
    version = tuple(int(part) for part in output.split())
    if not OLDEST <= version <= NEWEST:
        raise CometEnvironmentError(
            f"{python} is Python {'.'.join(map(str, version))}, which the versions that unbabel-comet needs do not "
            f"support; pass --python with a Python {OLDEST[0]}.{OLDEST[1]} or {NEWEST[0]}.{NEWEST[1]}."
        )


def _run(command: list[str], failed: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise CometEnvironmentError(f"{failed}: {error}.") from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise CometEnvironmentError(f"{failed}: " + "\n".join(lines[-5:]))
    return done.stdout
