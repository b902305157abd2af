"""The Typer app: every command by its name, in the order in which `neuronxa --help` lists them."""

from __future__ import annotations

import typer

from neuronxa_callback.cli.comet import check, setup
from neuronxa_callback.cli.correlate import correlate
from neuronxa_callback.cli.demo import demo
from neuronxa_callback.cli.map import sentence_map
from neuronxa_callback.cli.options import flattened
from neuronxa_callback.cli.run import report, sweep
from neuronxa_callback.cli.survey import compare, layers, matrix, retrieve, score

app = typer.Typer(help="Cross-lingual alignment (NeuronXA) of language models.", no_args_is_help=True)
comet_app = typer.Typer(help="The environment that COMET runs in.", no_args_is_help=True)

for command in (demo, report, sweep, score, layers, retrieve, matrix):
    app.command()(flattened(command))
app.command("map")(flattened(sentence_map))
for command in (correlate, compare):
    app.command()(flattened(command))
app.add_typer(comet_app, name="comet")
for command in (setup, check):
    comet_app.command()(command)
