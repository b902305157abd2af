"""One of TRL's training scripts, with the callback that the section `neuronxa:` of its YAML file describes.

accelerate launch [...] -m neuronxa_callback.integrations.trl.script sft --config CONFIG.yaml
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import transformers.trainer
import yaml

from neuronxa_callback.integrations.settings import SECTION, SettingsError, callback_of


def section_of(arguments: Sequence[str]) -> Any:
    """Return the section of the file behind `--config`; None if there is no section, or no such file.

    TRL itself says what is wrong with a file.
    """
    named = [value for word, value in pairwise(arguments) if word == "--config"]
    if not named or not Path(named[0]).is_file():
        return None
    try:
        settings = yaml.safe_load(Path(named[0]).read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return None
    return settings.get(SECTION) if isinstance(settings, dict) else None


def main() -> None:
    """Run the script as TRL would. Its Trainer has the callback from the start."""
    name, *arguments = sys.argv[1:]
    try:
        callback = callback_of(section_of(arguments))
    except SettingsError as error:
        sys.exit(str(error))
    # The scripts make their Trainers themselves, and every Trainer begins with the callbacks of this list.
    transformers.trainer.DEFAULT_CALLBACKS.append(callback)
    sys.argv[1:] = arguments
    runpy.run_module(f"trl.scripts.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
