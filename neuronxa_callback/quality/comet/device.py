"""Where COMET runs: what a device may be called, and whether COMET's Python can use it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from neuronxa_callback.quality.comet import environment

# Launchers set these for the training processes. The worker is not one of them, but Lightning would take it for one.
LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR")
LAUNCHER_PREFIXES = ("TORCHELASTIC_", "SLURM_", "PMI_", "PMIX_", "OMPI_", "ACCELERATE_", "JSM_", "LSB_")

SECONDS = 120  # importing torch takes a few
_COUNT = "import torch; print(torch.cuda.device_count())"


def check_name(device: str) -> None:
    """Raise ValueError if `device` is not "cpu", "cuda" or "cuda:N"."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", str(device)):
        raise ValueError(f"comet_device={device!r} is unknown; use cpu, cuda or cuda:N.")


def check_there(device: str) -> None:
    """Check that COMET's Python sees the GPU that `device` names. It starts that Python for a GPU alone.

    Nothing is checked if no environment has COMET, or if its Python does not say. COMET itself says then what is wrong.

    Args:
        device: "cpu", "cuda" or "cuda:N".

    Raises:
        ValueError: the GPU is not there.
    """
    if device == "cpu":
        return
    try:
        python = environment.find_python()
        count = _gpus(python, device)
    except (environment.CometEnvironmentError, OSError, ValueError, subprocess.SubprocessError):
        return
    if int(device.partition(":")[2] or 0) >= count:
        raise ValueError(
            f"comet_device={device!r} is not there: COMET's Python, {python}, sees {count or 'no'} "
            f"GPU{'' if count == 1 else 's'}; use comet_device='cpu' or a GPU that it sees, or install a torch there "
            "that works with your GPU."
        )


def _gpus(python: Path, device: str) -> int:
    done = subprocess.run(
        [python, "-c", _COUNT],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
        env=variables(python, device),
    )
    return int(done.stdout)


def variables(python: Path, device: str) -> dict[str, str]:
    """Return the worker's environment variables: the training's, without those that are for training alone."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in LAUNCHER_VARIABLES and not name.startswith(LAUNCHER_PREFIXES)
    }
    if "WORLD_SIZE" in os.environ:  # torchrun sets one thread for each of its processes, which share the machine
        kept.pop("OMP_NUM_THREADS", None)
    if python != Path(sys.executable):
        for name in ("PYTHONPATH", "PYTHONHOME"):  # they point at packages for another interpreter
            kept.pop(name, None)
    if device == "cpu":
        kept["CUDA_VISIBLE_DEVICES"] = ""  # otherwise it would take memory on the GPU that trains
    return kept
