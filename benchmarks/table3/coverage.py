"""Measure how often the intervals of the table hold the truth: `python -m benchmarks.table3.coverage`.

Points are drawn from a population whose correlation is known, and the interval of `correlations.estimate` is made. The
populations are normal and lognormal data, and the languages of each recorded model, from which as many are drawn with
replacement as there are. It prints a table and writes benchmarks/results/table3.json in about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import machine
from benchmarks.correlations import TRUE_R, Numbers, drawn_pair, show, true_correlations
from benchmarks.table3.__main__ import RESULTS as RECORDED
from benchmarks.table3.correlations import LOSS_OF_SENTENCE, all_series, estimate, targets
from benchmarks.table3.recorded import Recorded, RecordedError, models_in
from neuronxa_callback.correlation import RESAMPLES, Coefficient
from neuronxa_callback.tables import markdown_table

RESULTS = machine.RESULTS / "table3.json"
POINTS = 50  # about as many as the table has languages
COEFFICIENTS: tuple[Coefficient, Coefficient] = ("Pearson", "Spearman")
# The measures of a model whose languages are drawn from.
DRAWN = (("NASCA", "weighted"), ("MEXA", "weighted"), (LOSS_OF_SENTENCE, ""))


class Row(NamedTuple):
    """How often the 95 % interval of a correlation holds the truth.

    Attributes:
        population: what is drawn from.
        coefficient: "Pearson" or "Spearman".
        n: how many points are drawn.
        truth: the correlation of the population.
        coverage: the share of the intervals that hold it.
        lacking: the share of the draws that have no interval.
    """

    population: str
    coefficient: str
    n: int
    truth: float
    coverage: float
    lacking: float


def of_drawn_data(draws: int, resamples: int) -> Iterator[Row]:
    """Yield the coverage for normal and lognormal data."""
    rng = np.random.default_rng(1)
    for data in ("normal", "lognormal"):
        for r in TRUE_R:
            x, y = drawn_pair(draws, POINTS, r, data, rng)
            for coefficient, truth in zip(COEFFICIENTS, true_correlations(r, data), strict=True):
                yield row(f"{data} data", coefficient, truth, zip(x, y, strict=True), resamples)


def of_languages(found: Recorded, draws: int, resamples: int) -> Iterator[Row]:
    """Yield the coverage for samples of a model's languages. A correlation that a model lacks has no row."""
    languages = found.languages
    series = [one for one in all_series(found, languages) if (one.name, one.pooling) in DRAWN]
    drawn = np.random.default_rng(2).integers(0, len(languages), size=(draws, len(languages)))
    for one in series:
        for name, target in targets(found, languages).items():
            for coefficient in COEFFICIENTS:
                whole = estimate(one.values, target, coefficient, resamples)
                if whole is not None:
                    samples = ((one.values[its], target[its]) for its in drawn)
                    yield row(f"{found.name}: {one.name}, {name}", coefficient, whole.r, samples, resamples)


def row(
    population: str, coefficient: Coefficient, truth: float, samples: Iterable[tuple[Numbers, Numbers]], resamples: int
) -> Row:
    """Return how often the interval of a sample holds the truth. Samples without an interval do not count."""
    held = []
    count = n = 0
    for x, y in samples:
        count, n = count + 1, len(x)
        found = estimate(x, y, coefficient, resamples)
        if found is not None and found.ci is not None:
            held.append(found.ci[0] <= truth <= found.ci[1])
    return Row(population, coefficient, n, truth, float(np.mean(held)), 1 - len(held) / count)


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of the page."""
    cells = [
        [one.population, one.coefficient, str(one.n), *(f"{v:.2f}" for v in (one.truth, one.coverage, one.lacking))]
        for one in rows
    ]
    return markdown_table(("drawn from", "coefficient", "points", "true", "held", "no interval"), cells)


def read(path: Path = RESULTS) -> list[Row]:
    """Return the recorded rows."""
    return [Row(**one) for one in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000, help="samples of each population")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="resamples of each interval")
    parser.add_argument("--results", type=Path, default=RECORDED, help="the folder of the recorded models")
    options = parser.parse_args()
    rows = list(of_drawn_data(options.draws, options.resamples))
    try:
        models = models_in(options.results) if options.results.exists() else []
    except (RecordedError, ValueError) as error:
        raise SystemExit(str(error)) from None
    for found in models:
        rows += of_languages(found, options.draws, options.resamples)
    show(f"95 % intervals, {options.draws} samples", rows)
    command = f"python -m benchmarks.table3.coverage --draws {options.draws} --resamples {options.resamples}"
    content = {"command": command, **machine.describe(), "rows": [one._asdict() for one in rows]}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
