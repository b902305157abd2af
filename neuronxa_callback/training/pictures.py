"""What trackers show of a run besides its curves: pictures, and facts about the whole run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from neuronxa_callback.alignment.pair_scores import layer_numbers
from neuronxa_callback.alignment.report import AlignmentReport
from neuronxa_callback.training.records import Evaluation, Verdict, methods_of
from neuronxa_callback.training.trackers import Fact

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def layer_pictures(report: AlignmentReport, n: int, step: int) -> Iterator[tuple[str, Figure]]:
    """Yield "neuronxa/nasca_per_layer" and the figure of each method's score per layer.

    Args:
        report: the report of an evaluation.
        n: the number of sentence pairs, for the axis.
        step: the step of the evaluation, for the title.
    """
    from neuronxa_callback import plots  # matplotlib, for which a run without trackers need not wait

    for method in report.score:
        languages = report.by_language.items()
        per_layer = {name: language.per_layer[method].tolist() for name, language in languages}
        if not (layers := layer_numbers(report.signatures[0], method, len(report.per_layer[method]))):
            continue
        chance = {
            name: language.chance_per_layer[method].tolist()
            for name, language in languages
            if method in language.chance_per_layer
        }
        title = f"Alignment per layer at step {step}"
        yield f"neuronxa/{method}_per_layer", plots.layer_figure(per_layer, chance, method, n, title, layers)


def map_pictures(evaluations: Sequence[Evaluation]) -> Iterator[tuple[str, Figure]]:
    """Yield "neuronxa/nasca_layer_map" and the like and the maps of a run, given its evaluations in step order."""
    from neuronxa_callback.training.maps import run_maps  # draws with matplotlib, too

    for method in methods_of(evaluations):
        for name, figure in run_maps(evaluations, method).items():
            yield f"neuronxa/{method}_{name}", figure


def run_facts(verdict: Verdict | None, report: AlignmentReport | None) -> dict[str, Fact]:
    """Return what is known of the whole run after an evaluation.

    Args:
        verdict: the stopping rule's verdict, None if it has none.
        report: the evaluation's report, None if it failed.

    Returns:
        "neuronxa/best_step", "neuronxa/best" and "neuronxa/metric", the metric that they are of, and
        "neuronxa/signature". With several language pairs each has its own: "neuronxa/signature_eng_Latn-isl_Latn".
    """
    facts: dict[str, Fact] = {}
    if verdict is not None and verdict.metric and verdict.best_step is not None and verdict.best is not None:
        facts = {"neuronxa/metric": verdict.metric, "neuronxa/best_step": verdict.best_step}
        facts["neuronxa/best"] = verdict.best
    if report is None:
        return facts
    if len(report.signatures) == 1:
        return facts | {"neuronxa/signature": report.signature}
    return facts | {f"neuronxa/signature_{name}": found.signature for name, found in report.by_language.items()}
