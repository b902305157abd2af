"""Measure how often each stopping rule stops too early, and how late it stops: `python -m benchmarks.stopping`.

The rules run over the recorded runs (benchmarks/record_runs.py), and over curves whose truth is known: they rise by
0.02, or not at all, and are flat from then on. What such a curve adds to the truth is the jitter of a recorded run. It
is drawn in blocks of neighbouring evaluations, all pairs together. So it stays correlated from one evaluation to the
next, and from one pair to another. What is jitter and what is the recorded run's own course is a matter of definition.
So there are two smoothers: with the wider one, slow wander counts as jitter, too.

Further figures are what the paired test says about jitter, how often the floor calls a language forgotten, and how
often chance makes a stop look too early.

The benchmark takes about five minutes on two CPU cores. The results are written to benchmarks/results/stopping.json,
and docs/explanation/stopping.md shows them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments

from benchmarks.machine import describe
from benchmarks.recorded import ALL, BEFORE, Curve, Parts, curves, smoother
from neuronxa_callback.alignment.pair_scores import PairScores
from neuronxa_callback.signature import Signature
from neuronxa_callback.significance import paired_p_value
from neuronxa_callback.tables import markdown_table
from neuronxa_callback.training.records import Evaluation
from neuronxa_callback.training.settings import StoppingRule
from neuronxa_callback.training.stopping import judge
from neuronxa_callback.training.trend import trend
from neuronxa_callback.vocabulary import Method

RESULTS = Path(__file__).parent / "results" / "stopping.json"
NAMES_OF = {"nasca": "NASCA", "nasca_rank": "rank score"}
EVALUATIONS = 40
RISE = 0.02
BLOCK = 10  # evaluations of a recorded run that stay together on average
BANDWIDTHS = (4, 8)
MISSED = 0.005  # a recorded curve that rises by so much more was stopped too early
LANGUAGE = "eng_Latn-fra_Latn"

# ------------------------------------------------------------------------------------------------------- rules


class Rule(NamedTuple):
    """A rule, and the values of patience that it is tried with.

    Attributes:
        name: what it takes for an improvement.
        stops: returns the evaluation at which a curve is stopped for each patience, or the curve's length.
        patience: the values of patience.
    """

    name: str
    stops: Callable[[Parts, Sequence[int]], list[int]]
    patience: tuple[int, ...]


def package(parts: Parts, patience: Sequence[int]) -> list[int]:
    """Stop by the package's own rule."""
    return [_package(StoppingRule(waits), parts.mean(axis=1).tolist()) for waits in patience]


def _package(rule: StoppingRule, values: list[float]) -> int:
    evaluations: list[Evaluation] = []
    for step, value in enumerate(values):
        evaluation = Evaluation(step=step, score={"nasca": value}, languages={})
        verdict = judge(rule, evaluation, evaluations, {"eval_nasca": value})
        assert verdict is not None
        if verdict.reason:
            return step
        evaluations.append(evaluation.with_verdict(verdict))
    return len(values)


def line_above(jitters: float, parts: Parts, patience: Sequence[int]) -> list[int]:
    """Stop where the line of the package's rule rises by no more than so many jitters."""
    return [_line_above(jitters, parts.mean(axis=1).tolist(), waits) for waits in patience]


def _line_above(jitters: float, values: list[float], patience: int) -> int:
    for now in range(patience, len(values)):
        found = trend(values[: now + 1], patience)
        if found is not None and found.rise <= jitters * found.jitter:
            return now
    return len(values)


def transformers_own(threshold: float, parts: Parts, patience: Sequence[int]) -> list[int]:
    """Stop by transformers' EarlyStoppingCallback, with the best value kept as the Trainer keeps it."""
    return [_transformers_own(threshold, parts.mean(axis=1).tolist(), waits) for waits in patience]


@cache
def _arguments() -> TrainingArguments:
    return TrainingArguments(metric_for_best_model="eval_nasca", greater_is_better=True, use_cpu=True, report_to="none")


def _transformers_own(threshold: float, values: list[float], patience: int) -> int:
    callback = EarlyStoppingCallback(patience, threshold)
    state, control = TrainerState(), TrainerControl()
    for step, value in enumerate(values):
        callback.on_evaluate(_arguments(), state, control, {"eval_nasca": value})
        if control.should_training_stop:
            return step
        state.best_metric = value if state.best_metric is None else max(value, state.best_metric)
    return len(values)


def counted(improves: Callable[[Parts, Parts], bool], parts: Parts, patience: Sequence[int]) -> list[int]:
    """Stop after so many evaluations in a row that do not improve on the last one that did.

    Args:
        improves: compares an evaluation with that one. It takes all evaluations up to each of the two.
        parts: the curve.
        patience: the numbers of evaluations.
    """
    best, waited = 0, [0]
    for now in range(1, len(parts)):
        improved = improves(parts[: now + 1], parts[: best + 1])
        best = now if improved else best
        waited.append(0 if improved else waited[-1] + 1)
    return [next((now for now, count in enumerate(waited) if count >= waits), len(parts)) for waits in patience]


def rises_in_the_test(level: float, now: Parts, best: Parts) -> bool:
    """The rule of version 0.1: a paired permutation test over the pairs. The exchanges are fewer than there, 999."""
    differences = now[-1] - best[-1]
    exchanged = exchanges(len(differences)) @ differences
    return bool((1 + np.sum(exchanged >= differences.sum() - 1e-9)) / (1 + len(exchanged)) < level)


@cache
def exchanges(pairs: int) -> Parts:
    """Return random signs (exchanges, pairs)."""
    return np.random.default_rng(0).choice((-1.0, 1.0), size=(999, pairs))


def median_rises(now: Parts, best: Parts) -> bool:
    """Whether the median of the last three evaluations rises."""
    one, other = (float(np.median(parts[-3:].mean(axis=1))) for parts in (now, best))
    return one > other


RULES = (
    Rule("any rise", partial(transformers_own, 0.0), (3, 5, 8, 10)),
    Rule("rise above 0.005", partial(transformers_own, 0.005), (5, 8, 10)),
    Rule("paired test, 0.2", partial(counted, partial(rises_in_the_test, 0.2)), (5, 8, 10)),
    Rule("paired test, 0.05", partial(counted, partial(rises_in_the_test, 0.05)), (5, 8, 10)),
    Rule("median of three", partial(counted, median_rises), (5, 8, 10)),
    Rule("line", package, (5, 8, 10, 12, 15)),
    *(Rule(f"line above {j:g} jitters", partial(line_above, j), (5, 8, 10, 12)) for j in (-1, 0.5, 1, 2)),
)
SHOWN = (
    *(("any rise", 5), ("any rise", 10), ("rise above 0.005", 10), ("paired test, 0.2", 5), ("paired test, 0.2", 10)),
    *(("median of three", 10), ("line", 5), ("line", 8), ("line", 10), ("line", 12), ("line", 15)),
    ("line above 1 jitters", 10),
)
SHOWN_OF_RUNS = tuple(rule for rule in SHOWN if rule[1] != 8 and not rule[0].startswith(("rise", "line above")))
NAMES = [(rule.name, patience) for rule in RULES for patience in rule.patience]


def stops(parts: Parts) -> list[int]:
    """Return the evaluation at which each rule with each patience stops a curve, or the curve's length."""
    return [at for rule in RULES for at in rule.stops(parts, rule.patience)]


# ------------------------------------------------------------------------------------------------------- curves


class Course(NamedTuple):
    """The truth of a drawn curve.

    Attributes:
        name: its name in the tables.
        risen: the evaluation from which it no longer rises. A stop before it is too early.
        done: takes the numbers of the evaluations, and returns what part of the change is done at each.
    """

    name: str
    risen: int
    done: Callable[[Parts], Parts]


def ramp(until: int, time: Parts) -> Parts:
    """Return an even change up to an evaluation."""
    return np.minimum(1, time / until)


def levels_off(time: Parts) -> Parts:
    """Return a change that is fast at first. Nine tenths of it are done after 18 evaluations."""
    return np.asarray(1 - np.exp(-time / 8))


def at_once(when: int, time: Parts) -> Parts:
    """Return a change from one evaluation to the next."""
    return (time >= when).astype(float)


COURSES = (
    Course("never rises", 0, np.zeros_like),
    *(Course(f"rises over {until}", until, partial(ramp, until)) for until in (10, 20, 30)),
    Course("levels off", 19, levels_off),
)


class Scenario(NamedTuple):
    """A kind of curve: the score, the truth, and the bandwidth that tells jitter from a recorded run's own course."""

    score: str
    course: Course
    bandwidth: int


SCENARIOS = tuple(
    Scenario(score, course, bandwidth) for bandwidth in BANDWIDTHS for score in NAMES_OF for course in COURSES
)


def draw(score: str, rng: np.random.Generator, languages_alone: bool = False) -> Curve:
    """Draw a recorded run, and then one of its curves."""
    runs: dict[str, list[Curve]] = {}
    for curve in curves(score):
        if curve.language != ALL or not languages_alone:
            runs.setdefault(curve.run, []).append(curve)
    of_run = runs[str(rng.choice(sorted(runs)))]
    return of_run[rng.integers(len(of_run))]


def jitter(curve: Curve, bandwidth: int, count: int, rng: np.random.Generator) -> Parts:
    """Draw jitter (count, pairs) from a recorded curve, in blocks of geometric lengths (Politis and Romano 1994).

    A block has either sign, so that its rises and falls are as likely.
    """
    recorded = curve.jitter(bandwidth)
    drawn = np.empty((count, recorded.shape[1]))
    place, sign = 0, 1
    for now in range(count):
        if now == 0 or rng.random() < 1 / BLOCK:
            place, sign = int(rng.integers(len(recorded))), int(rng.choice((-1, 1)))
        drawn[now] = sign * recorded[place % len(recorded)]
        place += 1
    return drawn


def truth(curve: Curve, change: float, course: Course, count: int) -> Parts:
    """Return a course that changes by so much. It starts where a recorded curve starts.

    The pairs that rose most in the recorded run change most.
    """
    shares = np.maximum(curve.rise, 0)
    shares = shares / shares.mean() if shares.any() else np.ones_like(shares)
    done = course.done(np.arange(float(count)))
    return np.asarray(curve.parts[:BEFORE].mean(axis=0) + change * np.outer(done, shares))


def drawn(scenario: Scenario, rng: np.random.Generator) -> Parts:
    """Draw a curve with the jitter of any recorded curve of the score."""
    curve = draw(scenario.score, rng)
    noise = jitter(curve, scenario.bandwidth, EVALUATIONS, rng)
    return truth(curve, RISE, scenario.course, EVALUATIONS) + noise


def drawn_stops(seed: int) -> list[list[int]]:
    """Return where each rule stops a curve of each scenario: a row for each scenario."""
    return [stops(drawn(scenario, np.random.default_rng([seed, i]))) for i, scenario in enumerate(SCENARIOS)]


def in_parallel(trial: Callable[[int], Any], count: int, description: str) -> NDArray[Any]:
    """Return what a trial gives for each seed."""
    with ProcessPoolExecutor() as pool:
        return np.array(list(track(pool.map(trial, range(count)), total=count, description=description)))


def on_drawn_curves(count: int) -> list[dict[str, Any]]:
    """Draw so many curves of each scenario, and return a row for each scenario, rule and patience."""
    found = in_parallel(drawn_stops, count, "drawing curves")
    rows = []
    for number, scenario in enumerate(SCENARIOS):
        for column, (name, patience) in enumerate(NAMES):
            at, risen = found[:, number, column], scenario.course.risen
            late = at[at >= risen] - risen
            rows.append(
                {
                    **{"bandwidth": scenario.bandwidth, "score": scenario.score, "course": scenario.course.name},
                    **{"rule": name, "patience": patience},
                    "too_early": float(np.mean(at < risen)),
                    "late_median": float(np.median(late)) if len(late) else None,
                    "late_90": float(np.quantile(late, 0.9)) if len(late) else None,
                }
            )
    return rows


# ------------------------------------------------------------------------------------------------ recorded runs


def still_to_come(values: Sequence[float], stop: int) -> float:
    """Return how far a curve rises after a stop: its highest smoothed value from there on minus that at the stop.

    The highest of many is a little too high by chance; `by_chance` measures how much that does.
    """
    if stop >= len(values):
        return 0.0
    levels = smoother(len(values)) @ np.asarray(values)
    return float(levels[stop:].max() - levels[stop])


def chance_trial(seed: int) -> list[float]:
    """Return what is still to come by chance where the rule stops curves that never rise, one of each score."""
    found = []
    for number, score in enumerate(NAMES_OF):
        curve = drawn(Scenario(score, COURSES[0], BANDWIDTHS[-1]), np.random.default_rng([seed, number, 7]))
        found.append(still_to_come(curve.mean(axis=1).tolist(), package(curve, (10,))[0]))
    return found


def by_chance(count: int) -> dict[str, float]:
    """Return the share of stops that look too early on curves that never rise: score -> share."""
    found = in_parallel(chance_trial, count, "chance")
    return {score: float(np.mean(shares > MISSED)) for score, shares in zip(NAMES_OF, found.T, strict=True)}


def on_recorded_runs() -> list[dict[str, Any]]:
    """Return where each rule would have stopped each recorded curve, and how far the curve rose from there on."""
    rows = []
    for curve in (curve for score in NAMES_OF for curve in curves(score)):
        values = curve.values.tolist()
        for (name, patience), at in zip(NAMES, stops(curve.parts), strict=True):
            rows.append(
                {
                    **{"run": curve.run, "language": curve.language, "score": curve.score},
                    **{"rule": name, "patience": patience},
                    "stops_at_step": curve.steps[at] if at < len(values) else None,
                    "stops_at_evaluation": at if at < len(values) else None,
                    "still_to_come": round(still_to_come(values, at), 4),
                }
            )
    return rows


# ---------------------------------------------------------------------------------- the paired test, and the floor


def paired_test_on_jitter() -> dict[str, float]:
    """Return the share of paired p-values below 0.05 where a recorded curve has lost its trend: score -> share.

    Each evaluation is compared with the one that came five evaluations before. Five in a hundred would be right.
    """
    found = {}
    for score in NAMES_OF:
        compared = []
        for curve in curves(score):
            if curve.language != ALL:
                parts = curve.jitter()
                compared += [paired_p_value(now, before) for before, now in zip(parts, parts[5:], strict=False)]
        found[score] = round(float(np.mean(np.array(compared) < 0.05)), 3)
    return found


def called_forgotten(parts: Parts, allowed: float) -> int:
    """Return the evaluation at which the floor calls a curve's language forgotten, or the curve's length."""
    rule = StoppingRule(floor={"fra_Latn": allowed})
    evaluations: list[Evaluation] = []
    for step, now in enumerate(parts):
        score: dict[Method, float] = {"nasca_rank": float(now.mean())}
        language = PairScores(signature=Signature(), score=score, per_pair={"nasca_rank": now.tolist()})
        evaluation = Evaluation(step=step, score=score, languages={LANGUAGE: language})
        verdict = judge(rule, evaluation, evaluations, {})
        if verdict is not None and verdict.forgotten:
            return step
        evaluations.append(evaluation)
    return len(parts)


class Fall(NamedTuple):
    """A course that the floor is tried on: by how much it changes, and which fall is allowed."""

    course: Course
    change: float
    allowed: float

    @property
    def name(self) -> str:
        """Its name in the results."""
        return f"{self.course.name}, {self.allowed:g} allowed"


FALLS = (
    *(Fall(Course("flat", 0, np.zeros_like), 0.0, allowed) for allowed in (0.0, 0.01, 0.02)),
    Fall(Course("falls by 0.04 over 10", 0, partial(ramp, 10)), -0.04, 0.01),
    *(Fall(Course(f"falls by 0.04 at {when}", when, partial(at_once, when)), -0.04, 0.01) for when in (1, 20)),
)


def floor_trial(seed: int) -> list[int]:
    """Return when the floor calls each kind of drawn curve forgotten."""
    rng = np.random.default_rng([seed, 9])
    curve = draw("nasca_rank", rng, languages_alone=True)
    noise = jitter(curve, BANDWIDTHS[-1], EVALUATIONS, rng)
    return [
        called_forgotten(truth(curve, fall.change, fall.course, EVALUATIONS) + noise, fall.allowed) for fall in FALLS
    ]


def floor(count: int) -> list[dict[str, Any]]:
    """Return how often and when the floor calls a language forgotten, of each kind of drawn curve."""
    found = in_parallel(floor_trial, count, "the floor")
    rows = []
    for fall, at in zip(FALLS, found.T, strict=True):
        called = at[at < EVALUATIONS]
        before = float(np.mean(at < fall.course.risen))
        rows.append(
            {
                **{"curve": fall.course.name, "allowed": fall.allowed},
                **{"called": len(called) / len(at), "called_before_it_fell": before},
                "median_evaluation": float(np.median(called)) if len(called) else None,
            }
        )
    return rows


# ------------------------------------------------------------------------------------------------------- tables


def markdown(rows: Iterable[dict[str, Any]], score: str, bandwidth: int) -> str:
    """Return the table of a score's drawn curves: a row for each of `SHOWN`, a column for each course."""
    cells = {
        (row["rule"], row["patience"], row["course"]): _cell(row)
        for row in rows
        if (row["score"], row["bandwidth"]) == (score, bandwidth)
    }
    table = [
        (name, str(patience), *(cells[name, patience, course.name] for course in COURSES)) for name, patience in SHOWN
    ]
    return markdown_table((NAMES_OF[score], "patience", *(course.name for course in COURSES)), table)


def floor_markdown(rows: Iterable[dict[str, Any]]) -> str:
    """Return the table of the floor: a row for each kind of drawn curve."""
    table = [
        (
            *(row["curve"], f"{row['allowed']:g}", f"{row['called']:.1%}", f"{row['called_before_it_fell']:.1%}"),
            "none" if row["median_evaluation"] is None else f"{row['median_evaluation']:g}",
        )
        for row in rows
    ]
    return markdown_table(("rank score", "allowed", "forgotten", "before it fell", "median evaluation"), table)


def _cell(row: dict[str, Any]) -> str:
    early = f"{row['too_early']:.1%}"
    return early if row["late_median"] is None else f"{early}, {row['late_median']:g} ({row['late_90']:.0f})"


def recorded_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of recorded runs: a row for each run and score, a column for each of `SHOWN_OF_RUNS`.

    A cell has the step of the stop and how far the curve still rose. The last row counts the stops that were too early.
    """
    with_mean = {(row["run"], row["score"]) for row in rows if row["language"] == ALL}
    shown: dict[tuple[str, str], dict[tuple[str, int], dict[str, Any]]] = {}
    for row in rows:
        of_run = row["run"], row["score"]
        if row["language"] == ALL or of_run not in with_mean:  # a run with one language has no mean
            shown.setdefault(of_run, {})[row["rule"], row["patience"]] = row
    table = [
        (run, NAMES_OF[score], *(_stop_cell(by_rule[rule]) for rule in SHOWN_OF_RUNS))
        for (run, score), by_rule in shown.items()
    ]
    early = (sum(by_rule[rule]["still_to_come"] > MISSED for by_rule in shown.values()) for rule in SHOWN_OF_RUNS)
    table.append(("too early", "", *(f"{count} of {len(shown)}" for count in early)))
    return markdown_table(
        ("run", "score", *(f"{name}, patience {patience}" for name, patience in SHOWN_OF_RUNS)), table
    )


def _stop_cell(row: dict[str, Any]) -> str:
    return "to the end" if row["stops_at_step"] is None else f"{row['stops_at_step']}, {row['still_to_come']:+.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=int, default=1000, help="curves of each kind")
    options = parser.parse_args()
    rows, recorded, fallen = on_drawn_curves(options.curves), on_recorded_runs(), floor(options.curves)
    result = {
        "command": f"python -m benchmarks.stopping --curves {options.curves}",
        "evaluations": EVALUATIONS,
        "runs": sorted({row["run"] for row in recorded}),
        "drawn": rows,
        "recorded": recorded,
        "looks_too_early_by_chance": by_chance(options.curves),
        "paired_test_on_jitter": paired_test_on_jitter(),
        "floor": fallen,
    }
    RESULTS.write_text(json.dumps(describe() | result, indent=1) + "\n", encoding="utf-8")
    for bandwidth in BANDWIDTHS:
        print(f"bandwidth {bandwidth}", *(markdown(rows, score, bandwidth) for score in NAMES_OF), sep="\n\n")
    print(recorded_markdown(recorded), floor_markdown(fallen), sep="\n\n")
    print(result["looks_too_early_by_chance"], result["paired_test_on_jitter"])


if __name__ == "__main__":
    main()
