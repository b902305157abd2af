"""What scores are called in the Trainer's log: `eval_nasca`, `eval_nasca_eng_Latn-isl_Latn`, `eval_comet`, ..."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean

from transformers import TrainingArguments

from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator
from neuronxa_callback.alignment.report import AlignmentReport
from neuronxa_callback.quality.evaluator import QualityEvaluator, QualityReport
from neuronxa_callback.quality.faithfulness import Faithfulness
from neuronxa_callback.text.recognition import can_recognise
from neuronxa_callback.training.records import Evaluation, Verdict
from neuronxa_callback.vocabulary import split_method

OFF_TARGET = "eval_translation_off_target"  # an evaluation may rightly lack it
# What the names of the metrics of the translations themselves begin with; each number of `Faithfulness` is one.
FAITHFULNESS = ("translation_copied", "translation_off_target", "translation_length")
OF_TRANSLATIONS = ("translation_empty", "translation_truncated", "translation_runtime", *FAITHFULNESS)


def expected_names(evaluator: NeuronXAEvaluator, quality: QualityEvaluator, metrics: Collection[str]) -> list[str]:
    """Return the scores that an evaluation should have by its end.

    Args:
        evaluator: the evaluator that scores alignment.
        quality: the evaluator that translates.
        metrics: the quality metrics that have scored by then.
    """
    names = [f"eval_{method}" for method in evaluator.methods]
    names += [f"eval_{method}_{pair.name}" for method in evaluator.methods for pair in evaluator.pairs]
    names += [f"eval_{metric}" for metric in metrics]
    names += [f"eval_{metric}_{direction}" for metric in metrics for direction in quality.jobs]
    return [*names, "eval_neuronxa_runtime"]


def translation_names(quality: QualityEvaluator) -> list[str]:
    """Return the metrics of the translations themselves that an evaluation should have."""
    by_direction = [f"eval_{name}_{direction}" for name in FAITHFULNESS for direction in quality.jobs]
    names = [*(f"eval_{name}" for name in OF_TRANSLATIONS), *by_direction]
    return [name for name in names if not name.startswith(OFF_TARGET)]


def uncertain_names(quality: QualityEvaluator) -> list[str]:
    """Return the metrics of the translations that an evaluation may rightly lack.

    They are the shares in another language. There is none where every translation is too short.
    """
    known = [direction for direction, pair in quality.jobs.items() if can_recognise(pair.target_lang)]
    return [OFF_TARGET, *(f"{OFF_TARGET}_{direction}" for direction in known)] if known else []


def metric_read(args: TrainingArguments) -> str:
    """Return the metric by which the Trainer chooses its best model, without prefix and suffix."""
    name = (args.metric_for_best_model or "").removeprefix("eval_")
    return split_method(name)[0] or name.split("_")[0]


def metrics_of(report: AlignmentReport) -> dict[str, float]:
    """Return `eval_nasca` over all language pairs, `eval_nasca_SOURCE-TARGET` of each, and those of other methods."""
    metrics: dict[str, float] = {f"eval_{method}": score for method, score in report.score.items()}
    for name, language in report.by_language.items():
        metrics |= {f"eval_{method}_{name}": score for method, score in language.score.items()}
    return metrics


def certainty_metrics(report: AlignmentReport) -> dict[str, float]:
    """Return `eval_nasca_ci_low`, `eval_nasca_ci_high` and `eval_nasca_chance`, over all language pairs.

    They are the ends of the 95 % interval, and what the same sentences score when their pairs are torn apart. A method
    without an interval or chance has none. They are logged, so that trackers can draw them, and are no metrics of an
    evaluation.
    """
    logged: dict[str, float] = {}
    for method, (low, high) in report.ci.items():
        logged |= {f"eval_{method}_ci_low": low, f"eval_{method}_ci_high": high}
    return logged | {f"eval_{method}_chance": chance for method, chance in report.chance.items()}


def prefix_of(metrics: Mapping[str, float]) -> str:
    """Return the prefix of an evaluation's metrics: "eval", "eval_german" of one of several sets, "train" or "test".

    The Trainer puts it in front of each name, and `..._runtime` is always there. "eval" is returned if it is not.
    """
    own = ("neuronxa_runtime", "translation_runtime")
    timed = [name for name in metrics if name.endswith("_runtime") and not name.endswith(own)]
    return min((name.removesuffix("_runtime") for name in timed), key=len, default="eval")


def is_read_by_trainer(prefix: str) -> bool:
    """Return whether the Trainer may read an evaluation with this prefix when it chooses its best model."""
    return f"{prefix}_".startswith("eval_")


def named_for(prefix: str, scores: Mapping[str, float]) -> dict[str, float]:
    """Return scores with the names that they have among the metrics of an evaluation.

    They belong to the model and not to a data set. So with each of several evaluation sets, whose prefixes are
    "eval_german" and the like, they are `eval_nasca`, which the Trainer reads.

    Args:
        prefix: the prefix of the evaluation's metrics.
        scores: the scores, with "eval_" in front.
    """
    if is_read_by_trainer(prefix):
        return dict(scores)
    return {f"{prefix}_{name.removeprefix('eval_')}": value for name, value in scores.items()}


def verdict_metrics(verdict: Verdict) -> dict[str, float]:
    """Return `eval_nasca_best` and, from three evaluations on, `eval_nasca_rise` and `eval_nasca_jitter`."""
    if verdict.value is None:
        return {}
    found = {"best": verdict.best, "rise": verdict.rise, "jitter": verdict.jitter}
    return {f"eval_{verdict.metric}_{name}": value for name, value in found.items() if value is not None}


def translation_metrics(report: QualityReport) -> dict[str, float]:
    """Return what is known of the translations before any metric scores them.

    They are how many are empty or were cut at their length limit, over all directions, and `faithfulness_metrics`.
    """
    made = [direction.translations for direction in report.by_direction.values()]
    return {
        "eval_translation_empty": sum(translations.empty for translations in made),
        "eval_translation_truncated": sum(translations.truncated for translations in made),
    } | faithfulness_metrics(report.faithfulness)


def faithfulness_metrics(found: Mapping[str, Faithfulness]) -> dict[str, float]:
    """Return `eval_translation_copied`, `..._off_target` and `..._length`, and each of them by direction.

    Args:
        found: direction -> what was measured. A mean is over the directions that have the value.
    """
    metrics: dict[str, float] = {}
    for name in FAITHFULNESS:
        part = name.removeprefix("translation_")
        values = {direction: getattr(measured, part) for direction, measured in found.items()}
        there = {direction: value for direction, value in values.items() if value is not None}
        if there:
            metrics[f"eval_{name}"] = fmean(there.values())
        metrics |= {f"eval_{name}_{direction}": value for direction, value in there.items()}
    return metrics


def quality_metrics(report: QualityReport, names: Sequence[str]) -> dict[str, float]:
    """Return `eval_comet` over all directions, if each has a score, `eval_comet_SOURCE-TARGET`, and the like.

    Where only some of the sources are translated, `eval_comet_ci_low` and `eval_comet_ci_high` come with it.
    """
    metrics: dict[str, float] = {}
    for name in names:
        mean = report.mean(name)
        if mean is not None:
            metrics |= {f"eval_{name}": mean} | _ends(name, report.interval(name))
        metrics |= {f"eval_{name}_{direction}": score for direction, score in report.system(name).items()}
    return metrics


def quality_metrics_in(evaluation: Evaluation) -> dict[str, float]:
    """Return an evaluation's finished quality scores with their names in the Trainer's log.

    With them comes what was measured of its translations.
    """
    metrics = faithfulness_metrics(evaluation.faithfulness)
    for metric, mean in evaluation.quality_score.items():
        metrics |= {f"eval_{metric}": mean} | _ends(metric, evaluation.quality_ci.get(metric))
    for name, direction in evaluation.quality.items():
        metrics |= {f"eval_{metric}_{name}": found.score for metric, found in direction.scored.items()}
    return metrics


def _ends(metric: str, interval: tuple[float, float] | None) -> dict[str, float]:
    """Return the ends of a score's interval with their names in the log."""
    return {} if interval is None else {f"eval_{metric}_ci_low": interval[0], f"eval_{metric}_ci_high": interval[1]}


def correlation_metrics(evaluation: Evaluation, scored: Sequence[str]) -> dict[str, float]:
    """Return an evaluation's correlations with the quality metrics that were just scored.

    They are `eval_pearson_nasca_comet`, `eval_pearson_diff_nasca_comet` and `eval_pearson_partial_nasca_comet` over the
    run up to the evaluation, and `eval_over_sentences_nasca_comet_SOURCE-TARGET` within it.
    """
    metrics: dict[str, float] = {}
    for name, found in evaluation.pearson.items():
        metric = split_method(name)[1]
        if metric in scored and metric in evaluation.quality_score:
            metrics[f"eval_pearson_{name}"] = found.r
            if found.r_diff is not None:
                metrics[f"eval_pearson_diff_{name}"] = found.r_diff
            if found.r_partial is not None:
                metrics[f"eval_pearson_partial_{name}"] = found.r_partial
    for direction, by_name in evaluation.over_sentences.items():
        of_scored = {name: found.r for name, found in by_name.items() if split_method(name)[1] in scored}
        metrics |= {f"eval_over_sentences_{name}_{direction}": rho for name, rho in of_scored.items()}
    return metrics
