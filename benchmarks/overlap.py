"""What the search for held-out sentences in a training set costs, and what it finds: `python -m benchmarks.overlap`.

A million rows of two sentences each, words of the embedded training text in random order, in which held-out
sentences are hidden: some whole, some with one word changed, some with two. Results go to benchmarks/results/.
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

from benchmarks.cost import RESULTS
from benchmarks.machine import describe
from neuronxa_callback import ParallelPairs
from neuronxa_callback.text.overlap import search
from neuronxa_callback.text.pairs import embedded

LANGUAGES = ("isl_Latn", "fra_Latn", "spa_Latn")
KINDS = ("whole", "one word changed", "two words changed")
WORDS = 12  # in a row's sentence


def rows(count: int, pairs: list[ParallelPairs], hidden: Counter[str]) -> Iterator[dict[str, str]]:
    """Rows as they are asked for; evenly spread, each sentence is hidden once a kind."""
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
    """The sentence with some of its words replaced."""
    words = sentence.split()
    for place in rng.sample(range(len(words)), min(count, len(words))):
        words[place] = "xylofon"
    return " ".join(words)


def peak_mebibytes(count: int, pairs: list[ParallelPairs]) -> float:
    """What a search of so many rows takes at its peak, the rows themselves included."""
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
    for kind in KINDS:  # apart, so that what is found of each can be counted
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
