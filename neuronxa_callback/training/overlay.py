"""The page of several runs: their curves laid over each other, a table of each score, and their best steps compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TypeAlias, TypeVar

from matplotlib.figure import Figure

from neuronxa_callback import plots
from neuronxa_callback.quality.comet import signature as comet_signature
from neuronxa_callback.signature import Signature
from neuronxa_callback.tables import markdown_table, plain
from neuronxa_callback.training.best_steps import MODEL_FACTS, BestStep, best_steps_part, both_ways, differences_text
from neuronxa_callback.training.page import (
    RunPageError,
    read_run,
    save_page,
    signatures_of,
    signatures_text,
    value_cells,
)
from neuronxa_callback.training.records import Evaluation, methods_of
from neuronxa_callback.training.summary import best_of
from neuronxa_callback.vocabulary import Method, score_name

FOLDER = Path("neuronxa-runs")
FIGURE = "runs.png"
THERE = 'A quality metric "there" is its score at the step of the best alignment in the same row.'
BEST_STEP = "The best step of a run is that of its highest {}. The baseline is {}."
RUNS_HEADER = ("run", "folder", "evaluations", "last step", "best step")
COLUMNS = ("run", "first", "last", "best", "at step")

T = TypeVar("T")
Points: TypeAlias = list[tuple[int, float]]  # (step, score) of each evaluation that has the score


@dataclass(frozen=True)
class Run:
    """One of the runs.

    Attributes:
        name: the name of its folder, with as many parents as tell it from the other runs.
        folder: the Trainer's `output_dir`.
        evaluations: the lines of its scores.jsonl in step order.
    """

    name: str
    folder: Path
    evaluations: list[Evaluation]


@dataclass(frozen=True)
class Shared:
    """What every run has.

    Attributes:
        pairs: names of language pairs.
        methods: alignment methods. A run has a score of the method on all these language pairs at one evaluation.
        directions: names of directions of translation.
        metrics: quality metrics. A run has a score of the metric in all these directions at one evaluation.
    """

    pairs: list[str]
    methods: list[Method]
    directions: list[str]
    metrics: list[str]


# ---------------------------------------------------------------------------------------------- the page


def write(run_dirs: Sequence[Path], output: Path | None = None) -> Path:
    """Draw the curves of several runs into one figure and write the page that shows it, from scores.jsonl alone.

    Args:
        run_dirs: the `output_dir` of each of two runs or more. The first one is the baseline of the paired comparison.
        output: folder of the page and its figure; default: neuronxa-runs in the current folder.

    Returns:
        the page, report.md.

    Raises:
        RunPageError: there are fewer than two runs, one is named twice or has no scores, the runs share no language
            pair or no alignment method, or the page cannot be written.
    """
    runs = read_runs(run_dirs)
    shared = shared_by(runs)
    bests = [best_step_of(run, shared) for run in runs]
    return save_page(output or FOLDER, _page(runs, shared, bests), {FIGURE: _figure(runs, shared, bests)})


def read_runs(run_dirs: Sequence[Path]) -> list[Run]:
    """Read each run's scores.jsonl.

    Raises:
        RunPageError: there are fewer than two runs, one is named twice, or one has no scores.
    """
    if len(run_dirs) < 2:
        raise RunPageError("a page of several runs needs two at least; name the output_dir of each.")
    places = [folder.resolve() for folder in run_dirs]
    for folder, place in zip(run_dirs, places, strict=True):
        if places.count(place) > 1:
            raise RunPageError(f"{folder} is named twice; name each run once.")
    return [Run(name, folder, read_run(folder)) for name, folder in zip(run_names(run_dirs), run_dirs, strict=True)]


def run_names(folders: Sequence[Path]) -> list[str]:
    """Return each folder's name. Equal names get their parent folder in front until they differ."""
    # `resolve` would give a link its target's name, and `absolute` would keep a "..", which is no name.
    paths = [Path(os.path.abspath(folder)) for folder in folders]  # noqa: PTH100
    return [_name(path, [*paths[:at], *paths[at + 1 :]]) for at, path in enumerate(paths)]


def _name(path: Path, others: Sequence[Path]) -> str:
    """Return the shortest end of a path that no other path has."""
    ends = (path.parts[-length:] for length in range(1, len(path.parts)))
    own = (end for end in ends if all(other.parts[-len(end) :] != end for other in others))
    return str(Path(*next(own, path.parts)))


# ----------------------------------------------------------------------------------------- what the runs share


def shared_by(runs: Sequence[Run]) -> Shared:
    """Return what every run has.

    Raises:
        RunPageError: the runs share no language pair or no alignment method.
    """
    pairs = _in_all([_pairs_of(run) for run in runs])
    if not pairs:
        raise RunPageError(f"the runs share no language pair: {_had(runs, _pairs_of)}.")
    directions = _in_all([_directions_of(run) for run in runs])
    methods = _in_all([_methods_on(run, pairs) for run in runs])
    if not methods:
        raise RunPageError(f"the runs share no alignment method: {_had(runs, partial(_methods_on, pairs=pairs))}.")
    return Shared(pairs, methods, directions, _in_all([_metrics_in(run, directions) for run in runs]))


def _in_all(found: Sequence[Sequence[T]]) -> list[T]:
    """Return what every run has, in the first run's order."""
    first, *others = found
    return [name for name in first if all(name in other for other in others)]


def _had(runs: Sequence[Run], found: Callable[[Run], Sequence[str]]) -> str:
    return "; ".join(f"{run.name} has {', '.join(found(run)) or 'none'}" for run in runs)


def _pairs_of(run: Run) -> list[str]:
    return list(dict.fromkeys(name for evaluation in run.evaluations for name in evaluation.languages))


def _directions_of(run: Run) -> list[str]:
    return list(dict.fromkeys(name for evaluation in run.evaluations for name in evaluation.quality))


def _methods_on(run: Run, pairs: Sequence[str]) -> list[Method]:
    return [method for method in methods_of(run.evaluations) if alignment_points(run, method, pairs)]


def _metrics_in(run: Run, directions: Sequence[str]) -> list[str]:
    return [metric for metric in _metrics_of(run) if quality_points(run, metric, directions)]


def _metrics_of(run: Run) -> list[str]:
    made = (made for evaluation in run.evaluations for made in evaluation.quality.values())
    return list(dict.fromkeys(metric for one in made for metric in one.scored))


def alignment_points(run: Run, method: Method, pairs: Sequence[str]) -> Points:
    """Return the mean over some language pairs at each evaluation that has a method's score of all of them."""
    return [
        (evaluation.step, fmean(evaluation.languages[pair].score[method] for pair in pairs))
        for evaluation in run.evaluations
        if all(pair in evaluation.languages and method in evaluation.languages[pair].score for pair in pairs)
    ]


def quality_points(run: Run, metric: str, directions: Sequence[str]) -> Points:
    """Return the mean over some directions at each evaluation that has a metric's score of all of them."""
    return [
        (evaluation.step, fmean(evaluation.quality[name].scored[metric].score for name in directions))
        for evaluation in run.evaluations
        if directions
        and all(name in evaluation.quality and metric in evaluation.quality[name].scored for name in directions)
    ]


def best_step_of(run: Run, shared: Shared) -> BestStep:
    """Return the evaluation with the highest score of the first method."""
    step, _ = best_of(alignment_points(run, shared.methods[0], shared.pairs))
    return BestStep(run.name, next(evaluation for evaluation in run.evaluations if evaluation.step == step))


def _figure(runs: Sequence[Run], shared: Shared, bests: Sequence[BestStep]) -> Figure:
    alignment = {
        method: {run.name: alignment_points(run, method, shared.pairs) for run in runs} for method in shared.methods
    }
    quality = {
        metric: {run.name: quality_points(run, metric, shared.directions) for run in runs} for metric in shared.metrics
    }
    steps = {best.run: best.evaluation.step for best in bests}
    return plots.runs_figure(alignment, quality, steps, "Runs over training steps")


# ---------------------------------------------------------------------------------------------- its text


def _page(runs: Sequence[Run], shared: Shared, bests: Sequence[BestStep]) -> str:
    baseline, *others = bests
    parts = [
        *_runs_part(runs, shared, bests),
        f"![Each score over training steps, a line a run]({FIGURE})",
        *_score_parts(runs, shared),
        *best_steps_part(baseline, others, shared.pairs, shared.methods),
        *_signature_part(bests),
    ]
    return "\n\n".join(parts) + "\n"


def _runs_part(runs: Sequence[Run], shared: Shared, bests: Sequence[BestStep]) -> list[str]:
    return [
        "# Runs laid over each other",
        plain(means_text(runs, shared)),
        markdown_table(RUNS_HEADER, run_rows(runs, bests)),
        *map(plain, left_out(runs, shared)),
    ]


def means_text(runs: Sequence[Run], shared: Shared) -> str:
    """Return what the curves and the tables of several runs are the means of, and what their best steps are."""
    told = f"Alignment is {_mean_over(shared.pairs)}."
    if shared.metrics:
        told += f" Translation quality is {_mean_over(shared.directions)}. {THERE}"
    return f"{told} Best is the highest value. {BEST_STEP.format(score_name(shared.methods[0]), runs[0].name)}"


def run_rows(runs: Sequence[Run], bests: Sequence[BestStep]) -> list[list[str]]:
    """Return a row below `RUNS_HEADER` for each run."""
    return [
        [run.name, str(run.folder), str(len(run.evaluations)), str(run.evaluations[-1].step), str(best.evaluation.step)]
        for run, best in zip(runs, bests, strict=True)
    ]


def _mean_over(names: Sequence[str]) -> str:
    return f"{'that of' if len(names) == 1 else 'the mean over'} {', '.join(names)}"


def left_out(runs: Sequence[Run], shared: Shared) -> list[str]:
    """Return a sentence that names what only some runs have. There may be none."""
    found = [name for run in runs for name in _pairs_of(run) if name not in shared.pairs]
    found += [name for run in runs for name in _directions_of(run) if name not in shared.directions]
    found += [score_name(name) for run in runs for name in methods_of(run.evaluations) if name not in shared.methods]
    found += [score_name(name) for run in runs for name in _metrics_of(run) if name not in shared.metrics]
    return [f"Left out, because not every run has it: {', '.join(dict.fromkeys(found))}."] if found else []


def _score_parts(runs: Sequence[Run], shared: Shared) -> list[str]:
    parts = []
    for name, (header, rows) in score_tables(runs, shared).items():
        parts += [f"## {plain(name)}", markdown_table(header, rows)]
    return parts + list(map(plain, other_translations(runs, shared)))


def score_tables(runs: Sequence[Run], shared: Shared) -> dict[str, tuple[tuple[str, ...], list[list[str]]]]:
    """Return a table for each score, a row a run; that of a method also has the quality metrics at the best step.

    Returns:
        name of the score -> the columns and the rows.
    """
    found = {}
    there = [f"{score_name(metric)} there" for metric in shared.metrics]
    for method in shared.methods:
        rows = []
        for run in runs:
            points = alignment_points(run, method, shared.pairs)
            rows.append([*_row(run, points), *_quality_at(run, best_of(points)[0], shared)])
        found[score_name(method)] = ((*COLUMNS, *there), rows)
    for metric in shared.metrics:
        rows = [_row(run, quality_points(run, metric, shared.directions)) for run in runs]
        found[score_name(metric)] = (COLUMNS, rows)
    return found


def _row(run: Run, points: Points) -> list[str]:
    return [run.name, *value_cells(points, [evaluation.step for evaluation in run.evaluations])]


def _quality_at(run: Run, step: int, shared: Shared) -> list[str]:
    """Return each quality metric's score at a step, as text."""
    found = [dict(quality_points(run, metric, shared.directions)).get(step) for metric in shared.metrics]
    return ["none" if score is None else f"{score:.4f}" for score in found]


def other_translations(runs: Sequence[Run], shared: Shared) -> list[str]:
    """Return a sentence for each run and direction that was translated or scored otherwise than the baseline's."""
    baseline, *others = runs
    found = []
    for other in others:
        for name in shared.directions if shared.metrics else ():
            differ = both_ways(*(_translating(run, name, shared.metrics) for run in (baseline, other)))
            if differ:
                told = differences_text(differ, baseline.name, other.name)
                found.append(
                    f"The quality of {other.name} cannot be compared with that of {baseline.name} on {name}: {told}."
                )
    return found


def _translating(run: Run, direction: str, metrics: Sequence[str]) -> Signature:
    """Return the last choices behind a direction's translations and their scores, without the facts about the model."""
    choices = Signature()
    for made in (evaluation.quality[direction] for evaluation in run.evaluations if direction in evaluation.quality):
        choices = choices.joined(made.signature.without(MODEL_FACTS))
        for metric in metrics:
            if metric in made.scored:
                fields = _scoring(made.scored[metric].signature).fields
                choices = choices.with_fields(**{f"{score_name(metric)}'s {name}": value for name, value in fields})
    return choices


def _scoring(signature: Signature) -> Signature:
    """Return the choices behind a quality metric's score, without what COMET's signature holds to be cited alone."""
    return comet_signature.choices(signature) if "comet" in signature else signature


def _signature_part(bests: Sequence[BestStep]) -> list[str]:
    parts = ["## Signatures", "The choices behind the numbers of the best steps."]
    for best in bests:
        parts += [f"{plain(best.run)}, step {best.evaluation.step}:"]
        parts += [signatures_text(signatures) for signatures in signatures_of([best.evaluation]).values()]
    return parts
