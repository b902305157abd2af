from __future__ import annotations

import pytest

from neuronxa_callback.text.languages import (
    is_language,
    language_codes,
    language_name,
    tatoeba_head_languages,
    tatoeba_languages,
)

pytestmark = pytest.mark.unit


def test_flores_200_has_204_codes() -> None:
    assert len(language_codes()) == 204


def test_every_language_has_a_name_of_its_own() -> None:
    names = {language_name(code) for code in language_codes()}
    assert len(names) == 204
    assert language_name("isl_Latn") == "Icelandic"
    assert language_name("zho_Hant") == "Chinese (Traditional)"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("cmn_Hans", "Chinese (Simplified)"),
        ("cmn_Hant", "Chinese (Traditional)"),
        ("ekk_Latn", "Estonian"),
        ("fil_Latn", "Tagalog"),
        ("kal_Latn", "Kalaallisut"),
        ("wuu_Hans", "Wu Chinese"),
        ("lzh_Hant", "Literary Chinese (Traditional)"),
        ("srp_Latn", "Serbian (Latin script)"),
        ("dgo_Deva", "Dogri"),
        ("qaa_Latn", "qaa_Latn"),
        ("xxx_Latn", "xxx_Latn"),
        ("source", "source"),
    ],
)
def test_names_beyond_flores_200(code: str, name: str) -> None:
    assert language_name(code) == name


@pytest.mark.parametrize("name", ["isl_Latn", "kal_Latn", "kzj_Latn"])
def test_what_a_language_code_is(name: str) -> None:
    assert is_language(name)


@pytest.mark.parametrize("name", ["isl_Latm", "xxx_Latn", "is", "isl-Latn", "ISL_Latn", "source"])
def test_what_is_none(name: str) -> None:
    assert not is_language(name)


def test_the_papers_tatoeba_languages() -> None:
    codes = list(tatoeba_languages().values())
    assert len(codes) == len(set(codes)) == 112
    assert all(is_language(code) for code in codes)
    assert len(tatoeba_head_languages()) == 41
    assert tatoeba_head_languages() < set(codes) & language_codes()
