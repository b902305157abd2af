"""The options that commands share. Each group is a dataclass, and its fields hold the options' defaults and help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from neuronxa_callback.alignment.settings import AlignmentSettings
from neuronxa_callback.quality.settings import Quality
from neuronxa_callback.vocabulary import (
    CometDtype,
    Direction,
    Dtype,
    Eq4Representation,
    LayerPooling,
    Method,
    MetricName,
    Representation,
    TableFormat,
    TokenPooling,
    check_choice,
    help_of,
)

if TYPE_CHECKING:
    from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator
    from neuronxa_callback.quality.evaluator import QualityEvaluator
    from neuronxa_callback.survey.measure import ModelChoice
    from neuronxa_callback.text.corpora import Corpus
    from neuronxa_callback.text.pairs import ParallelPairs

# Two groups have this argument.
MODEL = {"help": "Folder or hub name of a model, or the folder of an adapter."}

# Two commands have this argument.
OutputDirs = Annotated[
    list[Path],
    typer.Argument(
        metavar="OUTPUT_DIR", help="The output_dir of a run, or of each of several runs, the baseline first."
    ),
]

# Ends the help of options that take several values.
REPEATABLE = "Repeatable, or with commas."


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How weights are loaded; see `ModelChoice`."""

    load_in_4bit: bool = field(default=False, metadata={"help": "Load the weights in NF4."})
    dtype: Dtype = field(default="auto", metadata={"help": "auto (as stored), float32, bfloat16 or float16."})
    device: str | None = field(
        default=None, metadata={"help": "cpu, cuda or cuda:N.", "show_default": "a GPU if there is one"}
    )

    def choice(self, model: str, adapter: str | None = None) -> ModelChoice:
        """Return the choice of this model and adapter, loaded as these options say."""
        from neuronxa_callback.survey.measure import ModelChoice

        return ModelChoice(model, adapter, self.dtype, self.load_in_4bit, self.device)


@dataclass(frozen=True, kw_only=True)
class OneModel(Loading):
    """A model and the adapter on it."""

    model: str = field(metadata=MODEL)
    adapter: str | None = field(default=None, metadata={"help": "Folder of an adapter to put on the model."})

    def chosen(self) -> ModelChoice:
        """Return what the survey takes."""
        return self.choice(self.model, self.adapter)


@dataclass(frozen=True, kw_only=True)
class TwoModels(Loading):
    """Two models that are loaded in the same way."""

    model: str = field(metadata=MODEL)
    other: str = field(metadata={"help": "The model that is compared with it, given in the same way."})

    def chosen(self) -> tuple[ModelChoice, ModelChoice]:
        """Return what the survey takes."""
        return self.choice(self.model), self.choice(self.other)


@dataclass(frozen=True, kw_only=True)
class Text:
    """Which sentences in which languages."""

    pairs: str = field(
        default="embedded",
        metadata={
            "help": "embedded, a file with a column for each language, a folder with a file for each language, or a "
            "data set of the hub."
        },
    )
    langs: list[str] | None = field(
        default=None,
        metadata={"help": f"FLORES-200 codes. {REPEATABLE}", "show_default": "all of the text"},
    )
    n: int = field(default=100, metadata={"help": "How many sentences of each language, from the first on.", "min": 2})

    def corpus(self) -> Corpus:
        """Open the text.

        Raises:
            PairsError: the text does not exist or cannot be read.
        """
        from neuronxa_callback.text.corpora import open_corpus

        return open_corpus(self.pairs, self.n)

    @property
    def languages(self) -> list[str]:
        """The chosen languages; an empty list means all languages of the text."""
        return listed(self.langs)


@dataclass(frozen=True, kw_only=True)
class PivotText(Text):
    """Which sentences in which languages, and the pivot that each language is paired with."""

    pivot: str = field(default="eng_Latn", metadata={"help": "The language that the others are compared with."})


@dataclass(frozen=True, kw_only=True)
class Methods:
    """Which methods measure alignment."""

    methods: list[str] | None = field(
        default=None,
        metadata={
            "help": help_of(AlignmentSettings, "methods", REPEATABLE),
            "show_default": ",".join(AlignmentSettings.methods),
        },
    )

    def chosen(self) -> list[Method]:
        """Return the chosen methods, or the default ones.

        Raises:
            ValueError: an unknown method.
        """
        methods = cast("list[Method]", checked("method", listed(self.methods), Method))
        return methods or list(AlignmentSettings.methods)


@dataclass(frozen=True, kw_only=True)
class Representations:
    """Which representations are read, for commands that have no methods."""

    representations: list[str] | None = field(
        default=None,
        metadata={
            "help": f"One or several of {', '.join(get_args(Eq4Representation))}. {REPEATABLE}",
            "show_default": "embedding,nas",
        },
    )

    def chosen(self) -> list[Representation]:
        """Return the chosen representations, each once, or the default ones.

        Raises:
            ValueError: an unknown representation.
        """
        reads = checked("representation", listed(self.representations), Eq4Representation) or ["embedding", "nas"]
        return cast("list[Representation]", list(dict.fromkeys(reads)))


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How sentences are encoded."""

    token_pooling: TokenPooling = field(
        default=AlignmentSettings.token_pooling, metadata={"help": help_of(AlignmentSettings, "token_pooling")}
    )
    token_budget: int | None = field(
        default=AlignmentSettings.token_budget,
        metadata={
            "help": help_of(AlignmentSettings, "token_budget"),
            "show_default": "512 on a CPU, 8192 elsewhere",
        },
    )


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Which layers are read, and how their values become a score."""

    layer_pooling: LayerPooling = field(
        default=AlignmentSettings.layer_pooling, metadata={"help": help_of(AlignmentSettings, "layer_pooling")}
    )
    layers: list[str] | None = field(
        default=None,
        metadata={"help": help_of(AlignmentSettings, "layers", REPEATABLE), "show_default": "all"},
    )

    def numbers(self) -> list[int] | None:
        """Return the numbers of the chosen layers; None for all layers.

        Raises:
            ValueError: a layer is no number.
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
            "help": help_of(
                AlignmentSettings, "representations", f"Written as METHOD=REPRESENTATION, such as cka=nav. {REPEATABLE}"
            ),
            "show_default": "what the method's own paper reads",
        },
    )

    def evaluator(
        self, pairs: Sequence[ParallelPairs], permutations: int = AlignmentSettings.permutations
    ) -> NeuronXAEvaluator:
        """Return the evaluator that measures these pairs as the options say.

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
        """Return method -> chosen representation. The evaluator checks both names."""
        chosen = {}
        for choice in listed(self.representation):
            method, separator, read = choice.partition("=")
            if not separator:
                raise ValueError(f"--representation {choice} is no choice such as cka=nav.")
            chosen[method] = read
        return cast("dict[Method, Representation]", chosen)


@dataclass(frozen=True, kw_only=True)
class Testing(Measuring):
    """How alignment is measured, and tested against chance."""

    permutations: int = field(
        default=AlignmentSettings.permutations,
        metadata={"help": help_of(AlignmentSettings, "permutations"), "min": 0},
    )


@dataclass(frozen=True, kw_only=True)
class Translating:
    """How translations are made and scored."""

    quality: list[str] | None = field(
        default=None,
        metadata={
            "help": f"One or several of {', '.join(get_args(MetricName))}. {REPEATABLE}",
            "show_default": "none",
        },
    )
    comet_model: str = field(default=Quality.comet_model, metadata={"help": help_of(Quality, "comet_model")})
    cometkiwi_model: str = field(
        default=Quality.cometkiwi_model, metadata={"help": help_of(Quality, "cometkiwi_model")}
    )
    comet_device: str = field(default=Quality.comet_device, metadata={"help": help_of(Quality, "comet_device")})
    comet_dtype: CometDtype = field(default=Quality.comet_dtype, metadata={"help": help_of(Quality, "comet_dtype")})
    prompt: str | None = field(
        default=None,
        metadata={
            "help": "The prompt that you train on: a template with {source} in it.",
            "show_default": "the chat template, or plain",
        },
    )
    direction: Direction = field(default=Quality.direction, metadata={"help": help_of(Quality, "direction")})
    quality_pairs: list[str] | None = field(
        default=None, metadata={"help": help_of(Quality, "pairs", REPEATABLE), "show_default": "all"}
    )
    translate_n: int | None = field(
        default=Quality.translate_n,
        metadata={"help": help_of(Quality, "translate_n"), "show_default": "all"},
    )

    def evaluator(self, pairs: Sequence[ParallelPairs]) -> QualityEvaluator:
        """Return the evaluator that has these pairs translated, or some of them, and scores the translations.

        Raises:
            ValueError: an unknown choice.
        """
        from neuronxa_callback.quality.evaluator import QualityEvaluator

        quality = Quality(
            cast("list[MetricName]", listed(self.quality)),  # the evaluator checks the names
            self.direction,
            self.prompt,
            self.comet_model,
            self.cometkiwi_model,
            self.comet_device,
            comet_dtype=self.comet_dtype,
            pairs=listed(self.quality_pairs) or None,
            translate_n=self.translate_n,
        )
        return QualityEvaluator.of_settings(quality, pairs)


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Where scores are kept."""

    output: Path = field(
        default=Path("neuronxa-scores"),
        metadata={"help": "Folder of scores and figures; scores that it already holds are not measured again."},
    )


@dataclass(frozen=True, kw_only=True)
class Showing:
    """How a table is printed."""

    format: TableFormat | None = field(
        default=None,
        metadata={"help": "json, csv, markdown or latex, on stdout.", "show_default": "a table on the terminal"},
    )


@dataclass(frozen=True, kw_only=True)
class ShowingMeans(Showing):
    """How a table and its means are printed."""

    summary: bool = field(
        default=False, metadata={"help": "Print only the means, which CSV and JSON leave out otherwise."}
    )


def listed(values: list[str] | None) -> list[str]:
    """Return the values of an option that may be repeated and may hold several values with commas between them."""
    return [part.strip() for value in values or [] for part in value.split(",") if part.strip()]


def checked(name: str, values: list[str], choices: Any) -> list[str]:
    """Return the values after a check.

    Raises:
        ValueError: a value is none of the Literal type's choices.
    """
    for value in values:
        check_choice(name, value, choices)
    return values
