"""The settings of the stopping rule, with their help. Importing this module loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

# What the names of the metrics that count faults of the translations begin with.
FALLING = ("translation_copied", "translation_off_target", "translation_empty", "translation_truncated")


@dataclass(frozen=True)
class StoppingRule:
    """Over how many evaluations a curve must rise, and by how much.

    A line of least squares goes through the last evaluations. Training stops where it does not rise.

    Attributes:
        patience: Evaluations over which the metric must rise; training stops if it does not. 2 or more. None sets no
            limit, and then only `floor` can stop the run; the rise over the last 10 intervals between evaluations is
            logged all the same.
        metric: A logged key without eval_, such as nasca, nasca_eng_Latn-isl_Latn, comet or loss. None takes the first
            of the callback's methods. Where the name ends with "loss", the metric must fall and not rise. So it must
            where the name begins with translation_copied, translation_off_target, translation_empty or
            translation_truncated. No other metric counts as better the lower it is. With a patience, a warning says so
            when the metric is missing in two evaluations in a row.
        min_delta: The line must rise by more than this, from its first evaluation to its last.
        warmup: Evaluations at the beginning that the rule leaves out. The learning rate's warm-up is a reason.
        floor: How far the alignment of a language may fall below its start, by FLORES-200 code. It is a fall of
            nasca_rank where that is measured, else of the first method with values of pairs. A language is forgotten
            when it falls further by more than noise, both of its pairs and of checkpoints. That is not said before the
            fifth evaluation.
        stop_at_floor: Stop training when a language is forgotten. False only warns.
    """

    patience: int | None = field(
        default=None, metadata={"help": "Evaluations over which the metric must rise; training stops if it does not."}
    )
    metric: str | None = field(
        default=None,
        metadata={"help": "A logged key without eval_, such as nasca, nasca_eng_Latn-isl_Latn, comet or loss."},
    )
    min_delta: float = field(
        default=0.0,
        metadata={"help": "The line must rise by more than this, from its first evaluation to its last."},
    )
    warmup: int = field(default=0, metadata={"help": "Evaluations at the beginning that the rule leaves out."})
    floor: Mapping[str, float] | None = field(
        default=None,
        metadata={"help": "How far the alignment of a language may fall below its start, by FLORES-200 code."},
    )
    stop_at_floor: bool = field(default=True, metadata={"help": "Stop training when a language is forgotten."})

    def __post_init__(self) -> None:
        if self.patience is not None and (not _is_count(self.patience) or self.patience < 2):
            raise ValueError(f"patience={self.patience!r} must be 2 evaluations or more, such as 15.")
        if not _is_count(self.warmup):
            raise ValueError(f"warmup={self.warmup!r} must be a number of evaluations, such as 2.")
        if not _is_amount(self.min_delta):
            raise ValueError(f"min_delta={self.min_delta!r} must be a number of 0 or more, such as 0.005.")
        if not all(_is_amount(allowed) for allowed in (self.floor or {}).values()):
            raise ValueError(
                f"floor={dict(self.floor or {})!r} must give each language a fall of 0 or more, such as 0.02."
            )

    @property
    def key(self) -> str:
        """The metric that the rule judges by: NASCA if none was named."""
        return (self.metric or "nasca").removeprefix("eval_")

    @property
    def is_loss(self) -> bool:
        """Whether the metric is better the lower it is."""
        return self.key.endswith("loss") or self.key.startswith(FALLING)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and value >= 0
