"""The languages of a run, and what is refused."""

from __future__ import annotations

import languages
import pytest
from languages import Languages
from preflight import PreflightError

pytestmark = [pytest.mark.recipe, pytest.mark.once]


def test_one_target_or_several() -> None:
    assert languages.of("eng_Latn", "isl_Latn", None, None) == Languages("eng_Latn", ("isl_Latn",))
    several = languages.of("deu_Latn", None, ["isl_Latn", "fra_Latn"], ["fao_Latn"])
    assert several.trained == ("deu_Latn", "isl_Latn", "fra_Latn")
    assert several.watched == ("isl_Latn", "fra_Latn", "fao_Latn")
    assert several.trained_pairs == ("deu_Latn-isl_Latn", "deu_Latn-fra_Latn")
    assert several.described == "German, Icelandic and French"


@pytest.mark.parametrize(
    ("source", "target", "targets", "controls", "sentence"),
    [
        ("eng_Latn", None, None, None, "neither was given"),
        ("eng_Latn", "isl_Latn", ["fra_Latn"], None, "both were given"),
        ("english", "isl_Latn", None, None, "'english' is not a FLORES-200 language code"),
        ("eng_Latn", "isl_Lat", None, None, "the nearest are isl_Latn"),
        ("eng_Latn", "isl_Latn", None, ["de"], "'de' is not a FLORES-200 language code"),
        ("eng_Latn", "eng_Latn", None, None, "eng_Latn was given twice"),
        ("eng_Latn", None, ["fra_Latn", "isl_Latn"], ["fra_Latn"], "fra_Latn was given twice"),
    ],
)
def test_languages_that_cannot_be_used_are_refused(
    source: str, target: str | None, targets: list[str] | None, controls: list[str] | None, sentence: str
) -> None:
    with pytest.raises(PreflightError) as raised:
        languages.of(source, target, targets, controls)
    message = str(raised.value)
    assert sentence in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("code", "short"), [("isl_Latn", "is"), ("zho_Hans", "zh"), ("deu_Latn", "de"), ("fao_Latn", "fo")]
)
def test_the_short_code_of_a_language(code: str, short: str) -> None:
    assert languages.short(code) == short
