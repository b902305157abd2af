from __future__ import annotations

import pytest

from neuronxa_callback.text.languages import (
    code_in_name,
    code_of,
    harness_languages,
    is_language,
    language_codes,
    language_name,
    may_be,
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


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        *harness_languages().items(),
        *((code, code) for code in ("isl_Latn", "kal_Latn", "zho_Hant")),
        ("is-IS", "isl_Latn"),
        ("en_US", "eng_Latn"),
        ("EN-gb", "eng_Latn"),
        ("is-is", "isl_Latn"),
        ("isl", "isl_Latn"),
        ("ko", "kor_Hang"),
        ("ja", "jpn_Jpan"),
        ("fa", "pes_Arab"),
        ("prs", "prs_Arab"),
        ("no", "nob_Latn"),
        ("nn", "nno_Latn"),
        ("sr", "srp_Cyrl"),
        ("sr-Latn", "srp_Latn"),
        ("tgk-Cyrl", "tgk_Cyrl"),
        ("zh-CN", "zho_Hans"),
        ("zh_TW", "zho_Hant"),
        ("zh-Hant", "zho_Hant"),
        ("fil", "tgl_Latn"),
        ("kl", "kal_Latn"),
    ],
)
def test_what_a_tag_stands_for(tag: str, code: str) -> None:
    assert code_of(tag) == (None if tag == "zh" else code)
    assert may_be(tag, code)
    assert not may_be(tag, "fao_Latn")


@pytest.mark.parametrize(
    "name",
    ["zh", "zho", "xx", "src", "ref", "tok", "text", "is_in", "en-is", "pt-br", "Icelandic", "is-isl", "", None, 0],
)
def test_what_stands_for_none(name: object) -> None:
    assert code_of(name) is None


def test_every_two_letter_code_of_a_language_of_flores() -> None:
    """Each language of FLORES-200 that has a two-letter code is found by it, in its usual script."""
    import langcodes

    codes = {tag: code_of(tag) for tag in (f"{a}{b}" for a in LETTERS for b in LETTERS) if langcodes.tag_is_valid(tag)}
    found = {code for code in codes.values() if code in language_codes()}
    standard = {str(langcodes.get(code).language) for code in language_codes()}
    missing = {tag for tag in standard if len(tag) == 2} - {tag for tag, code in codes.items() if code in found}
    assert missing == {"zh"}


LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("isl_Latn.devtest", "isl_Latn"),
        ("isl_Latn.txt.gz", "isl_Latn"),
        ("newstest2019-ref.tgk-Cyrl.txt", "tgk_Cyrl"),
        ("newstest2019-ref.ven.txt", "ven_Latn"),
        ("newstest2021.en-is.ref.A.is", "isl_Latn"),
        ("newstest2020-enis-src.en.sgm", "eng_Latn"),
        ("Books.en-is.en.gz", "eng_Latn"),
        ("is.txt", "isl_Latn"),
        ("dev.zh", None),
        ("en-is.txt", None),
        ("README.md", None),
        ("LICENSE", None),
        ("is", None),
        ("notes.txt", None),
    ],
)
def test_the_language_in_a_files_name(name: str, code: str | None) -> None:
    assert code_in_name(name) == code
