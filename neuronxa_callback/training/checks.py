"""The checks before training: they refuse settings that cannot work and warn of held-out text in the training text."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Sequence, Sized
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import SchedulerType, TrainerCallback, TrainingArguments

from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator
from neuronxa_callback.text.overlap import search, texts_of
from neuronxa_callback.text.pairs import ParallelPairs
from neuronxa_callback.training.settings import StoppingRule
from neuronxa_callback.training.trainer import Moment
from neuronxa_callback.vocabulary import OVER_PAIRS

logger = logging.getLogger(__name__)

# Schedulers that read the metric for the best model. transformers has the second one since version 5.
FOLLOW_A_METRIC = ("reduce_lr_on_plateau", "greedy")


def check_alone(kind: type[TrainerCallback], callbacks: Sequence[TrainerCallback]) -> None:
    """Raise ValueError if a Trainer has several callbacks of a class."""
    if sum(isinstance(callback, kind) for callback in callbacks) > 1:
        raise ValueError(
            f"the Trainer has several {kind.__name__}s, whose scores would share their names; give one of "
            "them all the pairs (a list), methods and metrics."
        )


def check_one_trainer(callback: TrainerCallback, moment: Moment) -> None:
    """Raise ValueError if a training begins within that of another Trainer that has the same callback."""
    if moment.is_within_another_training(callback):
        raise ValueError(
            f"the {type(callback).__name__} watches the training of another Trainer; give each Trainer a "
            f"{type(callback).__name__} of its own."
        )


def check_engine(moment: Moment) -> None:
    """Raise ValueError if the processes split each sentence among them, because no process sees a whole one then."""
    parallel = getattr(moment.trainer.accelerator, "parallelism_config", None)
    for size, is_on in (("sp_size", "sp_enabled"), ("cp_size", "cp_enabled")):
        if getattr(parallel, is_on, False):
            raise ValueError(
                f"NeuronXA cannot measure a model whose sentences are split over processes ({size} of accelerate's "
                "ParallelismConfig); train without it, or score the checkpoints afterwards with `neuronxa sweep`."
            )


def check_floor(rule: StoppingRule, evaluator: NeuronXAEvaluator) -> None:
    """Raise ValueError if no method can test the floor, or if it names a language that is not watched."""
    if rule.floor and not set(evaluator.methods) & set(OVER_PAIRS):
        raise ValueError(f"floor needs a score of each sentence pair; add one of {', '.join(OVER_PAIRS)} to methods.")
    watched = {code for pair in evaluator.pairs for code in (pair.source_lang, pair.target_lang)}
    for code in rule.floor or {}:
        if code not in watched:
            raise ValueError(f"floor names {code}, which is not watched; choose from {', '.join(sorted(watched))}.")


def warn_of_patience(rule: StoppingRule, values: int) -> None:
    """Warn if a run ends before the stopping rule can stop it.

    Args:
        rule: the stopping rule.
        values: how many values its metric has before the last step.
    """
    if rule.patience is not None and rule.warmup + rule.patience >= values:
        warm_up = f" after a warm-up of {rule.warmup}" if rule.warmup else ""
        logger.warning(
            "NeuronXA: patience %d%s cannot stop this run: the number of values of %s before the last step is %d. "
            "Evaluate more often (eval_steps), or take less patience.",
            rule.patience,
            warm_up,
            rule.key,
            values,
        )


def warn_of_plateau(args: TrainingArguments, names: Collection[str]) -> None:
    """Warn of a scheduler that takes the metric for the best model for a loss, although it should rise.

    Args:
        args: the Trainer's arguments.
        names: the metrics of this callback, with "eval_" in front.
    """
    metric = f"eval_{(args.metric_for_best_model or '').removeprefix('eval_')}"
    scheduler = SchedulerType(args.lr_scheduler_type).value
    mode = dict(args.lr_scheduler_kwargs or {}).get("mode", "min")
    if scheduler in FOLLOW_A_METRIC and metric in names and args.greater_is_better and mode == "min":
        logger.warning(
            "NeuronXA: lr_scheduler_type=%r lowers the learning rate while %s rises, because its mode is 'min'; pass "
            "lr_scheduler_kwargs={'mode': 'max'}.",
            scheduler,
            metric,
        )


def search_train_texts(rows: Iterable[Any], pairs: Sequence[ParallelPairs], args: TrainingArguments) -> None:
    """Search the training text for the held-out sentences, write the findings to overlap.json, and warn of them.

    Args:
        rows: the training text; see `overlap.texts_of`.
        pairs: the held-out pairs.
        args: the Trainer's arguments. They name the output folder and say whether to show a progress bar.

    Raises:
        ValueError: `rows` cannot be searched, or holds no text.
    """
    total = len(rows) if isinstance(rows, Sized) else None
    bar = tqdm(texts_of(rows), "looking for held-out text", total, disable=args.disable_tqdm)
    report = search(bar, pairs)
    path = Path(str(args.output_dir)) / "neuronxa" / "overlap.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(report), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if report.whole or report.near:
        logger.warning(
            "NeuronXA: of %d training texts, %d hold a whole held-out sentence and %d a nearly whole one, such as %r; "
            "the scores may measure what the model remembers. %s lists more of them. "
            "neuronxa_callback.text.overlap.drop(dataset, callback.evaluator.pairs) returns the data set without these "
            "texts; train on that, and give it to the callback.",
            report.texts,
            report.whole,
            report.near,
            report.examples[0].sentence,
            path,
        )
