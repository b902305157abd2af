"""The pairs that a recipe never trains on: FLORES-200 dev to watch the run by, devtest to judge it by at the end."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.quality.evaluator import Metric, QualityEvaluator
from neuronxa_callback.quality.translation import Prompt
from neuronxa_callback.text.corpora import HUB_NAME, open_corpus
from neuronxa_callback.text.pairs import PairsError
from neuronxa_callback.vocabulary import MetricName

LANGUAGES = ("eng_Latn", "isl_Latn")
FLORES_PLUS = "openlanguagedata/flores_plus"
METRICS: tuple[MetricName, ...] = ("comet", "cometkiwi", "chrf")


@dataclass(frozen=True)
class HeldOut:
    """What is watched during a run, and what is left for its end.

    Attributes:
        watched: pairs that are scored at every evaluation.
        test: pairs that nothing is chosen by; None where there are none.
        watched_name: what a reader knows them as.
        test_name: likewise; None where there are none.
        metrics: quality metrics that this machine can score.
        left_out: a sentence on those it cannot; None where it can all.
    """

    watched: ParallelPairs
    test: ParallelPairs | None
    watched_name: str
    test_name: str | None
    metrics: tuple[Metric, ...]
    left_out: str | None

    @property
    def all_pairs(self) -> list[ParallelPairs]:
        """Everything that must not be trained on."""
        return [pairs for pairs in (self.watched, self.test) if pairs is not None]


def load(flores: str, n: int) -> HeldOut:
    """FLORES' dev to watch and devtest for the end; the embedded pairs and no test where it cannot be had.

    Args:
        flores: FLORES-200's release folder (dev/isl_Latn.dev, devtest/isl_Latn.devtest), a data set of the hub with
            a configuration a language and a column "text" (FLORES+), or "embedded".
        n: pairs of each.

    Raises:
        PairsError: no such folder, one without these files, or sentences that cannot be used.
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
        if flores != FLORES_PLUS:  # what is asked for by name is not replaced
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
    """chrF, and COMET and CometKiwi where they are on this machine; a sentence says what is missing."""
    with QualityEvaluator(METRICS, [pairs]) as quality:
        left_out = quality.leave_out_downloads()
        return tuple(metric for metric in METRICS if metric in quality.metrics), left_out


def test_scores(model: torch.nn.Module, tokenizer: Any, held_out: HeldOut, prompt: Prompt) -> dict[str, float]:
    """Alignment and translation quality, both ways, on the pairs that nothing was chosen by; empty where none are."""
    if held_out.test is None:
        return {}
    alignment = NeuronXAEvaluator(held_out.test)(model, tokenizer).score
    with QualityEvaluator(held_out.metrics, [held_out.test], "both", prompt) as quality:
        report = quality.score(quality.translate(model, tokenizer))
        report.wait()
        means = {metric: report.mean(metric) for metric in report.metrics}
    found: dict[str, float] = {str(method): score for method, score in alignment.items()}
    return found | {metric: mean for metric, mean in means.items() if mean is not None}
