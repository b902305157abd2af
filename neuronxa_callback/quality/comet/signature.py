"""What the signature of a COMET score holds, and the line of sacreCOMET that cites the score.

sacreCOMET 1.0.1 (Zouhar et al., 2024, Pitfalls and Outlooks in Using COMET, https://aclanthology.org/2024.wmt-1.121/;
https://github.com/PinzhenChen/sacreCOMET) writes Python's version, COMET's version, the precision, the model and the
number of references.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuronxa_callback.signature import Signature
from neuronxa_callback.vocabulary import CometDtype

DEFAULT_DTYPE: CometDtype = "float32"
_SACRECOMET = {"float32": "fp32", "bfloat16": "bf16"}
# These are written to be cited. They tell no two scores apart that the other fields do not tell apart.
_CITED_ALONE = ("python", "references")


def wanted(model: str, dtype: CometDtype) -> Signature:
    """Return the fields that somebody chose.

    Args:
        model: the hub name or the path of a checkpoint.
        dtype: the precision of its encoder. float32 is not named, because earlier versions had nothing else.
    """
    chosen = Signature.of(model=model)
    return chosen if dtype == DEFAULT_DTYPE else chosen.with_fields(dtype=dtype)


def of_answer(chosen: Signature, answer: Mapping[str, Any]) -> Signature:
    """Return the signature of a score.

    Args:
        chosen: see `wanted`.
        answer: what the worker says of itself.

    Raises:
        KeyError: the answer lacks something.
    """
    return chosen.with_fields(comet=answer["version"], python=answer["python"], references=answer["references"])


def choices(signature: Signature) -> Signature:
    """Return the fields that two COMET scores must share to be compared. Every precision is named."""
    return signature.without(_CITED_ALONE).with_fields(dtype=signature.get("dtype") or DEFAULT_DTYPE)


def sacrecomet(signature: Signature) -> str | None:
    """Return the line of sacreCOMET for a COMET score, such as Python3.11.8|Comet2.2.2|fp32|unite-mup|r1.

    Returns:
        None for another metric's score, and for a score of an earlier version, which did not write all of it.
    """
    if not all(name in signature for name in ("comet", "model", *_CITED_ALONE)):
        return None
    dtype = signature.get("dtype") or DEFAULT_DTYPE
    precision = _SACRECOMET.get(dtype, dtype)
    return (
        f"Python{signature['python']}|Comet{signature['comet']}|{precision}|{signature['model']}"
        f"|r{signature['references']}"
    )
