"""The command line: `neuronxa ...`, also `python -m neuronxa_callback ...`."""

from neuronxa_callback.cli.main import app, run

__all__ = ["app", "run"]
