"""The stopping rule: a run stops where its curve no longer rises, or where it forgets a language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuronxa_callback.significance import ROUNDING, paired_p_value
from neuronxa_callback.training.records import Evaluation, Verdict
from neuronxa_callback.training.settings import StoppingRule
from neuronxa_callback.training.trend import Trend, jitter_of_changes, trend
from neuronxa_callback.vocabulary import OVER_PAIRS, Method

# A language is forgotten when the mean of so many evaluations lies below its start by more than the noise of pairs, by
# the paired test at this level, and by more than so many jitters of its curve. The jitter of fewer evaluations than
# FORGOTTEN_FROM is not known. docs/explanation/stopping.md has how often the floor is wrong with this multiple.
FALLEN_FOR = 3
FORGOTTEN = 0.05
FORGOTTEN_JITTERS = 4.0
FORGOTTEN_FROM = 5

# The rise that is logged where no patience is set.
INTERVALS = 10


class Forgotten(NamedTuple):
    """What was forgotten.

    Attributes:
        fall: language pair -> how far it fell below its start.
        method: the score that fell. None if the rule has no floor.
    """

    fall: dict[str, float]
    method: str | None

    def __str__(self) -> str:
        return ", ".join(f"{self.method} of {name} fell {fall:.4f} below its start" for name, fall in self.fall.items())


def judge(
    rule: StoppingRule, evaluation: Evaluation, earlier: Sequence[Evaluation], values: Mapping[str, float]
) -> Verdict | None:
    """Return what the rule says about an evaluation, given those before it.

    The evaluations hold everything that the rule needs, so a resumed run goes on as an unbroken one does.

    Args:
        rule: the stopping rule.
        evaluation: the evaluation.
        earlier: the evaluations before it in step order, with their verdicts.
        values: the metrics of the evaluation, with "eval_" in front.

    Returns:
        the verdict. It is None if the metric has no value and no language is forgotten.
    """
    forgotten = _forgotten(rule, evaluation, earlier)
    value = values.get(f"eval_{rule.key}")
    if value is None or not isfinite(value):
        if not forgotten.fall:
            return None
        value = None
    curve = curve_of(rule, earlier) | ({} if value is None else {evaluation.step: value})
    found = _trend(rule, curve)
    best_step = max(curve, key=lambda step: _upwards(rule, curve[step]), default=None)
    return Verdict(
        metric=rule.key,
        value=value,
        best=None if best_step is None else curve[best_step],
        best_step=best_step,
        rise=found.rise if found else None,
        jitter=found.jitter if found else None,
        forgotten=forgotten.fall,
        forgotten_by=forgotten.method,
        reason=_reason(rule, forgotten, len(curve), found),
    )


def still_stops(rule: StoppingRule, evaluations: Sequence[Evaluation]) -> str | None:
    """Return the reason why a run should stop after these evaluations by this rule, or None if it should go on.

    Args:
        rule: the present rule. It may differ from the rule that made the verdicts.
        evaluations: the run's evaluations in step order, with their verdicts.
    """
    verdict = evaluations[-1].stopping if evaluations else None
    if verdict is None or verdict.metric is None:
        return None
    fall = {
        name: fall
        for name, fall in verdict.forgotten.items()
        if any(fall > allowed for code, allowed in (rule.floor or {}).items() if code in name.split("-"))
    }
    curve = curve_of(rule, evaluations)
    return _reason(rule, Forgotten(fall, verdict.forgotten_by), len(curve), _trend(rule, curve))


def curve_of(rule: StoppingRule, evaluations: Sequence[Evaluation]) -> dict[int, float]:
    """Return the values by which evaluations were judged since the rule's metric is judged: step -> value."""
    curve: dict[int, float] = {}
    for evaluation in evaluations:
        verdict = evaluation.stopping
        if verdict is not None and verdict.metric != rule.key:
            curve.clear()
        elif verdict is not None and verdict.value is not None:
            curve[evaluation.step] = verdict.value
    return curve


def _trend(rule: StoppingRule, curve: Mapping[int, float]) -> Trend | None:
    return trend(list(curve.values())[rule.warmup :], rule.patience or INTERVALS)


def _upwards(rule: StoppingRule, value: float) -> float:
    return -value if rule.is_loss else value


def _reason(rule: StoppingRule, forgotten: Forgotten, evaluations: int, found: Trend | None) -> str | None:
    if forgotten.fall and rule.stop_at_floor:
        return f"{forgotten}, by more than noise"
    if rule.patience is None or evaluations - rule.warmup <= rule.patience:
        return None
    if found is None or _upwards(rule, found.rise) > rule.min_delta + ROUNDING:
        return None
    way = "fall" if rule.is_loss else "rise"
    enough = f" by more than {rule.min_delta:g}" if rule.min_delta else ""
    moved = round(found.rise, 4) + 0.0  # no -0.0000
    return (
        f"{rule.key} did not {way}{enough} over {rule.patience} evaluations "
        f"(its line moves by {moved:+.4f}, with a jitter of {found.jitter:.4f})"
    )


# --------------------------------------------------------------------------------------------------- the floor


def _forgotten(rule: StoppingRule, evaluation: Evaluation, earlier: Sequence[Evaluation]) -> Forgotten:
    if not rule.floor:
        return Forgotten({}, None)
    # The rank score first: where few pairs are aligned, NASCA has nothing left that could fall significantly.
    order: tuple[Method, ...] = ("nasca_rank", *OVER_PAIRS)
    method = next((method for method in order if method in evaluation.score), None)
    if method is None:
        return Forgotten({}, None)
    watched = [
        (name, allowed)
        for name in evaluation.languages
        for code, allowed in rule.floor.items()
        if code in name.split("-")
    ]
    found = {}
    for name, allowed in watched:
        fall = _fall(_parts(method, name, (*earlier, evaluation)), allowed)
        if fall is not None:
            found[name] = fall
    return Forgotten(found, method)


def _parts(method: Method, name: str, evaluations: Sequence[Evaluation]) -> list[NDArray[np.float64]]:
    """Return each pair's part of a language pair's score, at each evaluation that has it."""
    languages = [evaluation.languages[name] for evaluation in evaluations if name in evaluation.languages]
    return [np.array(language.per_pair[method]) for language in languages if method in language.per_pair]


def _fall(parts: Sequence[NDArray[np.float64]], allowed: float) -> float | None:
    """Return how far a score lies below its start in the last evaluations, if that is too far and more than noise.

    Args:
        parts: each pair's part of the score, at each evaluation of the run.
        allowed: the fall that is allowed.
    """
    if len(parts) < FORGOTTEN_FROM:
        return None
    start, now = parts[0], np.mean(parts[-FALLEN_FOR:], axis=0)
    fall = float(np.mean(start - now))
    jitter = jitter_of_changes([float(part.mean()) for part in parts])
    if fall - allowed <= FORGOTTEN_JITTERS * jitter or paired_p_value(start - allowed, now) >= FORGOTTEN:
        return None
    return fall
