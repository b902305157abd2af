"""The settings of the stopping rule, with their help. Importing this module loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neuronxa_callback.vocabulary import OVER_PAIRS, split_method


@dataclass(frozen=True)
class StoppingRule:
    """What counts as an improvement, and how long to wait for one.

    Attributes:
        patience: Evaluations without an improvement after which training stops. None sets no limit, and then only
            `floor` can stop the run.
        metric: A logged key without eval_, such as nasca, nasca_eng_Latn-isl_Latn, comet or loss. None takes the first
            of the callback's methods.
        significance: Level of the paired permutation test by which an alignment score improves. The test runs over the
            held-out pairs, against the last evaluation that improved. Its p must be below the level.
        min_delta: A rise above this is an improvement, without a test. It decides for every metric where it is given.
            A metric that is no alignment score has no test: without `min_delta` any rise improves it. Where the
            metric's name ends with "loss", a fall counts and not a rise.
        warmup: Evaluations after the first that do not count towards the patience.
        floor: How far the alignment of a language may fall below its start, by FLORES-200 code. It is a fall of
            nasca_rank where that is measured, else of the first method with values of pairs. A language is forgotten
            when it falls further by more than noise (the same test, at 0.05).
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
        """The metric that the rule judges by: NASCA if none was named."""
        return (self.metric or "nasca").removeprefix("eval_")

    @property
    def criterion(self) -> str:
        """The settings that define an improvement. A run cannot continue from a verdict with other settings."""
        return f"{self.key}, significance {self.significance}, min_delta {self.min_delta}, warmup {self.warmup}"

    @property
    def by_test(self) -> bool:
        """Whether the paired test decides. Otherwise the size of the rise decides."""
        return self.min_delta is None and split_method(self.key)[0] in OVER_PAIRS


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
