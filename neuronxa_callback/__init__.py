"""Cross-lingual alignment (NeuronXA) measured inside Hugging Face fine-tuning runs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from neuronxa_callback._version import __version__ as __version__

if TYPE_CHECKING:
    from neuronxa_callback.alignment.encoder import encode
    from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator
    from neuronxa_callback.alignment.report import AlignmentReport
    from neuronxa_callback.alignment.scores import alignment_score
    from neuronxa_callback.quality.settings import Quality
    from neuronxa_callback.text.pairs import ParallelPairs
    from neuronxa_callback.training.callback import NeuronXACallback
    from neuronxa_callback.training.settings import StoppingRule

__all__ = [
    "AlignmentReport",
    "NeuronXACallback",
    "NeuronXAEvaluator",
    "ParallelPairs",
    "Quality",
    "StoppingRule",
    "alignment_score",
    "encode",
]

# A name is imported at its first use, so that `encode` loads neither the Trainer nor matplotlib.
_PLACES = {
    "AlignmentReport": "alignment.report",
    "NeuronXACallback": "training.callback",
    "NeuronXAEvaluator": "alignment.evaluator",
    "ParallelPairs": "text.pairs",
    "Quality": "quality.settings",
    "StoppingRule": "training.settings",
    "alignment_score": "alignment.scores",
    "encode": "alignment.encoder",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
