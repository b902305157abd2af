"""What an evaluation costs on several processes: time and memory as formulas of measured constants.

`benchmarks.ranks` measures the constants and shows how far the formulas are from measured times. The formulas follow
the code of `alignment/` with its defaults, NASCA and its rank score:

* A side of the pairs is read in rounds. In a round each process makes one forward pass over a batch of its own.
* FSDP and ZeRO 3 bring all weights of the decoder layers together in each round.
* The first process gets the other parts of a side, and it alone scores.
* Languages that share a pivot share its side: K languages have K + 1 sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuronxa_callback.alignment.batches import shares
from neuronxa_callback.quality.translation import EXTRA_TOKENS, LENGTH_RATIO
from neuronxa_callback.significance import RESAMPLES
from neuronxa_callback.tables import markdown_table

FLOAT32, FLOAT64 = 4, 8
METHODS = 2  # NASCA and its rank score
AGREEMENTS = 4  # exchanges of small values for each side: `together` twice, what is not finite, and the widths
SCORED_AT_ONCE = 3  # float64 copies of the layer that is scored (`cosines.unit`)


@dataclass(frozen=True)
class Shape:
    """What the cost of a model depends on.

    Attributes:
        name: the model's name in tables.
        layers: the decoder layers that a pass runs through.
        features: the FFN neurons of a layer.
        parameters: the parameters of a decoder layer.
        parameter_bytes: the bytes of a parameter.
        layers_read: the layers whose neurons are read, if these are not all that a pass runs through.
    """

    name: str
    layers: int
    features: int
    parameters: int
    parameter_bytes: float
    layers_read: int | None = None

    @classmethod
    def llama(
        cls, name: str, layers: int, hidden: int, features: int, key_values: int, parameter_bytes: float
    ) -> Shape:
        """Return a Llama's shape, without its norms.

        Args:
            name: the model's name in tables.
            layers: its layers.
            hidden: the hidden size.
            features: the FFN neurons of a layer.
            key_values: the size of all key heads together.
            parameter_bytes: the bytes of a parameter.
        """
        parameters = 2 * hidden * hidden + 2 * hidden * key_values + 3 * hidden * features
        return cls(name, layers, features, parameters, parameter_bytes)

    def first(self, deepest: int, layers_read: int) -> Shape:
        """Return the shape of the first layers, some of which are read."""
        return Shape(self.name, deepest, self.features, self.parameters, self.parameter_bytes, layers_read)

    @property
    def weights(self) -> float:
        """The bytes of the weights of the decoder layers that a pass runs through."""
        return self.layers * self.parameters * self.parameter_bytes

    def pooled(self, sentences: int) -> int:
        """Return the bytes of so many sentences' pooled neuron states."""
        return (self.layers_read or self.layers) * sentences * self.features * FLOAT32


@dataclass(frozen=True)
class Constants:
    """What is measured, or assumed, of machines.

    Attributes:
        operation: seconds of a floating-point operation of a forward pass. A token takes 2 operations a parameter.
        layer: seconds that a layer takes in a forward pass whatever the number of tokens.
        weight: seconds for each byte of weights that a process gets from the others in a round.
        gathered: seconds for each byte of a side that comes to the first process and into its CPU memory; 0 for one
            process on a CPU.
        agreement: seconds of an exchange of small values.
        report: seconds until all processes have a language pair's report.
        order: seconds of scoring for each sentence, random order and layer.
        number: seconds of scoring for each number of the two sides.
        product: seconds of scoring for each product of two numbers in the cosines.
        activation: bytes of a batch's activations for each padded token and neuron of one layer.
    """

    operation: float
    layer: float
    weight: float
    gathered: float
    agreement: float
    report: float
    order: float
    number: float
    product: float
    activation: float


@dataclass(frozen=True)
class Setting:
    """An evaluation.

    Attributes:
        shape: the model's.
        sides: the tokens of each sentence, of the pivot's side and of each language's.
        ranks: the number of processes.
        sharded: whether each process holds a part of the weights (FSDP, ZeRO 3).
        token_budget: padded tokens in a batch at most.
    """

    shape: Shape
    sides: Sequence[Sequence[int]]
    ranks: int
    sharded: bool
    token_budget: int

    @property
    def languages(self) -> int:
        """The languages that are compared with the pivot."""
        return len(self.sides) - 1

    @property
    def sentences(self) -> int:
        """The sentences of a side."""
        return len(self.sides[0])


@dataclass(frozen=True)
class Reading:
    """How a side is dealt to the processes.

    Attributes:
        rounds: the passes that each process makes.
        tokens: the padded tokens of the process that has the most of them.
        batch: the padded tokens of the largest batch.
        sentences: the sentences of the process that has the most of them.
    """

    rounds: int
    tokens: int
    batch: int
    sentences: int

    @classmethod
    def of(cls, lengths: Sequence[int], token_budget: int, ranks: int, pass_tokens: int | None = None) -> Reading:
        """Return how `batches.shares` deals sentences of these lengths."""
        dealt = shares([[0] * length for length in lengths], token_budget, pass_tokens, ranks)
        padded = [[len(rows) * max(lengths[row] for row in rows) for rows in its] for its in dealt]
        return cls(
            rounds=len(dealt[0]),
            tokens=max(map(sum, padded)),
            batch=max(max(its, default=0) for its in padded),
            sentences=max(sum(map(len, its)) for its in dealt),
        )


@dataclass(frozen=True)
class Seconds:
    """The time of an evaluation.

    Attributes:
        passes: the forward passes of the slowest process.
        weights: bringing the weights of the layers together in each round.
        sides: bringing the sides to the first process.
        agreements: the exchanges of small values and of the reports.
        scoring: the scores, on the first process while the others wait.
    """

    passes: float
    weights: float
    sides: float
    agreements: float
    scoring: float

    @property
    def total(self) -> float:
        """The seconds of the evaluation."""
        return self.passes + self.weights + self.sides + self.agreements + self.scoring


def seconds(setting: Setting, constants: Constants) -> Seconds:
    """Return the time of an evaluation behind the first one, which also checks the model."""
    shape, several = setting.shape, setting.ranks > 1
    read = [Reading.of(side, setting.token_budget, setting.ranks) for side in setting.sides]
    rounds, tokens = sum(its.rounds for its in read), sum(its.tokens for its in read)
    operations = 2 * shape.parameters * shape.layers * tokens
    return Seconds(
        passes=rounds * shape.layers * constants.layer + operations * constants.operation,
        weights=rounds * of_others(shape.weights, setting.ranks) * constants.weight if setting.sharded else 0,
        sides=len(read) * shape.pooled(setting.sentences) * constants.gathered,
        agreements=len(read) * AGREEMENTS * constants.agreement + setting.languages * constants.report
        if several
        else 0,
        scoring=setting.languages * scoring(shape, setting.sentences, constants),
    )


def of_others(size: float, ranks: int) -> float:
    """Return the part of something that the other processes hold if all hold equal parts of it."""
    return size * (ranks - 1) / ranks


def scoring_counts(shape: Shape, sentences: int) -> tuple[int, int, int]:
    """Return what the scores of a language pair are made of: the numbers that the scoring constants stand for.

    Returns:
        layers * random orders * sentences, the numbers of both sides, and the products of the cosines.
    """
    numbers = shape.pooled(sentences) // FLOAT32
    layers = shape.layers_read or shape.layers
    return layers * RESAMPLES * sentences, 2 * numbers, numbers * sentences


def scoring(shape: Shape, sentences: int, constants: Constants) -> float:
    """Return the seconds that a language pair's scores take."""
    orders, numbers, products = scoring_counts(shape, sentences)
    return orders * constants.order + numbers * constants.number + products * constants.product


def translation(setting: Setting, constants: Constants, decoded: float) -> float:
    """Return the seconds of translating the first side if a sentence runs to its limit, and all fit into one batch.

    The pass over the prompts is left out.

    Args:
        setting: the evaluation.
        constants: its constants.
        decoded: the seconds that a layer takes in a step of generation.
    """
    steps = LENGTH_RATIO * max(setting.sides[0]) + EXTRA_TOKENS
    weights = of_others(setting.shape.weights, setting.ranks) * constants.weight if setting.sharded else 0
    return steps * (setting.shape.layers * decoded + weights)


@dataclass(frozen=True)
class Memory:
    """The most bytes that an evaluation takes at a time, beside the model.

    Weights that a pass brings together are left out: a training step brings the same ones together.

    Attributes:
        first: on the first process's device.
        others: on another process's device.
        first_cpu: in the first process's CPU memory.
        others_cpu: in another process's CPU memory.
    """

    first: float
    others: float
    first_cpu: float
    others_cpu: float


def memory(setting: Setting, constants: Constants) -> Memory:
    """Return the memory of an evaluation whose device is not the CPU."""
    shape = setting.shape
    read = [Reading.of(side, setting.token_budget, setting.ranks) for side in setting.sides]
    peaks = [encoding(shape, its, setting.ranks, constants) for its in read]
    whole = shape.pooled(setting.sentences)
    reports = setting.languages * METHODS * 2 * RESAMPLES * FLOAT64  # `TornApart.score` and `.greatest`
    return Memory(
        first=max(first for first, _ in peaks),
        others=max(other for _, other in peaks) if setting.ranks > 1 else 0,
        first_cpu=2 * whole + scoring_memory(shape, setting.sentences) + reports,
        others_cpu=reports if setting.ranks > 1 else 0,
    )


def encoding(shape: Shape, read: Reading, ranks: int, constants: Constants) -> tuple[float, float]:
    """Return the bytes that reading a side takes on the first process's device, and on another's.

    The parts are sent layer by layer. A process then holds its part and a copy of one layer, and the first process also
    holds that layer of all parts.
    """
    share = shape.pooled(read.sentences)
    reading = share + constants.activation * read.batch * shape.features
    if ranks == 1:
        return reading, 0
    layer = share / (shape.layers_read or shape.layers)
    return max(reading, share + (1 + ranks) * layer), max(reading, share + layer)


def scoring_memory(shape: Shape, sentences: int) -> float:
    """Return the bytes that the cosines take, for many more features than sentences."""
    return SCORED_AT_ONCE * sentences * shape.features * FLOAT64


# --------------------------------------------------------------------------------------------- larger machines


@dataclass(frozen=True)
class Assumptions:
    """What was never measured: links between GPUs, and a GPU's way to the CPU's memory.

    Attributes:
        node_bytes: bytes that a GPU gets from those of its node in a second.
        link_bytes: bytes that a GPU gets from those of other nodes in a second.
        copy_bytes: bytes of a side that come from the GPU to their places in the CPU's memory in a second.
        agreement: seconds of an exchange of small values.
        gpus_of_node: the GPUs of a node.
    """

    node_bytes: float = 200e9
    link_bytes: float = 25e9
    copy_bytes: float = 2e9
    agreement: float = 0.005
    gpus_of_node: int = 8

    def bytes_per_second(self, gpus: int) -> float:
        """Return the bytes that a GPU gets from so many in a second."""
        return self.node_bytes if gpus <= self.gpus_of_node else self.link_bytes


@dataclass(frozen=True)
class Case:
    """A row of the table of larger machines. The weights are bfloat16."""

    shape: Shape
    engine: str
    gpus: int
    languages: int


LLAMA_8B = Shape.llama("Llama 3.1 8B", 32, 4096, 14336, 1024, 2)
LLAMA_70B = Shape.llama("Llama 3.1 70B", 80, 8192, 28672, 1024, 2)
CASES = (
    Case(LLAMA_8B, "one GPU", 1, 1),
    Case(LLAMA_8B, "DDP", 8, 1),
    Case(LLAMA_8B, "DDP", 8, 4),
    Case(LLAMA_8B, "FSDP", 8, 1),
    Case(LLAMA_8B, "FSDP", 8, 4),
    Case(LLAMA_70B, "FSDP or ZeRO 3", 64, 1),
    Case(LLAMA_70B, "FSDP or ZeRO 3", 64, 10),
    Case(LLAMA_70B, "FSDP or ZeRO 3", 64, 200),
)
SENTENCES, TOKENS, GPU_TOKEN_BUDGET = 100, 25, 8192


@dataclass(frozen=True)
class OfGPU:
    """The constants of one GPU, from its recorded benchmark; see `benchmarks.ranks.of_gpu`.

    Attributes:
        operation: as in `Constants`, like `layer` and `activation`.
        layer: see `operation`.
        activation: see `operation`.
        decoded: seconds that a layer takes in a step of generation.
    """

    operation: float
    layer: float
    activation: float
    decoded: float


def on_gpus(gpus: int, of_gpu: OfGPU, of_cpu: Constants, assumed: Assumptions) -> Constants:
    """Return the constants of so many GPUs. The first process scores with one CPU thread, as it was measured."""
    per_byte = 1 / assumed.bytes_per_second(gpus) if gpus > 1 else 0
    return Constants(
        operation=of_gpu.operation,
        layer=of_gpu.layer,
        activation=of_gpu.activation,
        weight=per_byte,
        gathered=per_byte + 1 / assumed.copy_bytes,
        agreement=assumed.agreement,
        report=assumed.agreement,
        order=of_cpu.order,
        number=of_cpu.number,
        product=of_cpu.product,
    )


def setting_of(case: Case) -> Setting:
    """Return the evaluation of a row: 100 pairs of 25 tokens a sentence."""
    sides = [(TOKENS,) * SENTENCES] * (case.languages + 1)
    return Setting(case.shape, sides, case.gpus, case.engine not in ("one GPU", "DDP"), GPU_TOKEN_BUDGET)


def extrapolated(of_gpu: OfGPU, of_cpu: Constants, assumed: Assumptions) -> str:
    """Return the table of larger machines as Markdown. It is computed, and none of it was run."""
    rows = []
    for case in CASES:
        setting, constants = setting_of(case), on_gpus(case.gpus, of_gpu, of_cpu, assumed)
        time, held = seconds(setting, constants), memory(setting, constants)
        rows.append(
            (
                case.shape.name,
                case.engine,
                str(case.gpus),
                str(case.languages),
                duration(time.total),
                *(duration(part) for part in (time.passes, time.weights, time.sides + time.agreements, time.scoring)),
                gigabytes(held.first),
                gigabytes(held.others) if case.gpus > 1 else "",
                gigabytes(held.first_cpu),
                duration(translation(setting, constants, of_gpu.decoded)),
            )
        )
    header = (
        "model",
        "engine",
        "GPUs",
        "languages",
        "evaluation",
        "passes",
        "weights",
        "sides",
        "scoring",
        "GPU memory, first",
        "GPU memory, others",
        "CPU memory, first",
        "one translation",
    )
    return markdown_table(header, rows)


def duration(value: float) -> str:
    """Return seconds as text, and minutes from 100 seconds on."""
    if value == 0:
        return "0"
    if value >= 100:
        return f"{value / 60:.0f} min" if value >= 600 else f"{value / 60:.1f} min"
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"


def gigabytes(value: float) -> str:
    """Return bytes as text."""
    return f"{value / 1e9:.1f} GB"
