"""`neuronxa map`: a picture of sentences."""

from __future__ import annotations

from typing import Annotated

import typer

from neuronxa_callback.cli.options import Encoding, OneModel, PivotText, Representations, Saving, Showing
from neuronxa_callback.cli.output import FOR_PROGRAMS, print_figures, print_table, surveying


def sentence_map(
    model: OneModel,
    text: PivotText,
    representations: Representations,
    encoding: Encoding,
    saving: Saving,
    showing: Showing,
    layer: Annotated[
        int | None, typer.Option(min=1, help="Layer to draw, counted from 1.", show_default="the middle one")
    ] = None,
) -> None:
    """Draw sentences and their translations in the plane, with t-SNE of their embeddings and neuron states."""
    from neuronxa_callback.survey import measure as survey
    from neuronxa_callback.survey import sentence_map as maps

    with surveying(showing) as (console, progress):
        reads = representations.chosen()
        pairs, notes = survey.pairs_with(text.corpus(), text.pivot, text.languages)
        drawn = maps.measure_maps(
            model.chosen(), pairs, reads, notes, layer, encoding.token_pooling, encoding.token_budget, progress
        )
        figures = maps.draw(drawn, saving.output)
    table = maps.point_table if showing.format in FOR_PROGRAMS else maps.map_table
    print_table(table(drawn, notes), showing, console)
    print_figures(figures)
