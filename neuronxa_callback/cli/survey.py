"""`neuronxa score`, `layers`, `retrieve`, `matrix` and `compare`: the commands that measure many languages."""

from __future__ import annotations

from neuronxa_callback.cli.options import (
    Encoding,
    Layers,
    Measuring,
    Methods,
    OneModel,
    PivotText,
    Representations,
    Saving,
    Showing,
    ShowingMeans,
    Testing,
    Text,
    TwoModels,
)
from neuronxa_callback.cli.output import FOR_PROGRAMS, print_figures, print_table, print_with_means, surveying
from neuronxa_callback.cli.processes import processes
from neuronxa_callback.vocabulary import ALIGNMENT, OVER_PAIRS, REPRESENTATION_OF

GREATEST_LAYER = Layers(layer_pooling="max")  # the paper's choice for retrieval


def score(model: OneModel, text: PivotText, measuring: Testing, saving: Saving, showing: Showing) -> None:
    """Measure a model's alignment over many languages. After a stop, the same command goes on where it was."""
    from neuronxa_callback.survey import measure as survey
    from neuronxa_callback.survey.tables import score_table, score_tables

    with processes() as ranks, surveying(showing) as (console, progress):
        with ranks.together():
            pairs, notes = survey.pairs_with(text.corpus(), text.pivot, text.languages)
            evaluator = measuring.evaluator(pairs, measuring.permutations)
        records = survey.score(model.chosen(), evaluator, saving.output, notes, progress, ranks)
    for_programs = showing.format in FOR_PROGRAMS
    for table in [score_table(records, notes)] if for_programs else score_tables(records, notes):
        print_table(table, showing, console)


def layers(
    model: OneModel, text: PivotText, methods: Methods, encoding: Encoding, saving: Saving, showing: Showing
) -> None:
    """Draw the score at each layer, with a line for each language, and print it."""
    from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator
    from neuronxa_callback.survey import measure as survey
    from neuronxa_callback.survey.figures import draw_layers
    from neuronxa_callback.survey.tables import layer_table

    with processes() as ranks, surveying(showing) as (console, progress):
        with ranks.together():
            pairs, notes = survey.pairs_with(text.corpus(), text.pivot, text.languages)
            evaluator = NeuronXAEvaluator(pairs, methods.chosen(), encoding.token_pooling, encoding.token_budget)
        records = survey.score(model.chosen(), evaluator, saving.output, notes, progress, ranks)
        figures = ranks.first_does(lambda: draw_layers(records, saving.output))
    print_table(layer_table(records, notes), showing, console)
    print_figures(figures)


def retrieve(
    model: OneModel,
    text: PivotText,
    representations: Representations,
    encoding: Encoding,
    saving: Saving,
    showing: ShowingMeans,
    layers: Layers = GREATEST_LAYER,
) -> None:
    """Count the sentences whose nearest one is their translation: from the pivot, to it and both ways."""
    from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator
    from neuronxa_callback.survey import measure as survey
    from neuronxa_callback.survey import retrieval
    from neuronxa_callback.survey.tables import retrieval_summary, retrieval_table

    with processes() as ranks, surveying(showing) as (console, progress):
        with ranks.together():
            reads = representations.chosen()
            methods = [method for read in reads for method in ALIGNMENT if REPRESENTATION_OF[method] == read]
            corpus = text.corpus()
            pairs, notes = survey.pairs_with(corpus, text.pivot, text.languages)
            evaluator = NeuronXAEvaluator(
                pairs,
                methods,
                encoding.token_pooling,
                encoding.token_budget,
                layers.layer_pooling,
                layers=layers.numbers(),
            )
        records = retrieval.retrieve(model.chosen(), evaluator, saving.output, notes, progress, ranks)
    rows, means = retrieval_table(records, notes, corpus.head), retrieval_summary(records, corpus.head)
    print_with_means(rows, means, showing, console)


def matrix(model: OneModel, text: Text, measuring: Measuring, saving: Saving, showing: Showing) -> None:
    """Measure the alignment of every two languages. Each language is encoded once."""
    from neuronxa_callback.survey import matrix as languages

    with processes() as ranks, surveying(showing, "language pairs") as (console, progress):
        with ranks.together():
            pairs, notes = languages.every_pair(text.corpus(), text.languages)
            evaluator = measuring.evaluator(pairs)
        records = languages.measure_matrix(model.chosen(), evaluator, saving.output, notes, progress, ranks)
    if showing.format in FOR_PROGRAMS:
        print_table(languages.matrix_table(records, notes), showing, console)
        return
    for table in languages.square_tables(records, notes):
        print_table(table, showing, console)


def compare(models: TwoModels, text: PivotText, measuring: Measuring, saving: Saving, showing: Showing) -> None:
    """Compare two models on the same pairs, by a paired test. A difference is the second's score minus the first's."""
    from neuronxa_callback.survey import measure as survey
    from neuronxa_callback.survey.tables import compare_table

    with processes() as ranks, surveying(showing) as (console, progress):
        with ranks.together():
            if not set(measuring.chosen()) & set(OVER_PAIRS):
                raise ValueError(
                    f"a paired test needs a method with a value for each pair; add one of {', '.join(OVER_PAIRS)} to "
                    "--methods."
                )
            pairs, notes = survey.pairs_with(text.corpus(), text.pivot, text.languages)
        both = []
        for model in models.chosen():
            both.append(survey.score(model, measuring.evaluator(pairs), saving.output, notes, progress, ranks))
            measured = {record.lang for record in both[-1]}
            # The other languages are too long for this model's context.
            pairs = [pair for pair in pairs if pair.target_lang in measured]
        first, second = ([record for record in records if record.lang in measured] for records in both)
        table = compare_table(first, second, notes)
    print_table(table, showing, console)
