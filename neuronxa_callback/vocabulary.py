"""The words that this package's arguments, files and figures share: choices, groups of methods, names for people."""

from __future__ import annotations

from typing import Any, Literal, get_args

Representation = Literal["nas", "nav", "embedding"]
TokenPooling = Literal["weighted", "average", "last"]
LayerPooling = Literal["mean", "max"]
Method = Literal["nasca", "navca", "mexa", "cka", "svcca", "anc", "sads"]
MetricName = Literal["comet", "cometkiwi", "chrf", "bleu"]
Direction = Literal["source->target", "target->source", "both"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

# What each method's source reads: CKA, SVCCA and ANC compare the outputs of layers, SADS values of neurons.
REPRESENTATION_OF: dict[Method, Representation] = {
    "nasca": "nas",
    "navca": "nav",
    "mexa": "embedding",
    "cka": "embedding",
    "svcca": "embedding",
    "anc": "embedding",
    "sads": "nav",
}

# Shares of weakly aligned pairs, whose chance level is Eq. 5's.
ALIGNMENT: tuple[Method, ...] = ("nasca", "navca", "mexa")
# Means over the sentence pairs, so that intervals and paired tests over these are defined.
OVER_PAIRS: tuple[Method, ...] = (*ALIGNMENT, "sads")

_NAMES = {"comet": "COMET", "cometkiwi": "CometKiwi", "chrf": "chrF", "bleu": "BLEU"}
_NAMES |= {method: method.upper() for method in get_args(Method)}


def score_name(score: str) -> str:
    """A method or metric as its authors write it; a metric of the user's own by the name it has."""
    return _NAMES.get(score, score)


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raise ValueError for an argument that is none of its Literal type's choices, listing these."""
    if value not in get_args(choices):
        raise ValueError(f"{name} {value!r} is unknown; choose from {', '.join(get_args(choices))}.")
