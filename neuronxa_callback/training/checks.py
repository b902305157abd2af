"""What is refused, or said, before training begins: settings that cannot work, held-out text in the training text."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Sequence, Sized
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainingArguments

from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator
from neuronxa_callback.text.overlap import search, texts_of
from neuronxa_callback.text.pairs import ParallelPairs
from neuronxa_callback.training.metric_names import metric_read
from neuronxa_callback.training.stopping import StoppingRule
from neuronxa_callback.vocabulary import OVER_PAIRS, Method, MetricName

logger = logging.getLogger(__name__)


def check_alone(callback: TrainerCallback, callbacks: Sequence[TrainerCallback]) -> None:
    """Raise ValueError if a Trainer has several callbacks of this class."""
    if sum(isinstance(other, type(callback)) for other in callbacks) > 1:
        raise ValueError(
            f"the Trainer has several {type(callback).__name__}s, whose scores would share their names; give one of "
            "them all the pairs (a list), methods and metrics."
        )


def check_floor(rule: StoppingRule, evaluator: NeuronXAEvaluator) -> None:
    """Raise ValueError for a floor that no method can test, or of a language that is not watched."""
    if rule.floor and not set(evaluator.methods) & set(OVER_PAIRS):
        raise ValueError(f"floor tests pair by pair; have one of {', '.join(OVER_PAIRS)} among methods.")
    watched = {code for pair in evaluator.pairs for code in (pair.source_lang, pair.target_lang)}
    for code in rule.floor or {}:
        if code not in watched:
            raise ValueError(f"floor names {code}, which is not watched; choose of {', '.join(sorted(watched))}.")


def check_best_metric(args: TrainingArguments, rule: StoppingRule, metrics: Collection[str]) -> None:
    """Raise ValueError where the best model would be chosen by a metric that says nothing of it, or is not logged.

    Args:
        args: the Trainer's.
        rule: the stopping rule.
        metrics: the quality metrics that are logged.
    """
    read = metric_read(args)
    if read == "pearson":
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r} is about the run so far and says nothing of how "
            "good a step is; choose an alignment score or a quality metric, such as 'eval_nasca'."
        )
    own = [f"{rule.key}{ending}" for ending in ("_best", "_gain", "_gain_p")]
    if (args.metric_for_best_model or "").removeprefix("eval_") in own:
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r} compares a step with those before it; choose "
            f"'eval_{rule.key}'."
        )
    if read in get_args(MetricName) and read not in metrics:
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r} will not be logged; name {read!r} in "
            "NeuronXACallback(quality=...), and see to it that its environment and its model are there."
        )


def check_stopping_metric(args: TrainingArguments, rule: StoppingRule, names: Sequence[str]) -> None:
    """Raise ValueError where training would be stopped by a metric that will not be there.

    Args:
        args: the Trainer's.
        rule: the stopping rule.
        names: what an evaluation of this callback gives.
    """
    known = rule.patience is None or f"eval_{rule.key}" in names
    if not known and rule.key.split("_")[0] in get_args(Method):
        there = ", ".join(name.removeprefix("eval_") for name in names if name.split("_")[1] in get_args(Method))
        raise ValueError(
            f"the stopping rule's metric={rule.key!r} will not be logged; of the alignment scores there are {there}."
        )
    if not known and args.eval_strategy == "no":
        raise ValueError(
            f"the stopping rule's metric={rule.key!r} will not be logged: where the Trainer never evaluates "
            "only this callback's own metrics are there; choose one of them, such as 'nasca'."
        )


def search_train_texts(rows: Iterable[Any], pairs: Sequence[ParallelPairs], args: TrainingArguments) -> None:
    """Look for the held-out sentences in the training text, write what was found to overlap.json, and warn of it.

    Args:
        rows: the training text; see `overlap.texts_of`.
        pairs: what is held out.
        args: the Trainer's, for the place and the progress bar.

    Raises:
        ValueError: rows that hold no text.
    """
    total = len(rows) if isinstance(rows, Sized) else None
    bar = tqdm(texts_of(rows), "looking for held-out text", total, disable=args.disable_tqdm)
    report = search(bar, pairs)
    path = Path(str(args.output_dir)) / "neuronxa" / "overlap.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(report), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if report.whole or report.near:
        logger.warning(
            "NeuronXA: of %d training texts %d hold a held-out sentence and %d nearly one, such as %r; the scores "
            "may say what the model remembers. %s has more, and overlap.drop(dataset, callback.evaluator.pairs) "
            "gives the data set without them.",
            report.texts,
            report.whole,
            report.near,
            report.examples[0]["sentence"],
            path,
        )
