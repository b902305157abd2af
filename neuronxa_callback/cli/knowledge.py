"""`neuronxa knowledge`: factual knowledge by language."""

from __future__ import annotations

from typing import Annotated

import typer

from neuronxa_callback.cli.options import OneModel, Saving, Showing, listed
from neuronxa_callback.cli.output import print_table, surveying
from neuronxa_callback.cli.processes import processes


def knowledge(
    model: OneModel,
    prompts: Annotated[
        str,
        typer.Argument(
            help="BMLAMA-17 or BMLAMA-53: a folder with a file such as is.tsv for each language, or a data set of the "
            "hub with such files."
        ),
    ],
    saving: Saving,
    showing: Showing,
    langs: Annotated[
        list[str] | None,
        typer.Option(help="FLORES-200 codes. Repeatable, or with commas.", show_default="all of the prompts"),
    ] = None,
    n: Annotated[int | None, typer.Option(min=1, help="How many facts, from the first on.", show_default="all")] = None,
    pivot: Annotated[str, typer.Option(help="The language that the others' rankings are compared with.")] = "eng_Latn",
    consistency: Annotated[
        bool, typer.Option("--consistency", help="Print RankC of every two languages instead.")
    ] = False,
    token_budget: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens in a batch, padding counted.", show_default="1024 on a CPU, 8192 elsewhere"),
    ] = None,
) -> None:
    """Measure in which languages a model knows facts. After a stop, the same command goes on where it was."""
    from neuronxa_callback.survey.knowledge.measure import measure
    from neuronxa_callback.survey.knowledge.prompts import open_prompts
    from neuronxa_callback.survey.knowledge.tables import consistency_table, knowledge_table
    from neuronxa_callback.text.languages import check_language

    with processes() as ranks, surveying(showing) as (console, progress):
        with ranks.together():
            check_language(pivot)
            opened = open_prompts(prompts)
        lines = measure(model.chosen(), opened, listed(langs), n, saving.output, progress, token_budget, ranks)
        if consistency and len(lines) < 2:
            raise ValueError("--consistency compares two languages; name several with --langs.")
        table = consistency_table(lines) if consistency else knowledge_table(lines, pivot)
    print_table(table, showing, console)
