"""The summary that the demo prints at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from neuronxa_callback.demo.run import DemoRun
from neuronxa_callback.demo.text import TRANSLATED, TRANSLATIONS
from neuronxa_callback.quality.evaluator import QualityReport
from neuronxa_callback.significance import chance_level
from neuronxa_callback.text.languages import language_name
from neuronxa_callback.training.history import History
from neuronxa_callback.training.records import Evaluation, pair_counts

SIGNIFICANCE = 0.05


def summarise(run: DemoRun, console: Console) -> None:
    """Print a table of the scores, a sentence on their meaning, and the paths of the files."""
    first, last = run.history[0], run.history[-1]
    pairs = min(pair_counts([last], "nasca").values())
    above = {name: language.p_value["nasca"] < SIGNIFICANCE for name, language in last.languages.items()}
    console.print()
    console.print(_table(first, last, above, pairs))
    console.print(f"The chance level is {chance_level(pairs):.4f}.", _conclusion(above))
    _print_translations(run.translations, console)
    console.print(
        "This is a small English model, which knows next to no Icelandic. For Icelandic take a multilingual model on "
        "a GPU, Llama-3.1-8B for example, with the same callback."
    )
    console.print(f"\nThis took {run.minutes:.1f} minutes.")
    # Paths and commands stay on one line so that the user can copy them.
    console.print(f"Scores: {History(run.output_dir).path}", soft_wrap=True)
    console.print(f"Figure: {run.figure}", soft_wrap=True)
    console.print(f"Curves: tensorboard --logdir {run.output_dir}", soft_wrap=True)


def _table(first: Evaluation, last: Evaluation, above: Mapping[str, bool], pairs: int) -> Table:
    table = Table(title=f"NASCA on {pairs} held-out pairs, English with", title_justify="left")
    for column in ("", f"step {first.step}", f"step {last.step}", "95 % interval", "p by chance", "above chance"):
        table.add_column(column, justify="right" if column else "left")
    for name, language in last.languages.items():
        low, high = language.ci["nasca"]
        table.add_row(
            _language(name),
            f"{first.languages[name].score['nasca']:.4f}",
            f"{language.score['nasca']:.4f}",
            f"{low:.3f} to {high:.3f}",
            f"{language.p_value['nasca']:.2g}",
            "yes" if above[name] else "no",
        )
    return table


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


def _conclusion(above: Mapping[str, bool]) -> str:
    """Return which languages are above the chance level at the end, as sentences."""
    higher = [_language(name) for name, is_above in above.items() if is_above]
    others = [_language(name) for name, is_above in above.items() if not is_above]
    if not higher:
        return "At the end no language is above it."
    verb = "is" if len(higher) == 1 else "are"
    sentences = [f"At the end {' and '.join(higher)} {verb} above it (p < {SIGNIFICANCE} each)."]
    if others:
        sentences.append(f"{' and '.join(others)} {'is' if len(others) == 1 else 'are'} not.")
    return " ".join(sentences)
