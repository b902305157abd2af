"""Set a model's factual knowledge by language beside its alignment, as Table 3 of the paper does with BMLAMA-53.

python recipes/knowledge_bmlama.py --model MODEL --prompts BMLAMA53 --pairs FLORES_FOLDER --output_dir runs/knowledge

Each language's candidate answers are ranked by their likelihood. Each language's sentences are aligned with those of
the pivot. The two are correlated over the languages that both texts have. After a stop, the same command goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import settings
from preflight import PreflightError
from rich.console import Console

from neuronxa_callback import NeuronXAEvaluator, launcher
from neuronxa_callback.cli.output import progress_bar
from neuronxa_callback.model.loading import ModelError
from neuronxa_callback.survey import downstream
from neuronxa_callback.survey import measure as survey
from neuronxa_callback.survey.knowledge.measure import measure
from neuronxa_callback.survey.knowledge.prompts import Prompts, open_prompts
from neuronxa_callback.survey.knowledge.records import FILE, KnowledgeLine
from neuronxa_callback.survey.knowledge.tables import consistency_table, knowledge_table
from neuronxa_callback.survey.records import ScoreLine
from neuronxa_callback.survey.results import results_of, scores_of
from neuronxa_callback.survey.tables import for_people
from neuronxa_callback.tables import Table, render, show
from neuronxa_callback.text.corpora import Corpus, open_corpus
from neuronxa_callback.vocabulary import Dtype, Method, TokenPooling, check_choice


@dataclass
class KnowledgeArguments:
    """What to measure. The texts stay where they are, and everything else goes into `output_dir`."""

    model: str = field(metadata={"help": "Folder or hub name of a model, or the folder of an adapter."})
    prompts: str = field(metadata={"help": "BMLAMA-17 or BMLAMA-53: a folder, or a data set of the hub."})
    pairs: str = field(metadata={"help": "Parallel text in these languages; see neuronxa score --help."})
    output_dir: str = field(metadata={"help": "Folder of the scores and the page."})
    adapter: str | None = field(default=None, metadata={"help": "Folder of an adapter to put on the model."})
    load_in_4bit: bool = field(default=False, metadata={"help": "Load the weights in NF4."})
    dtype: str = field(default="auto", metadata={"help": "auto (as stored), float32, bfloat16 or float16."})
    pivot: str = field(default="eng_Latn", metadata={"help": "The language that the others are compared with."})
    langs: list[str] | None = field(default=None, metadata={"help": "FLORES-200 codes; all that both texts have."})
    facts: int | None = field(default=None, metadata={"help": "How many facts, from the first on; all."})
    sentences: int = field(default=100, metadata={"help": "How many sentence pairs, from the first on."})
    methods: list[str] = field(default_factory=lambda: ["nasca", "mexa"], metadata={"help": "Alignment methods."})
    token_pooling: str = field(default="weighted", metadata={"help": "weighted, average or last."})


def languages_of(prompts: Prompts, corpus: Corpus, recipe: KnowledgeArguments) -> list[str]:
    """Return the languages that both texts have, the pivot first.

    Raises:
        PreflightError: one of the texts lacks the pivot or a wanted language, or they share fewer than three others.
    """
    both = [code for code in prompts.languages if code in corpus.languages]
    for code in (recipe.pivot, *(recipe.langs or ())):
        if code not in both:
            lacking = prompts.name if code not in prompts.languages else corpus.name
            raise PreflightError(f"{lacking} has no {code}; the two texts share {', '.join(both) or 'no language'}.")
    others = [code for code in recipe.langs or both if code != recipe.pivot]
    if len(others) < 3:
        raise PreflightError(
            f"{prompts.name} and {corpus.name} share {len(others)} languages beside {recipe.pivot}, and three or more "
            "make a correlation; give texts with more languages, or name more with --langs."
        )
    return [recipe.pivot, *others]


def tables_of(
    known: Sequence[KnowledgeLine], aligned: Sequence[ScoreLine], pivot: str, notes: list[str]
) -> list[Table]:
    """Return what is known by language, and the correlations of alignment with it, of these lines alone."""
    joined = downstream.join(scores_of(aligned), results_of(known, pivot))
    correlations, tests = downstream.correlate(joined), downstream.differences(joined)
    found = [knowledge_table(known, pivot), correlations]
    found[0].notes.extend(notes)
    return [for_people(table) for table in (*found, *([tests] if tests.rows else []))]


def main(recipe: KnowledgeArguments) -> None:
    """Check the settings, measure knowledge and alignment, and write the page."""
    # Everything that can be wrong is checked before anything long starts.
    if launcher.are_several():
        raise PreflightError("This recipe runs in one process; under a launcher use neuronxa knowledge and score.")
    for name, value, kind in (
        ("dtype", recipe.dtype, Dtype),
        ("token_pooling", recipe.token_pooling, TokenPooling),
        *(("method", method, Method) for method in recipe.methods),
    ):
        check_choice(name, value, kind)
    prompts, corpus = open_prompts(recipe.prompts), open_corpus(recipe.pairs, recipe.sentences)
    pivot, *others = languages_of(prompts, corpus, recipe)
    prompts.facts([pivot, *others], recipe.facts)
    pairs, notes = survey.pairs_with(corpus, pivot, others)
    evaluator = NeuronXAEvaluator(
        pairs, cast("list[Method]", recipe.methods), cast("TokenPooling", recipe.token_pooling)
    )
    choice = survey.ModelChoice(recipe.model, recipe.adapter, cast("Dtype", recipe.dtype), recipe.load_in_4bit)
    folder = Path(recipe.output_dir)

    with progress_bar(Console(stderr=True)) as progress:
        known = measure(choice, prompts, [pivot, *others], recipe.facts, folder, progress)
        aligned = survey.score(choice, evaluator, folder, notes, progress)

    tables = tables_of(known, aligned, pivot, notes)
    page = folder / "knowledge.md"
    consistent = for_people(consistency_table(known))
    page.write_text("\n".join(render(table, "markdown") for table in (*tables, consistent)), encoding="utf-8")
    console = Console()
    for table in tables:
        show(table, console)
    console.out(f"Page: {page}\nAnswers: {folder / FILE}\nScores: {folder / 'scores.jsonl'}")


if __name__ == "__main__":
    try:
        main(*settings.parse((KnowledgeArguments,)))
    except (PreflightError, ModelError, ValueError, ArithmeticError, OSError) as error:
        raise SystemExit(str(error)) from None
