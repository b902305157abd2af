"""The stopping rule: a rise by more than noise resets the patience, and a forgotten language may stop the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import cast

import numpy as np

from neuronxa_callback.significance import paired_p_value
from neuronxa_callback.training.records import Evaluation, Verdict
from neuronxa_callback.training.settings import StoppingRule
from neuronxa_callback.vocabulary import OVER_PAIRS, Method, split_method

# The level of the test for a forgotten language. It differs from the rule's significance: a run that stops late only
# costs time, but a language that is called forgotten may end the run.
FORGOTTEN = 0.05


def judge(
    rule: StoppingRule, evaluation: Evaluation, earlier: Sequence[Evaluation], values: Mapping[str, float]
) -> Verdict | None:
    """Return what the rule says about an evaluation, given those before it.

    The evaluations hold everything that the rule needs, so a resumed run continues from the same verdict.

    Args:
        rule: the stopping rule.
        evaluation: the evaluation.
        earlier: the evaluations before it in step order, with their verdicts.
        values: the metrics of the evaluation, with "eval_" in front.

    Returns:
        the verdict. It is None if the metric has no value and no language is forgotten.
    """
    forgotten = _forgotten(rule, evaluation, earlier)
    judged = [(line, verdict) for line in earlier if (verdict := _verdict_by(rule, line)) is not None]
    last = judged[-1][1] if judged else None
    value = values.get(f"eval_{rule.key}")
    if value is None or not isfinite(value):
        if not forgotten:
            return None
        if last is None:
            return _verdict(rule, forgotten, None, None)
        return _verdict(rule, forgotten, last.best, last.best_step, waited=last.waited)
    reference = next((line for line, _ in judged if last is not None and line.step == last.best_step), None)
    if last is None or last.best is None or reference is None:
        return _verdict(rule, forgotten, value, evaluation.step, gain=0.0, improved=True)
    gain = value - last.best
    p_value = paired_p_value(_shares(rule, evaluation), _shares(rule, reference)) if rule.by_test else None
    improved = p_value < rule.significance if p_value is not None else _rise(rule, gain) > (rule.min_delta or 0.0)
    if improved:
        return _verdict(rule, forgotten, value, evaluation.step, gain=gain, p_value=p_value, improved=True)
    waited = last.waited + (len(judged) > rule.warmup)
    return _verdict(rule, forgotten, last.best, last.best_step, gain=gain, p_value=p_value, waited=waited)


def _verdict(
    rule: StoppingRule,
    forgotten: dict[str, float],
    best: float | None,
    best_step: int | None,
    gain: float | None = None,
    p_value: float | None = None,
    improved: bool = False,
    waited: int = 0,
) -> Verdict:
    """Return the verdict with the rule's criterion and the reason that follows from the other parts."""
    return Verdict(
        rule=rule.criterion,
        best=best,
        best_step=best_step,
        gain=gain,
        p_value=p_value,
        improved=improved,
        waited=waited,
        forgotten=forgotten,
        reason=_reason(rule, waited, forgotten),
    )


def still_stops(rule: StoppingRule, verdict: Verdict) -> str | None:
    """Return the reason why a run should stop by this rule, or None if it should continue.

    Args:
        rule: the present rule. It may differ from the rule that made the verdict.
        verdict: the run's last verdict.
    """
    waited = verdict.waited if verdict.rule == rule.criterion else 0
    forgotten = {
        name: fall
        for name, fall in verdict.forgotten.items()
        if any(fall > allowed for code, allowed in (rule.floor or {}).items() if code in name.split("-"))
    }
    return _reason(rule, waited, forgotten)


def _verdict_by(rule: StoppingRule, evaluation: Evaluation) -> Verdict | None:
    """Return an evaluation's verdict if this rule made it and a best step was known."""
    verdict = evaluation.stopping
    if verdict is None or verdict.rule != rule.criterion or verdict.best_step is None:
        return None
    return verdict


def _rise(rule: StoppingRule, gain: float) -> float:
    return -gain if rule.key.endswith("loss") else gain


def _reason(rule: StoppingRule, waited: int, forgotten: Mapping[str, float]) -> str | None:
    if forgotten and rule.stop_at_floor:
        falls = ", ".join(f"{name} fell {fall:.4f} below its start" for name, fall in forgotten.items())
        return f"{falls}, by more than noise"
    if rule.patience is None or waited < rule.patience:
        return None
    by = f"significantly (p < {rule.significance:g}, paired test)" if rule.by_test else "enough"
    return f"{rule.key} did not improve {by} in {waited} evaluations"


def _forgotten(rule: StoppingRule, evaluation: Evaluation, earlier: Sequence[Evaluation]) -> dict[str, float]:
    """Return how far each forgotten language fell below the run's first evaluation."""
    start = next((line for line in earlier if line.languages), None)
    if start is None or not rule.floor:
        return {}
    # The rank score first: where few pairs are aligned, NASCA has nothing left that could fall significantly.
    method = next(m for m in ("nasca_rank", *OVER_PAIRS) if m in evaluation.score and m in start.score)
    found = {}
    for code, allowed in rule.floor.items():
        for name in evaluation.languages:
            if code in name.split("-"):
                before, now = (np.array(line.pair_shares(method, name)) for line in (start, evaluation))
                if paired_p_value(before - allowed, now) < FORGOTTEN:
                    found[name] = float(np.mean(before - now))
    return found


def _shares(rule: StoppingRule, evaluation: Evaluation) -> list[float]:
    """Return each held-out pair's part of the score, in the language pair that the metric names or over all."""
    method, name = split_method(rule.key)
    return evaluation.pair_shares(cast("Method", method), name or None)
