"""Install a wheel into environments with other trainers' versions, and fail if pip would change any of them.

python scripts/try_beside.py dist/neuronxa_callback-0.2.0-py3-none-any.whl

Each file of tests/data/requirements has what one trainer requires. An environment gets those of these packages that
the wheel asks for, too, in the newest versions that the trainer allows. The trainer itself is not installed. Then the
wheel is installed bare and with its extra `train`. It takes a minute or two a trainer and needs a package index.
"""

import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PINS = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
TORCH = next(pin for pin in PINS if pin.startswith("torch=="))  # pip takes a CPU build of it where one is configured


def pip(python: Path, *arguments: str) -> str:
    """Run pip of an environment, and return what it printed."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def installed(python: Path) -> dict[str, str]:
    """Return the version of each installed package."""
    lines = pip(python, "list", "--format", "freeze").split()
    return dict(line.split("==") for line in lines)


def metadata(wheel: Path) -> list[str]:
    """Return the lines of a wheel's METADATA."""
    with zipfile.ZipFile(wheel) as files:
        name = next(name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        return files.read(name).decode().splitlines()


def names(requirements: Iterable[str]) -> set[str]:
    """Return the names of the packages that lines such as `trl<=0.24.0,>=0.18.0` require."""
    found = (re.match(r"\s*([\w.-]+)", line) for line in requirements)
    return {match[1].lower().replace("_", "-") for match in found if match}


def try_beside(wheel: Path, requirements: Path) -> None:
    """Install the wheel beside what a trainer requires, and print what came with it."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        pip(python, "install", "--quiet", TORCH)
        asked = names(line.partition(":")[2] for line in metadata(wheel) if line.startswith("Requires-Dist:"))
        shared = names(requirements.read_text(encoding="utf-8").splitlines()) & asked - {"torch"}
        pip(python, "install", "--quiet", "--constraint", str(requirements), *shared)
        before = installed(python)
        for extra in ("", "[train]"):
            pip(python, "install", "--quiet", f"{wheel}{extra}")
            after = installed(python)
            changed = {name: (old, after.get(name)) for name, old in before.items() if after.get(name) != old}
            assert not changed, f"beside {requirements.stem}, pip changed {changed}"
            added = " ".join(sorted(set(after) - set(before)))
            print(f"{requirements.stem}, {wheel.name}{extra}: nothing changed; pip added {added}")


if __name__ == "__main__":
    for path in sorted((ROOT / "tests" / "data" / "requirements").glob("*.txt")):
        try_beside(Path(sys.argv[1]).resolve(), path)
