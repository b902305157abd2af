"""The pairs that a recipe never trains on: some to watch the run, and as many others to score the result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from languages import Languages

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.quality.metrics import Metric
from neuronxa_callback.quality.prompts import Prompt
from neuronxa_callback.ranks import Ranks
from neuronxa_callback.text.corpora import EMBEDDED, HUB_NAME, Corpus, open_corpus
from neuronxa_callback.text.pairs import PairsError
from neuronxa_callback.vocabulary import Method, MetricName

FLORES_PLUS = "openlanguagedata/flores_plus"
METRICS: tuple[MetricName, ...] = ("comet", "cometkiwi", "chrf", "bleu")

Pairs = tuple[ParallelPairs, ...]


@dataclass(frozen=True)
class HeldOut:
    """The held-out pairs of a run, and the quality metrics that score them.

    Attributes:
        languages: the languages of the run.
        watched: the pairs that are scored at every evaluation: a `ParallelPairs` of the source with each target, and
            then with each control.
        test: the pairs that are scored once at the end, of the same languages. Nothing is chosen by them. It is empty
            if there is no test.
        watched_name: the name of the watched pairs in messages and in the model card.
        test_name: the name of the test pairs; None if there is no test.
        metrics: the quality metrics that this machine can compute.
        left_out: a sentence about the metrics that it cannot compute; None if it can compute all.
    """

    languages: Languages
    watched: Pairs
    test: Pairs
    watched_name: str
    test_name: str | None
    metrics: tuple[Metric, ...]
    left_out: str | None

    @property
    def all_pairs(self) -> list[ParallelPairs]:
        """All pairs that must not be trained on."""
        return [*self.watched, *self.test]

    @property
    def translated(self) -> Pairs:
        """The watched pairs of the languages that are trained on. The model translates no control."""
        return trained(self.watched, self.languages)


def trained(pairs: Sequence[ParallelPairs], languages: Languages) -> Pairs:
    """Return the pairs of the languages that are trained on."""
    return tuple(pair for pair in pairs if pair.name in languages.trained_pairs)


def load(held_out: str, languages: Languages, n: int) -> HeldOut:
    """Load the pairs to watch and those for the end.

    If FLORES+ cannot be reached, the embedded pairs are watched and there is no test.

    Args:
        held_out: one of
            * FLORES-200's release folder (dev/isl_Latn.dev, devtest/isl_Latn.devtest), or a data set of the hub that
              has a configuration for each language and the splits dev and devtest (FLORES+): dev is watched, and
              devtest is for the end;
            * "embedded": the package's held-out set, and no test;
            * other parallel text, as `open_corpus` takes it, such as a .tsv file with a column for each language. Its
              first pairs are watched, and the next ones are for the end.
        languages: the languages of the run.
        n: the number of pairs to watch, and of pairs for the end.

    Raises:
        PairsError: the text does not exist, cannot be reached, lacks a language, or its sentences cannot be used.
    """
    if Path(held_out).is_dir() and (Path(held_out) / "dev").is_dir():
        return _two_splits(lambda split: open_corpus(Path(held_out) / split, n), languages)
    if HUB_NAME.fullmatch(held_out) and not Path(held_out).exists():
        found = _from_hub(held_out, languages, n)
        if found is not None:
            return found
        held_out = EMBEDDED
    if held_out == EMBEDDED:
        watched = _pairs(open_corpus(EMBEDDED, n), languages)
        return HeldOut(languages, watched, (), f"{len(watched[0])} embedded pairs", None, *_quality_metrics(watched))
    return _one_text(held_out, languages, n)


def _pairs(corpus: Corpus, languages: Languages) -> Pairs:
    return tuple(corpus.pairs(languages.source, code) for code in languages.watched)


def _two_splits(split: Callable[[str], Corpus], languages: Languages) -> HeldOut:
    watched, test = _pairs(split("dev"), languages), _pairs(split("devtest"), languages)
    names = f"{len(watched[0])} pairs of FLORES dev", f"{len(test[0])} pairs of FLORES devtest"
    return HeldOut(languages, watched, test, *names, *_quality_metrics(watched))


def _one_text(held_out: str, languages: Languages, n: int) -> HeldOut:
    pairs = _pairs(open_corpus(held_out, 2 * n), languages)
    watched = tuple(_part(pair, 0, n) for pair in pairs)
    least = min(map(len, pairs))
    # A single pair left over is none, because it has nothing to be told apart from.
    test = tuple(_part(pair, n, least) for pair in pairs) if least > n + 1 else ()
    text = Path(held_out).name
    name = f"the first {len(watched[0])} pairs of {text}"
    test_name = f"the next {len(test[0])} pairs of {text}" if test else None
    return HeldOut(languages, watched, test, name, test_name, *_quality_metrics(watched))


def _part(pair: ParallelPairs, start: int, end: int) -> ParallelPairs:
    return replace(pair, source=pair.source[start:end], target=pair.target[start:end])


def _from_hub(name: str, languages: Languages, n: int) -> HeldOut | None:
    try:
        return _two_splits(lambda split: open_corpus(f"{name}:{split}", n), languages)
    except PairsError as error:
        if name != FLORES_PLUS:  # a data set that the user named is not replaced
            raise
        reason = str(error).rstrip(".")
        print(
            f"The embedded pairs are watched and nothing is left for a test at the end, since {reason}; "
            "run `hf auth login` and accept the terms of FLORES+, or give FLORES-200's release folder as --held_out.",
            file=sys.stderr,
        )
        return None


def _quality_metrics(pairs: Pairs) -> tuple[tuple[Metric, ...], str | None]:
    """Return COMET, CometKiwi, chrF and BLEU if they are on this machine, and a sentence about the missing ones."""
    with QualityEvaluator(METRICS, pairs) as quality:
        names, left_out = quality.without_downloads()
        return tuple(metric for metric in METRICS if metric in names), left_out


def test_scorer(
    model: torch.nn.Module, tokenizer: Any, held_out: HeldOut, methods: Sequence[Method], prompt: Prompt
) -> Callable[[], dict[str, float]]:
    """Encode the test pairs of the languages that are trained on, and translate them in both directions.

    All processes of the training call it together, because each may have only a part of the model.

    Returns:
        a function that scores what was made, for the first process to call alone. It returns the scores of alignment
        and of the translations, by the names of their methods and metrics. They are empty if there is no test.
    """
    test = trained(held_out.test, held_out.languages)
    if not test:
        return dict
    decoder = Decoder.find(model, tokenizer, ranks=Ranks.of_group())
    alignment = NeuronXAEvaluator(test, methods).score(decoder)
    quality = QualityEvaluator(held_out.metrics, test, "both", prompt)
    translated = quality.translate(decoder)

    def scores() -> dict[str, float]:
        with quality:
            report = quality.score(translated)
            report.wait()
        means = {metric: report.mean(metric) for metric in report.metrics}
        found: dict[str, float] = {str(method): score for method, score in alignment.score.items()}
        return found | {metric: mean for metric, mean in means.items() if mean is not None}

    return scores
