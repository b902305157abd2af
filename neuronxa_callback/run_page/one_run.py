"""The page of one run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from neuronxa_callback.run_page.alignment_parts import curves_section, languages_section, layers_section, mean_chance
from neuronxa_callback.run_page.changes import changes_section
from neuronxa_callback.run_page.document import Block, Code, Document, KeyNumber, Section, Table
from neuronxa_callback.run_page.evaluations import finite, pair_labels, pair_names
from neuronxa_callback.run_page.quality_parts import correlation_section, quality_section
from neuronxa_callback.run_page.texts import held_out_texts
from neuronxa_callback.run_page.verdicts import verdict_section, verdict_text
from neuronxa_callback.text.languages import language_name
from neuronxa_callback.training.page import SIGNATURES, read_run, signatures_of, value_cells
from neuronxa_callback.training.points import Correlations, correlations_of, points_of
from neuronxa_callback.training.records import Evaluation, methods_of
from neuronxa_callback.training.summary import best_of, curves
from neuronxa_callback.vocabulary import Method, score_name, split_method

NO_SCORES = "No evaluation of this run has an alignment score; the warnings of the run say why."
MOST_NAMED = 8  # languages; the bar and the tables name more
COMMAND_NOTE = "The command of the training itself is not recorded."


def one_run(run_dir: Path, given: Sequence[str], command: Sequence[str]) -> Document:
    """Return the page of a run, from its scores.jsonl.

    Args:
        run_dir: the Trainer's `output_dir`.
        given: held-out pairs of the run whose sentences the page should show; see `texts.held_out_texts`.
        command: the command that makes this page.

    Raises:
        RunPageError: there are no scores, or the given pairs are not the run's.
    """
    evaluations = [finite(evaluation) for evaluation in read_run(run_dir)]
    methods, labels = methods_of(evaluations), pair_labels(pair_names(evaluations))
    points = {method: points_of(evaluations, method) for method in methods}
    correlations = {method: correlations_of(by_metric) for method, by_metric in points.items()}
    sections = [
        curves_section(evaluations, methods, labels) if methods else Section("curves", "Alignment", [NO_SCORES]),
        _scores_section(evaluations),
        languages_section(evaluations, methods, labels) if methods else None,
        correlation_section(evaluations, points, correlations),
        quality_section(evaluations),
        layers_section(evaluations, methods, labels),
        changes_section(evaluations, methods, labels, held_out_texts(evaluations, given)),
        verdict_section(evaluations),
        signature_section(signatures_of(evaluations)),
        command_section(command),
    ]
    return Document(
        title=run_dir.resolve().name,
        told=_told(evaluations, labels),
        verdict=verdict_text(evaluations),
        numbers=[*_scores(evaluations, methods), *_correlations(correlations)],
        sections=[section for section in sections if section is not None],
        pairs=labels,
    )


def _told(evaluations: Sequence[Evaluation], labels: Mapping[str, str]) -> str:
    steps = [evaluation.step for evaluation in evaluations]
    counted = f"1 evaluation, at step {steps[0]}"
    if len(steps) > 1:
        counted = f"{len(steps)} evaluations, step {steps[0]} to {steps[-1]}"
    sources = {name.partition("-")[0] for name in labels}
    watched = ", ".join(labels.values()) if len(labels) <= MOST_NAMED else f"{len(labels)} languages"
    beside = f" beside {language_name(sources.pop())}" if len(sources) == 1 else ""
    return f"Cross-lingual alignment of {watched}{beside}. {counted}." if watched else f"{counted}."


# ---------------------------------------------------------------------------------------------- first numbers


def _scores(evaluations: Sequence[Evaluation], methods: Sequence[Method]) -> list[KeyNumber]:
    """Return the best value of the first method and of each quality metric."""
    found = []
    for name, points in curves(evaluations).items():
        if name in methods[1:]:
            continue
        step, best = best_of(points)
        told = f"at its best step, {step}. {number_text(points[0][1])} at step {points[0][0]}"
        told += f", {number_text(points[-1][1])} at step {points[-1][0]}." if len(points) > 1 else "."
        found.append(KeyNumber(score_name(name), number_text(best), told + _certain(evaluations, name, step)))
    return found


def number_text(number: float) -> str:
    """Return a score as text: four decimals up to 1, and two above, as of chrF from 0 to 100."""
    return f"{number:.4f}" if abs(number) <= 1 else f"{number:.2f}"


def _certain(evaluations: Sequence[Evaluation], name: str, step: int) -> str:
    """Return the interval and the chance of an alignment score at a step, as a sentence."""
    method, rest = split_method(name)
    at = next(evaluation for evaluation in evaluations if evaluation.step == step)
    if method is None or rest:
        return ""
    single = list(at.languages.values())
    interval = at.ci.get(method) or (single[0].ci.get(method) if len(single) == 1 else None)
    chance = mean_chance(at, method)
    parts = [] if interval is None else ["95 % interval {:.4f} to {:.4f}".format(*interval)]
    parts += [] if chance is None else [f"chance {chance:.4f}"]
    return f" {', '.join(parts).capitalize()}." if parts else ""


def _correlations(correlations: Correlations) -> list[KeyNumber]:
    """Return r of differences of the first method and each quality metric."""
    for method, by_metric in correlations.items():
        return [
            KeyNumber(
                f"r of changes, {score_name(method)} and {score_name(metric)}",
                "none" if found.r_diff is None else f"{found.r_diff:.2f}",
                f"r itself is {found.r:.2f} over {found.n} evaluations.",
            )
            for metric, found in by_metric.items()
            if found is not None
        ]
    return []


def _scores_section(evaluations: Sequence[Evaluation]) -> Section:
    steps = [evaluation.step for evaluation in evaluations]
    rows = [[score_name(name), *value_cells(points, steps)] for name, points in curves(evaluations).items()]
    table = Table("Each score over all language pairs", ("score", "first", "last", "best", "at step"), rows)
    return Section("scores", "Scores", [table, "Best is the highest value."])


# ---------------------------------------------------------------------------------------------- what it rests on


def signature_section(signatures: Mapping[str, Sequence[str]]) -> Section:
    """Return the section with every signature once, by its subject."""
    blocks: list[Block] = [SIGNATURES]
    blocks += [Code(subject, found) for subject, found in signatures.items()]
    return Section("signatures", "Signatures", blocks)


def command_section(command: Sequence[str]) -> Section:
    """Return the section with the command that makes the page anew."""
    return Section("command", "Command", [Code("This makes the page anew", [shlex.join(command)]), COMMAND_NOTE])
