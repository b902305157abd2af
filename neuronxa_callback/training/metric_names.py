"""What scores are called in the Trainer's log: `eval_nasca`, `eval_nasca_eng_Latn-isl_Latn`, `eval_comet`, ..."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transformers import TrainingArguments

from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator
from neuronxa_callback.alignment.report import AlignmentReport
from neuronxa_callback.quality.evaluator import QualityEvaluator, QualityReport
from neuronxa_callback.significance import Correlation
from neuronxa_callback.training.stopping import Verdict


def expected_names(evaluator: NeuronXAEvaluator, quality: QualityEvaluator, metrics: Collection[str]) -> list[str]:
    """What an evaluation should give by its end.

    Args:
        evaluator: what scores alignment.
        quality: what translates.
        metrics: the quality metrics whose scores are there by then.
    """
    names = [f"eval_{method}" for method in evaluator.methods]
    names += [f"eval_{method}_{pair.name}" for method in evaluator.methods for pair in evaluator.pairs]
    names += [f"eval_{metric}" for metric in metrics]
    names += [f"eval_{metric}_{direction}" for metric in metrics for direction in quality.jobs]
    if metrics:
        names += ["eval_translation_empty", "eval_translation_truncated", "eval_translation_runtime"]
    return [*names, "eval_neuronxa_runtime"]


def metric_read(args: TrainingArguments) -> str:
    """The metric that the Trainer chooses its best model by, without prefix and suffix."""
    return (args.metric_for_best_model or "").removeprefix("eval_").split("_")[0]


def metrics_of(report: AlignmentReport) -> dict[str, float]:
    """The Trainer's metrics: `eval_nasca` over all language pairs and `eval_nasca_SOURCE-TARGET` of each."""
    metrics: dict[str, float] = {f"eval_{method}": score for method, score in report.score.items()}
    for name, language in report.by_language.items():
        metrics |= {f"eval_{method}_{name}": score for method, score in language.score.items()}
    return metrics


def verdict_metrics(verdict: Verdict, metric: str) -> dict[str, float]:
    """`eval_nasca_best`, `eval_nasca_gain` and, where the paired test was made, `eval_nasca_gain_p`."""
    if verdict.best is None or verdict.gain is None:
        return {}
    metrics = {f"eval_{metric}_best": verdict.best, f"eval_{metric}_gain": verdict.gain}
    return metrics if verdict.p_value is None else metrics | {f"eval_{metric}_gain_p": verdict.p_value}


def translation_metrics(report: QualityReport) -> dict[str, float]:
    """How many translations are empty or were cut at their limit, over all directions."""
    made = [direction.translations for direction in report.by_direction.values()]
    return {
        "eval_translation_empty": sum(translations.empty for translations in made),
        "eval_translation_truncated": sum(translations.truncated for translations in made),
    }


def quality_metrics(report: QualityReport, names: Sequence[str]) -> dict[str, float]:
    """The values of finished metrics: `eval_comet` over all directions, where each has a score, and that of each."""
    metrics: dict[str, float] = {}
    for name in names:
        mean = report.mean(name)
        if mean is not None:
            metrics[f"eval_{name}"] = mean
        metrics |= {f"eval_{name}_{direction}": score for direction, score in report.system(name).items()}
    return metrics


def quality_metrics_in(record: Mapping[str, Any]) -> dict[str, float]:
    """What a line's finished quality scores are called in the Trainer's log."""
    metrics = {f"eval_{metric}": mean for metric, mean in record.get("quality_score", {}).items()}
    for name, direction in record.get("quality", {}).items():
        for metric, outcome in direction["metrics"].items():
            if outcome.get("score") is not None:
                metrics[f"eval_{metric}_{name}"] = outcome["score"]
    return metrics


def pearson_metrics(found: Mapping[str, Correlation], scored: Mapping[str, float]) -> dict[str, float]:
    """`eval_pearson_nasca_comet` and the like, of the quality metrics among those just scored."""
    return {f"eval_pearson_{name}": c.r for name, c in found.items() if f"eval_{name.partition('_')[2]}" in scored}
