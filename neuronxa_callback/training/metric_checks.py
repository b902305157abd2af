"""The checks of a metric's name before training: what is never logged can neither choose a model nor stop a run."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import get_args

from transformers import TrainingArguments

from neuronxa_callback.training.metric_names import OF_TRANSLATIONS
from neuronxa_callback.training.settings import StoppingRule
from neuronxa_callback.vocabulary import Method, MetricName, split_method

OF_PAIR = re.compile(r"(.+)_\w{3}_\w{4}-\w{3}_\w{4}")  # a metric of one language pair or direction
# What the names of logged correlations begin with.
CORRELATIONS = ("pearson_diff_", "pearson_partial_", "pearson_", "over_sentences_")
# The paper made these words, so nobody else's metric has them.
COINED = ("nasca", "navca")
OTHERS_TOO = {*get_args(Method), *get_args(MetricName)} - {*COINED}
LIKE = 0.8  # difflib's ratio: one letter of a coined word is wrong, missing or one too many


@dataclass(frozen=True)
class Logged:
    """What is known before training of the metrics that will be logged.

    Attributes:
        names: the metrics that an evaluation of this callback may give, with "eval_" in front.
        quality: the quality metrics that are scored.
        sets: the names of the Trainer's evaluation sets, if there are several.
        others: whether something else may give metrics of any name, such as the user's `compute_metrics`.
    """

    names: Collection[str]
    quality: Collection[str]
    sets: Collection[str]
    others: bool

    @property
    def plain(self) -> list[str]:
        """The names without "eval_"."""
        return [name.removeprefix("eval_") for name in self.names]


def check_best_metric(args: TrainingArguments, rule: StoppingRule, logged: Logged) -> None:
    """Raise ValueError if the metric for the best model does not say how good a step is, or is not logged."""
    name = (args.metric_for_best_model or "").removeprefix("eval_")
    asked = f"metric_for_best_model={args.metric_for_best_model!r}"
    if any(split_method(name.removeprefix(start))[0] for start in CORRELATIONS if name.startswith(start)):
        raise ValueError(
            f"{asked} says how alignment and quality go together, not how good a step is; choose an alignment score or "
            "a quality metric, such as 'eval_nasca'."
        )
    if name in [f"{rule.key}{ending}" for ending in ("_best", "_rise", "_jitter")]:
        raise ValueError(f"{asked} compares a step with those before it; choose 'eval_{rule.key}'.")
    _check_logged(asked, name, logged)


def check_stopping_metric(args: TrainingArguments, rule: StoppingRule, logged: Logged) -> None:
    """Raise ValueError if the stopping rule's metric will not be logged."""
    if rule.patience is None or f"eval_{rule.key}" in logged.names:
        return
    asked = f"the stopping rule's metric={rule.key!r}"
    _check_logged(asked, rule.key, logged)
    if args.eval_strategy == "no":
        raise ValueError(
            f"{asked} will not be logged: the Trainer never evaluates, so only this callback's own metrics are logged; "
            "choose one of them, such as 'nasca'."
        )


def _check_logged(asked: str, name: str, logged: Logged) -> None:
    """Raise ValueError if a name can only be one of ours, and will not be logged.

    Args:
        asked: what asks for the metric.
        name: its name without "eval_".
        logged: what will be logged.
    """
    if f"eval_{name}" in logged.names:
        return
    score = _without_pair(name)
    if score in OF_TRANSLATIONS:
        _refuse_of_translations(asked, score, logged)
    if not _is_ours(name, logged):
        return
    read = split_method(name)[0] or name.split("_")[0]
    if read in get_args(MetricName) and read not in logged.quality:
        raise ValueError(
            f"{asked} will not be logged; name {read!r} in NeuronXACallback(quality=...), and make sure that its "
            "environment and its model are on this machine."
        )
    if read in get_args(Method) and f"eval_{read}" not in logged.names:
        raise ValueError(f"{asked} will not be logged; name {read!r} in NeuronXACallback(methods=...).")
    if score != name and (there := _of_same_score(score, logged)):
        raise ValueError(f"{asked} will not be logged; choose from {', '.join(there)}.")
    raise ValueError(f"{asked} will not be logged; the nearest names are {', '.join(_nearest(name, logged.plain))}.")


def _refuse_of_translations(asked: str, score: str, logged: Logged) -> None:
    if there := _of_same_score(score, logged):
        raise ValueError(f"{asked} will not be logged; choose from {', '.join(there)}.")
    if not any(name.startswith(OF_TRANSLATIONS) for name in logged.plain):
        raise ValueError(f"{asked} will not be logged: nothing is translated; NeuronXACallback(quality=...) does that.")
    raise ValueError(f"{asked} will not be logged: py3langid does not know the languages of the translations.")


def _is_ours(name: str, logged: Logged) -> bool:
    """Return whether nobody but this callback could log a metric of such a name.

    A name of an evaluation set in front does not count: the loss of a set "anc" is no ANC.
    """
    of_set = next((name.removeprefix(f"{key}_") for key in logged.sets if name.startswith(f"{key}_")), name)
    words = re.findall(r"[a-z0-9]+", of_set.lower())
    if not words or set(COINED) & set(words):
        return bool(words)
    ends = (words[0], words[-1])
    misspelt = any(get_close_matches(word, COINED, 1, LIKE) for word in ends)
    of_object = _without_pair(of_set) != of_set and bool(_of_same_score(_without_pair(of_set), logged))
    return not logged.others and (misspelt or of_object or not OTHERS_TOO.isdisjoint(ends))


def _nearest(name: str, names: Sequence[str]) -> list[str]:
    """Return the three names that are most like a name, whatever their case."""
    known = {other.lower(): f"eval_{other}" for other in names if not other.endswith("_runtime")}
    return [known[found] for found in get_close_matches(name.lower(), known, 3, 0.0)]


def _of_same_score(score: str, logged: Logged) -> list[str]:
    return [name for name in logged.plain if _without_pair(name) == score]


def _without_pair(name: str) -> str:
    """Return a metric's name without the name of a language pair at its end."""
    found = OF_PAIR.fullmatch(name)
    return found[1] if found else name
