"""Scores over steps: `OUTPUT_DIR/neuronxa/scores.jsonl`, one self-contained line per evaluation."""

from __future__ import annotations

import json
import logging
import os
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from neuronxa_callback.evaluator import AlignmentReport

logger = logging.getLogger(__name__)


class History:
    """The evaluations of a run, on disk as they come.

    Args:
        output_dir: the Trainer's `output_dir`.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.path = Path(output_dir) / "neuronxa" / "scores.jsonl"

    def begin(self) -> None:
        """Start a new run: an earlier run's file is kept under another name, so that two runs never mix."""
        if not self.path.exists():
            return
        names = (self.path.with_name(f"scores.{number}.jsonl") for number in count(1))
        self.path.rename(next(name for name in names if not name.exists()))

    def append(self, record: dict[str, Any]) -> None:
        """Write one evaluation and see it onto the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n"
        with self.path.open("ab+") as file:
            if not _ends_with_newline(file):  # a crash cut the last line short: keep it from swallowing this one
                line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """All evaluations in step order; of two at one step (a resumed run repeats some) the later written.

        A line that a crash cut short is left out with a warning.
        """
        if not self.path.exists():
            return []
        by_step: dict[int, dict[str, Any]] = {}
        for number, line in enumerate(self.path.read_bytes().split(b"\n"), start=1):
            try:
                record = json.loads(line) if line else None
            except ValueError:
                logger.warning("NeuronXA: %s, line %d, is cut short and left out.", self.path, number)
                continue
            if record is not None:
                by_step[record["step"]] = record
        return [by_step[step] for step in sorted(by_step)]


def _ends_with_newline(file: BinaryIO) -> bool:
    """Whether the file is empty or its last line is complete; leaves the position at the end."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def record_of(report: AlignmentReport, step: int, epoch: float | None, runtime: float) -> dict[str, Any]:
    """One evaluation as a line of scores.jsonl.

    Args:
        report: the evaluation.
        step: the Trainer's global step.
        epoch: the Trainer's epoch.
        runtime: seconds that the evaluation took.
    """
    return {
        "step": step,
        "epoch": epoch,
        "runtime": runtime,
        "score": report.score,
        "languages": {name: _numbers(language) for name, language in report.by_language.items()},
    }


def _numbers(report: AlignmentReport) -> dict[str, Any]:
    return {
        "signature": report.signature,
        "score": report.score,
        "ci": report.ci,
        "p_value": report.p_value,
        "per_layer": {method: _rounded(shares.tolist()) for method, shares in report.per_layer.items()},
        "per_pair": {method: _rounded(shares.tolist()) for method, shares in report.per_pair.items()},
    }


def _rounded(shares: list[float]) -> list[float]:
    """Shares of at most a few thousand: seven digits hold them exactly enough and keep the file small."""
    return [round(share, 7) for share in shares]
