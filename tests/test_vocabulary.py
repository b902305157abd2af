from __future__ import annotations

from typing import Literal, get_args

import pytest

from neuronxa_callback import vocabulary
from neuronxa_callback.vocabulary import Method, split_method

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("method", get_args(Method))
def test_a_method_is_split_from_what_follows_it(method: Method) -> None:
    assert split_method(method) == (method, "")
    assert split_method(f"{method}_comet") == (method, "comet")
    assert split_method(f"{method}_eng_Latn-isl_Latn") == (method, "eng_Latn-isl_Latn")
    assert split_method(f"{method}_a_metric") == (method, "a_metric")


@pytest.mark.parametrize("name", ["comet", "comet_eng_Latn-isl_Latn", "nascar", "loss", "", "mexa2_x"])
def test_other_names_have_no_method(name: str) -> None:
    assert split_method(name) == (None, name)


def test_of_two_methods_the_longer_name_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "Method", Literal["nasca", "nasca_other"])
    assert split_method("nasca_other_comet") == ("nasca_other", "comet")
    assert split_method("nasca_other") == ("nasca_other", "")
    assert split_method("nasca_others") == ("nasca", "others")
