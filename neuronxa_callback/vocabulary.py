"""The words that this package's arguments, files and figures share: choices, method groups and display names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Literal, get_args

Eq4Representation = Literal["nas", "nav", "embedding"]  # those of NASCA, NAVCA and MEXA
NeuronRepresentation = Literal["nas", "nav", "signed"]
Representation = Literal[Eq4Representation, "signed"]
TokenPooling = Literal["weighted", "average", "last"]
LayerPooling = Literal["mean", "max"]
Method = Literal["nasca", "nasca_rank", "navca", "mexa", "cka", "svcca", "anc", "sads"]
MetricName = Literal["comet", "cometkiwi", "chrf", "bleu"]
Direction = Literal["source->target", "target->source", "both"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
CometDtype = Literal["float32", "bfloat16"]
TableFormat = Literal["json", "csv", "markdown", "latex"]

# The representation that each method reads in its paper: CKA, SVCCA and ANC use layer outputs, SADS signed neuron
# values, averaged over the tokens of a sentence that is read without special tokens.
REPRESENTATION_OF: dict[Method, Representation] = {
    "nasca": "nas",
    "nasca_rank": "nas",
    "navca": "nav",
    "mexa": "embedding",
    "cka": "embedding",
    "svcca": "embedding",
    "anc": "embedding",
    "sads": "signed",
}


def reads_neurons(representations: Iterable[Representation]) -> bool:
    """Return whether any of the representations is one of FFN neurons, and not of hidden states."""
    return any(representation != "embedding" for representation in representations)


# These scores are shares of weakly aligned pairs. The paper's Eq. 5 is about them.
ALIGNMENT: tuple[Method, ...] = ("nasca", "navca", "mexa")
# These scores are means over the sentence pairs, so intervals and paired tests over the pairs are defined.
OVER_PAIRS: tuple[Method, ...] = (*ALIGNMENT, "nasca_rank", "sads")

_NAMES = {"comet": "COMET", "cometkiwi": "CometKiwi", "chrf": "chrF", "bleu": "BLEU"}
_NAMES |= {method: method.upper() for method in get_args(Method)} | {"nasca_rank": "NASCA rank"}


def score_name(score: str) -> str:
    """Return a method's or metric's name as its authors write it; a user's own metric keeps its name."""
    return _NAMES.get(score, score)


def split_method(name: str) -> tuple[Method | None, str]:
    """Split a score's name into the method that it begins with and the rest.

    Args:
        name: such as "nasca_eng_Latn-isl_Latn", "nasca_comet" or "comet", without "eval_".

    Returns:
        ("nasca", "eng_Latn-isl_Latn"), ("nasca", "comet"), (None, "comet"). Of two methods the longer name counts.
    """
    found = [method for method in get_args(Method) if name == method or name.startswith(f"{method}_")]
    if not found:
        return None, name
    method: Method = max(found, key=len)
    return method, name.removeprefix(method).removeprefix("_")


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raise ValueError if an argument is not one of its Literal type's choices; the message lists them."""
    if value not in get_args(choices):
        raise ValueError(f"{name} {value!r} is unknown; choose from {', '.join(get_args(choices))}.")


def help_of(settings: Any, name: str, addition: str = "") -> str:
    """Return the help that a settings class gives one of its fields.

    Args:
        settings: `AlignmentSettings`, `Quality` or `StoppingRule`.
        name: the field.
        addition: a sentence to put after the help, for what holds only where the help is shown.
    """
    text: str = next(part.metadata["help"] for part in fields(settings) if part.name == name)
    return f"{text} {addition}".strip()
