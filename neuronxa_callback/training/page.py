"""The Markdown page: what a run's scores.jsonl says, in Markdown with figures."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import compress
from pathlib import Path

from matplotlib.figure import Figure

from neuronxa_callback import plots
from neuronxa_callback.files import RecordError
from neuronxa_callback.quality.comet.signature import sacrecomet
from neuronxa_callback.tables import markdown_table, one_line, plain
from neuronxa_callback.training.certainty import bands_text, certainty_part
from neuronxa_callback.training.history import History
from neuronxa_callback.training.maps import MAP_TEXTS, run_maps
from neuronxa_callback.training.page_correlations import run_part, sentences_part
from neuronxa_callback.training.page_translations import translations_part
from neuronxa_callback.training.points import Correlations, Points, correlations_of, points_of
from neuronxa_callback.training.records import DirectionQuality, Evaluation, layers_of, methods_of, pair_counts
from neuronxa_callback.training.summary import best_of, curves, language_curves, stop_reason
from neuronxa_callback.vocabulary import Method, score_name

PAGE = "report.md"
SIGNATURES = "The choices behind the numbers. Compare only numbers that have equal signatures."
MISSING_HEADER = ("metric", "direction", "at step", "reason")
DPI = 200  # sharp in print


class RunPageError(RuntimeError):
    """A page of a run cannot be made. The message says why, and what to do."""


# ---------------------------------------------------------------------------------------------- the page


def write(run_dir: Path, output: Path | None = None) -> Path:
    """Draw the figures of a run and write the page that shows them. Both need its scores.jsonl alone.

    Args:
        run_dir: the Trainer's `output_dir`.
        output: folder of the page and its figures; default: RUN_DIR/neuronxa/report.

    Returns:
        the page, report.md.

    Raises:
        RunPageError: there are no scores, or the page cannot be written.
    """
    evaluations = read_run(run_dir)
    output = output or History(run_dir).path.with_name("report")
    # The correlations are made anew from the points that are drawn: after a resumed run the file may hold older ones.
    points = {method: points_of(evaluations, method) for method in methods_of(evaluations)}
    correlations = {method: correlations_of(by_metric) for method, by_metric in points.items()}
    figures = _figures(evaluations, points, correlations)
    return save_page(output, _page(evaluations, History(run_dir).path, points, correlations, figures), figures)


def save_page(output: Path, text: str, figures: Mapping[str, Figure]) -> Path:
    """Write a page and its figures, by their file names, into a folder and return the page.

    Raises:
        RunPageError: the folder cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(output / name, dpi=DPI)
        (output / PAGE).write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RunPageError(f"{output} cannot be written ({reason}); choose another folder with --output.") from error
    return output / PAGE


def read_run(run_dir: Path) -> list[Evaluation]:
    """Return the lines of a run's scores.jsonl in step order. There is at least one.

    Raises:
        RunPageError: there are none, or the file holds something else.
    """
    path = History(run_dir).path
    remedy = "give the output_dir of a run that was trained with NeuronXACallback."
    if not run_dir.is_dir():
        raise RunPageError(f"{run_dir} is not a folder; {remedy}")
    if not path.is_file():
        raise RunPageError(f"{path} is missing; {remedy}")
    try:
        evaluations = History(run_dir).read()
    except OSError as error:
        raise RunPageError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except RecordError as error:
        raise RunPageError(str(error)) from error
    if not evaluations:
        raise RunPageError(f"{path} holds no evaluation; the run's first one writes it, at step 0.")
    return evaluations


# ----------------------------------------------------------------------------------------- what the evaluations hold


def _directions(evaluations: Iterable[Evaluation]) -> list[tuple[int, str, DirectionQuality]]:
    """Return the step, the name and the translations of each direction at each evaluation."""
    return [(evaluation.step, name, made) for evaluation in evaluations for name, made in evaluation.quality.items()]


def quality_curves(evaluations: Sequence[Evaluation]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return quality metric -> direction -> (step, score) of each evaluation that has one."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for step, name, made in _directions(evaluations):
        for metric, scored in made.scored.items():
            found.setdefault(metric, {}).setdefault(name, []).append((step, scored.score))
    return found


def layers_at(evaluations: Sequence[Evaluation], method: Method) -> dict[str, dict[str, list[float]]]:
    """Return the scores per layer and language pair at the first, the best and the last evaluation of a method."""
    scored = {evaluation.step: evaluation for evaluation in evaluations if method in evaluation.score}
    steps = {
        "first": min(scored),
        "best": max(scored, key=lambda step: scored[step].score[method]),
        "last": max(scored),
    }
    return {
        _named(step, [role for role in steps if steps[role] == step], len(scored)): {
            name: language.per_layer[method]
            for name, language in scored[step].languages.items()
            if method in language.per_layer
        }
        for step in sorted(set(steps.values()))
    }


def _last_chance(evaluations: Sequence[Evaluation], method: Method) -> dict[str, list[float]]:
    """Return the chance per layer of each language pair at the last evaluation of a method."""
    last = [evaluation for evaluation in evaluations if method in evaluation.score][-1]
    return {n: lang.chance_per_layer[method] for n, lang in last.languages.items() if method in lang.chance_per_layer}


def _named(step: int, roles: Sequence[str], evaluations: int) -> str:
    return f"step {step}" if evaluations == 1 else f"{' and '.join(roles)}, step {step}"


def _missing(evaluations: Sequence[Evaluation]) -> dict[tuple[str, str, str], list[int]]:
    """Return (metric, direction, reason) -> the steps at which a metric has no score for the direction."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for step, name, made in _directions(evaluations):
        for metric, reason in made.missing.items():
            found.setdefault((metric, name, reason), []).append(step)
    untranslated = [evaluation.step for evaluation in evaluations if not evaluation.quality]
    if untranslated:
        found["all", "all", "no translations were written"] = untranslated
    return found


def signatures_of(evaluations: Sequence[Evaluation]) -> dict[str, list[str]]:
    """Return every signature once, and the lines that cite COMET, by their subject."""
    directions = [made for _, _, made in _directions(evaluations)]
    metrics = [scored.signature for made in directions for scored in made.scored.values()]
    cited = [line for line in map(sacrecomet, metrics) if line is not None]
    found: dict[str, Sequence[object]] = {
        "Alignment": [language.signature for e in evaluations for language in e.languages.values()],
        "Translations": [made.signature for made in directions],
        "Quality metrics": metrics,
        "COMET, as sacreCOMET writes it": cited,
    }
    return {subject: list(dict.fromkeys(map(str, lines))) for subject, lines in found.items() if lines}


# ---------------------------------------------------------------------------------------------- its figures


def _figures(evaluations: Sequence[Evaluation], points: Points, correlations: Correlations) -> dict[str, Figure]:
    """Return file name -> figure."""
    figures: dict[str, Figure] = {}
    for method in points:
        figures |= _figures_of(method, evaluations, points, correlations)
    quality = quality_curves(evaluations)
    if quality:
        figures["quality_over_steps.png"] = plots.quality_curve_figure(
            quality, "Translation quality over training steps"
        )
    return figures


def _figures_of(
    method: Method, evaluations: Sequence[Evaluation], points: Points, correlations: Correlations
) -> dict[str, Figure]:
    """Return the figures of one alignment score."""
    name, pairs = score_name(method), pair_counts(evaluations, method)
    translated = {pair for evaluation in evaluations for pair in evaluation.translated_pairs if evaluation.quality}
    figures = {
        _file("alignment", method, points): plots.curve_figure(
            language_curves(evaluations, method), method, pairs.values(), f"{name} over training steps"
        ),
    }
    if layers := layers_of(evaluations, method):
        figures[_file("layers", method, points)] = plots.layer_change_figure(
            layers_at(evaluations, method),
            _last_chance(evaluations, method),
            method,
            pairs,
            f"{name} per layer",
            layers,
        )
    if points[method]:
        figures[_file("quality", method, points)] = plots.quality_figure(
            {metric: [point[:3] for point in drawn] for metric, drawn in points[method].items()},
            correlations[method],
            method,
            [count for pair, count in pairs.items() if pair in translated],
            f"Translation quality against {name}",
        )
    return figures | {_file(what, method, points): drawn for what, drawn in run_maps(evaluations, method).items()}


def _file(what: str, method: str, methods: Iterable[str]) -> str:
    """Return alignment.png, or alignment-nasca.png if there is more than one method."""
    return f"{what}.png" if list(methods) == [method] else f"{what}-{method}.png"


# ---------------------------------------------------------------------------------------------- its text


def _page(
    evaluations: Sequence[Evaluation], path: Path, points: Points, correlations: Correlations, figures: Collection[str]
) -> str:
    methods = list(points)
    parts = [
        *_scores_part(evaluations, path),
        *_alignment_part(methods, evaluations, figures),
        *_map_part(methods, figures),
    ]
    if any(evaluation.quality for evaluation in evaluations):
        parts += [*_correlation_part(points, correlations), *sentences_part(evaluations), *_quality_part(evaluations)]
    return "\n\n".join([*parts, *_signature_part(evaluations)]) + "\n"


def _scores_part(evaluations: Sequence[Evaluation], path: Path) -> list[str]:
    steps = [evaluation.step for evaluation in evaluations]
    shown = f"{len(steps)} evaluations, step {steps[0]} to {steps[-1]}"
    if len(steps) == 1:
        shown = f"1 evaluation, step {steps[0]}"
    rows = [[score_name(name), *value_cells(points, steps)] for name, points in curves(evaluations).items()]
    return [
        "# Alignment and translation quality",
        f"{shown}, from {plain(str(path))}. Best is the highest value.",
        *([plain(stopped)] if (stopped := stop_reason(evaluations)) else []),
        markdown_table(("score", "first", "last", "best", "at step"), rows),
    ]


def value_cells(points: Sequence[tuple[int, float]], steps: Sequence[int]) -> list[str]:
    """Return the first, the last and the best value of a score and the step of the best, as text.

    Args:
        points: (step, value) of each evaluation that has the score.
        steps: the steps of all evaluations.
    """
    best_step, best = best_of(points)
    return [_value_at(points[0], steps[0]), _value_at(points[-1], steps[-1]), f"{best:.4f}", str(best_step)]


def _value_at(point: tuple[int, float], expected: int) -> str:
    """Return a value as text, with its step if that is not the step that a reader expects."""
    step, value = point
    return f"{value:.4f}" if step == expected else f"{value:.4f} (step {step})"


def _alignment_part(
    methods: Sequence[Method], evaluations: Sequence[Evaluation], figures: Collection[str]
) -> list[str]:
    layers = _drawn("layers", methods, "{} per layer, a panel a language", figures)
    return [
        "## Alignment over training steps",
        *_images("alignment", methods, "{} over training steps, a line a language"),
        bands_text(evaluations),
        *certainty_part(evaluations, methods),
        *(["## Alignment per layer", *layers] if layers else []),
    ]


def _map_part(methods: Sequence[Method], figures: Collection[str]) -> list[str]:
    parts: list[str] = []
    for what, (heading, description, reading) in MAP_TEXTS.items():
        if images := _drawn(what, methods, description, figures):
            parts += [f"## {heading}", *images, reading]
    return parts


def _correlation_part(points: Points, correlations: Correlations) -> list[str]:
    drawn = {method: by_metric for method, by_metric in points.items() if by_metric}
    if not drawn:
        return []
    images = _images("quality", points, "Translation quality against {}")
    return [
        "## Translation quality against alignment",
        *(image for image, method in zip(images, points, strict=True) if method in drawn),
        "One point an evaluation, joined in order of steps; the dashed line is the least-squares fit.",
        *run_part(points, correlations),
    ]


def _quality_part(evaluations: Sequence[Evaluation]) -> list[str]:
    drawn = [
        "## Translation quality over training steps",
        "![Each quality metric over training steps, a line a direction](quality_over_steps.png)",
    ]
    last = [evaluation for evaluation in evaluations if evaluation.quality][-1]
    return [
        *(drawn if quality_curves(evaluations) else []),
        *translations_part(last),
        *_missing_part(evaluations),
    ]


def _missing_part(evaluations: Sequence[Evaluation]) -> list[str]:
    rows = missing_rows(evaluations)
    return ["## Missing scores", markdown_table(MISSING_HEADER, rows)] if rows else []


def missing_rows(evaluations: Sequence[Evaluation]) -> list[list[str]]:
    """Return a row below `MISSING_HEADER` for each metric, direction and reason that left a score out."""
    return [
        [score_name(metric), direction, ", ".join(map(str, steps)), reason]
        for (metric, direction, reason), steps in _missing(evaluations).items()
    ]


def _signature_part(evaluations: Sequence[Evaluation]) -> list[str]:
    parts = ["## Signatures", SIGNATURES]
    for subject, signatures in signatures_of(evaluations).items():
        parts += [f"{subject}:", signatures_text(signatures)]
    return parts


def signatures_text(signatures: Iterable[str]) -> str:
    """Return signatures as an indented block of Markdown, a line each."""
    # Only a line's end can end an indented block, and `one_line` leaves none.
    return "\n".join(f"    {one_line(signature)}" for signature in signatures)


def _drawn(what: str, methods: Sequence[Method], description: str, figures: Collection[str]) -> list[str]:
    """Return the figures of one kind that were drawn, as `_images` does."""
    there = [_file(what, method, methods) in figures for method in methods]
    return list(compress(_images(what, methods, description), there))


def _images(what: str, methods: Iterable[str], description: str) -> list[str]:
    """Return the figures of one kind, each with the name of its alignment score in its description."""
    return [f"![{description.format(score_name(m))}]({_file(what, m, methods)})" for m in methods]
