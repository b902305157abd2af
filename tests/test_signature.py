"""Signatures: fields to text and back, whatever stands in a value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronxa_callback.signature import DIFFERENT, Signature

NAMES = st.text("abcdefgh_", min_size=1)
SIGNATURES = st.dictionaries(NAMES, st.text()).map(Signature.of)


@given(SIGNATURES)
def test_text_gives_the_fields_back(signature: Signature) -> None:
    assert Signature.parse(str(signature)) == signature


def test_its_text_is_that_of_sacrebleu() -> None:
    assert str(Signature.of(method="nasca", n=100)) == "method:nasca|n:100"
    text = "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0"
    assert str(Signature.parse(text)) == text


def test_a_path_may_hold_what_ends_a_field() -> None:
    signature = Signature.of(model="my|model:a 100%", comet="2.2.7")
    assert str(signature) == "model:my%7Cmodel:a 100%25|comet:2.2.7"
    assert Signature.parse(str(signature))["model"] == "my|model:a 100%"


def test_a_path_that_version_0_1_did_not_escape_is_read() -> None:
    assert Signature.parse("model:my|model|comet:2.2.7").fields == (("model", "my|model"), ("comet", "2.2.7"))


def test_an_absent_field() -> None:
    signature = Signature.of(n=100)
    assert "dtype" not in signature
    assert signature.get("dtype") is None
    with pytest.raises(KeyError):
        signature["dtype"]


def test_differences_name_what_is_here_and_what_is_wanted() -> None:
    here = Signature.of(n=100, dtype="float32", version="0.1.0")
    wanted = Signature.of(n=10, dtype="float32", layers="mean")
    assert here.differences(wanted) == {"n": ("100", "10"), "layers": ("none", "mean")}


def test_what_signatures_share() -> None:
    one, other = Signature.of(n=100, data="ab"), Signature.of(n=100, data="cd")
    assert str(Signature.common([one, other, one])) == f"n:100|data:{DIFFERENT}"
    assert Signature.common([one]) == one


def test_parts() -> None:
    signature = Signature.of(n=100, data="ab", dtype="float32")
    assert str(signature.without(["data", "absent"])) == "n:100|dtype:float32"
    assert str(signature.only(["dtype", "absent", "n"])) == "dtype:float32|n:100"
    assert str(signature.with_fields(n=10, version="0.1.0")) == "n:10|data:ab|dtype:float32|version:0.1.0"
