"""The options that commands share: a dataclass a group, whose fields hold the options' defaults and help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from neuronxa_callback.quality.settings import Quality
from neuronxa_callback.tables import TableFormat
from neuronxa_callback.vocabulary import (
    Direction,
    Dtype,
    LayerPooling,
    Method,
    MetricName,
    Representation,
    TokenPooling,
    check_choice,
)

if TYPE_CHECKING:
    from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator
    from neuronxa_callback.quality.evaluator import QualityEvaluator
    from neuronxa_callback.survey.measure import ModelChoice
    from neuronxa_callback.text.corpora import Corpus
    from neuronxa_callback.text.pairs import ParallelPairs

# Two groups have this argument.
MODEL = {"help": "Folder or hub name of a model, or the folder of an adapter."}


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How weights are loaded; see `ModelChoice`."""

    load_in_4bit: bool = field(default=False, metadata={"help": "Load the weights in NF4."})
    dtype: Dtype = field(default="auto", metadata={"help": "auto (as stored), float32, bfloat16 or float16."})
    device: str | None = field(
        default=None, metadata={"help": "cpu, cuda or cuda:N.", "show_default": "a GPU if there is one"}
    )

    def choice(self, model: str, adapter: str | None = None) -> ModelChoice:
        """This model, with this adapter on it, loaded in this way."""
        from neuronxa_callback.survey.measure import ModelChoice

        return ModelChoice(model, adapter, self.dtype, self.load_in_4bit, self.device)


@dataclass(frozen=True, kw_only=True)
class OneModel(Loading):
    """A model and the adapter on it."""

    model: str = field(metadata=MODEL)
    adapter: str | None = field(default=None, metadata={"help": "Folder of an adapter to put on the model."})

    def chosen(self) -> ModelChoice:
        """What the survey takes."""
        return self.choice(self.model, self.adapter)


@dataclass(frozen=True, kw_only=True)
class TwoModels(Loading):
    """Two models that are loaded in the same way."""

    model: str = field(metadata=MODEL)
    other: str = field(metadata={"help": "The same of the model that is compared with it."})

    def chosen(self) -> tuple[ModelChoice, ModelChoice]:
        """What the survey takes."""
        return self.choice(self.model), self.choice(self.other)


@dataclass(frozen=True, kw_only=True)
class Text:
    """Which sentences in which languages."""

    pairs: str = field(
        default="embedded",
        metadata={
            "help": "embedded, a file with a column a language, a folder with a file a language, or a data set of the "
            "hub."
        },
    )
    langs: list[str] | None = field(
        default=None,
        metadata={"help": "FLORES-200 codes; repeatable, or with commas.", "show_default": "all there are"},
    )
    n: int = field(default=100, metadata={"help": "Sentences of each language, the first of the text.", "min": 2})

    def corpus(self) -> Corpus:
        """The text.

        Raises:
            PairsError: it is not there, or it cannot be read.
        """
        from neuronxa_callback.text.corpora import open_corpus

        return open_corpus(self.pairs, self.n)

    @property
    def languages(self) -> list[str]:
        """The chosen languages; an empty list for all of the text."""
        return listed(self.langs)


@dataclass(frozen=True, kw_only=True)
class PivotText(Text):
    """Which sentences in which languages, each of which is paired with one language."""

    pivot: str = field(default="eng_Latn", metadata={"help": "The language that the others are compared with."})


@dataclass(frozen=True, kw_only=True)
class Methods:
    """Which methods measure alignment."""

    methods: list[str] | None = field(
        default=None,
        metadata={
            "help": "nasca, navca, mexa, cka, svcca, anc, sads; repeatable, or with commas.",
            "show_default": "nasca",
        },
    )

    def chosen(self) -> list[Method]:
        """The methods.

        Raises:
            ValueError: an unknown method.
        """
        return cast("list[Method]", checked("method", listed(self.methods), Method)) or ["nasca"]


@dataclass(frozen=True, kw_only=True)
class Representations:
    """What of a model is read, for commands that have no methods."""

    representations: list[str] | None = field(
        default=None,
        metadata={"help": "embedding, nas, nav; repeatable, or with commas.", "show_default": "embedding,nas"},
    )

    def chosen(self) -> list[Representation]:
        """The representations, each once.

        Raises:
            ValueError: an unknown representation.
        """
        reads = checked("representation", listed(self.representations), Representation) or ["embedding", "nas"]
        return cast("list[Representation]", list(dict.fromkeys(reads)))


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How sentences are encoded."""

    token_pooling: TokenPooling = field(default="weighted", metadata={"help": "weighted, average or last."})
    token_budget: int | None = field(
        default=None, metadata={"help": "Padded tokens in a batch.", "show_default": "512 on a CPU, 8192 elsewhere"}
    )


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Which layers are read, and what is made of their values."""

    layer_pooling: LayerPooling = field(default="mean", metadata={"help": "mean or max."})
    layers: list[str] | None = field(
        default=None,
        metadata={
            "help": "Which layers, such as 8,16,24; the pass ends after the deepest.",
            "show_default": "all",
        },
    )

    def numbers(self) -> list[int] | None:
        """The chosen layers; None for all.

        Raises:
            ValueError: one of them is no number.
        """
        wrong = [layer for layer in listed(self.layers) if not layer.isdigit()]
        if wrong:
            raise ValueError(f"--layers {wrong[0]} is no number of a layer, such as 16.")
        return [int(layer) for layer in listed(self.layers)] or None


@dataclass(frozen=True, kw_only=True)
class Measuring(Layers, Encoding, Methods):
    """How alignment is measured."""

    representation: list[str] | None = field(
        default=None,
        metadata={
            "help": "What a method reads, as cka=nav; repeatable, or with commas.",
            "show_default": "as its source",
        },
    )

    def evaluator(self, pairs: Sequence[ParallelPairs], permutations: int = 0) -> NeuronXAEvaluator:
        """What measures these pairs in this way.

        Raises:
            ValueError: an unknown choice.
        """
        from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator

        return NeuronXAEvaluator(
            list(pairs),
            self.chosen(),
            self.token_pooling,
            self.token_budget,
            self.layer_pooling,
            self._representations(),
            permutations,
            self.numbers(),
        )

    def _representations(self) -> dict[Method, Representation]:
        """What is chosen for a method; the evaluator checks both words."""
        chosen = {}
        for choice in listed(self.representation):
            method, separator, read = choice.partition("=")
            if not separator:
                raise ValueError(f"--representation {choice} is no choice such as cka=nav.")
            chosen[method] = read
        return cast("dict[Method, Representation]", chosen)


@dataclass(frozen=True, kw_only=True)
class Testing(Measuring):
    """How alignment is measured, and tested."""

    permutations: int = field(
        default=199,
        metadata={"help": "How often pairs are torn apart for the p-values of cka, svcca, anc and sads.", "min": 0},
    )


def defined(kind: type, name: str) -> Mapping[str, Any]:
    """The help that a class of the library gives one of its fields."""
    return next(part.metadata for part in fields(kind) if part.name == name)


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How translations are made and scored."""

    quality: list[str] | None = field(
        default=None,
        metadata={"help": "comet, cometkiwi, chrf, bleu; repeatable, or with commas.", "show_default": "none"},
    )
    comet_model: str = field(default=Quality.comet_model, metadata=defined(Quality, "comet_model"))
    cometkiwi_model: str = field(default=Quality.cometkiwi_model, metadata=defined(Quality, "cometkiwi_model"))
    comet_device: str = field(default=Quality.comet_device, metadata=defined(Quality, "comet_device"))
    prompt: str | None = field(
        default=None,
        metadata={
            "help": "Prompt of the training, with {source} in it.",
            "show_default": "the chat template, or plain",
        },
    )
    direction: Direction = field(default=Quality.direction, metadata=defined(Quality, "direction"))

    def evaluator(self, pairs: Sequence[ParallelPairs]) -> QualityEvaluator:
        """What translates these pairs and scores the translations.

        Raises:
            ValueError: an unknown choice.
        """
        from neuronxa_callback.quality.evaluator import QualityEvaluator

        return QualityEvaluator(
            cast("list[MetricName]", listed(self.quality)),  # the evaluator checks them, and has a name for them
            pairs,
            self.direction,
            self.prompt,
            self.comet_model,
            self.cometkiwi_model,
            self.comet_device,
        )


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Where scores are kept."""

    output: Path = field(
        default=Path("neuronxa-scores"),
        metadata={"help": "Folder of the scores; what it holds already is not measured again."},
    )


@dataclass(frozen=True, kw_only=True)
class Showing:
    """How a table is written."""

    format: TableFormat | None = field(
        default=None,
        metadata={"help": "json, csv, markdown or latex, on stdout.", "show_default": "a table on the terminal"},
    )


@dataclass(frozen=True, kw_only=True)
class ShowingMeans(Showing):
    """How a table and its means are written."""

    summary: bool = field(default=False, metadata={"help": "The means alone, which CSV and JSON leave out otherwise."})


def listed(values: list[str] | None) -> list[str]:
    """The values of an option that may be repeated and may hold several, with commas between them."""
    return [part.strip() for value in values or [] for part in value.split(",") if part.strip()]


def checked(name: str, values: list[str], choices: Any) -> list[str]:
    """The values.

    Raises:
        ValueError: one of them is none of the Literal type's choices.
    """
    for value in values:
        check_choice(name, value, choices)
    return values
