"""The demo's sentences: those it watches, those it translates, and those it trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from neuronxa_callback.quality.prompts import PLAIN_PROMPT
from neuronxa_callback.text.languages import language_name
from neuronxa_callback.text.overlap import search
from neuronxa_callback.text.pairs import ParallelPairs

PIVOT = "eng_Latn"
WATCHED = ("isl_Latn", "fra_Latn", "spa_Latn")
TRANSLATED = "fra_Latn"
TRANSLATIONS = 20


class DemoError(RuntimeError):
    """The demo cannot run because something is missing. The message says what to do."""


def shortest(pairs: ParallelPairs, n: int) -> ParallelPairs:
    """Return the n pairs with the shortest sources. They take the least time to translate."""
    source, target = zip(
        *sorted(zip(pairs.source, pairs.target, strict=True), key=lambda p: len(p[0]))[:n], strict=True
    )
    return ParallelPairs(source, target, pairs.source_lang, pairs.target_lang)


def translation_examples(columns: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Return a prompt and a completion for every sentence, from English into each language and back."""
    examples = []
    for language in WATCHED:
        for english, other in zip(columns[PIVOT], columns[language], strict=True):
            examples.append(_example(PIVOT, english, language, other))
            examples.append(_example(language, other, PIVOT, english))
    return examples


def _example(source_lang: str, source: str, target_lang: str, target: str) -> dict[str, str]:
    names = {"source_language": language_name(source_lang), "target_language": language_name(target_lang)}
    return {"prompt": PLAIN_PROMPT.format(source=source, **names), "completion": f" {target}"}


def check_held_out(pairs: Sequence[ParallelPairs], examples: Sequence[Mapping[str, str]]) -> None:
    """Raise DemoError if the training text holds a held-out sentence, whole or nearly whole."""
    texts = [example[part] for example in examples for part in ("prompt", "completion")]
    report = search(texts, pairs)
    if report.examples:
        raise DemoError(
            f"{report.whole + report.near} training texts hold a held-out sentence or nearly one, such as "
            f"{report.examples[0].sentence!r}."
        )
