"""When to stop: a rise that is more than noise resets the patience, a language that is forgotten is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np

from neuronxa_callback.significance import paired_p_value
from neuronxa_callback.vocabulary import OVER_PAIRS

Record = Mapping[str, Any]

# Apart from the rule's own: to go on a little too long costs time, to call a language forgotten may end the run.
FORGOTTEN = 0.05


@dataclass(frozen=True)
class StoppingRule:
    """What counts as an improvement, and how long to wait for one.

    Attributes:
        patience: Evaluations without an improvement after which training stops. None never stops.
        metric: A logged key without eval_, such as nasca, nasca_eng_Latn-isl_Latn, comet or loss. None takes the first
            of the callback's methods.
        significance: Level of the paired permutation test by which an alignment score improves. The test runs over the
            held-out pairs, against the last evaluation that improved. Its p must be below the level.
        min_delta: A rise above this is an improvement, without a test. It decides for every metric where it is given.
            A metric that is no alignment score has no test: without `min_delta` any rise improves it. Where the
            metric's name ends with "loss", a fall counts and not a rise.
        warmup: Evaluations after the first that do not count towards the patience.
        floor: How far the alignment of a language may fall below its start, by FLORES-200 code. A language is
            forgotten when it falls further by more than noise (the same test, at 0.05).
        stop_at_floor: Stop training when a language is forgotten. False only warns.
    """

    patience: int | None = field(
        default=None, metadata={"help": "Evaluations without an improvement after which training stops."}
    )
    metric: str | None = field(
        default=None,
        metadata={"help": "A logged key without eval_, such as nasca, nasca_eng_Latn-isl_Latn, comet or loss."},
    )
    significance: float = field(
        default=0.2,
        metadata={"help": "Level of the paired permutation test by which an alignment score improves."},
    )
    min_delta: float | None = field(
        default=None, metadata={"help": "A rise above this is an improvement, without a test."}
    )
    warmup: int = field(
        default=0, metadata={"help": "Evaluations after the first that do not count towards the patience."}
    )
    floor: Mapping[str, float] | None = field(
        default=None,
        metadata={"help": "How far the alignment of a language may fall below its start, by FLORES-200 code."},
    )
    stop_at_floor: bool = field(default=True, metadata={"help": "Stop training when a language is forgotten."})

    def __post_init__(self) -> None:
        if self.patience is not None and (not _is_count(self.patience) or self.patience < 1):
            raise ValueError(f"patience={self.patience!r} must be a number of evaluations, such as 3.")
        if not _is_count(self.warmup):
            raise ValueError(f"warmup={self.warmup!r} must be a number of evaluations, such as 2.")
        if not 0 < self.significance < 1:
            raise ValueError(f"significance={self.significance!r} must lie between 0 and 1, as 0.2 does.")
        if self.min_delta is not None and not self.min_delta >= 0:
            raise ValueError(f"min_delta={self.min_delta!r} must be 0 or more.")
        if any(not allowed >= 0 for allowed in (self.floor or {}).values()):
            raise ValueError(
                f"floor={dict(self.floor or {})!r} must give each language a fall of 0 or more, such as 0.02."
            )

    @property
    def key(self) -> str:
        """The metric that is judged by, NASCA unless another was named."""
        return (self.metric or "nasca").removeprefix("eval_")

    @property
    def criterion(self) -> str:
        """What makes an evaluation an improvement: verdicts by other rules cannot be gone on from."""
        return f"{self.key}, significance {self.significance}, min_delta {self.min_delta}, warmup {self.warmup}"

    @property
    def by_test(self) -> bool:
        """Whether the paired test decides, and not a difference."""
        return self.min_delta is None and self.key.split("_")[0] in OVER_PAIRS


@dataclass(frozen=True)
class Verdict:
    """What an evaluation means for stopping.

    Attributes:
        rule: what was judged by, as `StoppingRule.criterion` has it.
        best: the value of the last evaluation that improved, this one where it did; None before any had a value.
        best_step: its step.
        gain: this evaluation's value minus that of the last one that had improved before it; 0 at the first, None
            where it has no value.
        p_value: of this gain, by the paired test; None where a difference decides.
        improved: whether it counts as an improvement. The first evaluation does.
        waited: evaluations without an improvement up to this one, those of the warm-up left out.
        forgotten: language pair -> its fall below its start, where that is too far and more than noise.
        reason: why to stop now; None to go on.
    """

    rule: str
    best: float | None
    best_step: int | None
    gain: float | None
    p_value: float | None
    improved: bool
    waited: int
    forgotten: dict[str, float]
    reason: str | None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def judge(rule: StoppingRule, record: Record, earlier: Sequence[Record], values: Mapping[str, float]) -> Verdict | None:
    """What this evaluation means, given those before it.

    Everything is in the records: a resumed run goes on from the same verdict.

    Args:
        rule: what counts.
        record: this evaluation's line of scores.jsonl.
        earlier: the lines before it, in step order; their verdicts are under "stopping".
        values: this evaluation's metrics, with "eval_" in front.

    Returns:
        the verdict; None where the metric has no value and no language is forgotten.
    """
    forgotten = _forgotten(rule, record, earlier)
    judged = [line for line in earlier if _best_step(rule, line) is not None]
    last: Mapping[str, Any] = judged[-1]["stopping"] if judged else {"best": None, "best_step": None, "waited": 0}
    value = values.get(f"eval_{rule.key}")
    if value is None or not isfinite(value):
        if not forgotten:
            return None
        waited, reason = last["waited"], _reason(rule, last["waited"], forgotten)
        return Verdict(rule.criterion, last["best"], last["best_step"], None, None, False, waited, forgotten, reason)
    reference = next((line for line in judged if line["step"] == last["best_step"]), None)
    if reference is None:
        return Verdict(
            rule.criterion, value, record["step"], 0.0, None, True, 0, forgotten, _reason(rule, 0, forgotten)
        )
    gain = value - last["best"]
    p_value = paired_p_value(_shares(rule, record), _shares(rule, reference)) if rule.by_test else None
    improved = p_value < rule.significance if p_value is not None else _rise(rule, gain) > (rule.min_delta or 0.0)
    waited = 0 if improved else last["waited"] + (len(judged) > rule.warmup)
    best, best_step = (value, record["step"]) if improved else (last["best"], last["best_step"])
    reason = _reason(rule, waited, forgotten)
    return Verdict(rule.criterion, best, best_step, gain, p_value, improved, waited, forgotten, reason)


def still_stops(rule: StoppingRule, verdict: Mapping[str, Any]) -> str | None:
    """Why a run whose last verdict this was should not go on by this rule, which may be another; None where it should.

    Args:
        rule: what counts now.
        verdict: a line's "stopping".
    """
    waited = verdict["waited"] if verdict.get("rule") == rule.criterion else 0
    forgotten = {
        name: fall
        for name, fall in verdict["forgotten"].items()
        if any(fall > allowed for code, allowed in (rule.floor or {}).items() if code in name.split("-"))
    }
    return _reason(rule, waited, forgotten)


def _best_step(rule: StoppingRule, line: Record) -> int | None:
    """Of a line that was judged by this rule."""
    verdict = line.get("stopping") or {}
    return verdict["best_step"] if verdict.get("rule") == rule.criterion else None


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


def _forgotten(rule: StoppingRule, record: Record, earlier: Sequence[Record]) -> dict[str, float]:
    """The watched languages that fell too far below the run's first evaluation."""
    start = next((line for line in earlier if line["languages"]), None)
    if start is None or not rule.floor:
        return {}
    method = next(method for method in record["score"] if method in OVER_PAIRS)
    found = {}
    for code, allowed in rule.floor.items():
        for name in record["languages"]:
            if code in name.split("-"):
                before, now = (np.array(line["languages"][name]["per_pair"][method]) for line in (start, record))
                if paired_p_value(before - allowed, now) < FORGOTTEN:
                    found[name] = float(np.mean(before - now))
    return found


def _shares(rule: StoppingRule, record: Record) -> list[float]:
    """Each held-out pair's share of aligned layers, over all watched languages or in the one that the metric names."""
    method, _, name = rule.key.partition("_")
    several = record.get("per_pair") if not name else None
    of_language = several or record["languages"][name or next(iter(record["languages"]))]["per_pair"]
    return of_language[method]  # type: ignore[no-any-return]
