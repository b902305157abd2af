"""The page of several runs laid over each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from neuronxa_callback import plots
from neuronxa_callback.run_page import plotted
from neuronxa_callback.run_page.alignment_parts import CHANCE_LINE
from neuronxa_callback.run_page.document import Block, Chart, Code, Document, KeyNumber, Section, Table
from neuronxa_callback.run_page.evaluations import finite, pair_labels
from neuronxa_callback.run_page.one_run import command_section, number_text
from neuronxa_callback.run_page.pictures import svg
from neuronxa_callback.run_page.verdicts import verdict_text
from neuronxa_callback.training import best_steps, overlay
from neuronxa_callback.training.best_steps import BestStep
from neuronxa_callback.training.certainty import BANDS
from neuronxa_callback.training.overlay import Run, Shared
from neuronxa_callback.training.page import SIGNATURES, signatures_of
from neuronxa_callback.training.records import pair_counts
from neuronxa_callback.training.summary import best_of, language_curves
from neuronxa_callback.vocabulary import Method, score_name

MEAN = "mean"
MEAN_LABEL = "the mean over the shared language pairs"
RINGS = "A ring is a run's best step."


def several_runs(run_dirs: Sequence[Path], command: Sequence[str]) -> Document:
    """Return the page of several runs, from their scores.jsonl.

    Args:
        run_dirs: the `output_dir` of each run, the baseline first.
        command: the command that makes this page.

    Raises:
        RunPageError: see `overlay.write`.
    """
    runs = [
        replace(run, evaluations=[finite(evaluation) for evaluation in run.evaluations])
        for run in overlay.read_runs(run_dirs)
    ]
    shared = overlay.shared_by(runs)
    bests = [overlay.best_step_of(run, shared) for run in runs]
    sections = [
        _runs_section(runs, shared, bests),
        _curves_section(runs, shared, bests),
        _scores_section(runs, shared),
        _tests_section(shared, bests),
        _verdicts_section(runs),
        _signature_section(bests),
        command_section(command),
    ]
    return Document(
        title="Runs laid over each other",
        told=overlay.means_text(runs, shared),
        verdict="",
        numbers=[_best(run, shared) for run in runs],
        sections=sections,
    )


def _best(run: Run, shared: Shared) -> KeyNumber:
    method = shared.methods[0]
    points = overlay.alignment_points(run, method, shared.pairs)
    step, best = best_of(points)
    told = f"{score_name(method)} at its best step, {step}. {points[0][1]:.4f} at step {points[0][0]}."
    return KeyNumber(run.name, number_text(best), told)


def _runs_section(runs: Sequence[Run], shared: Shared, bests: Sequence[BestStep]) -> Section:
    table = Table("The runs", overlay.RUNS_HEADER, overlay.run_rows(runs, bests))
    return Section("runs", "Runs", [table, *overlay.left_out(runs, shared)])


# ---------------------------------------------------------------------------------------------- curves


def _curves_section(runs: Sequence[Run], shared: Shared, bests: Sequence[BestStep]) -> Section:
    best = {one.run: one.evaluation.step for one in bests}
    blocks: list[Block] = [_method_chart(runs, shared, method, best) for method in shared.methods]
    blocks += [_metric_chart(runs, shared, metric, best) for metric in shared.metrics]
    return Section(
        "curves",
        "Scores over training steps",
        [*blocks, f"{RINGS} {BANDS.format(CHANCE_LINE)}", _numbers(runs, shared)],
    )


def _method_chart(runs: Sequence[Run], shared: Shared, method: Method, best: Mapping[str, int]) -> Chart:
    """Return the chart of a method: the mean over the shared language pairs, and each of them with its intervals."""
    name, labels = score_name(method), pair_labels(shared.pairs)
    mean = {run.name: _points(overlay.alignment_points(run, method, shared.pairs)) for run in runs}
    by_pair = {
        pair: {run.name: language_curves(run.evaluations, method).get(pair, []) for run in runs}
        for pair in shared.pairs
    }
    views = by_pair if len(shared.pairs) == 1 else {MEAN: mean, **by_pair}
    pictures = [plots.runs_figure({method: _pairs_of(mean)}, {}, best, MEAN_LABEL)]
    for pair, by_run in by_pair.items():
        counts = [pair_counts(run.evaluations, method)[pair] for run in runs]
        pictures.append(plots.curve_figure(_labelled(by_run), method, counts, labels[pair]))
    return Chart(
        f"{name} over training steps",
        f"{name} over training steps, a line a run, with a ring at the best step: the mean over the shared language "
        "pairs, then each language pair with 95 % intervals and chance.",
        [svg(picture) for picture in (pictures[1:] if len(shared.pairs) == 1 else pictures)],
        [plotted.runs_plot(views, best, method)],
        "one",
        {view: MEAN_LABEL if view == MEAN else labels[view] for view in views},
    )


def _metric_chart(runs: Sequence[Run], shared: Shared, metric: str, best: Mapping[str, int]) -> Chart:
    name = score_name(metric)
    points = {run.name: _points(overlay.quality_points(run, metric, shared.directions)) for run in runs}
    picture = plots.runs_figure({}, {metric: _pairs_of(points)}, best, "")
    return Chart(
        f"{name} over training steps",
        f"{name} over training steps, a line a run, with a ring at the step of the best alignment.",
        [svg(picture)],
        [plotted.runs_plot({MEAN: points}, best, metric)],
    )


def _points(found: Sequence[tuple[int, float]]) -> list[plots.CurvePoint]:
    return [plots.CurvePoint(step, score, None, None) for step, score in found]


def _pairs_of(points: Mapping[str, Sequence[plots.CurvePoint]]) -> dict[str, list[tuple[int, float]]]:
    return {run: [(point.step, point.score) for point in found] for run, found in points.items()}


def _labelled(by_run: Mapping[str, Sequence[plots.CurvePoint]]) -> dict[str, Sequence[plots.CurvePoint]]:
    """Return label of a run -> its points, without runs that have none."""
    labels = plots.distinct_labels(list(by_run))
    return {labels[run].replace(r"\$", "$"): points for run, points in by_run.items() if points}


def _numbers(runs: Sequence[Run], shared: Shared) -> Table:
    rows = []
    for method in shared.methods:
        for run in runs:
            for pair in shared.pairs:
                for point in language_curves(run.evaluations, method).get(pair, []):
                    between = "" if point.interval is None else "{:.4f} to {:.4f}".format(*point.interval)
                    chance = "" if point.chance is None else f"{point.chance:.4f}"
                    at = [score_name(method), run.name, pair, str(point.step), f"{point.score:.4f}"]
                    rows.append([*at, between, chance])
    for metric in shared.metrics:
        for run in runs:
            for step, score in overlay.quality_points(run, metric, shared.directions):
                directions = ", ".join(shared.directions)
                rows.append([score_name(metric), run.name, directions, str(step), f"{score:.4f}", "", ""])
    header = ("score", "run", "language pair or directions", "step", "value", "95 % interval", "chance")
    return Table("The numbers of the curves", header, rows, folded=True)


# ---------------------------------------------------------------------------------------------- tables


def _scores_section(runs: Sequence[Run], shared: Shared) -> Section:
    tables = [
        Table(f"{name} of each run", header, rows)
        for name, (header, rows) in overlay.score_tables(runs, shared).items()
    ]
    return Section("scores", "Scores", [*tables, *overlay.other_translations(runs, shared)])


def _tests_section(shared: Shared, bests: Sequence[BestStep]) -> Section:
    baseline, *others = bests
    rows = best_steps.compare(baseline, others, shared.pairs, shared.methods)
    blocks: list[Block] = []
    if rows:
        caption = "Each run's best step against the baseline's"
        blocks.append(Table(caption, best_steps.HEADER, best_steps.comparison_rows(rows)))
        blocks += [best_steps.TEST, best_steps.LIMITS.format(score_name(shared.methods[0]))]
    blocks += best_steps.comparison_notes(baseline, others, shared.pairs, shared.methods, rows)
    return Section("best-steps", f"Best steps against that of {baseline.run}", blocks)


def _verdicts_section(runs: Sequence[Run]) -> Section:
    rows = [[run.name, verdict_text(run.evaluations)] for run in runs]
    return Section("stopping", "Stopping", [Table("What the stopping rule said", ("run", "verdict"), rows)])


def _signature_section(bests: Sequence[BestStep]) -> Section:
    blocks: list[Block] = [SIGNATURES]
    for best in bests:
        found = [line for lines in signatures_of([best.evaluation]).values() for line in lines]
        blocks.append(Code(f"{best.run}, step {best.evaluation.step}", found))
    return Section("signatures", "Signatures", blocks)
