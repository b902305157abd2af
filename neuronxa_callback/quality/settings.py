"""The object behind `quality="chrf"`: which metrics score the model's translations, and how it translates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from neuronxa_callback.vocabulary import CometDtype, Direction

if TYPE_CHECKING:  # the command line reads the defaults and the help without importing torch
    from neuronxa_callback.quality.metrics import Metric
    from neuronxa_callback.quality.prompts import Prompt

COMET_MODEL = "Unbabel/wmt22-comet-da"
COMETKIWI_MODEL = "Unbabel/wmt22-cometkiwi-da"


@dataclass(frozen=True)
class Quality:
    """Which quality metrics score the model's translations, and how the model translates.

    Usage:
        ```python
        NeuronXACallback(quality=Quality(("comet", "chrf"), direction="both", comet_device="cuda:1"))
        ```

    The help of each field says what it means, as in TrainingArguments. docs/how-to/comet.md says more.

    Raises:
        ValueError: a value cannot be used. `NeuronXACallback` raises this error.
    """

    metrics: Literal["auto"] | Metric | Sequence[Metric] = field(
        default="auto",
        metadata={
            "help": "Any of comet, cometkiwi, chrf, bleu and objects with a method score(sources, translations, "
            "references); () for none. auto: COMET and CometKiwi if their environment and models are on this machine."
        },
    )
    direction: Direction = field(
        default="source->target", metadata={"help": "What is translated: source->target, target->source or both."}
    )
    prompt: Prompt | None = field(
        default=None,
        metadata={
            "help": "The prompt that you train on: a template with {source} in it, or a function. Default: the chat "
            "template if the tokenizer has one, otherwise a plain prompt."
        },
    )
    comet_model: str = field(default=COMET_MODEL, metadata={"help": "COMET model: hub name or path of a checkpoint."})
    cometkiwi_model: str = field(
        default=COMETKIWI_MODEL, metadata={"help": "COMET model without references: hub name or path of a checkpoint."}
    )
    comet_device: str = field(default="cpu", metadata={"help": "Where COMET runs: cpu, cuda or cuda:N."})
    comet_batch_size: int = field(
        default=8, metadata={"help": "Segments that COMET scores at once. It is halved when memory runs out."}
    )
    comet_dtype: CometDtype = field(
        default="float32", metadata={"help": "Precision of COMET's encoder: float32 or bfloat16."}
    )
    comet_timeout: float = field(
        default=1200,
        metadata={
            "help": "Seconds that COMET may take for one direction with one model, which includes loading the model."
        },
    )
    wait: bool = field(
        default=False,
        metadata={
            "help": "Make training wait for COMET at every evaluation. It always waits if metric_for_best_model or "
            "the stopping rule's metric is one of COMET's, and in an evaluate() outside training."
        },
    )
    pairs: str | Sequence[str] | None = field(
        default=None,
        metadata={
            "help": "Names of the language pairs whose sources are translated, such as eng_Latn-fra_Latn. None "
            "translates those of all watched pairs."
        },
    )
    translate_n: int | None = field(
        default=None,
        metadata={
            "help": "How many of each language pair's held-out sources are translated, always the same ones. None "
            "translates all."
        },
    )
