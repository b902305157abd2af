"""The pairs that a recipe never trains on: FLORES-200 dev to watch the run, and devtest to score the result."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.quality.metrics import Metric
from neuronxa_callback.quality.translation import Prompt
from neuronxa_callback.text.corpora import HUB_NAME, open_corpus
from neuronxa_callback.text.pairs import PairsError
from neuronxa_callback.vocabulary import MetricName

LANGUAGES = ("eng_Latn", "isl_Latn")
FLORES_PLUS = "openlanguagedata/flores_plus"
METRICS: tuple[MetricName, ...] = ("comet", "cometkiwi", "chrf")


@dataclass(frozen=True)
class HeldOut:
    """The held-out pairs of a run, and the quality metrics that score them.

    Attributes:
        watched: the pairs that are scored at every evaluation.
        test: the pairs that are scored once at the end. Nothing is chosen by them. None if there is no test.
        watched_name: the name of the watched pairs in messages and in the model card.
        test_name: the name of the test pairs; None if there is no test.
        metrics: the quality metrics that this machine can compute.
        left_out: a sentence about the metrics that it cannot compute; None if it can compute all.
    """

    watched: ParallelPairs
    test: ParallelPairs | None
    watched_name: str
    test_name: str | None
    metrics: tuple[Metric, ...]
    left_out: str | None

    @property
    def all_pairs(self) -> list[ParallelPairs]:
        """All pairs that must not be trained on."""
        return [pairs for pairs in (self.watched, self.test) if pairs is not None]


def load(flores: str, n: int) -> HeldOut:
    """Load dev of FLORES to watch and devtest for the end.

    If `flores` is "embedded" or FLORES+ cannot be reached, the embedded pairs are watched and there is no test.

    Args:
        flores: FLORES-200's release folder (dev/isl_Latn.dev, devtest/isl_Latn.devtest), a data set of the hub that
            has a configuration for each language and a column "text" (FLORES+), or "embedded".
        n: the number of pairs to watch, and of pairs for the end.

    Raises:
        PairsError: the folder does not exist or lacks these files, another data set of the hub cannot be reached, or
            the sentences cannot be used.
    """
    found = _flores(flores, n) if flores != "embedded" else None
    if found is None:
        watched, test = ParallelPairs.load("-".join(LANGUAGES), n=n), None
        names: tuple[str, str | None] = (f"{len(watched)} embedded pairs", None)
    else:
        watched, test = found
        names = (f"{len(watched)} pairs of FLORES dev", f"{len(test)} pairs of FLORES devtest")
    return HeldOut(watched, test, *names, *_quality_metrics(watched))


def _flores(flores: str, n: int) -> tuple[ParallelPairs, ParallelPairs] | None:
    if Path(flores).is_dir():
        return _from_folder(Path(flores), "dev", n), _from_folder(Path(flores), "devtest", n)
    if not HUB_NAME.fullmatch(flores):
        raise PairsError(
            f"--flores {flores} does not exist; give FLORES-200's release folder, a data set of the hub, or embedded."
        )
    try:
        return _from_hub(flores, "dev", n), _from_hub(flores, "devtest", n)
    except PairsError as error:
        if flores != FLORES_PLUS:  # a data set that the user named is not replaced
            raise
        reason = str(error).rstrip(".")
        print(
            f"The embedded pairs are watched and nothing is left for a test at the end, since {reason}; "
            "run `hf auth login` and accept the terms of FLORES+, or give FLORES-200's release folder as --flores.",
            file=sys.stderr,
        )
        return None


def _from_folder(folder: Path, split: str, n: int) -> ParallelPairs:
    source, target = (folder / split / f"{code}.{split}" for code in LANGUAGES)
    return ParallelPairs.load((source, target), *LANGUAGES, n=n)


def _from_hub(name: str, split: str, n: int) -> ParallelPairs:
    return open_corpus(f"{name}:{split}", n).pairs(*LANGUAGES)


def _quality_metrics(pairs: ParallelPairs) -> tuple[tuple[Metric, ...], str | None]:
    """Return chrF, COMET and CometKiwi as far as they are on this machine, and a sentence about the missing ones."""
    with QualityEvaluator(METRICS, [pairs]) as quality:
        names, left_out = quality.without_downloads()
        return tuple(metric for metric in METRICS if metric in names), left_out


def test_scores(model: torch.nn.Module, tokenizer: Any, held_out: HeldOut, prompt: Prompt) -> dict[str, float]:
    """Score alignment, and translations in both directions, on the test pairs.

    The scores are named by their methods and metrics. They are empty if there is no test.
    """
    if held_out.test is None:
        return {}
    decoder = Decoder.find(model, tokenizer)
    alignment = NeuronXAEvaluator(held_out.test).score(decoder).score
    with QualityEvaluator(held_out.metrics, [held_out.test], "both", prompt) as quality:
        report = quality.score(quality.translate(decoder))
        report.wait()
        means = {metric: report.mean(metric) for metric in report.metrics}
    found: dict[str, float] = {str(method): score for method, score in alignment.items()}
    return found | {metric: mean for metric, mean in means.items() if mean is not None}
