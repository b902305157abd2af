"""Axolotl's plugin: it adds the callback that the section `neuronxa:` of Axolotl's YAML file describes."""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel, field_validator

from neuronxa_callback.integrations.settings import callback_of, settings_of
from neuronxa_callback.training.callback import NeuronXACallback


class NeuronXAArgs(BaseModel):
    """What the plugin adds to Axolotl's own settings.

    Attributes:
        neuronxa: the section. None takes every default.
    """

    neuronxa: dict[str, Any] | None = None

    @field_validator("neuronxa", mode="before")
    @classmethod
    def _check(cls, section: Any) -> Any:
        settings_of(section)
        return section


class NeuronXAPlugin(BasePlugin):
    """Watch cross-lingual alignment in an Axolotl training.

    Usage:
        ```yaml
        plugins:
          - neuronxa_callback.integrations.axolotl.NeuronXAPlugin
        neuronxa:
          pairs: eng_Latn-isl_Latn
        ```
    """

    def get_input_args(self) -> str:
        """Return the name of the class with which Axolotl checks the section."""
        return f"{NeuronXAArgs.__module__}.{NeuronXAArgs.__name__}"

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[NeuronXACallback]:
        """Return the callback for the Trainer that Axolotl is about to make.

        Raises:
            SettingsError: the section cannot be used, as where its pairs cannot be read.
        """
        section = cfg.neuronxa
        return [callback_of(section.to_dict() if section else None)]
