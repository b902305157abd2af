"""The section `neuronxa:` of a trainer's YAML file, and the callback that its settings make."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticKnownError

from neuronxa_callback.quality.settings import Quality
from neuronxa_callback.text.pairs import DEFAULT_SIZE, ParallelPairs
from neuronxa_callback.training.callback import NeuronXACallback
from neuronxa_callback.training.settings import StoppingRule
from neuronxa_callback.vocabulary import CometDtype, Direction, Method, MetricName, TokenPooling

SECTION = "neuronxa"

_DEFAULT = {name: its.default for name, its in inspect.signature(NeuronXACallback).parameters.items()}


class SettingsError(ValueError):
    """The section cannot be used. The message is one sentence that names the key and says what to do."""


def callback_of(section: Any) -> NeuronXACallback:
    """Return the callback that a section of a YAML file describes.

    Args:
        section: what the file has below `neuronxa:`. None, as an empty section gives it, takes every default.

    Raises:
        SettingsError: an unknown key, a value that cannot be used, or pairs that cannot be read.
    """
    settings = settings_of(section)
    try:
        return NeuronXACallback(
            [pair.load() for pair in settings.pairs],
            methods=settings.methods,
            eval_steps=settings.eval_steps,
            token_pooling=settings.token_pooling,
            token_budget=settings.token_budget,
            layers=settings.layers,
            quality=settings.quality.read(),
            early_stopping_patience=settings.early_stopping_patience,
            stopping=settings.stopping.read() if settings.stopping else None,
            max_overhead=settings.max_overhead,
            on_error=settings.on_error,
        )
    except ValueError as error:
        raise SettingsError(f"{SECTION}: {error}") from error


def settings_of(section: Any) -> Settings:
    """Return the settings of a section, without reading any file that it names.

    Raises:
        SettingsError: an unknown key or a value that cannot be used.
    """
    section = {} if section is None else section
    if not isinstance(section, Mapping):
        raise SettingsError(f"{SECTION} is {_shown(section)}; {_LINES}, or nothing for the defaults.")
    try:
        return Settings.model_validate(dict(section))
    except ValidationError as error:
        raise SettingsError(_sentence(error.errors()[0], section)) from error


# ---------------------------------------------------------------------------------------------- the parts of a section


def _number(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic takes true for 1
        raise PydanticKnownError("float_type")
    return value


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _listed_if_given(value: Any) -> Any:
    return None if value is None else _listed(value)


def _pairs(value: Any) -> Any:
    value = _DEFAULT["pairs"] if value is None else value
    return [item if isinstance(item, Mapping | PairsSection) else {"text": item} for item in _listed(value)]


def _quality(value: Any) -> Any:
    value = _DEFAULT["quality"] if value is None else value
    return value if isinstance(value, Mapping | QualitySection) else {"metrics": value}


_Whole = Annotated[int, BeforeValidator(_number)]
_Number = Annotated[float, BeforeValidator(_number)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PairsSection(_Section):
    """One language pair: what `ParallelPairs.load` takes.

    Attributes:
        text: two codes, a file, a test set of sacrebleu, or two files whose lines correspond.
    """

    text: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1, max_length=2)]
    source_lang: str | None = None
    target_lang: str | None = None
    columns: tuple[str, str] | None = None
    reference: str | None = None
    n: _Whole | None = DEFAULT_SIZE

    def load(self) -> ParallelPairs:
        """Read the pairs.

        Raises:
            PairsError: the pairs cannot be used.
        """
        return ParallelPairs.load(
            self.text if len(self.text) == 2 else self.text[0],
            self.source_lang,
            self.target_lang,
            columns=self.columns,
            reference=self.reference,
            n=self.n,
        )


class QualitySection(_Section):
    """What `Quality` takes, without metrics and prompts that are Python objects."""

    metrics: Annotated[tuple[Literal["auto", MetricName], ...], BeforeValidator(_listed)] = ("auto",)
    direction: Direction = Quality.direction
    prompt: str | None = None
    comet_model: str = Quality.comet_model
    cometkiwi_model: str = Quality.cometkiwi_model
    comet_device: str = Quality.comet_device
    comet_batch_size: _Whole = Quality.comet_batch_size
    comet_dtype: CometDtype = Quality.comet_dtype
    comet_timeout: _Number = Quality.comet_timeout
    wait: bool = Quality.wait
    pairs: Annotated[tuple[str, ...] | None, BeforeValidator(_listed_if_given)] = None
    translate_n: _Whole | None = Quality.translate_n

    def read(self) -> Quality:
        """Return the object that `NeuronXACallback` takes."""
        is_auto = self.metrics == ("auto",)
        return Quality(**{**dict(self), "metrics": "auto" if is_auto else self.metrics})


class StoppingSection(_Section):
    """What `StoppingRule` takes."""

    patience: _Whole | None = StoppingRule.patience
    metric: str | None = StoppingRule.metric
    min_delta: _Number = StoppingRule.min_delta
    warmup: _Whole = StoppingRule.warmup
    floor: dict[str, _Number] | None = None
    stop_at_floor: bool = StoppingRule.stop_at_floor

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.read()
        return self

    def read(self) -> StoppingRule:
        """Return the object that `NeuronXACallback` takes.

        Raises:
            ValueError: a number is out of its range.
        """
        return StoppingRule(**dict(self))


class Settings(_Section):
    """The settings that a YAML file may have below `neuronxa:`, named as the arguments of `NeuronXACallback`.

    `tokenizer` and `train_texts` are Python objects, so a YAML file cannot give them.
    """

    pairs: Annotated[tuple[PairsSection, ...], BeforeValidator(_pairs)] = Field(
        default=_DEFAULT["pairs"], validate_default=True
    )
    methods: Annotated[tuple[Method, ...], BeforeValidator(_listed)] = _DEFAULT["methods"]
    eval_steps: _Number = _DEFAULT["eval_steps"]
    token_pooling: TokenPooling = _DEFAULT["token_pooling"]
    token_budget: _Whole | None = _DEFAULT["token_budget"]
    layers: Annotated[tuple[_Whole, ...] | None, BeforeValidator(_listed_if_given)] = _DEFAULT["layers"]
    quality: Annotated[QualitySection, BeforeValidator(_quality)] = Field(
        default=_DEFAULT["quality"], validate_default=True
    )
    early_stopping_patience: _Whole | None = _DEFAULT["early_stopping_patience"]
    stopping: StoppingSection | None = _DEFAULT["stopping"]
    max_overhead: _Number = _DEFAULT["max_overhead"]
    on_error: Literal["warn", "raise"] = _DEFAULT["on_error"]


# ------------------------------------------------------------------------------------------------------ its errors

_LINES = "write its settings below it, one `key: value` a line"

# pydantic's own words are about Python's types.
_MUST_BE = {
    "bool": "true or false",
    "dict": "keys with values, one `key: value` a line",
    "float": "a number",
    "int": "a whole number",
    "string": "text, in quotes if YAML would read it otherwise",
    "tuple": "a list",
}


def _sentence(fault: ErrorDetails, section: Any) -> str:
    """Return a fault of a section as one sentence."""
    location, kind, given = fault["loc"], fault["type"], _shown(fault["input"])
    if kind == "invalid_key":
        known = ", ".join(_known(location))
        return f"{_place(location[:-1], section)} has the key {given}, which is no word; choose from {known}."
    if location[-1] == "[key]":
        return f"{_place(location[:-2], section)} has the key {given}, which is no word; put it in quotes."
    place = _place(location, section)
    if kind == "extra_forbidden":
        return f"{place} is unknown; {_nearest(location[-1], _known(location))}."
    if kind == "missing":
        return f"{place}.{location[-1]} is missing; add it."
    if kind in ("too_long", "too_short"):
        limits = fault["ctx"]
        wanted = f"{limits['max_length']} at most" if kind == "too_long" else f"{limits['min_length']} at least"
        return f"{place} has {limits['actual_length']} values; give {wanted}."
    if kind == "value_error":
        return f"{place}: {fault['msg'].removeprefix('Value error, ').rstrip('.')}."
    if kind == "model_type":
        return f"{place} is {given}; {_LINES}."
    must_be = _MUST_BE.get(kind.split("_")[0]) or fault["msg"].removeprefix("Input should be ")
    return f"{place} is {given}; it must be {must_be}."


def _place(location: Sequence[int | str], section: Any) -> str:
    """Return the keys that lead to a fault, as the user wrote them: without those that a short form leaves out."""
    place, value = [SECTION], section
    for key in location:
        is_there = key in value if isinstance(value, Mapping) else isinstance(value, list) and key in range(len(value))
        if is_there:
            place.append(str(key))
            value = value[key]
    return ".".join(place)


def _known(location: Sequence[int | str]) -> Collection[str]:
    """Return the keys of the part of the section in which a key is."""
    parts: Mapping[Any, type[_Section]] = {
        "pairs": PairsSection,
        "quality": QualitySection,
        "stopping": StoppingSection,
    }
    part = parts.get(location[0], Settings) if len(location) > 1 else Settings
    return list(part.model_fields)


def _nearest(key: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(key), known := list(known), n=1)
    return f"the nearest key is {near[0]}" if near else f"remove it, or choose from {', '.join(known)}"


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
