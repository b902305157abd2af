"""The checks before training: they refuse settings that cannot work and warn of held-out text in the training text."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterable, Sequence, Sized
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainingArguments

from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator
from neuronxa_callback.text.overlap import search, texts_of
from neuronxa_callback.text.pairs import ParallelPairs
from neuronxa_callback.training.metric_names import OF_TRANSLATIONS, metric_read
from neuronxa_callback.training.settings import StoppingRule
from neuronxa_callback.vocabulary import OVER_PAIRS, MetricName, split_method

logger = logging.getLogger(__name__)

OF_PAIR = re.compile(r"(.+)_\w{3}_\w{4}-\w{3}_\w{4}")  # a metric of one language pair or direction
CORRELATIONS = ("pearson_", "over_sentences_")  # what the names of logged correlations begin with


def check_alone(kind: type[TrainerCallback], callbacks: Sequence[TrainerCallback]) -> None:
    """Raise ValueError if a Trainer has several callbacks of a class."""
    if sum(isinstance(callback, kind) for callback in callbacks) > 1:
        raise ValueError(
            f"the Trainer has several {kind.__name__}s, whose scores would share their names; give one of "
            "them all the pairs (a list), methods and metrics."
        )


def check_floor(rule: StoppingRule, evaluator: NeuronXAEvaluator) -> None:
    """Raise ValueError if no method can test the floor, or if it names a language that is not watched."""
    if rule.floor and not set(evaluator.methods) & set(OVER_PAIRS):
        raise ValueError(f"floor needs a score of each sentence pair; add one of {', '.join(OVER_PAIRS)} to methods.")
    watched = {code for pair in evaluator.pairs for code in (pair.source_lang, pair.target_lang)}
    for code in rule.floor or {}:
        if code not in watched:
            raise ValueError(f"floor names {code}, which is not watched; choose from {', '.join(sorted(watched))}.")


def check_best_metric(
    args: TrainingArguments, rule: StoppingRule, metrics: Collection[str], names: Sequence[str]
) -> None:
    """Raise ValueError if the metric for the best model does not say how good a step is, or is not logged.

    Args:
        args: the Trainer's arguments.
        rule: the stopping rule.
        metrics: the quality metrics that are logged.
        names: the names of the metrics that an evaluation of this callback may give.
    """
    read = metric_read(args)
    name = (args.metric_for_best_model or "").removeprefix("eval_")
    if name.startswith(CORRELATIONS):
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r} says how alignment and quality go together, not how "
            "good a step is; choose an alignment score or a quality metric, such as 'eval_nasca'."
        )
    own = [f"{rule.key}{ending}" for ending in ("_best", "_rise", "_jitter")]
    if name in own:
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r} compares a step with those before it; choose "
            f"'eval_{rule.key}'."
        )
    if read in get_args(MetricName) and read not in metrics:
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r} will not be logged; name {read!r} in "
            "NeuronXACallback(quality=...), and make sure that its environment and its model are on this machine."
        )
    _check_logged(f"metric_for_best_model={args.metric_for_best_model!r}", name, names)


def check_stopping_metric(args: TrainingArguments, rule: StoppingRule, names: Sequence[str]) -> None:
    """Raise ValueError if the stopping rule's metric will not be logged.

    Args:
        args: the Trainer's arguments.
        rule: the stopping rule.
        names: the names of the metrics that an evaluation of this callback may give.
    """
    known = rule.patience is None or f"eval_{rule.key}" in names
    if not known and split_method(rule.key)[0]:
        logged = [name.removeprefix("eval_") for name in names]
        there = ", ".join(name for name in logged if split_method(name)[0])
        raise ValueError(
            f"the stopping rule's metric={rule.key!r} will not be logged; the logged alignment scores are {there}."
        )
    if not known:
        _check_logged(f"the stopping rule's metric={rule.key!r}", rule.key, names)
    if not known and args.eval_strategy == "no":
        raise ValueError(
            f"the stopping rule's metric={rule.key!r} will not be logged: the Trainer never evaluates, so only this "
            "callback's own metrics are logged; choose one of them, such as 'nasca'."
        )


def _check_logged(asked: str, name: str, names: Sequence[str]) -> None:
    """Raise ValueError if a name is that of a direction's score or of the translations, and will not be logged.

    Args:
        asked: what asks for the metric.
        name: its name without "eval_".
        names: the names of the metrics that an evaluation may give.
    """
    logged = [known.removeprefix("eval_") for known in names]
    score, there = _without_pair(name), [known for known in logged if _without_pair(known) == _without_pair(name)]
    is_ours = score in OF_TRANSLATIONS or (score != name and there)
    if name in logged or not is_ours:
        return
    if there:
        raise ValueError(f"{asked} will not be logged; choose from {', '.join(there)}.")
    if not any(known.startswith(OF_TRANSLATIONS) for known in logged):
        raise ValueError(f"{asked} will not be logged: nothing is translated; NeuronXACallback(quality=...) does that.")
    raise ValueError(f"{asked} will not be logged: py3langid does not know the languages of the translations.")


def _without_pair(name: str) -> str:
    """Return a metric's name without the name of a language pair at its end."""
    found = OF_PAIR.fullmatch(name)
    return found[1] if found else name


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
