"""Rows of a benchmark: two works, run interleaved in one process, and the ratio of their costs with its target."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import describe
from neuronxa_callback import ParallelPairs
from neuronxa_callback.tables import markdown_table


@dataclass(frozen=True)
class Row:
    """The comparison of two works.

    Attributes:
        section: the part of the benchmark that measured it.
        what: what the comparison is about.
        numerator: the work whose cost is measured.
        denominator: the work that it is compared with.
        values: the costs of the two works.
        unit: the unit of `values`, seconds or bytes.
        target: the highest ratio that is good enough.
    """

    section: str
    what: str
    numerator: str
    denominator: str
    values: tuple[float, float]
    unit: str
    target: float

    @property
    def ratio(self) -> float:
        """The cost of the first work divided by that of the second."""
        return self.values[0] / self.values[1]

    @property
    def met(self) -> bool:
        """Whether the ratio meets its target, to the digits that are shown."""
        return round(self.ratio, 3) <= round(self.target, 3)

    def cells(self) -> tuple[str, ...]:
        """Return the row as text: what, the works, their costs, the ratio, the target, and whether it is met."""
        costs = [f"{value:.2f} s" if self.unit == "seconds" else f"{value / 2**20:.1f} MiB" for value in self.values]
        return (
            self.what,
            self.numerator,
            self.denominator,
            " / ".join(costs),
            f"{self.ratio:.3f}",
            f"{self.target:.3g}",
            "yes" if self.met else f"no: {self.ratio / self.target - 1:.0%} above",
        )


HEADER = ("what", "measured", "against", "costs", "ratio", "at most", "met")


def in_seconds(section: str, what: str, works: tuple[str, str], seconds: Mapping[str, float], target: float) -> Row:
    """Return the row of two timed works."""
    return Row(section, what, *works, (seconds[works[0]], seconds[works[1]]), "seconds", target)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(works: Mapping[str, Callable[[], object]], rounds: int, warm_up: bool = True) -> dict[str, float]:
    """Return the median seconds of each work. A round runs each work once, so a slow minute slows down all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values() if warm_up else ():
        work()
    for _ in track(range(rounds), description=f"timing {', '.join(works)}"):
        for name, work in works.items():
            seconds[name].append(timed(work))
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_memory(work: Callable[[], object]) -> int:
    """Return the peak of the bytes that tensors take while `work` runs, without the tensors from before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def read(path: Path) -> list[Row]:
    """Return the recorded rows of a result file, none if there is no such file."""
    return [
        Row(**row | {"values": tuple(row["values"])}) for section in _sections(path).values() for row in section["rows"]
    ]


def save(path: Path, rows: Sequence[Row], pairs: ParallelPairs, command: str) -> None:
    """Record the rows of one section in a result file, with the command and the machine. Other sections stay."""
    (section,) = {row.section for row in rows}
    made = {
        "command": command,
        "pairs": {"name": pairs.name, "n": len(pairs), "fingerprint": pairs.fingerprint},
        **describe(),
        "rows": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(_sections(path) | {section: made}, indent=2) + "\n", encoding="utf-8")


def _sections(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def markdown(rows: Sequence[Row]) -> str:
    """Return the table as Markdown. docs/explanation/promises.md shows it."""
    return markdown_table(("section", *HEADER), [(row.section, *row.cells()) for row in rows])


def show(rows: Sequence[Row], console: Console) -> None:
    """Print rows as a table."""
    table = Table(*HEADER)
    for row in rows:
        table.add_row(*row.cells())
    console.print(table)
