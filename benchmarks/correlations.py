"""Measure the coverage and the size of the correlations' intervals and p-values, on drawn data.

`python -m benchmarks.correlations` prints four tables and writes them to benchmarks/results/correlations.json in about
five minutes on one core:

* the coverage of 95 % intervals for Pearson's r and Spearman's rho, of normal and of lognormal data;
* how often p < 0.05 for two scores that have nothing to do with each other;
* how often p < 0.05 for two independent random walks, by their values and by their changes;
* how often p < 0.05 for the difference of two equal correlations, and the coverage of its interval if they differ.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.machine import describe
from neuronxa_callback.correlation import (
    Coefficient,
    Correlation,
    Difference,
    difference,
    over_run,
    pearson,
    spearman,
)

Numbers: TypeAlias = NDArray[np.float64]

RESULTS = Path(__file__).parent / "results" / "correlations.json"
LEVEL = 0.05
TRUE_R = (0.0, 0.5, 0.9)
Z = float(stats.norm.ppf(0.975))
PERCENTILES = 999  # resamples of the bootstrap that the intervals are compared with


class Coverage(NamedTuple):
    """How often a 95 % interval holds the true correlation.

    Attributes:
        data: "normal" or "lognormal".
        coefficient: "Pearson" or "Spearman".
        interval: the way to make the interval; "ours" is the package's.
        n: the number of points.
        r: the true Pearson correlation of the normal data (before the exponential of lognormal data).
        coverage: the share of the draws.
    """

    data: str
    coefficient: str
    interval: str
    n: int
    r: float
    coverage: float


class Size(NamedTuple):
    """How often p < 0.05 although nothing is there.

    Attributes:
        case: what was drawn.
        p_value: the way to make the p-value; "ours" is the package's.
        n: the number of points.
        size: the share of the draws.
    """

    case: str
    p_value: str
    n: int
    size: float


class Comparison(NamedTuple):
    """How a test of the difference of two correlations does.

    Attributes:
        data: "normal" or "lognormal".
        test: the test; "ours" is the package's.
        n: the number of languages.
        r: the two true correlations of the normal data with the result. The two scores correlate at 0.9.
        rejected: the share of the draws with p < 0.05. If the two correlations are equal, it is the size.
        coverage: the share of the draws whose interval holds the true difference of z. None if it has no such interval.
    """

    data: str
    test: str
    n: int
    r: tuple[float, float]
    rejected: float
    coverage: float | None


# ---------------------------------------------------------------------------------------------- intervals


def coverages(draws: int, rng: np.random.Generator) -> list[Coverage]:
    rows = []
    for data in ("normal", "lognormal"):
        for n in (8, 12, 20, 30):
            for r in TRUE_R:
                x, y = drawn_pair(draws, n, r, data, rng)
                rows += [Coverage(data, *named, n, r, share) for named, share in _covered(x, y, r, data, rng).items()]
    return rows


def _covered(x: Numbers, y: Numbers, r: float, data: str, rng: np.random.Generator) -> dict[tuple[str, str], float]:
    """Return the coverage by coefficient and interval."""
    n = x.shape[1]
    true_r, true_rho = true_correlations(r, data)
    rho = _r(_ranks(x), _ranks(y))
    plain = np.full(len(rho), 1 / np.sqrt(n - 3))
    few = slice(0, len(x) // 5)  # the bootstrap takes long
    return {
        ("Pearson", "ours"): _share_of(map(pearson, x, y), true_r),
        ("Pearson", "percentile bootstrap"): _bootstrapped(x[few], y[few], true_r, rng, ranked=False),
        ("Spearman", "ours"): _share_of(map(spearman, x, y), true_rho),
        ("Spearman", "Fisher z"): _by_fisher(rho, plain, true_rho),
        ("Spearman", "percentile bootstrap"): _bootstrapped(x[few], y[few], true_rho, rng, ranked=True),
    }


def _share_of(found: Iterable[Correlation | None], truth: float) -> float:
    intervals = [correlation.ci for correlation in found if correlation is not None and correlation.ci is not None]
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def _by_fisher(r: Numbers, error: Numbers, truth: float) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.mean(np.abs(np.arctanh(r) - np.arctanh(truth)) <= Z * error))


def _bootstrapped(x: Numbers, y: Numbers, truth: float, rng: np.random.Generator, *, ranked: bool) -> float:
    covered = []
    for a, b in zip(x, y, strict=True):
        drawn = rng.integers(0, len(a), size=(PERCENTILES, len(a)))
        with np.errstate(invalid="ignore"):  # a resample of one point alone has no r
            r = _r(_ranks(a[drawn]), _ranks(b[drawn])) if ranked else _r(a[drawn], b[drawn])
        low, high = np.nanquantile(r, [0.025, 0.975])
        covered.append(low <= truth <= high)
    return float(np.mean(covered))


# ---------------------------------------------------------------------------------------------- p-values


def sizes(draws: int, rng: np.random.Generator) -> list[Size]:
    """Return the size of the p-values of independent points, and of 100 pairs of which 95 have the same score."""
    rows = []
    for n in (*range(3, 13), 20):
        x, y = drawn_pair(draws if n != 9 else draws // 4, n, 0.0, "normal", rng)
        rows += [Size("independent points", *made) for made in _rejected(x, y)]
    alike, y = drawn_pair(draws, 100, 0.0, "normal", rng)
    alike[:, 5:] = 0.0  # five pairs are aligned, as of English and Icelandic in SmolLM2-135M
    alike[:, :5] = np.abs(alike[:, :5])
    return rows + [Size("100 pairs, 95 with the same score", *made) for made in _rejected(alike, y)]


def _rejected(x: Numbers, y: Numbers) -> list[tuple[str, int, float]]:
    n = x.shape[1]
    ways: dict[str, Callable[[Numbers, Numbers], Any]] = {
        "Pearson, ours": pearson,
        "Pearson, scipy": stats.pearsonr,
        "Spearman, ours": spearman,
        "Spearman, scipy": stats.spearmanr,
    }
    return [(name, n, _share_below(way, x, y)) for name, way in ways.items()]


def _share_below(way: Callable[[Numbers, Numbers], Any], x: Numbers, y: Numbers) -> float:
    found = [way(a, b) for a, b in zip(x, y, strict=True)]
    p_values = [one.p_value if isinstance(one, Correlation) else one.pvalue for one in found]
    return float(np.mean(np.array(p_values) < LEVEL))


def walks(draws: int, rng: np.random.Generator) -> list[Size]:
    """Return how often two independent random walks have p < 0.05, by their values and by their changes."""
    rows = []
    for n in (10, 20, 30):
        x, y = rng.normal(size=(2, draws, n)).cumsum(axis=2)
        found = [over_run(a, b) for a, b in zip(x, y, strict=True)]
        r, r_diff = np.array([(one.r, one.r_diff) for one in found if one is not None], dtype=float).T
        rows += [
            Size("two random walks, their values", "t distribution", n, _share_significant(r, n)),
            Size("two random walks, their changes", "t distribution", n, _share_significant(r_diff, n - 1)),
        ]
    return rows


def _share_significant(r: Numbers, n: int) -> float:
    """Return how often |r| of n points is significant by Student's distribution."""
    return float(np.mean(2 * stats.t.sf(np.abs(r) * np.sqrt((n - 2) / (1 - r**2)), n - 2) < LEVEL))


# ---------------------------------------------------------------------------------------------- differences


def tests(draws: int, rng: np.random.Generator) -> list[Comparison]:
    rows = []
    for data in ("normal", "lognormal"):
        for n in (8, 20, 40):
            for r in ((0.5, 0.5), (0.8, 0.8), (0.8, 0.6)):
                points = _three(draws, n, r, data, rng)
                if data == "normal":  # the ranks of lognormal data are those of normal data
                    rows.append(_ours(data, n, r, points, "Spearman"))
                rows += [
                    _ours(data, n, r, points, "Pearson"),
                    Comparison(data, "Pearson, Williams", n, r, float(np.mean(_williams(points) < LEVEL)), None),
                    Comparison(data, "Pearson, percentile bootstrap", n, r, _percentile(points, rng), None),
                ]
    return rows


def _ours(data: str, n: int, r: tuple[float, float], points: Numbers, coefficient: Coefficient) -> Comparison:
    tested = (difference(*scores, coefficient=coefficient) for scores in points.swapaxes(1, 2))
    found = [one for one in tested if one is not None]
    return Comparison(
        data,
        f"{coefficient}, ours",
        n,
        r,
        float(np.mean([one.p_value < LEVEL for one in found])),
        _share_around(found, _true_difference(data, r, coefficient)),
    )


def _true_difference(data: str, r: tuple[float, float], coefficient: Coefficient) -> float:
    """Return the difference of the Fisher z's of the true correlations."""
    true = np.array(r) if data == "normal" else (np.exp(r) - 1) / (np.e - 1)
    if coefficient == "Spearman":
        true = 6 / np.pi * np.arcsin(np.array(r) / 2)
    return float(-np.diff(np.arctanh(true))[0])


def _share_around(found: list[Difference], truth: float) -> float:
    return float(np.mean([one.ci[0] <= truth <= one.ci[1] for one in found]))


def _williams(points: Numbers) -> Numbers:
    """Return the p-values of Williams's t (Steiger 1980, Eq. 7)."""
    n = points.shape[1]
    first, second, result = np.moveaxis(points, 2, 0)
    r1, r2, r12 = _r(first, result), _r(second, result), _r(first, second)
    determinant = 1 - r1**2 - r2**2 - r12**2 + 2 * r1 * r2 * r12
    spread = 2 * (n - 1) / (n - 3) * determinant + ((r1 + r2) / 2) ** 2 * (1 - r12) ** 3
    t = (r1 - r2) * np.sqrt((n - 1) * (1 + r12) / spread)
    return np.asarray(2 * stats.t.sf(np.abs(t), n - 3), dtype=np.float64)


def _percentile(points: Numbers, rng: np.random.Generator) -> float:
    rejected = []
    for drawn in points:
        resampled = drawn[rng.integers(0, len(drawn), size=(PERCENTILES, len(drawn)))]
        first, second, result = np.moveaxis(resampled, 2, 0)
        with np.errstate(invalid="ignore"):
            apart = _r(first, result) - _r(second, result)
        rejected.append(2 * min(np.mean(apart >= 0), np.mean(apart <= 0)) < LEVEL)
    return float(np.mean(rejected))


# ---------------------------------------------------------------------------------------------- what is drawn


def drawn_pair(draws: int, n: int, r: float, data: str, rng: np.random.Generator) -> tuple[Numbers, Numbers]:
    """Return two scores of n points in each draw, (draws, n), that correlate at r.

    Args:
        draws: how many draws.
        n: the number of points.
        r: the correlation of normal data. Lognormal data are the exponentials of such.
        data: "normal" or "lognormal".
        rng: draws the points.
    """
    x, noise = rng.normal(size=(2, draws, n))
    y = r * x + np.sqrt(1 - r**2) * noise
    return (x, y) if data == "normal" else (np.exp(x), np.exp(y))


def true_correlations(r: float, data: str) -> tuple[float, float]:
    """Return Pearson's r and Spearman's rho of the points of `drawn_pair`, of which there are without end."""
    true_rho = 6 / np.pi * np.arcsin(r / 2)  # of normal data, which no monotone function of a score changes
    return (r if data == "normal" else (np.exp(r) - 1) / (np.e - 1)), true_rho


def _three(draws: int, n: int, r: tuple[float, float], data: str, rng: np.random.Generator) -> Numbers:
    """Return two scores that correlate at 0.9 and their result, (draws, n, 3)."""
    covariance = np.array([[1, 0.9, r[0]], [0.9, 1, r[1]], [r[0], r[1], 1]])
    points = rng.normal(size=(draws, n, 3)) @ np.linalg.cholesky(covariance).T
    return points if data == "normal" else np.exp(points)


def _r(x: Numbers, y: Numbers) -> Numbers:
    x, y = (values - values.mean(axis=-1, keepdims=True) for values in (x, y))
    return np.asarray((x * y).sum(axis=-1) / np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1)))


def _ranks(values: Numbers) -> Numbers:
    return np.asarray(stats.rankdata(values, axis=-1), dtype=np.float64)


# ---------------------------------------------------------------------------------------------- what is shown


def show(title: str, rows: Iterable[NamedTuple]) -> None:
    rows = list(rows)
    table = Table(title=title, title_justify="left")
    for name in rows[0]._fields:
        table.add_column(name)
    for row in rows:
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(width=130).print(table)


def markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the least and the greatest coverage of each interval, for docs/explanation/quality.md."""
    lines = ["| interval | normal data | lognormal data |", "| --- | --- | --- |"]
    rows = list(rows)
    for coefficient in ("Pearson", "Spearman"):
        for interval, named in (("ours", "Fisher's, as here"), ("percentile bootstrap", "percentile bootstrap")):
            cells = []
            for data in ("normal", "lognormal"):
                wanted = data, coefficient, interval
                found = [r["coverage"] for r in rows if (r["data"], r["coefficient"], r["interval"]) == wanted]
                cells.append(f"{min(found):.2f} to {max(found):.2f}")
            lines.append(f"| {coefficient}, {named} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000, help="draws of each case")
    draws: int = parser.parse_args().draws
    parts: dict[str, list[Any]] = {
        "coverage": coverages(draws, np.random.default_rng(1)),
        "size": sizes(draws, np.random.default_rng(2)),
        "runs": walks(10 * draws, np.random.default_rng(3)),
        "differences": tests(draws // 4, np.random.default_rng(4)),
    }
    for title, rows in parts.items():
        show(title, rows)
    command = " ".join(["python -m benchmarks.correlations", *sys.argv[1:]])
    content = {"command": command, **describe(), "draws": draws}
    content |= {title: [row._asdict() for row in rows] for title, rows in parts.items()}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
