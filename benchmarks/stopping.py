"""Measure how often each stopping rule stops too early, and how late it stops: `python -m benchmarks.stopping`.

The rules are the package's own. They run over curves that are drawn from a recorded run (benchmarks/record_curve.py).
A curve draws its held-out pairs with replacement. Each drawn pair takes its values from its own values before the rise
and after it. So the truth about a drawn curve is known: it rises up to a certain evaluation and is flat from then on.
The noise is independent from one evaluation to the next. The noise of a real run is not quite independent.

The benchmark takes about ten minutes on two CPU cores. The results are written to benchmarks/results/stopping.json, and
docs/stopping.md shows them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.machine import describe
from benchmarks.record_curve import RECORDED
from neuronxa_callback.alignment.pair_scores import PairScores
from neuronxa_callback.signature import Signature
from neuronxa_callback.tables import markdown_table
from neuronxa_callback.training.records import Evaluation
from neuronxa_callback.training.settings import StoppingRule
from neuronxa_callback.training.stopping import judge
from neuronxa_callback.vocabulary import Method

RESULTS = RECORDED.with_name("stopping.json")
EVALUATIONS = 40
BEFORE, AFTER = 3, 9  # recorded evaluations: the first ones are before the rise, the last ones after it

Curve = NDArray[np.float64]  # (evaluations, pairs)


class Rule(NamedTuple):
    """A rule, and the values of patience that it is tried with."""

    name: str
    rule: StoppingRule
    patience: tuple[int, ...]


PATIENCE = (3, 5, 8)
RULES = (
    Rule("any rise", StoppingRule(min_delta=0.0), (1, *PATIENCE)),
    Rule("rise above 0.005", StoppingRule(min_delta=0.005), PATIENCE),
    Rule("paired test, 0.3", StoppingRule(significance=0.3), PATIENCE),
    Rule("paired test, 0.2", StoppingRule(significance=0.2), (1, *PATIENCE)),
    Rule("paired test, 0.1", StoppingRule(significance=0.1), PATIENCE),
    Rule("paired test, 0.05", StoppingRule(significance=0.05), (1, *PATIENCE)),
)


class Scenario(NamedTuple):
    """A kind of curve.

    Attributes:
        name: the name in the table.
        draw: draws a curve.
        plateau: the evaluation from which the curve no longer rises.
    """

    name: str
    draw: Callable[[np.random.Generator], Curve]
    plateau: int


@cache
def recorded(name: str | None = None) -> Curve:
    """Return the share of layers at which each pair is aligned, at every recorded evaluation.

    Args:
        name: the language pair; None for the mean over all language pairs.
    """
    evaluations = json.loads(RECORDED.read_text(encoding="utf-8"))["evaluations"]
    languages = [name] if name else list(evaluations[0]["per_pair"])
    curves = np.array([[line["per_pair"][language] for line in evaluations] for language in languages], dtype=float)
    return curves.mean(axis=0)  # type: ignore[no-any-return]


def drawn(curve: Curve, plateau: int, rng: np.random.Generator) -> Curve:
    """Draw a curve of the recorded pairs that rises from the recorded beginning to the recorded end."""
    count = curve.shape[1]
    pairs = rng.integers(count, size=count)
    before, after = curve[:BEFORE, pairs], curve[-AFTER:, pairs]
    columns = np.arange(count)
    made = []
    for evaluation in range(EVALUATIONS):
        has_risen = rng.random(count) < (evaluation / plateau if plateau else 1)
        low = before[rng.integers(BEFORE, size=count), columns]
        high = after[rng.integers(AFTER, size=count), columns]
        made.append(np.where(has_risen, high, low))
    return np.array(made)


def simulated(plateau: int, rng: np.random.Generator) -> Curve:
    """Draw a curve like that of a multilingual model with 32 layers, which rises from 0.3 to 0.5.

    Each of its 100 pairs has its own probability of being aligned at a layer.
    """
    end = rng.beta(2, 2, size=100)
    rise = np.minimum(1.0, np.arange(EVALUATIONS) / plateau)
    return rng.binomial(32, np.outer(0.6 + 0.4 * rise, end)) / 32


FRENCH = "eng_Latn-fra_Latn"
ICELANDIC = "eng_Latn-isl_Latn"
SCENARIOS = (
    Scenario("Icelandic as recorded, never rises", lambda rng: drawn(recorded(ICELANDIC), 0, rng), 0),
    Scenario("French as recorded, rises for 10 evaluations", lambda rng: drawn(recorded(FRENCH), 10, rng), 10),
    Scenario("French as recorded, rises for 20 evaluations", lambda rng: drawn(recorded(FRENCH), 20, rng), 20),
    Scenario("simulated, 0.3 to 0.5 in 20 evaluations", partial(simulated, 20), 20),
)


def waits(rule: StoppingRule, curve: Curve) -> list[int]:
    """Return, for each evaluation, how many evaluations the rule has waited for an improvement.

    The rule stops the run at the first evaluation at which this number reaches the patience.
    """
    evaluations: list[Evaluation] = []
    waited: list[int] = []
    for step, shares in enumerate(curve):
        scores: dict[Method, float] = {"nasca": float(shares.mean())}
        language = PairScores(signature=Signature(), score=scores, per_pair={"nasca": shares.tolist()})
        evaluation = Evaluation(step=step, score=scores, languages={FRENCH: language})
        verdict = judge(rule, evaluation, evaluations, {"eval_nasca": scores["nasca"]})
        assert verdict is not None
        evaluations.append(evaluation.with_verdict(verdict))
        waited.append(verdict.waited)
    return waited


def stops(seed: int) -> list[list[int]]:
    """Return the evaluation at which each rule stops a curve of each scenario.

    The rows are scenarios, the columns are rules and their patience values. A rule that does not stop the curve has
    EVALUATIONS.
    """
    rows = []
    for number, scenario in enumerate(SCENARIOS):
        curve = scenario.draw(np.random.default_rng([seed, number]))
        row = []
        for rule in RULES:
            waited = waits(rule.rule, curve)
            row += [_first(waited, patience) for patience in rule.patience]
        rows.append(row)
    return rows


def _first(waited: list[int], patience: int) -> int:
    return next((evaluation for evaluation, count in enumerate(waited) if count >= patience), EVALUATIONS)


def measure(curves: int) -> list[dict[str, Any]]:
    """Draw so many curves of each scenario, and return a row for each scenario, rule and patience."""
    with ProcessPoolExecutor() as pool:
        found = np.array(list(track(pool.map(stops, range(curves)), total=curves, description="drawing curves")))
    names = [(rule.name, patience) for rule in RULES for patience in rule.patience]
    rows = []
    for number, scenario in enumerate(SCENARIOS):
        for column, (name, patience) in enumerate(names):
            at = found[:, number, column]
            delay = at[at >= scenario.plateau] - scenario.plateau
            rows.append(
                {
                    "scenario": scenario.name,
                    "rule": name,
                    "patience": patience,
                    "too_early": float(np.mean(at < scenario.plateau)),
                    "delay_median": float(np.median(delay)) if len(delay) else None,
                    "delay_90": float(np.quantile(delay, 0.9)) if len(delay) else None,
                    "never": float(np.mean(at == EVALUATIONS)),
                }
            )
    return rows


def on_the_recorded_run() -> list[dict[str, Any]]:
    """Return the step at which each rule would have stopped the recorded run, or None if it would not have."""
    steps = [line["step"] for line in json.loads(RECORDED.read_text(encoding="utf-8"))["evaluations"]]
    rows = []
    for rule in RULES:
        for name, curve in (("Icelandic", recorded(ICELANDIC)), ("French", recorded(FRENCH)), ("all", recorded())):
            waited = waits(rule.rule, curve)
            for patience in rule.patience:
                stop = _first(waited, patience)
                step = steps[stop] if stop < len(steps) else None
                rows.append({"rule": rule.name, "patience": patience, "languages": name, "stops_at_step": step})
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table of docs/stopping.md.

    It has a row for each rule and patience. A cell has the share of curves that stop too early, and the delay of the
    others.
    """
    scenarios = [scenario.name for scenario in SCENARIOS]
    cells = {(row["rule"], row["patience"], row["scenario"]): _cell(row) for row in rows}
    rules = dict.fromkeys((row["rule"], row["patience"]) for row in rows)
    table = [(*map(str, key), *(cells[*key, scenario] for scenario in scenarios)) for key in rules]
    return markdown_table(("an improvement is", "patience", *scenarios), table)


def _cell(row: dict[str, Any]) -> str:
    early = f"{row['too_early']:.0%}"
    return early if row["delay_median"] is None else f"{early}, {row['delay_median']:g} ({row['delay_90']:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=int, default=100, help="curves of each kind")
    options = parser.parse_args()
    rows = measure(options.curves)
    recorded_run = on_the_recorded_run()
    result = {"command": f"python -m benchmarks.stopping --curves {options.curves}", "evaluations": EVALUATIONS}
    made = describe() | result | {"drawn": rows, "recorded": recorded_run}
    RESULTS.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(markdown(rows))
    table = Table("curve", "rule", "patience", "stops too early", "delay, median", "delay, 90 %", "never stops")
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
