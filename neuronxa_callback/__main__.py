"""`python -m neuronxa_callback` is the command `neuronxa`."""

from neuronxa_callback.cli import run

run()
