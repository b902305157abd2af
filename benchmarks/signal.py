"""Measure what a score says beside chance and beside the surface of the text: `python -m benchmarks.signal`.

Everything is measured on SmolLM2's own activations of the embedded pairs. The tables compare Eq. 5 of the paper with
pairs that are torn apart at random. They are printed and written to benchmarks/results/signal.json. With `--tatoeba`,
the folder of LASER's Tatoeba test sets, one more table shows how often each p-value finds Icelandic in new samples.
The benchmark takes about ten minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.machine import describe
from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.alignment.evaluator import Encoded
from neuronxa_callback.alignment.report import AlignmentReport, pool_layers
from neuronxa_callback.alignment.scores import measure_all, random_orders
from neuronxa_callback.alignment.surface import surface_control
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.signature import Signature
from neuronxa_callback.significance import chance_level, chance_p_value, holm
from neuronxa_callback.tables import markdown_table
from neuronxa_callback.vocabulary import ALIGNMENT, OVER_PAIRS, REPRESENTATION_OF, Method, score_name

RESULTS = Path(__file__).parent / "results" / "signal.json"
LEVEL = 0.05
LANGUAGES = ("isl_Latn", "deu_Latn", "fra_Latn", "spa_Latn")
METHODS: tuple[Method, ...] = ("nasca", "nasca_rank", "navca", "mexa", "sads", "cka", "svcca", "anc")
SAMPLES, SIZE = 60, 100  # of Tatoeba


class Rows(NamedTuple):
    """A table of the benchmark."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


class Model:
    """SmolLM2, which encodes text once for all tables."""

    def __init__(self, path: Path) -> None:
        self._decoder = Decoder.find(
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), AutoTokenizer.from_pretrained(path)
        )

    def encode(self, pairs: Sequence[ParallelPairs], methods: Sequence[Method]) -> Iterator[tuple[Encoded, Encoded]]:
        """Yield the two encoded sides of each language pair. The pairs share their source side, or there is one."""
        evaluator = NeuronXAEvaluator(list(pairs), methods)
        return evaluator.each(self._decoder, pairs, lambda pair, source, target: (source, target))


def report(source: Encoded, target: Encoded) -> AlignmentReport:
    """Return the report of NASCA, for two sides that are encoded already."""
    return NeuronXAEvaluator("eng_Latn-isl_Latn", "nasca").report(source, target, Signature())


def rows_of(side: Encoded, rows: Tensor) -> Encoded:
    return {read: values[:, rows] for read, values in side.items()}


def chance(encoded: dict[str, tuple[Encoded, Encoded]]) -> Rows:
    """Compare Eq. 5 with chance as it is measured, for NASCA of each language."""
    rows = []
    for language, (source, target) in encoded.items():
        found = report(source, target)
        n, score = len(found.per_pair["nasca"]), found.score["nasca"]
        cells = float(found.chance_per_layer["nasca"].mean()) * n * n
        eq5 = holm([chance_p_value(value, n) for value in found.per_layer["nasca"].tolist()])
        torn = found.p_per_layer["nasca"].tolist()
        rows.append(
            (
                *(language, round(score, 4), round(cells, 1), round(n * n * chance_level(n), 1)),
                *(round(found.chance["nasca"], 5), round(chance_level(n), 5)),
                *(round(found.paper_p_value["nasca"], 5), round(found.p_value["nasca"], 5)),
                *(sum(p < LEVEL for p in eq5), sum(p < LEVEL for p in torn)),
            )
        )
    columns = ("language", "NASCA", "mutual nearest a layer", "by Eq. 5", "chance", "by Eq. 5", "p by Eq. 5", "p")
    return Rows("NASCA of 100 embedded pairs, and chance", (*columns, "layers, Holm on Eq. 5", "layers, max-T"), rows)


def size(encoded: dict[str, tuple[Encoded, Encoded]], trials: int) -> Rows:
    """Return how often a p-value is at most 0.05 where nothing is parallel.

    A trial takes 50 English sentences, and the translations of the other 50. It reads every third layer, and tears the
    pairs apart 999 times, or 99 times for CKA, SVCCA and ANC.
    """
    found: dict[tuple[str, Method], list[tuple[bool, ...]]] = {}
    generator = torch.Generator().manual_seed(0)
    for language, (source, target) in encoded.items():
        for _ in track(range(trials), description=f"tearing {language} apart"):
            order = torch.randperm(100, generator=generator)
            for method, rejected in rejections(rows_of(source, order[:50]), rows_of(target, order[50:])).items():
                found.setdefault((language, method), []).append(rejected)
    rows = []
    for (language, method), rejections_of_all in found.items():
        shares = [round(sum(column) / trials, 3) for column in zip(*rejections_of_all, strict=True)]
        rows.append((language, score_name(method), *shares[:3], shares[3] if method in ALIGNMENT else None))
    title = f"Share of p <= {LEVEL} where nothing is parallel, {trials} trials"
    return Rows(title, ("language", "method", "mean over layers", "greatest layer", "any layer", "Eq. 5"), rows)


def rejections(source: Encoded, target: Encoded) -> dict[Method, tuple[bool, ...]]:
    """Return whether each p-value is at most 0.05: of the mean, of the greatest layer, of any layer, by Eq. 5."""
    found: dict[Method, tuple[bool, ...]] = {}
    for read in dict.fromkeys(map(REPRESENTATION_OF.__getitem__, METHODS)):
        one, other = (side[read] if read == "signed" else side[read][::3] for side in (source, target))
        orders = {m: random_orders(50, 999 if m in OVER_PAIRS else 99) for m in METHODS if REPRESENTATION_OF[m] == read}
        for method, measured in measure_all(one, other, orders, joined=read == "signed").items():
            mean, greatest = pool_layers(measured, "mean"), pool_layers(measured, "max")
            assert mean.chance is not None
            assert greatest.chance is not None
            layer = bool(mean.chance.torn.p_per_layer.le(LEVEL).any())
            eq5 = method in ALIGNMENT and chance_p_value(mean.score, 50) <= LEVEL
            found[method] = (mean.chance.p_value <= LEVEL, greatest.chance.p_value <= LEVEL, layer, eq5)
    return found


def power(model: Model, tatoeba: Path) -> Rows:
    """Return how many samples of Icelandic pairs each p-value finds."""
    sides = [(tatoeba / f"tatoeba.isl-eng.{code}").read_text(encoding="utf-8").splitlines() for code in ("eng", "isl")]
    by_source = {source: target for target, source in {t: s for s, t in zip(*sides, strict=True)}.items()}
    english, icelandic = list(by_source), list(by_source.values())
    pairs = ParallelPairs(tuple(english), tuple(icelandic), "eng_Latn", "isl_Latn")
    ((source, target),) = model.encode([pairs], ("nasca",))
    generator = torch.Generator().manual_seed(0)
    p_values = []
    for _ in track(range(SAMPLES), description="samples of Tatoeba"):
        sample = torch.randperm(len(pairs), generator=generator)[:SIZE]
        found = report(rows_of(source, sample), rows_of(target, sample))
        p_values.append((found.paper_p_value["nasca"], found.p_value["nasca"]))
    eq5, torn = (sum(p <= LEVEL for p in column) for column in zip(*p_values, strict=True))
    return Rows(
        f"Samples of {SIZE} Icelandic pairs of Tatoeba with p <= {LEVEL}",
        ("samples", "Eq. 5", "torn apart"),
        [(SAMPLES, eq5, torn)],
    )


def surface(pairs: Sequence[ParallelPairs], encoded: dict[str, tuple[Encoded, Encoded]]) -> Rows:
    """Return how much of NASCA comes from pairs that share a word form."""
    rows = []
    for pair in pairs:
        found = report(*encoded[pair.target_lang])
        control = surface_control(pair, found.per_pair["nasca"].tolist())
        score = found.score["nasca"]
        without = control.without_shared or 0.0
        shared = 1 - without * control.n_without_shared / (score * control.n)
        rows.append(
            (
                *(pair.target_lang, control.n - control.n_without_shared, round(control.ngram_baseline, 2)),
                *(round(score, 4), round(without, 4), f"{control.carriers} ({control.carriers_sharing})"),
                round(shared, 3),
            )
        )
    columns = ("language", "pairs that share a form", "4-gram baseline", "NASCA", "without shared forms")
    return Rows(
        "What the surface of the embedded pairs explains",
        (*columns, "carriers (sharing)", "part of NASCA from sharing pairs"),
        rows,
    )


def equal_pairs(model: Model, pairs: ParallelPairs) -> Rows:
    """Return what NASCA becomes when the last targets are copies of their sources."""
    changed = [replace(pairs, target=(*pairs.target[: 100 - k], *pairs.source[100 - k :])) for k in (0, 1, 5, 10)]
    rows = []
    for k, pair in zip((0, 1, 5, 10), changed, strict=True):
        ((source, target),) = model.encode([pair], ("nasca",))
        found = report(source, target)
        rows.append((k, round(found.score["nasca"], 4), f"{found.paper_p_value['nasca']:.2g}", found.p_value["nasca"]))
    return Rows("Icelandic with some targets that equal their sources", ("equal pairs", "NASCA", "Eq. 5", "p"), rows)


def markdown(table: Rows) -> str:
    """Return a table as docs/explanation/chance.md and limits.md have it."""
    return markdown_table(table.columns, [["" if cell is None else str(cell) for cell in row] for row in table.rows])


def print_rows(table: Rows, console: Console) -> None:
    shown = Table(title=table.title, title_justify="left")
    for column in table.columns:
        shown.add_column(column)
    for row in table.rows:
        shown.add_row(*("" if cell is None else str(cell) for cell in row))
    console.print(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(".models/smollm2-135m-instruct"))
    parser.add_argument("--trials", type=int, default=400, help="trials a language for the size of the p-values")
    parser.add_argument("--tatoeba", type=Path, help="folder with tatoeba.isl-eng.isl and tatoeba.isl-eng.eng")
    options = parser.parse_args()
    model = Model(options.model)
    pairs = [ParallelPairs.load(f"eng_Latn-{language}") for language in LANGUAGES]
    encoded = dict(zip(LANGUAGES, model.encode(pairs, METHODS), strict=True))
    tables = [chance(encoded), surface(pairs, encoded), equal_pairs(model, pairs[0])]
    if options.tatoeba:
        tables.append(power(model, options.tatoeba))
    tables.append(size({language: encoded[language] for language in LANGUAGES[::2]}, options.trials))
    console = Console(width=150)
    for table in tables:
        print_rows(table, console)
    command = f"python -m benchmarks.signal --trials {options.trials}" + (" --tatoeba DIR" if options.tatoeba else "")
    content = {"command": command, **describe(), "tables": [table._asdict() for table in tables]}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
