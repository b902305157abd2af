"""py3langid tells the languages of the held-out sentences apart, and says which languages it cannot tell."""

from __future__ import annotations

import pytest

from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.text.languages import language_codes
from neuronxa_callback.text.recognition import can_recognise, is_in_language

pytestmark = pytest.mark.unit


def test_held_out_sentences_are_in_their_own_language_and_in_no_other() -> None:
    columns = embedded("heldout.tsv")
    wrong = {code: sum(not is_in_language(text, code) for text in texts) for code, texts in columns.items()}
    assert wrong == {"eng_Latn": 0, "isl_Latn": 0, "deu_Latn": 0, "fra_Latn": 0, "spa_Latn": 1}
    for code, texts in columns.items():
        others = [other for other in columns if other != code]
        assert sum(is_in_language(text, other) for text in texts for other in others) == 0


@pytest.mark.parametrize(
    "code", ["isl_Latn", "zho_Hans", "zho_Hant", "cmn_Hans", "arb_Arab", "nob_Latn", "nno_Latn", "fao_Latn", "swh_Latn"]
)
def test_a_language_is_known_by_any_of_its_codes(code: str) -> None:
    assert can_recognise(code)


@pytest.mark.parametrize("code", ["arb_Latn", "kas_Deva", "sat_Olck", "kal_Latn"])
def test_a_language_or_a_script_of_it_may_be_unknown(code: str) -> None:
    assert not can_recognise(code)


def test_118_languages_of_flores_are_known() -> None:
    assert sum(map(can_recognise, language_codes())) == 118


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("他昨天去了市場。", "zho_Hant"),
        ("他昨天去了市场。", "zho_Hans"),
        ("Han gikk ikke hjem i går kveld.", "nob_Latn"),
    ],
)
def test_scripts_and_written_standards_of_one_language_are_one(text: str, code: str) -> None:
    assert is_in_language(text, code)
