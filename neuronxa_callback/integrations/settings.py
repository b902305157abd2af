"""The section `neuronxa:` of a trainer's YAML file, and the callback that its settings make."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from neuronxa_callback.quality.settings import Quality
from neuronxa_callback.text.pairs import DEFAULT_SIZE, ParallelPairs
from neuronxa_callback.training.callback import NeuronXACallback
from neuronxa_callback.training.settings import StoppingRule
from neuronxa_callback.vocabulary import Direction, Method, MetricName, TokenPooling

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
            stopping=settings.stopping,
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
        raise SettingsError(
            f"{SECTION} is {_shown(section)}; write its settings below it, one `key: value` a line, or nothing for "
            "the defaults."
        )
    try:
        return Settings.model_validate(dict(section))
    except ValidationError as error:
        raise SettingsError(_sentence(error)) from error


# ---------------------------------------------------------------------------------------------- the parts of a section


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _listed_if_given(value: Any) -> Any:
    return None if value is None else _listed(value)


def _pairs(value: Any) -> Any:
    return [item if isinstance(item, Mapping | PairsSection) else {"text": item} for item in _listed(value)]


def _quality(value: Any) -> Any:
    return value if isinstance(value, Mapping | QualitySection) else {"metrics": value}


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
    n: int | None = DEFAULT_SIZE

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
    comet_batch_size: int = Quality.comet_batch_size
    comet_timeout: float = Quality.comet_timeout
    wait: bool = Quality.wait
    pairs: Annotated[tuple[str, ...] | None, BeforeValidator(_listed_if_given)] = None

    def read(self) -> Quality:
        """Return the object that `NeuronXACallback` takes."""
        is_auto = self.metrics == ("auto",)
        return Quality(**{**dict(self), "metrics": "auto" if is_auto else self.metrics})


class Settings(_Section):
    """The settings that a YAML file may have below `neuronxa:`, named as the arguments of `NeuronXACallback`.

    `tokenizer` and `train_texts` are Python objects, so a YAML file cannot give them.
    """

    pairs: Annotated[tuple[PairsSection, ...], BeforeValidator(_pairs)] = Field(
        default=_DEFAULT["pairs"], validate_default=True
    )
    methods: Annotated[tuple[Method, ...], BeforeValidator(_listed)] = _DEFAULT["methods"]
    eval_steps: float = _DEFAULT["eval_steps"]
    token_pooling: TokenPooling = _DEFAULT["token_pooling"]
    token_budget: int | None = _DEFAULT["token_budget"]
    layers: Annotated[tuple[int, ...] | None, BeforeValidator(_listed_if_given)] = _DEFAULT["layers"]
    quality: Annotated[QualitySection, BeforeValidator(_quality)] = Field(
        default=_DEFAULT["quality"], validate_default=True
    )
    early_stopping_patience: int | None = _DEFAULT["early_stopping_patience"]
    stopping: StoppingRule | None = _DEFAULT["stopping"]
    max_overhead: float = _DEFAULT["max_overhead"]
    on_error: Literal["warn", "raise"] = _DEFAULT["on_error"]


# ------------------------------------------------------------------------------------------------------ its errors

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def _sentence(error: ValidationError) -> str:
    """Return the first fault that was found as one sentence."""
    fault = error.errors()[0]
    key, *inside = map(str, fault["loc"])
    place = ".".join((SECTION, key, *inside))
    message = fault["msg"].removeprefix("Value error, ").rstrip(".")
    if fault["type"] in _UNKNOWN:
        return f"{place} is unknown; {_nearest(fault['loc'][-1], _known(key if inside else ''))}."
    if fault["type"] == "missing":
        return f"{place} is missing; add it."
    if fault["type"] == "value_error":
        return f"{place}: {message}."
    return f"{place} is {_shown(fault['input'])}; {message.replace('Input should', 'it must', 1)}."


def _known(part: str) -> Collection[str]:
    """Return the keys of a part of the section, or those of the section itself for an empty name."""
    if part == "stopping":
        return [its.name for its in fields(StoppingRule)]
    parts: Mapping[str, type[_Section]] = {"pairs": PairsSection, "quality": QualitySection}
    return list(parts.get(part, Settings).model_fields)


def _nearest(key: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(key), known := list(known), n=1)
    return f"the nearest key is {near[0]}" if near else f"remove it, or choose from {', '.join(known)}"


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
