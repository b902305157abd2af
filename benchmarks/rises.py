"""Compare the scores that were tried beside NASCA, and measure jitter: `python -m benchmarks.rises`.

Everything is measured on the recorded runs (benchmarks/record_runs.py). A rise goes from the mean of a run's first
evaluations to the mean of its last ones. The table is printed and written to benchmarks/results/rises.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.machine import describe
from benchmarks.recorded import ALL, Curve, Parts, curves
from neuronxa_callback.tables import markdown_table

RESULTS = Path(__file__).parent / "results" / "rises.json"
SCORES = ("nasca", "nasca_rank", "reciprocal_rank", "csls")
SPLITS = 50


class Row(NamedTuple):
    """What is measured of a score over a run.

    Attributes:
        run: the name of the run.
        language: the language that is aligned with English.
        score: the name of the score.
        start: its value at the beginning.
        rise: how far it rises to the end.
        errors: the rise in standard errors over the pairs.
        jitters: the rise in standard deviations of the jitter.
        jitter: this standard deviation.
        autocorrelation: of the jitter, from one evaluation to the next.
        halves: the correlation of the changes from one evaluation to the next on disjoint halves of the pairs. None if
            a half does not change.
    """

    run: str
    language: str
    score: str
    start: float
    rise: float
    errors: float
    jitters: float
    jitter: float
    autocorrelation: float
    halves: float | None


def measured(curve: Curve) -> Row:
    """Measure a curve."""
    rise, jitter = curve.rise, curve.jitter().mean(axis=1)
    error = rise.std(ddof=1) / np.sqrt(len(rise))
    spread = float(jitter.std())
    return Row(
        run=curve.run,
        language=curve.language,
        score=curve.score,
        start=float(curve.values[0]),
        rise=float(rise.mean()),
        errors=float(rise.mean() / error),
        jitters=float(rise.mean() / spread),
        jitter=spread,
        autocorrelation=float(jitter[1:] @ jitter[:-1] / (jitter @ jitter)),
        halves=_halves(curve.parts),
    )


def _halves(parts: Parts) -> float | None:
    """Return the mean correlation of changes over disjoint halves of the pairs, over random halvings."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(SPLITS):
        pairs = rng.permutation(parts.shape[1])
        changes = [np.diff(parts[:, half].mean(axis=1)) for half in np.array_split(pairs, 2)]
        if min(change.std() for change in changes) == 0:
            return None
        found.append(np.corrcoef(*changes)[0, 1])
    return float(np.mean(found))


def rows() -> list[Row]:
    """Measure each score of each language of each recorded run."""
    return [measured(curve) for score in SCORES for curve in curves(score) if curve.language != ALL]


def markdown(measured_rows: list[Row]) -> str:
    """Return the table of docs/explanation/method.md: a row for each curve that all four scores have."""
    by_curve: dict[tuple[str, str], dict[str, Row]] = {}
    for row in measured_rows:
        by_curve.setdefault((row.run, row.language), {})[row.score] = row
    table = [
        (*curve, *(_cell(of[score]) for score in SCORES)) for curve, of in by_curve.items() if len(of) == len(SCORES)
    ]
    return markdown_table(("run", "language", "NASCA", "rank score", "reciprocal rank", "CSLS margin"), table)


def _cell(row: Row) -> str:
    return f"{row.errors:.1f}, {row.jitters:.1f}"


def jitter_markdown(measured_rows: list[Row]) -> str:
    """Return the table of docs/explanation/stopping.md: how NASCA and its rank score jitter."""
    table = [
        (
            *(row.run, row.language, "NASCA" if row.score == "nasca" else "rank score"),
            *(f"{row.start:.3f}", f"{row.rise:+.4f}", f"{row.jitter:.4f}"),
            *(f"{row.autocorrelation:.2f}", "none" if row.halves is None else f"{row.halves:.2f}"),
        )
        for row in measured_rows
        if row.score in ("nasca", "nasca_rank")
    ]
    columns = ("run", "language", "score", "start", "rise", "jitter", "autocorrelation", "halves")
    return markdown_table(columns, table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    found = rows()
    made = describe() | {"command": "python -m benchmarks.rises", "rows": [row._asdict() for row in found]}
    RESULTS.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(markdown(found), jitter_markdown(found), sep="\n\n")


if __name__ == "__main__":
    main()
