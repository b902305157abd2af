"""TRL's command line with the callback that the section `neuronxa:` of its YAML file describes.

python -m neuronxa_callback.integrations.trl sft --config CONFIG.yaml [--num_processes 2 ...]

Commands, arguments and the rest of the file are those of `trl`, which would refuse the section.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from accelerate.commands.launch import launch_command, launch_command_parser
from trl.cli import accelerate_launcher
from trl.cli.main import main as trl_main

from neuronxa_callback.integrations.settings import SECTION, SettingsError, callback_of
from neuronxa_callback.integrations.trl.script import section_of

SCRIPT = "neuronxa_callback.integrations.trl.script"


def main() -> int:
    """Run TRL's command line. Its training commands start this package's script, which runs theirs."""
    try:
        callback_of(section_of(sys.argv[1:]))  # a fault is told once, before any process is started
    except SettingsError as error:
        sys.exit(str(error))
    module: Any = accelerate_launcher
    module.launch_training_script = _launch
    return int(trl_main())


def _launch(script_name: str, launch_args: Sequence[str], training_script_args: Sequence[str]) -> None:
    """Start a training script as TRL's function of this name does, with the callback.

    Args:
        script_name: the file's name in trl/scripts, such as "sft.py".
        launch_args: accelerate's arguments. TRL takes all that the script does not know for accelerate's, which the
            section is not.
        training_script_args: the script's own arguments.
    """
    launch = list(launch_args)
    if f"--{SECTION}" in launch:
        place = launch.index(f"--{SECTION}")
        del launch[place : place + 2]
    name = script_name.removesuffix(".py")
    launch_command(launch_command_parser().parse_args([*launch, "--module", SCRIPT, name, *training_script_args]))


if __name__ == "__main__":
    sys.exit(main())
