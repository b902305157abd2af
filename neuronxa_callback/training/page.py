"""The run page: what a run's scores.jsonl says, in Markdown with figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, get_args

from matplotlib.figure import Figure

from neuronxa_callback import plots
from neuronxa_callback.alignment.pair_scores import layer_numbers
from neuronxa_callback.signature import Signature
from neuronxa_callback.significance import Correlation, pearson
from neuronxa_callback.tables import markdown_table, one_line, plain
from neuronxa_callback.training.history import History
from neuronxa_callback.training.summary import best_of, curves, stop_reason
from neuronxa_callback.vocabulary import Method, score_name

# Alignment score -> quality metric -> (step, alignment, quality) of each evaluation that has both; their correlation.
Points: TypeAlias = Mapping[str, Mapping[str, Sequence[tuple[int, float, float]]]]
Correlations: TypeAlias = Mapping[str, Mapping[str, Correlation | None]]

PAGE = "report.md"
DPI = 200  # sharp in print

INDEPENDENCE = (
    "p and the interval treat the evaluations of one run as independent draws, which they are not: they tell how "
    "closely the two curves follow each other in this run, not what another run would show."
)


class ReportError(RuntimeError):
    """A report that cannot be made; the message says why, and what to do."""


# ---------------------------------------------------------------------------------------------- the page


def write(run_dir: Path, output: Path | None = None) -> Path:
    """Draw the figures of a run and write the page that shows them, from its scores.jsonl alone.

    Args:
        run_dir: the Trainer's `output_dir`.
        output: folder of the page and its figures; default: RUN_DIR/neuronxa/report.

    Returns:
        the page, report.md.

    Raises:
        ReportError: there are no scores, or the page cannot be written.
    """
    records = _read(run_dir)
    output = output or History(run_dir).path.with_name("report")
    # A correlation is made anew from the points that are drawn: after a resumed run the file may hold older ones.
    points = {method: _points(records, method) for method in _methods(records)}
    correlations = {method: _correlations(by_metric) for method, by_metric in points.items()}
    figures = _figures(records, points, correlations)
    text = _page(records, History(run_dir).path, points, correlations)
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(output / name, dpi=DPI)
        (output / PAGE).write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ReportError(f"{output} cannot be written ({reason}); choose another folder with --output.") from error
    return output / PAGE


def _read(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's scores.jsonl in step order, one at least.

    Raises:
        ReportError: there are none, or the file holds something else.
    """
    path = History(run_dir).path
    remedy = "give the output_dir of a run that was trained with NeuronXACallback."
    if not run_dir.is_dir():
        raise ReportError(f"{run_dir} is not a folder; {remedy}")
    if not path.is_file():
        raise ReportError(f"{path} is missing; {remedy}")
    try:
        records = History(run_dir).read()
        whole = all({"step", "score", "languages"} <= record.keys() for record in records)
    except OSError as error:
        raise ReportError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except (AttributeError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ReportError(f"{path} holds lines that are no evaluations; {remedy}")
    if not records:
        raise ReportError(f"{path} holds no evaluation; the run's first one writes it, at step 0.")
    return records


# ---------------------------------------------------------------------------------------------- what the records hold


def _methods(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The alignment scores of a run; those of this package alone, for they name files."""
    return [method for method in get_args(Method) if any(method in record["score"] for record in records)]


def _pairs(records: Sequence[Mapping[str, Any]], method: str) -> dict[str, int]:
    """Each language pair's number of sentence pairs."""
    languages = (item for record in records for item in record["languages"].items())
    return {
        name: int(Signature.parse(language["signature"])["n"])
        for name, language in languages
        if method in language["score"]
    }


def _points(records: Sequence[Mapping[str, Any]], method: str) -> dict[str, list[tuple[int, float, float]]]:
    """Quality metric -> (step, alignment, quality) of each evaluation that has both."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    for record in records:
        for metric, quality in record.get("quality_score", {}).items():
            if method in record["score"]:
                found.setdefault(metric, []).append((record["step"], record["score"][method], quality))
    return found


def _correlations(points: Mapping[str, Sequence[tuple[int, float, float]]]) -> dict[str, Correlation | None]:
    return {metric: pearson([x for _, x, _ in drawn], [y for _, _, y in drawn]) for metric, drawn in points.items()}


def _directions(records: Iterable[Mapping[str, Any]]) -> list[tuple[int, str, Mapping[str, Any]]]:
    """The step, the name and the translations of each direction at each evaluation."""
    return [(record["step"], name, made) for record in records for name, made in record.get("quality", {}).items()]


def _quality_curves(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Quality metric -> direction -> (step, score) of each evaluation that has one."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for step, name, made in _directions(records):
        for metric, judgement in made["metrics"].items():
            if "score" in judgement:
                found.setdefault(metric, {}).setdefault(name, []).append((step, judgement["score"]))
    return found


def _layers_at(records: Sequence[Mapping[str, Any]], method: str) -> dict[str, dict[str, list[float]]]:
    """The first, the best and the last evaluation of a score -> language pair -> its score at each layer."""
    scored = {record["step"]: record for record in records if method in record["score"]}
    steps = {
        "first": min(scored),
        "best": max(scored, key=lambda step: scored[step]["score"][method]),
        "last": max(scored),
    }
    return {
        _called(step, [role for role in steps if steps[role] == step], len(scored)): {
            name: language["per_layer"][method]
            for name, language in scored[step]["languages"].items()
            if method in language["per_layer"]
        }
        for step in sorted(set(steps.values()))
    }


def _signature(records: Sequence[Mapping[str, Any]]) -> str:
    """The first line's that has one."""
    return next((language["signature"] for r in records for language in r["languages"].values()), "")


def _called(step: int, roles: Sequence[str], evaluations: int) -> str:
    return f"step {step}" if evaluations == 1 else f"{' and '.join(roles)}, step {step}"


def _missing(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], list[int]]:
    """(metric, direction, reason) -> the steps at which a metric has no score for it."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for step, name, made in _directions(records):
        for metric, judgement in made["metrics"].items():
            if "missing" in judgement:
                found.setdefault((metric, name, judgement["missing"]), []).append(step)
    untranslated = [record["step"] for record in records if "quality" not in record]
    if untranslated:
        found["all", "all", "no translations were written"] = untranslated
    return found


def _signatures(records: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Every distinct signature, by what it is about."""
    directions = [made for _, _, made in _directions(records)]
    judgements = [judgement for made in directions for judgement in made["metrics"].values()]
    found = {
        "Alignment": [language["signature"] for record in records for language in record["languages"].values()],
        "Translations": [made["signature"] for made in directions],
        "Quality metrics": [judgement["signature"] for judgement in judgements if "signature" in judgement],
    }
    return {about: list(dict.fromkeys(signatures)) for about, signatures in found.items() if signatures}


# ---------------------------------------------------------------------------------------------- its figures


def _figures(records: Sequence[Mapping[str, Any]], points: Points, correlations: Correlations) -> dict[str, Figure]:
    """File name -> figure."""
    figures = {}
    for method in points:
        pairs = _pairs(records, method)
        name = score_name(method)
        figures[_file("alignment", method, points)] = plots.curve_figure(
            records, method, pairs.values(), f"{name} over training steps"
        )
        evaluations = _layers_at(records, method)
        most = max((len(scores) for by_language in evaluations.values() for scores in by_language.values()), default=0)
        layers = layer_numbers(Signature.parse(_signature(records)), method, most)
        figures[_file("layers", method, points)] = plots.layer_change_figure(
            evaluations, method, pairs, f"{name} per layer", layers
        )
        if points[method]:
            figures[_file("quality", method, points)] = plots.quality_figure(
                points[method], correlations[method], method, pairs.values(), f"Translation quality against {name}"
            )
    quality = _quality_curves(records)
    if quality:
        figures["quality_over_steps.png"] = plots.quality_curve_figure(
            quality, "Translation quality over training steps"
        )
    return figures


def _file(what: str, method: str, methods: Iterable[str]) -> str:
    """alignment.png, or alignment-nasca.png where there is more than one method."""
    return f"{what}.png" if list(methods) == [method] else f"{what}-{method}.png"


# ---------------------------------------------------------------------------------------------- its text


def _page(records: Sequence[Mapping[str, Any]], path: Path, points: Points, correlations: Correlations) -> str:
    parts = [*_scores_part(records, path), *_alignment_part(points)]
    if any("quality" in record for record in records):
        parts += [*_correlation_part(points, correlations), *_quality_part(records)]
    return "\n\n".join([*parts, *_signature_part(records)]) + "\n"


def _scores_part(records: Sequence[Mapping[str, Any]], path: Path) -> list[str]:
    steps = [record["step"] for record in records]
    evaluations = f"{len(steps)} evaluations, step {steps[0]} to {steps[-1]}"
    if len(steps) == 1:
        evaluations = f"1 evaluation, step {steps[0]}"
    rows = [_score_row(name, points, steps) for name, points in curves(records).items()]
    return [
        "# Alignment and translation quality",
        f"{evaluations}, from {plain(str(path))}. Best is the highest value.",
        *([plain(stopped)] if (stopped := stop_reason(records)) else []),
        markdown_table(("score", "first", "last", "best", "at step"), rows),
    ]


def _score_row(name: str, points: Sequence[tuple[int, float]], steps: Sequence[int]) -> list[str]:
    best_step, best = best_of(points)
    first, last = _value_at(points[0], steps[0]), _value_at(points[-1], steps[-1])
    return [score_name(name), first, last, f"{best:.4f}", str(best_step)]


def _value_at(point: tuple[int, float], expected: int) -> str:
    """A value, with its step where that is not the one that a reader takes it for."""
    step, value = point
    return f"{value:.4f}" if step == expected else f"{value:.4f} (step {step})"


def _alignment_part(methods: Iterable[str]) -> list[str]:
    return [
        "## Alignment over training steps",
        *_images("alignment", methods, "{} over training steps, a line a language"),
        "The bands are 95 % bootstrap intervals over the held-out sentence pairs, where a score is a mean over these. "
        "The chance level is what unrelated sentences reach.",
        "## Alignment per layer",
        *_images("layers", methods, "{} per layer, a panel a language"),
    ]


def _correlation_part(points: Points, correlations: Correlations) -> list[str]:
    rows = [
        [
            score_name(method),
            score_name(metric),
            *_correlation_cells(correlation, len(points[method][metric])),
        ]
        for method, by_metric in correlations.items()
        for metric, correlation in by_metric.items()
    ]
    if not rows:
        return []
    images = _images("quality", points, "Translation quality against {}")
    return [
        "## Translation quality against alignment",
        *(image for image, by_metric in zip(images, points.values(), strict=True) if by_metric),
        "One point an evaluation, joined in order of steps; the dashed line is the least-squares fit.",
        markdown_table(("alignment", "quality", "r", "95 % interval", "p", "n"), rows),
        *([INDEPENDENCE] if any(c for by_metric in correlations.values() for c in by_metric.values()) else []),
    ]


def _correlation_cells(correlation: Correlation | None, n: int) -> list[str]:
    if correlation is None:
        return [f"none: {plots.why_no_correlation(n)}", "", "", str(n)]
    low, high = correlation.ci
    return [f"{correlation.r:.3f}", f"{low:.3f} to {high:.3f}", f"{correlation.p_value:.2g}", str(correlation.n)]


def _quality_part(records: Sequence[Mapping[str, Any]]) -> list[str]:
    drawn = [
        "## Translation quality over training steps",
        "![Each quality metric over training steps, a line a direction](quality_over_steps.png)",
    ]
    last = [record for record in records if "quality" in record][-1]
    counts = [
        [name, *(str(count) for count in (len(made["translations"]), made["empty"], made["truncated"]))]
        for _, name, made in _directions([last])
    ]
    missing = [
        [score_name(metric), direction, ", ".join(map(str, steps)), reason]
        for (metric, direction, reason), steps in _missing(records).items()
    ]
    return [
        *(drawn if _quality_curves(records) else []),
        f"## Translations at step {last['step']}",
        markdown_table(("direction", "sentences", "empty", "cut at their length limit"), counts),
        *(
            ["## Missing scores", markdown_table(("metric", "direction", "at step", "reason"), missing)]
            if missing
            else []
        ),
    ]


def _signature_part(records: Sequence[Mapping[str, Any]]) -> list[str]:
    parts = ["## Signatures", "The choices behind the numbers; compare numbers of equal signatures only."]
    for about, signatures in _signatures(records).items():
        # Nothing ends an indented block but a line's end, and `one_line` leaves none.
        parts += [f"{about}:", "\n".join(f"    {one_line(signature)}" for signature in signatures)]
    return parts


def _images(what: str, methods: Iterable[str], description: str) -> list[str]:
    """The figures of one kind, each with the name of its alignment score in its description."""
    return [f"![{description.format(score_name(m))}]({_file(what, m, methods)})" for m in methods]
