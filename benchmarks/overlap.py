"""Measure what the search for held-out sentences in a training set costs and finds: `python -m benchmarks.overlap`.

The training set has a million rows. Each row has two sentences, which are words of the embedded training text in random
order. Some rows hide a held-out sentence, either whole or with one or two words changed. The results are written to
benchmarks/results/overlap.json.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.machine import RESULTS, describe
from neuronxa_callback import ParallelPairs
from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.text.overlap import search

LANGUAGES = ("isl_Latn", "fra_Latn", "spa_Latn")
KINDS = ("whole", "one word changed", "two words changed")
WORDS = 12  # in a sentence of a row


def rows(count: int, pairs: list[ParallelPairs], hidden: Counter[str]) -> Iterator[dict[str, str]]:
    """Yield the rows, and hide each held-out sentence once in every kind, evenly spread.

    Args:
        count: the number of rows.
        pairs: the held-out pairs, whose target sides are hidden.
        hidden: receives how many sentences of each kind were hidden.
    """
    rng = random.Random(0)
    vocabulary = {code: " ".join(sentences).split() for code, sentences in embedded("demo_train.tsv").items()}
    to_hide = [(kind, sentence) for kind in KINDS for pair in pairs for sentence in pair.target]
    rng.shuffle(to_hide)
    every = max(1, count // len(to_hide))
    for number in range(count):
        code = LANGUAGES[number % len(LANGUAGES)]
        row = {language: " ".join(rng.choices(vocabulary[language], k=WORDS)) for language in ("eng_Latn", code)}
        if number % every == 0 and to_hide:
            kind, sentence = to_hide.pop()
            row[code] += " " + changed(sentence, KINDS.index(kind), rng)
            hidden[kind] += 1
        yield row


def changed(sentence: str, count: int, rng: random.Random) -> str:
    """Return the sentence with `count` of its words replaced."""
    words = sentence.split()
    for place in rng.sample(range(len(words)), min(count, len(words))):
        words[place] = "xylofon"
    return " ".join(words)


def peak_mebibytes(count: int, pairs: list[ParallelPairs]) -> float:
    """Return the peak memory of a search of `count` rows, in MiB. It includes the rows themselves."""
    tracemalloc.start()
    search(rows(count, pairs, Counter()), pairs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return round(peak / 2**20, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    pairs = [ParallelPairs.load(f"eng_Latn-{code}") for code in LANGUAGES]
    found: Counter[str] = Counter()
    sentences = [sentence for pair in pairs for sentence in pair.target]
    for kind in KINDS:  # each kind is searched on its own, so that its findings can be counted
        rng = random.Random(1)
        report = search([changed(sentence, KINDS.index(kind), rng) for sentence in sentences], pairs)
        found[kind] = report.whole + report.near
    hidden: Counter[str] = Counter()
    began = time.perf_counter()
    for _ in rows(options.rows, pairs, Counter()):
        pass
    making = time.perf_counter() - began
    began = time.perf_counter()
    report = search(track(rows(options.rows, pairs, hidden), "searching", options.rows), pairs)
    seconds = time.perf_counter() - began - making
    result: dict[str, Any] = {
        "command": f"python -m benchmarks.overlap --rows {options.rows}",
        "rows": options.rows,
        "held_out_sentences": sum(map(len, {side for pair in pairs for side in (pair.source, pair.target)})),
        "seconds": round(seconds, 1),
        "seconds_of_making_the_rows": round(making, 1),
        "peak_mebibytes": {count: peak_mebibytes(count, pairs) for count in (options.rows // 100, options.rows // 10)},
        "hidden": dict(hidden),
        "found": {"texts": report.whole + report.near, "whole": report.whole, "near": report.near},
        "share_found_alone": {kind: found[kind] / len(sentences) for kind in KINDS},
    }
    (RESULTS / "overlap.json").write_text(json.dumps(describe() | result, indent=2) + "\n", encoding="utf-8")
    table = Table("", "")
    for name, value in result.items():
        table.add_row(name, str(value))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
