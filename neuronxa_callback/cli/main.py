"""The Typer app: every command by its name, in the order in which `neuronxa --help` lists them."""

from __future__ import annotations

import gc

import typer

from neuronxa_callback.cli.comet import check, setup
from neuronxa_callback.cli.correlate import correlate
from neuronxa_callback.cli.demo import demo
from neuronxa_callback.cli.flatten import flattened
from neuronxa_callback.cli.knowledge import knowledge
from neuronxa_callback.cli.map import sentence_map
from neuronxa_callback.cli.page import page
from neuronxa_callback.cli.processes import first_alone, silent
from neuronxa_callback.cli.run import report, sweep
from neuronxa_callback.cli.survey import compare, layers, matrix, retrieve, score
from neuronxa_callback.launcher import is_first

app = typer.Typer(help="Cross-lingual alignment (NeuronXA) of language models.", no_args_is_help=True)
comet_app = typer.Typer(help="The environment that COMET runs in.", no_args_is_help=True)

app.command()(first_alone(flattened(demo)))
app.command()(first_alone(flattened(page)))
app.command()(first_alone(flattened(report)))
app.command()(flattened(sweep))
app.command()(flattened(score))
app.command()(flattened(layers))
app.command()(flattened(retrieve))
app.command()(flattened(matrix))
app.command("map")(first_alone(flattened(sentence_map)))
app.command()(flattened(knowledge))
app.command()(first_alone(flattened(correlate)))
app.command()(flattened(compare))
app.add_typer(comet_app, name="comet")
comet_app.command()(first_alone(flattened(setup)))
comet_app.command()(first_alone(flattened(check)))

# Containers that are made before the collector looks at the youngest. Python 3.11's own number is 700.
RARELY = 50_000


def run() -> None:
    """Run the command that the arguments name. Of several processes the first alone prints.

    The garbage collector is told that this process lives for one command. What torch and transformers make when they
    are imported stays, so the collector has nothing to find there, and it would look through all of it again and again
    while they are imported, and when the interpreter ends. `app` alone leaves the collector as it is.
    """
    gc.set_threshold(RARELY)
    try:
        if is_first():
            app()
        else:
            silent(app)
    finally:
        gc.freeze()  # keeps the interpreter's end from looking through it
