"""The summary that the demo prints at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from neuronxa_callback.alignment.pair_scores import Surface
from neuronxa_callback.demo.run import DemoRun
from neuronxa_callback.demo.text import TRANSLATED, TRANSLATIONS
from neuronxa_callback.quality.evaluator import QualityReport
from neuronxa_callback.significance import RESAMPLES
from neuronxa_callback.text.languages import language_name
from neuronxa_callback.training.history import History
from neuronxa_callback.training.records import Evaluation, pair_counts

SIGNIFICANCE = 0.05
INTERVAL = "95 % interval"


def summarise(run: DemoRun, console: Console) -> None:
    """Print a table of the scores, sentences on their meaning, and the paths of the files."""
    first, last = run.history[0], run.history[-1]
    above = {name: language.p_value["nasca"] < SIGNIFICANCE for name, language in last.languages.items()}
    console.print()
    console.print(_table(first, last, above))
    console.print(
        "Chance is what the same sentences score when their pairs are torn apart at random, and p is the share of "
        f"{RESAMPLES:,} such re-pairings, the true pairing counted, that score as high. {_conclusion(above)}"
    )
    console.print(_surface_table(last))
    console.print(_caution(last))
    _print_translations(run.translations, console)
    console.print(
        "This is a small English model, which knows next to no Icelandic. For Icelandic take a multilingual model on "
        "a GPU, Llama-3.1-8B for example, with the same callback."
    )
    console.print(f"\nThis took {run.minutes:.1f} minutes.")
    # Paths and commands stay on one line so that the user can copy them.
    console.print(f"Scores: {History(run.output_dir).path}", soft_wrap=True)
    console.print(f"Figure: {run.figure}", soft_wrap=True)
    console.print(f"Curves on TensorBoard: tensorboard --logdir {run.output_dir}", soft_wrap=True)
    if run.page is None:
        console.print(f"There is no page of this run: {run.no_page}", soft_wrap=True, markup=False)
    else:
        console.print(f"The page of this run, for a browser: {run.page}", soft_wrap=True)


def _table(first: Evaluation, last: Evaluation, above: Mapping[str, bool]) -> Table:
    pairs = min(pair_counts([last], "nasca").values())
    steps = (f"step {evaluation.step}" for evaluation in (first, last))
    table = _empty_table(
        f"NASCA on {pairs} held-out pairs, English with",
        (*steps, INTERVAL, "chance", "p by chance", "above chance"),
    )
    for name, language in last.languages.items():
        low, high = language.ci["nasca"]
        table.add_row(
            _language(name),
            f"{first.languages[name].score['nasca']:.4f}",
            f"{language.score['nasca']:.4f}",
            f"{low:.3f} to {high:.3f}",
            f"{language.chance['nasca']:.4f}",
            f"{language.p_value['nasca']:.2g}",
            "yes" if above[name] else "no",
        )
    return table


def _surface_table(last: Evaluation) -> Table:
    table = _empty_table(
        f"What the text itself has to do with NASCA at step {last.step}, English with",
        ("pairs that carry it", "of these share a word form", "NASCA of pairs that share none", "4-grams alone"),
    )
    for name, surface in _surfaces(last).items():
        without = surface.without_shared.get("nasca")
        table.add_row(
            name,
            str(surface.carriers["nasca"]),
            str(surface.carriers_sharing["nasca"]),
            "no such pair" if without is None else f"{without:.4f}",
            f"{surface.ngram_baseline:.4f}",
        )
    return table


def _empty_table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left", no_wrap=column in ("", INTERVAL))
    return table


def _surfaces(evaluation: Evaluation) -> dict[str, Surface]:
    """Return language -> what the surface of its text has to do with its score."""
    found = {name: language.surface for name, language in evaluation.languages.items()}
    return {_language(name): surface for name, surface in found.items() if surface is not None}


def _caution(last: Evaluation) -> str:
    """Return what a score above chance does not say, with the figures of the run."""
    shares = [
        f"{s.carriers_sharing['nasca']} of {s.carriers['nasca']} in {name}" for name, s in _surfaces(last).items()
    ]
    return (
        "A score above chance may come from shared names and numbers alone. Of the pairs that carry the score, these "
        f"share a word form: {', '.join(shares)}."
    )


def _language(name: str) -> str:
    """Return the target language of a language pair."""
    return language_name(name.partition("-")[2])


def _print_translations(reports: Sequence[tuple[int, QualityReport]], console: Console) -> None:
    """Print chrF at the start and at the end, and how the model translated the first sentence at each."""
    scores = [f"{report.mean('chrf'):.1f} at step {step}" for step, report in reports]
    console.print(f"chrF of {TRANSLATIONS} translations into {language_name(TRANSLATED)}: {', '.join(scores)}.")
    for step, report in reports:
        (direction,) = report.by_direction.values()
        console.print(f"  step {step}: {escape(direction.translations.texts[0])}", highlight=False)


def _listed(names: Sequence[str]) -> str:
    """Return the names as a list in a sentence."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _conclusion(above: Mapping[str, bool]) -> str:
    """Return which languages are above chance at the end, as sentences."""
    higher = [_language(name) for name, is_above in above.items() if is_above]
    others = [_language(name) for name, is_above in above.items() if not is_above]
    if not higher:
        return "At the end no language is above chance."
    verb = "is" if len(higher) == 1 else "are"
    sentences = [f"At the end {_listed(higher)} {verb} above chance (p < {SIGNIFICANCE} each)."]
    if others:
        sentences.append(f"{_listed(others)} {'is' if len(others) == 1 else 'are'} not.")
    return " ".join(sentences)
