"""The tables of docs/results/README.md, made from the recorded runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.checkpoints import NAME_OF, SCORES, WATCHED
from benchmarks.evidence.curves import CONTROL, HELD_OUT_LOSS, LOSS, METHODS, STEP, RunCurves
from benchmarks.evidence.follow import SMOOTHED, Following, following, smoothed, turn
from benchmarks.evidence.stops import outcome
from neuronxa_callback.tables import markdown_table
from neuronxa_callback.vocabulary import Method, score_name

Values = NDArray[np.float64]

PATIENCES = (5, 10)  # of about twenty evaluations
FALLEN = 0.5  # of its rise is left of a curve that has fallen, at most
CHOOSER = "french-spoilt"  # the run that orders the variants: the first one that was scored
NONE = "–"
PREDICTORS = (*map(score_name, METHODS), CONTROL, LOSS, HELD_OUT_LOSS)


def runs_table(runs: Sequence[RunCurves]) -> str:
    """Return what each run did: each number at its first, its best and its last evaluation."""
    header = ("run", "evaluations", *map(score_name, METHODS), "chrF", "BLEU", "copied", "off target", "controls")
    # No cell has anything to escape, and an escaped link would be none.
    return markdown_table(header, [_run_row(run) for run in runs], escaped=str)


def _run_row(run: RunCurves) -> list[str]:
    alignment = [_way(run.predictors[name], 3) for name in map(score_name, METHODS)]
    controls = [f"{name}: {_way(values, 3)}" for name, values in run.controls.items()]
    return [
        f"[{run.name}]({run.name}/README.md)",
        str(len(run.steps)),
        *alignment,
        _way(run.quality["chrf"], 1),
        _way(run.quality["bleu"], 1),
        _way(run.copied, 1),
        _way(run.off_target, 2),
        ", ".join(controls) or NONE,
    ]


def _way(values: Values, digits: int) -> str:
    """Return the first and the last value, and the highest between them if that is higher than both.

    Evaluations without a value, which is nan, do not count.
    """
    values = values[~np.isnan(values)]
    first, last, best = (f"{value:.{digits}f}" for value in (values[0], values[-1], values.max()))
    return f"{first} to {last}" if best in (first, last) else f"{first} by {best} to {last}"


def summary_table(runs: Sequence[RunCurves]) -> str:
    """Return how each predictor follows chrF: r, r without step 0, and r of changes without step 0, for each run."""
    names = (*PREDICTORS, STEP)
    rows = [[run.name, *(_summary(run, name) for name in names)] for run in runs]
    return markdown_table(("r with chrF", *names), rows)


def _summary(run: RunCurves, name: str) -> str:
    if name not in run.predictors:
        return NONE
    found = following(run.predictors[name], run.quality["chrf"], run.steps, run.copied)
    return ", ".join(map(_number, (found.r, found.r_trained, found.r_diff_trained)))


def following_table(runs: Sequence[RunCurves], metric: str) -> str:
    """Return how each predictor follows a quality metric in each run."""
    header = (
        "run",
        "predictor",
        "r",
        "r without step 0",
        "r, step held fixed",
        "r, copying held fixed",
        "r of changes",
        "r of changes without step 0",
        "lag",
        "half-way earlier by",
    )
    rows = [
        [run.name, name, *_cells(following(values, run.quality[metric], run.steps, run.copied))]
        for run in runs
        for name, values in run.predictors.items()
    ]
    return markdown_table(header, rows)


def _cells(found: Following) -> list[str]:
    lag = f"{found.lag:+d} (r {_number(found.r_lag)})"
    fixed = (found.r, found.r_trained, found.r_given_step, found.r_given_copied, found.r_diff, found.r_diff_trained)
    return [*map(_number, fixed), lag, NONE if found.lead is None else f"{round(found.lead):+d} steps"]


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def turning_table(runs: Sequence[RunCurves]) -> str:
    """Return the step at which each smoothed curve is highest, and how much of its rise is left at the end.

    Where less than half is left, the cell also has the step at which half of the way down is made.
    """
    names = (*(score_name(metric) for metric in runs[0].quality), *PREDICTORS)
    rows = [[run.name, *(_turn(run, name) for name in names)] for run in runs]
    return markdown_table(("highest at step, left at the end", *names), rows)


def _turn(run: RunCurves, name: str) -> str:
    curves = run.predictors | {score_name(metric): values for metric, values in run.quality.items()}
    if name not in curves:
        return NONE
    found = turn(curves[name], run.steps)
    if found.left is not None and found.left >= FALLEN:
        return f"{found.step}, {_percent(found.left)}"
    left = "never rises" if found.left is None else _percent(found.left) if found.left > 0 else "below its start"
    return f"{found.step}, {left}, half lost at {found.half_lost:.0f}"


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def sentences_table(runs: Sequence[RunCurves]) -> str:
    """Return Spearman's rho over the sentences of an evaluation, mean over directions and evaluations."""
    metrics = ("chrf", "bleu")
    header = ("run", *(f"{score_name(method)}, {score_name(metric)}" for method in METHODS for metric in metrics))
    rows = [
        [run.name, *(_number(run.over_sentences.get((method, metric))) for method in METHODS for metric in metrics)]
        for run in runs
    ]
    return markdown_table(header, rows)


def stops_table(runs: Sequence[RunCurves]) -> str:
    """Return what stopping and choosing the checkpoint by a metric saves and costs."""
    header = ("run", "metric", "patience", "stops at", "steps saved", "checkpoint", "chrF", "chrF lost")
    rows = [
        _stop_row(run, metric, patience)
        for run in runs
        for metric in ("NASCA", "NASCA rank", HELD_OUT_LOSS, LOSS, "chrF")
        if metric == "chrF" or metric in run.predictors
        for patience in (*PATIENCES, None)
    ]
    return markdown_table(header, rows)


def _stop_row(run: RunCurves, metric: str, patience: int | None) -> list[str]:
    chrf = run.quality["chrf"]
    found = outcome(chrf if metric == "chrF" else run.predictors[metric], chrf, run.steps, patience)
    never = found.stop == run.steps[-1]
    return [
        run.name,
        metric,
        "none" if patience is None else str(patience),
        NONE if never else str(found.stop),
        _percent(found.saved),
        str(found.chosen),
        f"{found.quality:.1f}",
        f"{found.lost:.1f}",
    ]


def agreement_table(runs: Sequence[RunCurves]) -> str:
    """Return how far each method's score of the scored checkpoints is from that of the run, where they differ most."""
    header = ("largest difference", *map(score_name, NAME_OF))
    rows = [[run.name, *(_difference(run, method) for method in NAME_OF)] for run in runs]
    return markdown_table(header, rows)


def _difference(run: RunCurves, method: Method) -> str:
    name = f"{NAME_OF[method]}, bare, {WATCHED}"
    if name not in run.variants:
        return NONE
    return f"{np.abs(_mean(run.variants[name]) - run.predictors[score_name(method)]).max():.4f}"


# ---------------------------------------------------------------------------------------------- variants

Reading = Callable[[Values], Values]  # (evaluations, layers) -> a curve


def _mean(values: Values) -> Values:
    return np.asarray(values.mean(axis=1))


# The ways to make a curve of a score at each layer. Thirds are taken of the layers that the run has.
READINGS: dict[str, Reading] = {
    "mean of the layers": _mean,
    "mean of the layers, last three evaluations": lambda values: smoothed(_mean(values), SMOOTHED),
    "middle third": lambda values: _mean(np.array_split(values, 3, axis=1)[1]),
    "last third": lambda values: _mean(np.array_split(values, 3, axis=1)[2]),
}


def best_layer(run: RunCurves, variant: str) -> int:
    """Return the layer (from 0) at which a variant follows chrF closest in a run, the step held fixed."""
    values = run.variants[variant]

    def closeness(layer: int) -> float:
        r = following(values[:, layer], run.quality["chrf"], run.steps, run.copied).r_given_step
        return -2.0 if r is None else r

    return max(range(values.shape[1]), key=closeness)


def variants_table(chooser: RunCurves, others: Sequence[RunCurves]) -> str:
    """Return how each variant follows chrF, ordered by the run that chooses, beside the runs that do not choose.

    Each cell is r with the step held fixed, then r without step 0.
    """
    rows = []
    for variant, values in chooser.variants.items():
        layer = best_layer(chooser, variant)
        number = layer if _reads_embeddings(variant) else layer + 1  # embeddings count from 0, FFNs from 1
        ways = READINGS | {f"layer {number}, chosen by {chooser.name}": _at(layer, values.shape[1])}
        for name, reading in ways.items():
            found = [_of_variant(run, variant, reading) for run in (chooser, *others) if run.variants]
            first = found[0].r_given_step if found[0] else None
            rows.append((-2.0 if first is None else first, [variant, name, *(_pair(of) for of in found)]))
    rows.sort(key=lambda row: -row[0])
    header = ("variant", "layers", *(run.name for run in (chooser, *others) if run.variants))
    return markdown_table(header, [row for _, row in rows])


def variants_in_short(runs: Sequence[RunCurves]) -> str:
    """Return how the mean of the layers follows chrF, for each score and each way to read the sentences.

    Each cell is r with the step held fixed, then r without step 0.
    """
    ways = list(dict.fromkeys(variant.partition(", ")[2] for run in runs for variant in run.variants))
    rows = [
        [run.name, score, *(_pair(_of_variant(run, f"{score}, {way}", _mean)) for way in ways)]
        for score in SCORES
        for run in runs
    ]
    return markdown_table(("run", "score", *ways), rows)


def _reads_embeddings(variant: str) -> bool:
    return SCORES[variant.partition(",")[0]][0] == "embedding"


def _at(layer: int, layers: int) -> Reading:
    """Return the reading of one of so many layers. Another model is read at the same share of its depth."""
    return lambda values: values[:, round(layer / (layers - 1) * (values.shape[1] - 1))]


def _of_variant(run: RunCurves, variant: str, reading: Reading) -> Following | None:
    """Return how a variant follows chrF; None if the run has too few held-out pairs for it."""
    if variant not in run.variants:
        return None
    return following(reading(run.variants[variant]), run.quality["chrf"], run.steps, run.copied)


def _pair(found: Following | None) -> str:
    return NONE if found is None else f"{_number(found.r_given_step)}, {_number(found.r_trained)}"


def all_tables(runs: Sequence[RunCurves]) -> dict[str, str]:
    """Return every table by its name on the page."""
    with_checkpoints = sorted((run for run in runs if run.variants), key=lambda run: run.name != CHOOSER)
    found = {
        "summary": summary_table(runs),
        "runs": runs_table(runs),
        "following chrF": following_table(runs, "chrf"),
        "following BLEU": following_table(runs, "bleu"),
        "over sentences": sentences_table(runs),
        "turning": turning_table(runs),
        "stopping": stops_table(runs),
    }
    if with_checkpoints:
        found["variants in short"] = variants_in_short(with_checkpoints)
        found["agreement"] = agreement_table(with_checkpoints)
        found["variants"] = variants_table(with_checkpoints[0], with_checkpoints[1:])
    return found
