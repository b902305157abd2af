"""The best steps of several runs against that of the first: a paired test over the held-out pairs, and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from neuronxa_callback import significance
from neuronxa_callback.signature import Signature
from neuronxa_callback.tables import markdown_table, plain
from neuronxa_callback.training.records import Evaluation
from neuronxa_callback.vocabulary import Method, score_name

# `neuronxa compare` tests models that differ in these, too: they are facts about a model, not choices of a measurement.
MODEL_FACTS = ("special", "neurons", "dtype")
CHANCE_ONLY = ("permutations",)  # it changes chance and p by chance, and no score
ALL = "all shared language pairs"

HEADER = ("run", "score", "language pair", "its score", "baseline", "difference", "95 % interval", "p", "p (Holm)")
TEST = (
    "A difference is the run's score less the baseline's, each at its own best step. The interval and p are those of "
    "neuronxa compare: a bootstrap and a two-sided paired permutation test over the held-out pairs. p (Holm) is "
    "corrected over all rows of this table."
)
LIMITS = (
    "A best step was chosen because its {} is the highest. So that score is a little too high, and more so in a run "
    "with more evaluations. The test takes no account of this. Nor does it know a checkpoint's own luck, which moves "
    "all pairs alike: one-sided, such a test called 10 % (NASCA) to 24 % (NASCA rank) of mere jitter significant at "
    "0.05 on recorded runs (docs/explanation/stopping.md). It does not say what another seed would give."
)
OWN_SOURCES = "The language pairs do not share their source sentences, so their mean is not tested."


@dataclass(frozen=True)
class BestStep:
    """The evaluation of a run that has its highest score of the first method that the runs share.

    Attributes:
        run: the name of the run.
        evaluation: the evaluation. It has a score of this method on every language pair that the runs share.
    """

    run: str
    evaluation: Evaluation


@dataclass(frozen=True)
class Comparison:
    """A run's best step against the baseline's, by one method.

    Attributes:
        run: the name of the run.
        method: the method.
        pair: the name of the language pair, or `ALL` for the mean over the shared ones.
        score: the run's score.
        baseline: the baseline's score.
        interval: the 95 % interval of the difference, score less baseline, over samples of as many sentence pairs.
        p_value: the p-value of the two-sided paired permutation test.
    """

    run: str
    method: Method
    pair: str
    score: float
    baseline: float
    interval: tuple[float, float]
    p_value: float


def compare(
    baseline: BestStep, others: Sequence[BestStep], pairs: Sequence[str], methods: Sequence[Method]
) -> list[Comparison]:
    """Test each run's best step against the baseline's, where both scored the same held-out pairs in the same way.

    Args:
        baseline: the best step of the first run.
        others: those of the other runs.
        pairs: the names of the language pairs that all runs have.
        methods: the alignment methods that all runs have, first the one that chose the best steps. Those without values
            of sentence pairs are left out.

    Returns:
        the comparisons of each run, by method: first the mean over several language pairs, then each language pair. A
        language pair that `differences` finds scored in another way is left out. So is the mean if any is left out, or
        if the language pairs do not share their source sentences.
    """
    found = []
    for method in tested_methods([baseline, *others], pairs, methods):
        for other in others:
            alike = [pair for pair in pairs if not differences(baseline, other, pair, method)]
            if 1 < len(pairs) == len(alike) and _shares_sources(baseline, other, method):
                found.append(_compare(baseline, other, method, ALL, pairs))
            found += [_compare(baseline, other, method, pair, [pair]) for pair in alike]
    return found


def tested_methods(bests: Sequence[BestStep], pairs: Sequence[str], methods: Sequence[Method]) -> list[Method]:
    """Return the methods that have a value for each sentence pair in every best step."""
    languages = [best.evaluation.languages[pair] for best in bests for pair in pairs]
    return [method for method in methods if all(method in language.per_pair for language in languages)]


def _shares_sources(one: BestStep, other: BestStep, method: Method) -> bool:
    """Whether the language pairs of a run share their source sentences. Both runs have the same sentences."""
    return method in one.evaluation.per_pair or method in other.evaluation.per_pair


def differences(baseline: BestStep, other: BestStep, pair: str, method: Method) -> dict[str, tuple[str, str]]:
    """Return the choices of a measurement that differ: field of the signature -> (baseline's value, the run's)."""
    one, two = (_choices(best, pair, method).without([*MODEL_FACTS, *CHANCE_ONLY]) for best in (baseline, other))
    return both_ways(one, two)


def both_ways(one: Signature, other: Signature) -> dict[str, tuple[str, str]]:
    """Return the fields that differ or that only one has: field -> (value in the first or "none", in the other)."""
    of_one = {name: (ours, theirs) for name, (theirs, ours) in other.differences(one).items()}
    return of_one | one.differences(other)


def _choices(best: BestStep, pair: str, method: Method) -> Signature:
    """Return the choices behind one method's score, without the other methods that were measured beside it."""
    signature = best.evaluation.languages[pair].signature
    names = (signature.get("method") or "").split("+")
    return signature.with_fields(method=next((name for name in names if name.partition("(")[0] == method), method))


def _compare(baseline: BestStep, other: BestStep, method: Method, named: str, pairs: Sequence[str]) -> Comparison:
    before, now = (_parts(best, method, pairs) for best in (baseline, other))
    return Comparison(
        run=other.run,
        method=method,
        pair=named,
        score=fmean(other.evaluation.languages[pair].score[method] for pair in pairs),
        baseline=fmean(baseline.evaluation.languages[pair].score[method] for pair in pairs),
        interval=significance.bootstrap_interval([b - a for a, b in zip(before, now, strict=True)]),
        p_value=significance.paired_p_value(now, before, "two-sided"),
    )


def _parts(best: BestStep, method: Method, pairs: Sequence[str]) -> list[float]:
    """Return each sentence pair's part of the score, the mean over language pairs that share their sources."""
    by_language = [best.evaluation.languages[pair].per_pair[method] for pair in pairs]
    return [fmean(parts) for parts in zip(*by_language, strict=True)]


# ---------------------------------------------------------------------------------------------- its text


def best_steps_part(
    baseline: BestStep, others: Sequence[BestStep], pairs: Sequence[str], methods: Sequence[Method]
) -> list[str]:
    """Return the page's part on the best steps, in Markdown; see `compare` for the arguments."""
    rows = compare(baseline, others, pairs, methods)
    table = [markdown_table(HEADER, comparison_rows(rows)), TEST, LIMITS.format(score_name(methods[0]))]
    return [
        f"## Best steps against that of {plain(baseline.run)}",
        *(table if rows else []),
        *map(plain, comparison_notes(baseline, others, pairs, methods, rows)),
    ]


def comparison_rows(rows: Sequence[Comparison]) -> list[list[str]]:
    """Return a row below `HEADER` for each comparison."""
    corrected = significance.holm([row.p_value for row in rows])
    return list(map(_cells, rows, corrected))


def comparison_notes(
    baseline: BestStep,
    others: Sequence[BestStep],
    pairs: Sequence[str],
    methods: Sequence[Method],
    rows: Sequence[Comparison],
) -> list[str]:
    """Return a sentence for everything that was not tested or was read in another way; see `compare`."""
    tested = tested_methods([baseline, *others], pairs, methods)
    return [
        *_not_tested(baseline, others, pairs, tested),
        *_without_parts(methods, tested),
        *_other_models(baseline, others, pairs),
        *_own_sources(rows, pairs),
    ]


def _cells(row: Comparison, corrected: float) -> list[str]:
    low, high = row.interval
    return [
        row.run,
        score_name(row.method),
        row.pair,
        f"{row.score:.4f}",
        f"{row.baseline:.4f}",
        _signed(row.score - row.baseline),
        f"{_signed(low)} to {_signed(high)}",
        f"{row.p_value:.2g}",
        f"{corrected:.2g}",
    ]


def _signed(number: float) -> str:
    return f"{round(number, 4) + 0.0:+.4f}"  # with + 0.0 a rounded -0.0 is no "-0.0000"


def _not_tested(
    baseline: BestStep, others: Sequence[BestStep], pairs: Sequence[str], methods: Sequence[Method]
) -> list[str]:
    """Return a sentence for each run and language pair that was scored in another way than the baseline's."""
    found = []
    for other in others:
        for pair in pairs:
            for method in methods:
                if differ := differences(baseline, other, pair, method):
                    told = differences_text(differ, baseline.run, other.run)
                    where = f"on {pair}" + (f" by {score_name(method)}" if "method" in differ else "")
                    found.append(
                        f"{other.run} cannot be compared with {baseline.run} {where} and is not tested there: {told}."
                    )
    return list(dict.fromkeys(found))  # most choices hold for all methods


def differences_text(differ: dict[str, tuple[str, str]], one: str, other: str) -> str:
    """Return which fields of two runs' signatures differ, as the part of a sentence."""
    return "; ".join(f"{name} is {ours} in {one} and {theirs} in {other}" for name, (ours, theirs) in differ.items())


def _without_parts(methods: Sequence[Method], tested: Sequence[Method]) -> list[str]:
    left_out = [score_name(method) for method in methods if method not in tested]
    if not left_out:
        return []
    return [f"{', '.join(left_out)} left out: the paired test needs a value for each sentence pair."]


def _other_models(baseline: BestStep, others: Sequence[BestStep], pairs: Sequence[str]) -> list[str]:
    """Return a sentence for each run whose model was read in another way, which alone may change a score."""
    found = []
    for other in others:
        signatures = [
            [best.evaluation.languages[pair].signature.only(MODEL_FACTS) for best in (baseline, other)]
            for pair in pairs
        ]
        differ = {name: values for one, two in signatures for name, values in both_ways(one, two).items()}
        if differ:
            told = differences_text(differ, baseline.run, other.run)
            read = f"The model of {other.run} was read in another way than that of {baseline.run}"
            found.append(f"{read}, which may change its scores: {told}.")
    return found


def _own_sources(rows: Sequence[Comparison], pairs: Sequence[str]) -> list[str]:
    """Say why a run that was tested on each of several language pairs was not tested on their mean."""
    tested: dict[str, list[str]] = {}
    for row in rows:
        tested.setdefault(f"{row.run} {row.method}", []).append(row.pair)
    return [OWN_SOURCES] if any(1 < len(pairs) == len(found) for found in tested.values()) else []
