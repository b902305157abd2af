"""The command line: `neuronxa ...`, also `python -m neuronxa_callback ...`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeAlias

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from neuronxa_callback.quality.comet import environment as comet_environment
from neuronxa_callback.quality.comet.environment import CometEnvironmentError

if TYPE_CHECKING:
    from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator
    from neuronxa_callback.survey.measure import ModelChoice
    from neuronxa_callback.tables import Table
    from neuronxa_callback.text.corpora import Corpus
    from neuronxa_callback.text.pairs import ParallelPairs
    from neuronxa_callback.vocabulary import Representation

app = typer.Typer(help="Cross-lingual alignment (NeuronXA) of language models.", no_args_is_help=True)


comet_app = typer.Typer(help="The environment that COMET runs in.", no_args_is_help=True)
app.add_typer(comet_app, name="comet")


@app.callback()
def main() -> None:
    """Cross-lingual alignment (NeuronXA) of language models."""


@app.command()
def demo(
    model: Annotated[Path, typer.Option(help="Folder of the model to fine-tune.")] = Path(
        ".models/smollm2-135m-instruct"
    ),
    output_dir: Annotated[Path, typer.Option(help="Where events, scores and the figure go.")] = Path("runs/demo"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps of 8 sentence pairs.")] = 40,
    eval_steps: Annotated[int, typer.Option(min=1, help="Steps between two evaluations.")] = 10,
    minutes: Annotated[float, typer.Option(help="Time limit; a slow machine makes fewer steps.")] = 4.5,
) -> None:
    """Fine-tune a small model in 4-bit with LoRA and watch three languages align with English."""
    from neuronxa_callback import demo as demo_run  # torch and the Trainer take seconds to import: not for --help

    console = Console()
    try:
        finished = demo_run.run(model, output_dir, steps, eval_steps, minutes, console)
    except demo_run.DemoError as error:
        _give_up(console, error)
    demo_run.summarise(finished, console)


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="The run's output_dir.")],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the page and its figures.", show_default="RUN_DIR/neuronxa/report"),
    ] = None,
) -> None:
    """Write a Markdown page with the figures of a run, from its scores.jsonl alone."""
    from neuronxa_callback.training import page as run_report

    console = Console()
    try:
        page = run_report.write(run_dir, output)
    except run_report.ReportError as error:
        _give_up(console, error)
    console.out(f"The report is {page}")


@app.command()
def sweep(
    output_dir: Annotated[Path, typer.Argument(help="The output_dir of a run that has ended, with its checkpoints.")],
    pairs: Annotated[
        list[str] | None,
        typer.Option(help="Two codes or a file of held-out pairs; repeatable.", show_default="eng_Latn-isl_Latn"),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            help="nasca, navca, mexa, cka, svcca, anc, sads; repeatable, or with commas.", show_default="nasca"
        ),
    ] = None,
    quality: Annotated[
        list[str] | None,
        typer.Option(help="comet, cometkiwi, chrf, bleu; repeatable, or with commas.", show_default="none"),
    ] = None,
    comet_model: Annotated[str, typer.Option(help="COMET model: hub name or path.")] = "Unbabel/wmt22-comet-da",
    cometkiwi_model: Annotated[
        str, typer.Option(help="COMET model without references: hub name or path.")
    ] = "Unbabel/wmt22-cometkiwi-da",
    comet_device: Annotated[str, typer.Option(help="Where COMET runs: cpu, cuda or cuda:N.")] = "cpu",
    prompt: Annotated[
        str | None,
        typer.Option(help="Prompt of the training, with {source} in it.", show_default="the chat template, or plain"),
    ] = None,
    direction: Annotated[str, typer.Option(help="source->target, target->source or both.")] = "source->target",
    base: Annotated[
        str | None,
        typer.Option(help="Base model, scored as step 0: folder or hub name.", show_default="what the adapters name"),
    ] = None,
    load_in_4bit: Annotated[bool, typer.Option("--load-in-4bit", help="Load the weights in NF4.")] = False,
    dtype: Annotated[str, typer.Option(help="auto (as stored), float32, bfloat16 or float16.")] = "auto",
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N.", show_default="a GPU if there is one")
    ] = None,
) -> None:
    """Score the checkpoints of a finished run; stopped and started again, it goes on where it was."""
    from transformers.utils.logging import disable_progress_bar

    from neuronxa_callback.alignment.evaluator import DEFAULT_PAIRS, NeuronXAEvaluator
    from neuronxa_callback.model.loading import ModelError
    from neuronxa_callback.quality.evaluator import QualityEvaluator
    from neuronxa_callback.training import page as run_report
    from neuronxa_callback.training import sweep as run_sweep
    from neuronxa_callback.training.history import History

    console = Console()
    disable_progress_bar()  # of each model's weights, in the middle of ours
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        evaluator = NeuronXAEvaluator(pairs or DEFAULT_PAIRS, _listed(methods) or "nasca")  # type: ignore[arg-type]
        judge = QualityEvaluator(
            _listed(quality),  # type: ignore[arg-type]
            evaluator.pairs,
            direction,  # type: ignore[arg-type]
            prompt,
            comet_model,
            cometkiwi_model,
            comet_device,
        )
        with Progress(*columns, console=console) as progress:
            records = run_sweep.run(
                output_dir,
                evaluator,
                judge,
                base=base,
                dtype=dtype,  # type: ignore[arg-type]
                load_in_4bit=load_in_4bit,
                device=device,
                progress=progress,
            )
    except (ModelError, CometEnvironmentError, ValueError, OSError) as error:
        _give_up(console, error)
    run_report.summarise(records, console)
    console.out(f"Scores: {History(output_dir).path}")


Pairs = Annotated[
    str,
    typer.Option(
        "--pairs",
        help="embedded, a file with a column a language, a folder with a file a language, or a data set of the hub.",
    ),
]
Languages = Annotated[
    list[str] | None,
    typer.Option("--langs", help="FLORES-200 codes; repeatable, or with commas.", show_default="all there are"),
]
Pivot = Annotated[str, typer.Option(help="The language that the others are compared with.")]
Methods = Annotated[
    list[str] | None,
    typer.Option(help="nasca, navca, mexa, cka, svcca, anc, sads; repeatable, or with commas.", show_default="nasca"),
]
Representations = Annotated[
    list[str] | None,
    typer.Option(
        "--representation",
        help="What a method reads, as cka=nav; repeatable, or with commas.",
        show_default="as its source",
    ),
]
RetrievalRepresentations = Annotated[
    list[str] | None,
    typer.Option(
        "--representations", help="embedding, nas, nav; repeatable, or with commas.", show_default="embedding,nas"
    ),
]
PairsCount = Annotated[int, typer.Option("--n", min=2, help="Sentences of each language, the first of the text.")]
TokenPoolingOption = Annotated[str, typer.Option("--token-pooling", help="weighted, average or last.")]
LayerPoolingOption = Annotated[str, typer.Option("--layer-pooling", help="mean or max.")]
LayersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--layers", help="Which layers, such as 8,16,24; the pass ends after the deepest.", show_default="all"
    ),
]
Permutations = Annotated[
    int, typer.Option(min=0, help="How often pairs are torn apart for the p-values of cka, svcca, anc and sads.")
]
TokenBudget = Annotated[
    int | None, typer.Option(help="Padded tokens in a batch.", show_default="512 on a CPU, 8192 elsewhere")
]
LoadIn4bit = Annotated[bool, typer.Option("--load-in-4bit", help="Load the weights in NF4.")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="auto (as stored), float32, bfloat16 or float16.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.", show_default="a GPU if there is one")]
Output = Annotated[Path, typer.Option(help="Folder of the scores; what it holds already is not measured again.")]
Format = Annotated[
    str | None,
    typer.Option("--format", help="json, csv, markdown or latex, on stdout.", show_default="a table on the terminal"),
]
Summary = Annotated[bool, typer.Option("--summary", help="The means alone, which CSV and JSON leave out otherwise.")]
OUTPUT = Path("neuronxa-scores")
# methods, representation, token pooling, layer pooling, permutations, token budget, layers
Options: TypeAlias = tuple[list[str] | None, list[str] | None, str, str, int, int | None, list[str] | None]
WIDTH = 160  # of tables that go into a file


@app.command()
def score(
    model: Annotated[str, typer.Argument(help="Folder or hub name of a model, or the folder of an adapter.")],
    adapter: Annotated[str | None, typer.Option(help="Folder of an adapter to put on the model.")] = None,
    pairs: Pairs = "embedded",
    langs: Languages = None,
    pivot: Pivot = "eng_Latn",
    methods: Methods = None,
    representation: Representations = None,
    n: PairsCount = 100,
    token_pooling: TokenPoolingOption = "weighted",
    layer_pooling: LayerPoolingOption = "mean",
    layers: LayersOption = None,
    permutations: Permutations = 199,
    token_budget: TokenBudget = None,
    load_in_4bit: LoadIn4bit = False,
    dtype: DtypeOption = "auto",
    device: Device = None,
    output: Output = OUTPUT,
    table_format: Format = None,
) -> None:
    """Measure a model's alignment over many languages; stopped and started again, it goes on where it was."""
    from neuronxa_callback.survey import measure as survey
    from neuronxa_callback.survey.measure import ModelChoice
    from neuronxa_callback.text.corpora import open_corpus

    choice = ModelChoice(model, adapter, dtype, load_in_4bit, device)  # type: ignore[arg-type]
    options = (methods, representation, token_pooling, layer_pooling, permutations, token_budget, layers)
    with _surveying(table_format) as (console, progress):
        records, notes = _survey(
            [choice], (open_corpus(pairs, n), pivot, langs), options, output, progress, survey.score
        )
    _tell(survey.score_table(records[0], notes), table_format, console)


@app.command()
def layers(
    model: Annotated[str, typer.Argument(help="Folder or hub name of a model, or the folder of an adapter.")],
    adapter: Annotated[str | None, typer.Option(help="Folder of an adapter to put on the model.")] = None,
    pairs: Pairs = "embedded",
    langs: Languages = None,
    pivot: Pivot = "eng_Latn",
    methods: Methods = None,
    n: PairsCount = 100,
    token_pooling: TokenPoolingOption = "weighted",
    token_budget: TokenBudget = None,
    load_in_4bit: LoadIn4bit = False,
    dtype: DtypeOption = "auto",
    device: Device = None,
    output: Output = OUTPUT,
    table_format: Format = None,
) -> None:
    """Draw the score at each layer, a line a language, and print it."""
    from neuronxa_callback.survey import measure as survey
    from neuronxa_callback.survey.measure import ModelChoice
    from neuronxa_callback.text.corpora import open_corpus

    choice = ModelChoice(model, adapter, dtype, load_in_4bit, device)  # type: ignore[arg-type]
    options = (methods, None, token_pooling, "mean", 0, token_budget, None)
    with _surveying(table_format) as (console, progress):
        (records,), notes = _survey(
            [choice], (open_corpus(pairs, n), pivot, langs), options, output, progress, survey.score
        )
        figures = survey.draw_layers(records, output)
    _tell(survey.layer_table(records, notes), table_format, console)
    _tell_figures(figures)


@app.command()
def retrieve(
    model: Annotated[str, typer.Argument(help="Folder or hub name of a model, or the folder of an adapter.")],
    adapter: Annotated[str | None, typer.Option(help="Folder of an adapter to put on the model.")] = None,
    pairs: Pairs = "embedded",
    langs: Languages = None,
    pivot: Pivot = "eng_Latn",
    representations: RetrievalRepresentations = None,
    n: PairsCount = 100,
    token_pooling: TokenPoolingOption = "weighted",
    layer_pooling: LayerPoolingOption = "max",
    layers: LayersOption = None,
    token_budget: TokenBudget = None,
    load_in_4bit: LoadIn4bit = False,
    dtype: DtypeOption = "auto",
    device: Device = None,
    output: Output = OUTPUT,
    summary: Summary = False,
    table_format: Format = None,
) -> None:
    """Measure how many sentences find their translation, to the pivot, from it and both ways."""
    from neuronxa_callback.survey import measure as survey
    from neuronxa_callback.survey.measure import ModelChoice
    from neuronxa_callback.text.corpora import open_corpus
    from neuronxa_callback.vocabulary import ALIGNMENT, REPRESENTATION_OF

    choice = ModelChoice(model, adapter, dtype, load_in_4bit, device)  # type: ignore[arg-type]
    with _surveying(table_format) as (console, progress):
        methods: list[str] = [
            method
            for read in _representations(representations)
            for method in ALIGNMENT
            if REPRESENTATION_OF[method] == read
        ]
        options = (methods, None, token_pooling, layer_pooling, 0, token_budget, layers)
        corpus = open_corpus(pairs, n)
        (records,), notes = _survey([choice], (corpus, pivot, langs), options, output, progress, survey.retrieve)
    rows, means = survey.retrieval_table(records, notes, corpus.head), survey.retrieval_summary(records, corpus.head)
    _tell_with_means(rows, means, summary, table_format, console)


@app.command()
def matrix(
    model: Annotated[str, typer.Argument(help="Folder or hub name of a model, or the folder of an adapter.")],
    adapter: Annotated[str | None, typer.Option(help="Folder of an adapter to put on the model.")] = None,
    pairs: Pairs = "embedded",
    langs: Languages = None,
    methods: Methods = None,
    representation: Representations = None,
    n: PairsCount = 100,
    token_pooling: TokenPoolingOption = "weighted",
    layer_pooling: LayerPoolingOption = "mean",
    layers: LayersOption = None,
    token_budget: TokenBudget = None,
    load_in_4bit: LoadIn4bit = False,
    dtype: DtypeOption = "auto",
    device: Device = None,
    output: Output = OUTPUT,
    table_format: Format = None,
) -> None:
    """Measure the alignment of every two languages, each of which is encoded once."""
    from neuronxa_callback.survey import matrix as languages
    from neuronxa_callback.survey.measure import ModelChoice
    from neuronxa_callback.text.corpora import open_corpus

    choice = ModelChoice(model, adapter, dtype, load_in_4bit, device)  # type: ignore[arg-type]
    options = (methods, representation, token_pooling, layer_pooling, 0, token_budget, layers)
    with _surveying(table_format, "language pairs") as (console, progress):
        found, notes = languages.every_pair(open_corpus(pairs, n), _listed(langs))
        records = languages.measure_matrix(choice, _evaluator(found, options), output, notes, progress)
    if table_format in ("json", "csv"):
        _tell(languages.matrix_table(records, notes), table_format, console)
        return
    for table in languages.square_tables(records, notes):
        _tell(table, table_format, console)


@app.command("map")
def sentence_map(
    model: Annotated[str, typer.Argument(help="Folder or hub name of a model, or the folder of an adapter.")],
    adapter: Annotated[str | None, typer.Option(help="Folder of an adapter to put on the model.")] = None,
    pairs: Pairs = "embedded",
    langs: Languages = None,
    pivot: Pivot = "eng_Latn",
    representations: RetrievalRepresentations = None,
    layer: Annotated[
        int | None, typer.Option(min=1, help="Which layer, counted from 1.", show_default="the middle one")
    ] = None,
    n: PairsCount = 100,
    token_pooling: TokenPoolingOption = "weighted",
    token_budget: TokenBudget = None,
    load_in_4bit: LoadIn4bit = False,
    dtype: DtypeOption = "auto",
    device: Device = None,
    output: Output = OUTPUT,
    table_format: Format = None,
) -> None:
    """Draw sentences and their translations in the plane, by t-SNE of embeddings and neuron states."""
    from neuronxa_callback.survey import measure as survey
    from neuronxa_callback.survey import sentence_map as maps
    from neuronxa_callback.text.corpora import open_corpus

    choice = survey.ModelChoice(model, adapter, dtype, load_in_4bit, device)  # type: ignore[arg-type]
    with _surveying(table_format) as (console, progress):
        reads = _representations(representations)
        found, notes = survey.pairs_with(open_corpus(pairs, n), pivot, _listed(langs))
        options = (layer, token_pooling, token_budget)
        drawn = maps.measure_maps(choice, found, reads, notes, *options, progress)  # type: ignore[arg-type]
        figures = maps.draw(drawn, output)
    table = maps.point_table if table_format in ("json", "csv") else maps.map_table
    _tell(table(drawn, notes), table_format, console)
    _tell_figures(figures)


@app.command()
def correlate(
    scores: Annotated[Path, typer.Argument(help="Folder of neuronxa score, or its scores.jsonl.")],
    results: Annotated[
        list[Path], typer.Argument(help="Results JSON of lm-evaluation-harness, or CSV files with task, lang, value.")
    ],
    metric: Annotated[str, typer.Option(help="Which of the harness's metrics.")] = "acc",
    summary: Summary = False,
    table_format: Format = None,
) -> None:
    """Correlate alignment with task results over languages, a row a model, method and task."""
    from neuronxa_callback.survey import downstream

    with _surveying(table_format) as (console, _):
        found = [result for path in results for result in downstream.read_results(path, metric)]
        table = downstream.correlate(downstream.read_scores(scores), found)
    _tell_with_means(table, downstream.averages(table), summary, table_format, console)


@app.command()
def compare(
    model: Annotated[str, typer.Argument(help="Folder or hub name of a model, or the folder of an adapter.")],
    other: Annotated[str, typer.Argument(help="The same of the model that is compared with it.")],
    pairs: Pairs = "embedded",
    langs: Languages = None,
    pivot: Pivot = "eng_Latn",
    methods: Methods = None,
    representation: Representations = None,
    n: PairsCount = 100,
    token_pooling: TokenPoolingOption = "weighted",
    layer_pooling: LayerPoolingOption = "mean",
    layers: LayersOption = None,
    token_budget: TokenBudget = None,
    load_in_4bit: LoadIn4bit = False,
    dtype: DtypeOption = "auto",
    device: Device = None,
    output: Output = OUTPUT,
    table_format: Format = None,
) -> None:
    """Compare two models on the same pairs, with a paired permutation test for each language."""
    from neuronxa_callback.survey import measure as survey
    from neuronxa_callback.survey.measure import ModelChoice
    from neuronxa_callback.text.corpora import open_corpus
    from neuronxa_callback.vocabulary import OVER_PAIRS

    choices = [ModelChoice(name, None, dtype, load_in_4bit, device) for name in (model, other)]  # type: ignore[arg-type]
    options = (methods, representation, token_pooling, layer_pooling, 0, token_budget, layers)
    with _surveying(table_format) as (console, progress):
        if not set(_listed(methods) or ["nasca"]) & set(OVER_PAIRS):
            raise ValueError(
                f"a paired test needs a value a pair; have one of {', '.join(OVER_PAIRS)} among --methods."
            )
        records, notes = _survey(
            choices, (open_corpus(pairs, n), pivot, langs), options, output, progress, survey.score
        )
        first, second = records
        table = survey.compare_table(first, second, notes)
    _tell(table, table_format, console)


@contextmanager
def _surveying(table_format: str | None, counted: str = "languages") -> Iterator[tuple[Console, Progress]]:
    """A progress bar on stderr, and one sentence for what a user can mend."""
    from transformers.utils.logging import disable_progress_bar

    from neuronxa_callback.model.loading import ModelError
    from neuronxa_callback.tables import TableFormat
    from neuronxa_callback.vocabulary import check_choice

    disable_progress_bar()  # of each model's weights, in the middle of ours
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(counted))
    try:
        if table_format is not None:
            check_choice("format", table_format, TableFormat)
        with Progress(*columns, TimeRemainingColumn(), console=errors) as progress:
            yield console, progress
    except (ModelError, ValueError, OSError, ArithmeticError) as error:
        _give_up(errors, error)


def _survey(
    choices: Sequence[ModelChoice],
    text: tuple[Corpus, str, list[str] | None],
    options: Options,
    output: Path,
    progress: Progress,
    run: Callable[..., list[dict[str, Any]]],
) -> tuple[list[list[dict[str, Any]]], list[str]]:
    """Each model's lines, and what was left out."""
    from neuronxa_callback.survey import measure as survey

    corpus, pivot, langs = text
    pairs, notes = survey.pairs_with(corpus, pivot, _listed(langs))
    evaluator = _evaluator(pairs, options)
    records = [run(choice, evaluator, output, notes, progress) for choice in choices]
    measured = {pair.target_lang for pair in evaluator.pairs}  # the context of the last model may be the shortest
    return [[record for record in lines if record["lang"] in measured] for lines in records], notes


def _evaluator(pairs: list[ParallelPairs], options: Options) -> NeuronXAEvaluator:
    from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator

    methods, representation, token_pooling, layer_pooling, permutations, token_budget, layers = options
    return NeuronXAEvaluator(
        pairs,
        _listed(methods) or "nasca",  # type: ignore[arg-type]
        token_pooling,  # type: ignore[arg-type]
        token_budget,
        layer_pooling,  # type: ignore[arg-type]
        _chosen(representation),  # type: ignore[arg-type]
        permutations,
        _numbers(layers),
    )


def _representations(chosen: list[str] | None) -> list[Representation]:
    from neuronxa_callback.vocabulary import Representation, check_choice

    reads = _listed(chosen) or ["embedding", "nas"]
    for read in reads:
        check_choice("representation", read, Representation)
    return list(dict.fromkeys(reads))  # type: ignore[arg-type]


def _numbers(layers: list[str] | None) -> list[int] | None:
    wrong = [layer for layer in _listed(layers) if not layer.isdigit()]
    if wrong:
        raise ValueError(f"--layers {wrong[0]} is no number of a layer, such as 16.")
    return [int(layer) for layer in _listed(layers)] or None


def _chosen(representation: list[str] | None) -> dict[str, str]:
    """The representation that is chosen for a method."""
    chosen = {}
    for choice in _listed(representation):
        method, separator, read = choice.partition("=")
        if not separator:
            raise ValueError(f"--representation {choice} is no choice such as cka=nav.")
        chosen[method] = read
    return chosen


def _tell(table: Table, table_format: str | None, console: Console) -> None:
    """Print for a reader, or write for a file: JSON and CSV hold every row's signature."""
    from neuronxa_callback import tables
    from neuronxa_callback.survey import measure as survey

    signed = table_format in ("json", "csv") or "signature" not in table.columns
    shown = table if signed else survey.for_people(table)
    if table_format is None:
        tables.show(shown, console)
    else:
        console.out(tables.render(shown, table_format), end="", highlight=False)  # type: ignore[arg-type]


def _tell_with_means(rows: Table, means: Table, summary: bool, table_format: str | None, console: Console) -> None:
    """Both for a reader; a file of rows holds one table."""
    if not summary:
        _tell(rows, table_format, console)
    if summary or table_format not in ("json", "csv"):
        _tell(means, table_format, console)


def _tell_figures(figures: Sequence[Path]) -> None:
    for figure in figures:
        Console(stderr=True).print(f"Figure: {figure}", soft_wrap=True, highlight=False, markup=False)


@comet_app.command()
def setup(
    path: Annotated[
        Path | None, typer.Option(help="Where the environment goes.", show_default="the user's cache directory")
    ] = None,
    python: Annotated[str, typer.Option(help="The Python, 3.11 or 3.12, to make it with.")] = sys.executable,
) -> None:
    """Make the environment that COMET runs in, beside the one that trains: a few minutes and, with CUDA, a few GB."""
    console = Console()
    place = (path or comet_environment.default_path()).expanduser().absolute()
    try:
        with console.status("") as status:
            interpreter = comet_environment.setup(place, python, status.update)
    except CometEnvironmentError as error:
        _give_up(console, error)
    console.print(f"COMET runs in {interpreter}", soft_wrap=True)
    if path is not None:
        console.print("So that it is found: ", end="")
        console.print(f"export {comet_environment.VARIABLE}={interpreter}", soft_wrap=True, markup=False)
    console.print("To fetch a model and try it: neuronxa comet check Unbabel/wmt22-comet-da", soft_wrap=True)


@comet_app.command()
def check(
    model: Annotated[str, typer.Argument(help="COMET model: its name on the hub, or a checkpoint's path.")] = (
        "Unbabel/wmt22-comet-da"
    ),
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """Load a COMET model, fetching it if need be, and score two sentences."""
    from huggingface_hub import snapshot_download

    from neuronxa_callback.quality.comet.process import CometWorker, QualityError

    console = Console()
    if not Path(model).exists():
        with suppress(Exception):  # here for its progress bar; what goes wrong, the worker says in one sentence
            snapshot_download(model)
    samples = [
        {"src": "The harbour is frozen.", "mt": "Höfnin er frosin.", "ref": "Höfnin er frosin."},
        {"src": "The harbour is frozen.", "mt": "Hesturinn á bók.", "ref": "Höfnin er frosin."},
    ]
    try:
        worker = CometWorker(device)
    except ValueError as error:
        _give_up(console, error)
    try:
        with console.status(f"Loading {model}"):
            score = worker.submit(model, samples).result()
    except QualityError as error:
        _give_up(console, error)
    finally:
        worker.close()
    table = RichTable("source", "translation", "score", title=score.signature, title_justify="left")
    for sample, segment in zip(samples, score.segments or (), strict=True):
        table.add_row(sample["src"], sample["mt"], f"{segment:.4f}")
    console.print(table)


def _give_up(console: Console, error: Exception) -> NoReturn:
    console.print(f"[red]Error:[/red] {escape(str(error))}", soft_wrap=True)
    raise typer.Exit(1) from None


def _listed(values: list[str] | None) -> list[str]:
    """The values of an option that may be repeated and may hold several, with commas between them."""
    return [part.strip() for value in values or [] for part in value.split(",") if part.strip()]
