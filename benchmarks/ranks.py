"""Measure an evaluation on two processes against one, and the cost model's constants: `python -m benchmarks.ranks`.

Two processes of one thread each are joined by gloo. A work of one process runs while the other one waits. Works that
are compared run interleaved, and the figures are medians. The constants that are measured predict the times of
evaluations that they were not measured on. Nothing of this needs a GPU. The table of larger machines is computed by
`benchmarks.cost_model` from these constants, from benchmarks/results/gpu.json and from assumed links, and none of it
was run. All figures are printed, written to benchmarks/results/ranks.json and put into the tables of
docs/how-to/many-gpus.md. It takes less than ten minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import gpu
from benchmarks.cost_model import (
    Assumptions,
    Constants,
    OfGPU,
    Reading,
    Setting,
    Shape,
    encoding,
    extrapolated,
    of_others,
    scoring_counts,
    scoring_memory,
    seconds,
)
from benchmarks.machine import describe
from benchmarks.page import with_table
from benchmarks.rows import peak_memory, timed
from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.alignment.encoder import (
    ACCELERATOR_TOKEN_BUDGET,
    CPU_PASS_TOKENS,
    CPU_TOKEN_BUDGET,
    encode_all,
)
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.quality.translation import EXTRA_TOKENS, LENGTH_RATIO
from neuronxa_callback.ranks import Ranks
from neuronxa_callback.signature import Signature
from neuronxa_callback.tables import markdown_table

RESULT = Path(__file__).parent / "results" / "ranks.json"
PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "many-gpus.md"
PROCESSES = 2
LANGUAGES = ("isl", "deu", "fra", "spa")
SMALL_BUDGET = 64
REPEATED = 20  # works of milliseconds run so many times a round
ONE, WHOLE, SHARDED = "1", "2, whole weights as under DDP", "2, FSDP 2"
ENGINES = (ONE, WHOLE, SHARDED)


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
        rounds: how often each work is timed.
        pairs: the sentence pairs of the evaluation.
        translated: the sentences that are translated.
        learned: the sentences that the constants of a forward pass are measured on.
        predicted: the sentence pairs of the evaluations that are predicted.
        scored: (layers, pairs, features) that the constants of scoring are measured on.
    """

    rounds: int = 3
    pairs: int = 100
    translated: int = 4
    learned: int = 30
    predicted: tuple[int, ...] = (60, 40, 60, 20)
    scored: tuple[tuple[int, int, int], ...] = ((4, 100, 256), (4, 100, 2048), (2, 100, 28672), (2, 200, 8192))


QUICK = Sizes(1, 6, 2, 4, (5, 4, 5, 3), ((1, 10, 16), (1, 10, 64), (1, 20, 64)))


class Timing(NamedTuple):
    """The median seconds of a work with one of `ENGINES`."""

    work: str
    engine: str
    seconds: float


class Check(NamedTuple):
    """A prediction of the cost model, and what was measured: seconds or bytes."""

    what: str
    predicted: float
    measured: float


@dataclass
class Bench:
    """One of the processes, with its models.

    Attributes:
        ranks: the processes.
        decoders: engine -> the decoder of a model of that engine.
        shape: the model's.
        sizes: how much is measured.
    """

    ranks: Ranks
    decoders: dict[str, Decoder]
    shape: Shape
    sizes: Sizes

    @classmethod
    def of_model(cls, path: Path, sizes: Sizes) -> Bench:
        """Load a model twice, and shard one of the two. Both are checked here, as they are before a training."""
        ranks = Ranks.of_group()
        tokenizer = AutoTokenizer.from_pretrained(path)
        whole, sharded = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for _ in range(2))
        first = Decoder.find(whole, tokenizer)
        shape = Shape(
            name=path.name,
            layers=len(first.layers),
            features=sum(ffn.neurons for ffn in first.ffns[0]),
            parameters=sum(weight.numel() for weight in first.layers[0].parameters()),
            parameter_bytes=4,
        )
        mesh = init_device_mesh("cpu", (ranks.size,))
        for layer in Decoder.find(sharded, tokenizer).layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        decoders = {
            ONE: first,
            WHOLE: Decoder.find(whole, tokenizer, ranks),
            SHARDED: Decoder.find(sharded, tokenizer, ranks),
        }
        bench = cls(ranks, decoders, shape, sizes)
        for engine in (WHOLE, SHARDED):
            encode_all(decoders[engine], bench.pairs(2)[0].source, ("nas",))
        return bench

    @staticmethod
    def pairs(count: int, languages: int = 1) -> list[ParallelPairs]:
        """Return the first embedded pairs of English and so many languages."""
        return [ParallelPairs.load(f"eng_Latn-{code}_Latn", n=count) for code in LANGUAGES[:languages]]

    def lengths(self, sentences: Sequence[str]) -> list[int]:
        """Return the tokens of each sentence."""
        return [len(ids) for ids in self.decoders[ONE].tokenize(sentences)]

    def seconds(self, works: dict[str, Callable[[Decoder], object]], rounds: int | None = None) -> dict[str, float]:
        """Return the median seconds of works with the same name as an engine. The processes begin and end together.

        Args:
            works: engine -> what is done with its decoder. The first process alone does that of `ONE`.
            rounds: how often each work is timed, if that is not `sizes.rounds`.
        """
        taken: dict[str, list[float]] = {engine: [] for engine in works}
        for _ in range(rounds or self.sizes.rounds):
            for engine, work in works.items():
                taken[engine].append(self._timed(engine, work))
        return {engine: statistics.median(values) for engine, values in taken.items()}

    def _timed(self, engine: str, work: Callable[[Decoder], object]) -> float:
        def together() -> None:
            if engine != ONE or self.ranks.is_first:
                work(self.decoders[engine])
            dist.barrier()

        dist.barrier()
        return timed(together)

    # --------------------------------------------------------------------------------------- one against two

    def timings(self) -> list[Timing]:
        """Return the seconds of an evaluation and of a translation, by one process and by two."""
        evaluator = NeuronXAEvaluator(self.pairs(self.sizes.pairs))
        shortest = min_by_tokens(self.pairs(100)[0], self.lengths, self.sizes.translated)
        quality = QualityEvaluator("chrf", [shortest])

        def translate(decoder: Decoder) -> None:
            translated = quality.translate(decoder)
            if decoder.ranks.is_first:
                quality.score(translated).wait()

        if self.ranks.is_first:  # loads the languages' models, once
            quality.faithfulness(next(iter(quality.jobs)), shortest.target)
        works: list[tuple[str, Callable[[Decoder], object], int]] = [
            (f"NASCA and its rank score of {self.sizes.pairs} pairs", evaluator.score, self.sizes.rounds),
            (f"chrF of {self.sizes.translated} translations", translate, 1),
        ]
        return [
            Timing(name, engine, taken)
            for name, work, rounds in works
            for engine, taken in self.seconds(dict.fromkeys(ENGINES, work), rounds).items()
        ]

    # --------------------------------------------------------------------------------------- constants

    def constants(self) -> Constants:
        """Return the constants of the cost model for this machine's CPU and gloo."""
        sentences = self.pairs(self.sizes.learned)[0].target
        layer, operation = self._passes(sentences)
        order, number, product = self._scoring()
        agreement = self._repeated(lambda decoder: decoder.ranks.values(None))
        report = NeuronXAEvaluator(self.pairs(2)).score(self.decoders[WHOLE])
        return Constants(
            operation=operation,
            layer=layer,
            weight=self._weight(sentences),
            gathered=self._gathered(),
            agreement=agreement,
            report=self._repeated(lambda decoder: decoder.ranks.first_value(report)),
            order=order,
            number=number,
            product=product,
            activation=self._activation(sentences),
        )

    def _passes(self, sentences: Sequence[str]) -> tuple[float, float]:
        """Return a layer's seconds in a pass and those of an operation, from large batches and from small ones."""
        rows, taken = [], []
        for budget in (CPU_TOKEN_BUDGET, SMALL_BUDGET):
            work = partial(encode_all, sentences=sentences, representations=("nas",), token_budget=budget)
            read = Reading.of(self.lengths(sentences), budget, 1, CPU_PASS_TOKENS)
            rows.append((read.rounds * self.shape.layers, 2 * self.shape.parameters * self.shape.layers * read.tokens))
            taken.append(self.seconds({ONE: work})[ONE])
        layer, operation = solved(rows, taken)
        return layer, operation

    def _weight(self, sentences: Sequence[str]) -> float:
        """Return the seconds for each byte of weights, from what FSDP adds to the same passes in small batches."""
        work = partial(encode_all, sentences=sentences, representations=("nas",), token_budget=SMALL_BUDGET)
        taken = self.seconds(dict.fromkeys((WHOLE, SHARDED), work))
        rounds = Reading.of(self.lengths(sentences), SMALL_BUDGET, self.ranks.size).rounds
        added = max(0.0, taken[SHARDED] - taken[WHOLE])
        return added / (rounds * of_others(self.shape.weights, self.ranks.size))

    def _gathered(self) -> float:
        """Return the seconds for each byte of a side that comes to the first process."""
        total = self.sizes.pairs
        places = [list(range(rank, total, self.ranks.size)) for rank in range(self.ranks.size)]
        part = torch.rand(self.shape.layers, len(places[self.ranks.rank]), self.shape.features)
        taken = self._repeated(lambda decoder: decoder.ranks.gathered(part, places, total))
        return taken / self.shape.pooled(total)

    def _repeated(self, work: Callable[[Decoder], object]) -> float:
        """Return the seconds of a short work of both processes."""

        def several(decoder: Decoder) -> None:
            for _ in range(REPEATED):
                work(decoder)

        return self.seconds({WHOLE: several})[WHOLE] / REPEATED

    def _scoring(self) -> tuple[float, float, float]:
        """Return the constants of scoring, from random representations of several sizes."""
        rows, taken = [], []
        for layers, pairs, features in self.sizes.scored:
            taken.append(self.seconds({ONE: partial(_score_for, random_sides(layers, pairs, features))})[ONE])
            rows.append(scoring_counts(Shape("", layers, features, 0, 0), pairs))
        order, number, product = solved(rows, taken)
        return order, number, product

    def _activation(self, sentences: Sequence[str]) -> float:
        """Return the bytes of activations for each token and neuron, in a pass over one batch of equal sentences."""
        decoder = self.decoders[ONE]
        ids = max(decoder.tokenize(sentences), key=len)
        rows = max(1, CPU_TOKEN_BUDGET // len(ids))

        def run() -> None:
            with decoder.evaluation_mode():
                decoder.run([ids] * rows)

        return peak_memory(run) / (rows * len(ids) * self.shape.features)

    # --------------------------------------------------------------------------------------- checks

    def predictions(self, constants: Constants) -> list[Check]:
        """Return predicted and measured seconds of evaluations that are not those behind the constants."""
        third, first, most, last = self.sizes.predicted
        deepest = max(2, 2 * self.shape.layers // 3)
        cases: list[tuple[str, int, int, tuple[int, ...] | None]] = [
            (ONE, third, 1, None),
            (WHOLE, first, 3, None),
            (WHOLE, most, 1, (1, deepest)),
            (SHARDED, last, 2, None),
        ]
        return [self._predicted(constants, *case) for case in cases]

    def _predicted(
        self, constants: Constants, engine: str, count: int, languages: int, layers: tuple[int, ...] | None
    ) -> Check:
        pairs = self.pairs(count, languages)
        evaluator = NeuronXAEvaluator(pairs, layers=layers)
        shape = self.shape if layers is None else self.shape.first(layers[-1], len(layers))
        sides = [self.lengths(side) for side in (pairs[0].source, *(pair.target for pair in pairs))]
        ranks = 1 if engine == ONE else self.ranks.size
        if engine == ONE:
            constants = replace(constants, gathered=0)
        setting = Setting(shape, sides, ranks, engine == SHARDED, CPU_TOKEN_BUDGET)
        which = "all layers" if layers is None else "layers " + " and ".join(map(str, layers))
        plural = "s" if languages > 1 else ""
        what = f"{engine}: {count} pairs of {languages} language{plural}, {which}"
        return Check(what, seconds(setting, constants).total, self.seconds({engine: evaluator.score}, 2)[engine])

    def memory(self, constants: Constants) -> list[Check]:
        """Return predicted and measured bytes, of both processes. On a CPU all of them are in one memory."""
        pair = self.pairs(self.sizes.pairs)[0]
        shape, count, processes = self.shape, len(pair), self.ranks.size
        first, other = encoding(
            shape,
            Reading.of(self.lengths(pair.target), CPU_TOKEN_BUDGET, processes, CPU_PASS_TOKENS),
            processes,
            constants,
        )
        first = max(first, first_on_cpu(shape, pair, self.lengths(pair.target), processes))
        peaks = self.ranks.values(
            peak_memory(lambda: encode_all(self.decoders[WHOLE], pair.target, ("nas",), token_budget=CPU_TOKEN_BUDGET))
        )
        checks = [
            Check("a side of both processes, on the first", first, peaks[0]),
            Check("a side of both processes, on the second", other, peaks[1]),
        ]
        sides = random_sides(shape.layers, count, shape.features)
        scored = peak_memory(lambda: score(*sides)) if self.ranks.is_first else 0
        return [*checks, Check("the scores of a language pair", scoring_memory(shape, count), scored)]


def first_on_cpu(shape: Shape, pair: ParallelPairs, lengths: Sequence[int], processes: int) -> float:
    """Return the bytes of the first process when the parts of a side come and the whole side is made of them."""
    share = shape.pooled(Reading.of(lengths, CPU_TOKEN_BUDGET, processes, CPU_PASS_TOKENS).sentences)
    return share + (1 + processes) * share / shape.layers + shape.pooled(len(pair))


def min_by_tokens(pair: ParallelPairs, lengths: Callable[[Sequence[str]], list[int]], count: int) -> ParallelPairs:
    """Return the pairs with the shortest sources."""
    tokens = lengths(pair.source)
    rows = sorted(range(len(pair)), key=lambda row: tokens[row])[:count]
    source, target = ([side[row] for row in rows] for side in (pair.source, pair.target))
    return ParallelPairs(tuple(source), tuple(target), pair.source_lang, pair.target_lang)


def random_sides(layers: int, pairs: int, features: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return representations of which some pairs are aligned."""
    generator = torch.Generator().manual_seed(0)
    source, noise = (torch.rand(layers, pairs, features, generator=generator) for _ in range(2))
    return source, source / 10 + noise


def score(source: torch.Tensor, target: torch.Tensor) -> None:
    """Compute what the first process computes for a language pair."""
    NeuronXAEvaluator().report({"nas": source}, {"nas": target}, Signature.of(n=source.shape[1]))


def _score_for(sides: tuple[torch.Tensor, torch.Tensor], decoder: Decoder) -> None:
    score(*sides)


def solved(rows: Sequence[Sequence[float]], taken: Sequence[float]) -> list[float]:
    """Return the constants, not below 0, whose sums come closest to the times in proportion.

    Args:
        rows: how often each constant counts in a time.
        taken: the times in seconds.
    """
    relative = np.array(rows, dtype=float) / np.array(taken)[:, None]
    scale = relative.max(axis=0)  # counts differ by ten powers of ten
    found, _ = nnls(relative / scale, np.ones(len(taken)))
    return [float(value) for value in found / scale]


# ---------------------------------------------------------------------------------------------------- one GPU


def of_gpu(tokenizer: Any) -> OfGPU:
    """Return the constants of the GPU of benchmarks/results/gpu.json, whose models are NF4 with a LoRA.

    A training step with gradient checkpointing takes 6 operations a token and parameter of the layers, whose weights
    are frozen, and 4 of the LM head. That of the larger model says what an operation takes. What NASCA takes beyond its
    operations is divided among the layers and rounds. It holds the scores of that run, too, so it is rather too much.

    Args:
        tokenizer: the one that the benchmark ran with.
    """
    made = json.loads(gpu.RESULT.read_text(encoding="utf-8"))
    pair = ParallelPairs.load("eng_Latn-isl_Latn")
    sides = [[len(tokenizer(text)["input_ids"]) for text in side] for side in (pair.source, pair.target)]
    read = [Reading.of(side, ACCELERATOR_TOKEN_BUDGET, 1) for side in sides]
    rounds, tokens, batch = sum(its.rounds for its in read), sum(its.tokens for its in read), read[1].batch
    steps = LENGTH_RATIO * max(sides[0]) + EXTRA_TOKENS
    costs = [gpu.Cost(**cost) for cost in made["costs"]]
    shapes = [_gpu_shape(cost.shape) for cost in costs]
    head = gpu.COMMON["vocab_size"] * gpu.SHAPES[costs[-1].shape]["hidden_size"]
    step = made["step_tokens"] * (6 * shapes[-1].layers * shapes[-1].parameters + 4 * head)
    operation = costs[-1].seconds["SFT step"] / step
    layers, activations, decoded = [], [], []
    for cost, shape in zip(costs, shapes, strict=True):
        beyond = cost.seconds["NASCA"] - 2 * shape.parameters * shape.layers * tokens * operation
        layers.append(beyond / (rounds * shape.layers))
        decoded.append(cost.seconds["translation"] / (steps * shape.layers))
        activations.append((cost.mebibytes["NASCA"] * 2**20 - shape.pooled(len(pair))) / (batch * shape.features))
    return OfGPU(operation, *map(statistics.mean, (layers, activations, decoded)))


def _gpu_shape(name: str) -> Shape:
    its = gpu.COMMON | gpu.SHAPES[name]
    key_values = its["num_key_value_heads"] * its["head_dim"]
    features = int(its["intermediate_size"])
    return Shape.llama(name, its["num_hidden_layers"], its["hidden_size"], features, int(key_values), 0.5)


# ---------------------------------------------------------------------------------------------------- results


def measure(rank: int, model: Path, sizes: Sizes, folder: Path) -> None:
    """Measure as one of the processes. The first one leaves what was found in the folder."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=PROCESSES)
    bench = Bench.of_model(model, sizes)
    constants = bench.constants()
    found = {
        **describe(),
        "shape": asdict(bench.shape),
        "timings": [timing._asdict() for timing in bench.timings()],
        "constants": asdict(constants),
        "of_gpu": asdict(of_gpu(bench.decoders[ONE].tokenizer)),
        "predictions": [check._asdict() for check in bench.predictions(constants)],
        "memory": [check._asdict() for check in bench.memory(constants)],
    }
    if bench.ranks.is_first:
        (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def tables(made: dict[str, Any]) -> dict[str, str]:
    """Return the tables of the page as Markdown, by their names there."""
    return {
        "one process against two": timings_markdown([Timing(*timing.values()) for timing in made["timings"]]),
        "predicted and measured": checks_markdown(made["predictions"], lambda value: f"{value:.2f} s"),
        "memory": checks_markdown(made["memory"], lambda value: f"{value / 2**20:.1f} MiB"),
        "constants": constants_markdown(Constants(**made["constants"]), OfGPU(**made["of_gpu"])),
        "larger machines": extrapolated(
            OfGPU(**made["of_gpu"]), Constants(**made["constants"]), Assumptions(**made["assumed"])
        ),
    }


def timings_markdown(timings: Sequence[Timing]) -> str:
    """Return the seconds of each work, and their ratio to those of one process."""
    alone = {timing.work: timing.seconds for timing in timings if timing.engine == ONE}
    rows = [
        (timing.work, timing.engine, f"{timing.seconds:.2f}", f"{timing.seconds / alone[timing.work]:.2f}")
        for timing in timings
    ]
    return markdown_table(("work", "processes", "seconds", "against one process"), rows)


def checks_markdown(checks: Sequence[dict[str, Any]], shown: Callable[[float], str]) -> str:
    """Return what was predicted and measured, and the ratio of the two."""
    rows = [
        (its.what, shown(its.predicted), shown(its.measured), f"{its.predicted / its.measured:.2f}")
        for its in (Check(**check) for check in checks)
    ]
    return markdown_table(("what", "predicted", "measured", "predicted / measured"), rows)


UNITS: dict[str, tuple[str, Callable[[float], str]]] = {
    "operation": ("floating-point operations of a pass in a second", lambda value: f"{1 / value:.2g}"),
    "layer": ("a layer in a pass, whatever its tokens", lambda value: f"{1000 * value:.2g} ms"),
    "weight": ("weights that come from the other processes", lambda value: f"{_inverse(value) / 1e9:.2g} GB/s"),
    "gathered": ("parts of a side that come to the first process", lambda value: f"{_inverse(value) / 1e9:.2g} GB/s"),
    "agreement": ("an exchange of small values", lambda value: f"{1000 * value:.2g} ms"),
    "report": ("a report that all processes get", lambda value: f"{1000 * value:.2g} ms"),
    "order": ("scoring, for each layer, sentence and random order", lambda value: f"{1e9 * value:.2g} ns"),
    "number": ("scoring, for each number of both sides", lambda value: f"{1e9 * value:.2g} ns"),
    "product": ("scoring, for each product in the cosines", lambda value: f"{1e9 * value:.2g} ns"),
    "decoded": ("a layer in a step of generation", lambda value: f"{1000 * value:.2g} ms"),
    "activation": ("activations for each padded token and neuron of a layer", lambda value: f"{value:.3g} bytes"),
}


def _inverse(value: float) -> float:
    return 1 / value if value else float("inf")


def constants_markdown(of_cpu: Constants, one_gpu: OfGPU) -> str:
    """Return the constants of a thread of the CPU, and those of the recorded GPU."""
    own, other = asdict(of_cpu), asdict(one_gpu)
    rows = [
        (what, *(shown(its[name]) if name in its else "" for its in (own, other)))
        for name, (what, shown) in UNITS.items()
    ]
    return markdown_table(("constant", "one thread of the CPU", "H200"), rows)


def show(made: dict[str, Any], console: Console) -> None:
    """Print all tables."""
    for name, markdown in tables(made).items():
        header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines())
        table = Table(title=name, title_justify="left")
        for column in header:
            table.add_column(column)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print("The rows of larger machines are computed. None of them was run.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(".models/smollm2-135m-instruct"))
    parser.add_argument("--quick", action="store_true", help="measure little: it tries the benchmark, and no more")
    parser.add_argument("--recorded", action="store_true", help="measure nothing, and take what is recorded")
    parser.add_argument("--results", type=Path, default=RESULT, help="the file of the results")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page with the tables")
    for its in fields(Assumptions):
        parser.add_argument(f"--{its.name.replace('_', '-')}", type=type(its.default), default=its.default)
    options = parser.parse_args()
    if options.quick and options.results == RESULT:
        parser.error("--quick measures too little to be recorded; give --results and --page.")
    assumed = {its.name: getattr(options, its.name) for its in fields(Assumptions)}
    if options.recorded:
        made = json.loads(options.results.read_text(encoding="utf-8"))
    else:
        with tempfile.TemporaryDirectory() as folder:
            arguments = (options.model, QUICK if options.quick else Sizes(), Path(folder))
            spawn(measure, arguments, nprocs=PROCESSES)
            made = json.loads(Path(folder, "found.json").read_text(encoding="utf-8"))
        made = {"command": f"python -m benchmarks.ranks --model {options.model}"} | made
    made["assumed"] = assumed
    show(made, Console(width=180))
    options.results.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    page = options.page.read_text(encoding="utf-8")
    for name, table in tables(made).items():
        page = with_table(page, name, table)
    options.page.write_text(page, encoding="utf-8")
    print(f"written to {options.results} and {options.page}")


if __name__ == "__main__":
    main()
