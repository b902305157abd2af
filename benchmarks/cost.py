"""Measure what an evaluation costs: `make bench`.

All costs are ratios of two works. Both works run interleaved in the same process, and the ratio compares their median
times. Each row shows what is compared, the ratio, its target, and whether the ratio meets the target. The results are
written to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.machine import describe
from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.alignment.batches import batches
from neuronxa_callback.alignment.encoder import CPU_TOKEN_BUDGET
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.text.embedded import embedded

RESULTS = Path(__file__).parent / "results"
STEP_TOKENS = 8192


class Row(NamedTuple):
    """The comparison of two works.

    Attributes:
        name: what the comparison is about.
        numerator: the work whose cost is measured.
        denominator: the work that it is compared with.
        ratio: the cost of the first work divided by that of the second.
        target: the highest ratio that is good enough.
        unit: the unit of `values`, seconds or bytes.
        values: the costs of the two works.
    """

    name: str
    numerator: str
    denominator: str
    ratio: float
    target: float
    unit: str
    values: tuple[float, float]

    @property
    def met(self) -> bool:
        """Whether the ratio meets its target."""
        return self.ratio <= self.target


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each work. A round runs each work once, so a slow minute slows down all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()  # warm-up
    for _ in track(range(rounds), description=f"timing {', '.join(works)}"):
        for name, work in works.items():
            seconds[name].append(timed(work))
    return {name: statistics.median(values) for name, values in seconds.items()}


def forward(decoder: Decoder, token_ids: list[list[int]], rows: list[list[int]]) -> None:
    """Run the decoder over the batches, without hooks and without the LM head."""
    with decoder.evaluation_mode():
        for batch in rows:
            decoder.run([token_ids[row] for row in batch])


def file_order(count: int, size: int = 32) -> list[list[int]]:
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def least_batching_ratio(tokenizer: Any, pairs: ParallelPairs) -> float:
    """Return the ratio that perfect batching would reach.

    That is the number of real tokens, divided by the number of tokens in padded batches of 32 in file order.
    """
    real = padded = 0
    for side in (pairs.source, pairs.target):
        lengths = [len(tokenizer(sentence)["input_ids"]) for sentence in side]
        real += sum(lengths)
        padded += sum(max(lengths[row] for row in rows) * len(rows) for rows in file_order(len(lengths)))
    return real / padded


def peak_memory(work: Callable[[], object]) -> int:
    """Return the peak of the bytes that tensors take while `work` runs, without the tensors from before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def sft_step(model: Any, tokenizer: Any) -> Callable[[], None]:
    """Return a LoRA fine-tuning step on 16 sequences of 512 tokens from the demo's training text."""
    text = " ".join(sentence for column in embedded("demo_train.tsv").values() for sentence in column)
    ids = tokenizer(text)["input_ids"]
    whole = torch.tensor((ids * (1 + STEP_TOKENS // len(ids)))[:STEP_TOKENS])
    input_ids = whole.view(16, 512).to(model.device)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-5)

    def step() -> None:
        model.train()
        model(input_ids=input_ids, labels=input_ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(path: Path, pairs: ParallelPairs, rounds: int) -> list[Row]:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    decoder = Decoder.find(model, tokenizer)
    sides = [decoder.tokenize(side) for side in (pairs.source, pairs.target)]
    nasca = NeuronXAEvaluator(pairs)
    together = NeuronXAEvaluator(pairs, methods=("nasca", "navca", "mexa"))

    def bare() -> None:
        for token_ids in sides:
            forward(decoder, token_ids, batches(token_ids, CPU_TOKEN_BUDGET))

    def naive() -> None:
        for token_ids in sides:
            forward(decoder, token_ids, file_order(len(token_ids)))

    seconds = interleaved(
        {
            "bare forward": bare,
            "file order": naive,
            "NASCA": lambda: nasca(model, tokenizer),
            "all three": lambda: together(model, tokenizer),
        },
        rounds,
    )
    pooled = 2 * len(pairs) * model.config.num_hidden_layers * model.config.intermediate_size * 4
    activations = peak_memory(bare)
    extra = peak_memory(lambda: nasca(model, tokenizer))

    adapted = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
    step = interleaved(
        {"evaluation": lambda: nasca(adapted, tokenizer), "SFT step": sft_step(adapted, tokenizer)}, max(1, rounds // 3)
    )
    return [
        _row("hooks and scores", "NASCA", "bare forward", seconds, 1.05),
        _row("batching", "NASCA", "file order", seconds, 0.45),
        _row("NAVCA and MEXA beside NASCA", "all three", "NASCA", seconds, 1.15),
        _row(f"an evaluation, against {STEP_TOKENS:,} tokens of training", "evaluation", "SFT step", step, 1.0),
        Row(
            "peak extra memory",
            "NASCA",
            "pooled representations + bare forward",
            extra / (pooled + activations),
            1.2,
            "bytes",
            (extra, pooled + activations),
        ),
    ]


def _row(name: str, numerator: str, denominator: str, seconds: dict[str, float], target: float) -> Row:
    values = (seconds[numerator], seconds[denominator])
    return Row(name, numerator, denominator, values[0] / values[1], target, "seconds", values)


def show(rows: list[Row], pairs: ParallelPairs, console: Console) -> None:
    table = Table(title=f"Cost of an evaluation: {len(pairs)} pairs {pairs.name}", title_justify="left")
    for column in ("what", "compared", "with", "values", "ratio", "target", "met"):
        table.add_column(column)
    for row in rows:
        values = [f"{value:.2f} s" if row.unit == "seconds" else f"{value / 2**20:.1f} MiB" for value in row.values]
        table.add_row(
            row.name,
            row.numerator,
            row.denominator,
            " / ".join(values),
            f"{row.ratio:.3f}",
            f"<= {row.target}",
            "yes" if row.met else "NO",
        )
    console.print(table)


def save(rows: list[Row], pairs: ParallelPairs, options: argparse.Namespace) -> Path:
    RESULTS.mkdir(exist_ok=True)
    content = {
        "command": f"python -m benchmarks.cost --rounds {options.rounds} --name {options.name}"
        + (f" --files {' '.join(Path(file).name for file in options.files)}" if options.files else "")
        + (f" --languages {' '.join(options.languages)}" if all(options.languages) else ""),
        "pairs": {"name": pairs.name, "n": len(pairs), "fingerprint": pairs.fingerprint},
        **describe(),
        "rows": [row._asdict() | {"met": row.met} for row in rows],
    }
    path = RESULTS / f"{options.name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(".models/smollm2-135m-instruct"))
    parser.add_argument("--rounds", type=int, default=5, help="how often each work is timed")
    parser.add_argument("--files", nargs=2, metavar="FILE", help="aligned text files instead of the embedded pairs")
    parser.add_argument("--languages", nargs=2, metavar="CODE", default=(None, None), help="their FLORES-200 codes")
    parser.add_argument("--name", default="cost", help="name of the result file")
    options = parser.parse_args()
    spec = tuple(options.files) if options.files else "eng_Latn-isl_Latn"
    pairs = ParallelPairs.load(spec, *options.languages)
    console = Console(width=150)
    rows = measure(options.model, pairs, options.rounds)
    show(rows, pairs, console)
    least = least_batching_ratio(AutoTokenizer.from_pretrained(options.model), pairs)
    console.print(f"Without a single token of padding the batching row would be {least:.3f} on this text.")
    console.print(f"written to {save(rows, pairs, options)}")


if __name__ == "__main__":
    main()
