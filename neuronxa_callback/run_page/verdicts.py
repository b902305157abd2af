"""What the stopping rule said of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from neuronxa_callback.run_page.document import Block, Section, Table
from neuronxa_callback.training.records import Evaluation, Verdict
from neuronxa_callback.training.summary import stop_reason
from neuronxa_callback.vocabulary import score_name, split_method

NOT_JUDGED = "No stopping rule judged this run."
READING = (
    "The rise is that of the line of least squares through the last evaluations. The jitter is how far the values lie "
    "off such lines. A verdict without a metric is an early version's, which judged by a paired test."
)
HEADER = ("step", "value", "best so far", "at step", "rise", "jitter", "too far below the start", "training stops")


def verdict_text(evaluations: Sequence[Evaluation]) -> str:
    """Return why training stopped, or what the rule last said, in a sentence or two."""
    if stopped := stop_reason(evaluations):
        return stopped
    last = _judged(evaluations)
    if last is None:
        return NOT_JUDGED
    evaluation, verdict = last
    told = f"No stopping rule had ended the run by step {evaluation.step}."
    if verdict.best is None:
        return f"{told} It had no value to judge by."
    return f"{told} The best step so far was {verdict.best_step}, with {verdict.best:.4f}{_of_metric(verdict)}."


def _judged(evaluations: Sequence[Evaluation]) -> tuple[Evaluation, Verdict] | None:
    found = [(evaluation, evaluation.stopping) for evaluation in evaluations if evaluation.stopping is not None]
    return found[-1] if found else None


def _of_metric(verdict: Verdict) -> str:
    if verdict.metric is None:
        return ""
    method, rest = split_method(verdict.metric)
    return f" by {score_name(rest) if method is None else f'{score_name(method)} {rest}'.strip()}"


def verdict_section(evaluations: Sequence[Evaluation]) -> Section:
    """Return the section on the verdicts, with a row for each."""
    rows = [
        [str(evaluation.step), *_cells(evaluation.stopping)]
        for evaluation in evaluations
        if evaluation.stopping is not None
    ]
    blocks: list[Block] = [verdict_text(evaluations)]
    if rows:
        blocks += [READING, Table("Every verdict of the stopping rule", HEADER, rows, folded=len(rows) > 4)]
    return Section("stopping", "Stopping", blocks)


def _cells(verdict: Verdict) -> list[str]:
    best_step = "" if verdict.best_step is None else str(verdict.best_step)
    numbers = [_number(verdict.value), _number(verdict.best), best_step]
    fallen = _fallen(verdict.forgotten)
    return [*numbers, _number(verdict.rise), _number(verdict.jitter), fallen, verdict.reason or "no"]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _fallen(forgotten: Mapping[str, float]) -> str:
    return ", ".join(f"{name} by {fall:.4f}" for name, fall in forgotten.items()) or "none"
