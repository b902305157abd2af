"""LLaMA-Factory's training with the callback that the section `neuronxa:` of its YAML file describes.

python -m neuronxa_callback.integrations.llamafactory train CONFIG.yaml [key=value ...]

The rest of the file and the words behind it are LLaMA-Factory's own. `llamafactory-cli train` refuses the section.
"""

from __future__ import annotations

import sys
from typing import Any

from llamafactory import launcher
from llamafactory.hparams import read_args
from llamafactory.train.tuner import run_exp

from neuronxa_callback.integrations.settings import SECTION, SettingsError, callback_of
from neuronxa_callback.launcher import is_launched

MODULE = "neuronxa_callback.integrations.llamafactory"
USAGE = f"Usage: python -m {MODULE} train CONFIG.yaml [key=value ...]"


def main() -> None:
    """Train as the command line says. Where LLaMA-Factory's launcher starts processes, each of them comes here."""
    if sys.argv[1:2] == ["train"]:
        sys.argv.pop(1)
    elif not is_launched():  # the launcher leaves out the word
        sys.exit(USAGE)
    arguments = read_args()
    if not isinstance(arguments, dict):
        sys.exit(USAGE)
    section = arguments.pop(SECTION, None)
    try:
        callback = callback_of(section)
    except SettingsError as error:
        sys.exit(str(error))
    if is_launched() or not _starts_processes():
        run_exp(arguments, callbacks=[callback])
    else:
        _launch()


def _starts_processes() -> bool:
    """Return whether `llamafactory-cli train` would start processes here: its launcher's own condition."""
    from llamafactory.extras.misc import get_device_count, is_env_enabled, use_kt, use_ray

    forced = is_env_enabled("USE_MCA") or is_env_enabled("FORCE_TORCHRUN")
    return forced or (get_device_count() > 1 and not use_ray() and not use_kt())


def _launch() -> None:
    """Let LLaMA-Factory's launcher start this module, and not itself, in the processes of torchrun.

    It gives torchrun its own `__file__`. This module's file would not do: torchrun puts the folder of a file in front
    of Python's path, and the modules here are named as the packages that they are for.
    """
    module: Any = launcher
    module.__file__ = f"-m {MODULE}"
    sys.argv.insert(1, "train")
    launcher.launch()


if __name__ == "__main__":
    main()
