"""What the signature of a COMET score holds, and the line that cites it."""

from __future__ import annotations

import pytest

from neuronxa_callback.quality.comet import signature as comet_signature
from neuronxa_callback.signature import Signature
from neuronxa_callback.vocabulary import CometDtype

pytestmark = pytest.mark.unit

# The answer's part that makes sacreCOMET's own example, of which its README of 1.0.1 lacks the references.
ANSWER = {"version": "2.2.2", "python": "3.11.8", "references": 1}


@pytest.mark.parametrize(
    ("dtype", "signature", "cited"),
    [
        (
            "float32",
            "model:unite-mup|comet:2.2.2|python:3.11.8|references:1",
            "Python3.11.8|Comet2.2.2|fp32|unite-mup|r1",
        ),
        (
            "bfloat16",
            "model:unite-mup|dtype:bfloat16|comet:2.2.2|python:3.11.8|references:1",
            "Python3.11.8|Comet2.2.2|bf16|unite-mup|r1",
        ),
    ],
)
def test_it_names_a_precision_other_than_float32_and_can_be_cited(
    dtype: CometDtype, signature: str, cited: str
) -> None:
    made = comet_signature.of_answer(comet_signature.wanted("unite-mup", dtype), ANSWER)
    assert str(made) == signature
    assert comet_signature.sacrecomet(Signature.parse(signature)) == cited


@pytest.mark.parametrize("signature", ["model:unite-mup|comet:2.2.2", "nrefs:1|case:mixed|eff:yes|nc:6|nw:0", ""])
def test_what_an_earlier_version_or_another_metric_wrote_gives_no_line(signature: str) -> None:
    assert comet_signature.sacrecomet(Signature.parse(signature)) is None


def test_an_earlier_versions_choices_are_those_of_float32_now() -> None:
    earlier = Signature.parse("model:unite-mup|comet:2.2.2")
    float32, bfloat16 = (
        comet_signature.of_answer(comet_signature.wanted("unite-mup", dtype), ANSWER)
        for dtype in ("float32", "bfloat16")
    )
    assert not comet_signature.choices(earlier).differences(comet_signature.choices(float32))
    assert comet_signature.choices(earlier).differences(comet_signature.choices(bfloat16)) == {
        "dtype": ("float32", "bfloat16")
    }
