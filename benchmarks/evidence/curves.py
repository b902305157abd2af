"""What a recorded run says at each evaluation: alignment, translation, and what else might predict translation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence import checkpoints
from benchmarks.evidence.checkpoints import CheckpointScores
from neuronxa_callback.training.history import History
from neuronxa_callback.training.records import Evaluation
from neuronxa_callback.vocabulary import Method, score_name

TRAINING_LOSS = "training_loss.json"
METHODS: tuple[Method, ...] = ("nasca", "nasca_rank", "navca", "mexa")
CONTROL = "NASCA rank, not trained on"  # the mean over the language pairs that are watched alone
LOSS, HELD_OUT_LOSS, STEP = "training loss, falling", "held-out loss, falling", "step number"

Values = NDArray[np.float64]


@dataclass(frozen=True)
class RunCurves:
    """The curves of a recorded run. All arrays have one value for each evaluation.

    Attributes:
        name: the run.
        steps: the Trainer's step of each evaluation.
        predictors: alignment scores of the trained language pairs, those of pairs that are not trained on, and the
            rivals that cost less or as much. Each is turned so that it should rise when translation gets better.
        quality: quality metric -> its mean over the directions.
        copied: chrF of the translations against their sources, mean over the directions.
        off_target: share of the translations in another language, mean over the directions; nan where no translation
            is long enough to tell.
        controls: language pair that is not trained on -> its NASCA rank score.
        over_sentences: (method, metric) -> rho over the sentences of an evaluation, mean over directions and
            evaluations. An evaluation without a rho is left out.
        variants: ways to measure alignment at the checkpoints -> (evaluations, layers). Empty without checkpoints.
    """

    name: str
    steps: list[int]
    predictors: dict[str, Values]
    quality: dict[str, Values]
    copied: Values
    off_target: Values
    controls: dict[str, Values]
    over_sentences: dict[tuple[Method, str], float]
    variants: dict[str, Values]


def read(folder: Path) -> RunCurves:
    """Return the curves of a run's folder in docs/results/.

    Evaluations without translations are left out. There is none in a run that was not interrupted.
    """
    evaluations = [evaluation for evaluation in History(folder).read() if evaluation.quality]
    steps = [evaluation.step for evaluation in evaluations]
    of_checkpoints = checkpoints.read(folder)
    has_checkpoints = set(steps) <= of_checkpoints.keys()
    methods = [method for method in METHODS if method in evaluations[0].score]
    predictors = {score_name(method): _alignment(evaluations, method) for method in methods}
    controls = _controls(evaluations)
    if controls:
        predictors[CONTROL] = np.mean(list(controls.values()), axis=0)
    predictors[LOSS] = -_training_loss(folder, steps)
    if has_checkpoints:
        predictors[HELD_OUT_LOSS] = -np.array([of_checkpoints[step].held_out_loss for step in steps])
    predictors[STEP] = np.array(steps, dtype=float)
    return RunCurves(
        name=folder.name,
        steps=steps,
        predictors=predictors,
        quality={
            metric: np.array([evaluation.quality_score[metric] for evaluation in evaluations])
            for metric in evaluations[0].quality_score
        },
        copied=_of_directions(evaluations, "copied"),
        off_target=_of_directions(evaluations, "off_target"),
        controls=controls,
        over_sentences=_over_sentences(evaluations, methods),
        variants=_variants([of_checkpoints[step] for step in steps]) if has_checkpoints else {},
    )


def _translated(evaluation: Evaluation) -> list[str]:
    """Return the language pairs that are trained on, which are those that are translated."""
    return [name for name in evaluation.languages if name in evaluation.quality]


def _alignment(evaluations: Sequence[Evaluation], method: Method) -> Values:
    scores = [[e.languages[name].score[method] for name in _translated(e)] for e in evaluations]
    return np.asarray(np.mean(scores, axis=1))


def _controls(evaluations: Sequence[Evaluation]) -> dict[str, Values]:
    names = set(evaluations[0].languages) - set(_translated(evaluations[0]))
    return {name: np.array([e.languages[name].score["nasca_rank"] for e in evaluations]) for name in sorted(names)}


def _of_directions(evaluations: Sequence[Evaluation], name: str) -> Values:
    measured = [[getattr(made, name) for made in e.quality.values()] for e in evaluations]
    return np.array([np.nan if None in values else np.mean(values) for values in measured])


def _training_loss(folder: Path, steps: Sequence[int]) -> Values:
    """Return the mean training loss since the evaluation before. At step 0 it is the first loss that was logged."""
    logged = {int(step): loss for step, loss in json.loads((folder / TRAINING_LOSS).read_text("utf-8")).items()}
    first = logged[min(logged)]
    means = [
        np.mean([loss for step, loss in logged.items() if before < step <= now]) for before, now in pairwise(steps)
    ]
    return np.array([first, *means])


def _over_sentences(evaluations: Sequence[Evaluation], methods: Sequence[Method]) -> dict[tuple[Method, str], float]:
    found = {}
    for method in methods:
        for metric in evaluations[0].quality_score:
            rhos = [
                by_name[f"{method}_{metric}"].r
                for evaluation in evaluations
                for by_name in evaluation.over_sentences.values()
                if f"{method}_{metric}" in by_name
            ]
            if rhos:
                found[method, metric] = float(np.mean(rhos))
    return found


def _variants(lines: Sequence[CheckpointScores]) -> dict[str, Values]:
    return {name: np.array([line.per_layer[name] for line in lines]) for name in lines[0].per_layer}
