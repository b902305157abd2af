"""Measure how often the 95 % interval of a score holds the truth: `python -m benchmarks.coverage --tatoeba DIR`.

DIR holds LASER's Tatoeba test sets (github.com/facebookresearch/LASER, data/tatoeba/v1). A thousand English-Icelandic
and a thousand English-French pairs are encoded by SmolLM2 once. Samples of 100 pairs are drawn from them without
replacement, and the truth is the mean score of the samples. Samples of a tenth of all pairs vary less than samples of a
language: their deviations from the truth are enlarged by 1 / sqrt(1 - 0.1) before they count. For higher scores some
targets are replaced by their source without its last word, on which the model aligns well. Each interval is compared
with the percentile bootstrap of the pairs' own parts, which the package used before. The figures are printed and
written to benchmarks/results/coverage.json. The benchmark takes about ten minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.machine import describe
from neuronxa_callback import encode
from neuronxa_callback.alignment.cosines import contributions, cosine_similarity, means_without
from neuronxa_callback.significance import bootstrap_interval, jackknife_error, layer_interval, share_interval
from neuronxa_callback.tables import markdown_table
from neuronxa_callback.vocabulary import Method, score_name

RESULTS = Path(__file__).parent / "results" / "coverage.json"
POOL, SIZE = 1000, 100
EASY = (0.0, 0.1, 0.3, 0.6, 1.0)  # share of the pairs that the model aligns well
LAYERS = (1, 10, 20, 30)
METHODS: tuple[Method, ...] = ("nasca", "nasca_rank")

Interval = tuple[float, float]


class Row(NamedTuple):
    """How often an interval holds the truth.

    Attributes:
        pairs: the pairs that are sampled.
        score: the score and its layers.
        truth: the mean score of the samples.
        spread: the standard deviation of the scores over the samples, enlarged likewise.
        error: the mean standard error that the jackknife gives.
        coverage: the share of samples whose interval holds the truth.
        before: the same of the percentile bootstrap.
    """

    pairs: str
    score: str
    truth: float
    spread: float
    error: float | None
    coverage: float
    before: float


class Drawn(NamedTuple):
    """The score of one sample, its standard error, and its two intervals."""

    score: float
    error: float | None
    interval: Interval
    before: Interval


def read(folder: Path, language: str) -> tuple[list[str], list[str]]:
    """Return the first thousand pairs of which no sentence is there twice."""
    files = [folder / f"tatoeba.{language}-eng.{code}" for code in ("eng", language)]
    lines = zip(*(file.read_text(encoding="utf-8").split("\n") for file in files), strict=True)
    found: dict[str, str] = {}
    for english, other in lines:
        if english and other and english not in found and other not in found.values():
            found[english] = other
    return list(found)[:POOL], list(found.values())[:POOL]


def shortened(sentence: str) -> str:
    """Return a sentence without its last word."""
    words = sentence.split()
    return " ".join(words[:-1]) or sentence


def score_drawn(cosines: Tensor, method: Method) -> Drawn:
    """Return a sample's score: the mean over its layers."""
    parts = contributions(cosines, method).diagonal(dim1=1, dim2=2).mean(dim=0)
    score = parts.mean().item()
    error = jackknife_error(means_without(cosines, method).mean(dim=0).numpy())
    return Drawn(score, error, share_interval(score, error, len(parts)), bootstrap_interval(parts.numpy()))


def greatest_drawn(cosines: Tensor) -> Drawn:
    """Return a sample's NASCA at its greatest layer."""
    per_layer = contributions(cosines, "nasca").diagonal(dim1=1, dim2=2)
    greatest = int(per_layer.mean(dim=1).argmax())
    return score_drawn(cosines[greatest : greatest + 1], "nasca")


def layer_drawn(cosines: Tensor) -> Drawn:
    """Return a sample's NASCA at the only layer."""
    parts = contributions(cosines, "nasca")[0].diagonal()
    score = parts.mean().item()
    return Drawn(score, None, layer_interval(score, len(parts)), bootstrap_interval(parts.numpy()))


def row(pairs: str, score: str, cosines: Tensor, draw: Callable[[Tensor], Drawn], samples: int) -> Row:
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for _ in track(range(samples), description=f"{pairs}, {score}"):
        rows = torch.randperm(cosines.shape[1], generator=generator)[:SIZE]
        drawn.append(draw(cosines[:, rows][:, :, rows].double()))
    scores = torch.tensor([sample.score for sample in drawn], dtype=torch.float64)
    truth = scores.mean().item()
    enlarged = (1 - SIZE / cosines.shape[1]) ** -0.5
    truths = [sample.score + (truth - sample.score) * enlarged for sample in drawn]
    errors = [sample.error for sample in drawn if sample.error is not None]
    return Row(
        *(pairs, score, truth, scores.std().item() * enlarged, sum(errors) / len(errors) if errors else None),
        coverage=sum(s.interval[0] <= t <= s.interval[1] for s, t in zip(drawn, truths, strict=True)) / samples,
        before=sum(s.before[0] <= t <= s.before[1] for s, t in zip(drawn, truths, strict=True)) / samples,
    )


def measure(path: Path, tatoeba: Path, samples: int) -> list[Row]:
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        AutoTokenizer.from_pretrained(path),
    )
    rows = []
    for language, name in (("isl", "Icelandic"), ("fra", "French")):
        english, other = read(tatoeba, language)
        easy = [shortened(sentence) for sentence in english]
        source, target, copied = (encode(model, tokenizer, side) for side in (english, other, easy))
        real, high = (
            torch.stack([cosine_similarity(s, t).float() for s, t in zip(source, side, strict=True)])
            for side in (target, copied)
        )
        replaced = torch.rand(len(english), generator=torch.Generator().manual_seed(1))
        for share in EASY if language == "fra" else EASY[:1]:
            mixed = torch.where(replaced < share, high, real)  # whole columns: targets
            pairs = name if share == 0 else f"{name}, {share:.0%} shortened English"
            for method in METHODS:
                rows.append(row(pairs, score_name(method), mixed, partial(score_drawn, method=method), samples))
        rows.append(row(name, "NASCA, greatest layer", real, greatest_drawn, samples))
        rows += [row(name, f"NASCA, layer {layer}", real[layer - 1 : layer], layer_drawn, samples) for layer in LAYERS]
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of docs/explanation/chance.md."""
    columns = ("pairs", "score", "truth", "spread over samples", "jackknife's error", "coverage", "of the bootstrap")
    cells = [
        [
            r.pairs,
            r.score,
            *(f"{v:.4f}" for v in (r.truth, r.spread)),
            "" if r.error is None else f"{r.error:.4f}",
            f"{r.coverage:.2f}",
            f"{r.before:.2f}",
        ]
        for r in rows
    ]
    return markdown_table(columns, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(".models/smollm2-135m-instruct"))
    parser.add_argument("--tatoeba", type=Path, required=True, help="folder with tatoeba.isl-eng.isl and the like")
    parser.add_argument("--samples", type=int, default=500, help="samples of each kind")
    options = parser.parse_args()
    rows = measure(options.model, options.tatoeba, options.samples)
    table = Table(title=f"95 % intervals, {options.samples} samples of {SIZE} pairs")
    for column in ("pairs", "score", "truth", "spread", "jackknife", "coverage", "bootstrap"):
        table.add_column(column)
    for found in rows:
        table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell or "") for cell in found))
    Console(width=130).print(table)
    content: dict[str, Any] = {
        "command": f"python -m benchmarks.coverage --tatoeba DIR --samples {options.samples}",
        **describe(),
        "rows": [found._asdict() for found in rows],
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
