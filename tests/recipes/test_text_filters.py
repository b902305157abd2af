"""Training text is cleaned with exact counts."""

from __future__ import annotations

from collections import Counter

import pytest
from text_filters import clean_documents, clean_pairs

from neuronxa_callback import ParallelPairs
from neuronxa_callback.text.embedded import embedded

pytestmark = pytest.mark.recipe

HELD_OUT = ParallelPairs.load("eng_Latn-isl_Latn")
TRAIN = embedded("demo_train.tsv")
PAIRS = list(zip(TRAIN["eng_Latn"], TRAIN["isl_Latn"], strict=True))[:2]


def test_each_filter_counts_what_it_removes() -> None:
    english, icelandic = PAIRS[0]
    rows = [
        PAIRS[0],
        None,
        ("", icelandic),
        (english, " "),
        (english, icelandic * 3),
        (f"  {english.upper()} ", icelandic),
        (icelandic + " Já.", icelandic),
        (english, "The kitchen tap has been dripping for weeks."),
        (HELD_OUT.source[3], "Þetta er einhver önnur þýðing en hin."),
        ("Somebody else's translation of it, which differs.", HELD_OUT.target[5]),
        ("Yes.", "Já."),
        PAIRS[1],
    ]
    counts: Counter[str] = Counter()
    kept = list(clean_pairs(rows, ("eng_Latn", "isl_Latn"), [HELD_OUT], counts))
    assert kept == [PAIRS[0], ("Yes.", "Já."), PAIRS[1]]
    assert counts == {
        "read": 12,
        "malformed": 1,
        "empty": 2,
        "length ratio": 1,
        "duplicate": 1,
        "wrong language": 2,
        "held-out": 2,
        "kept": 3,
    }


def test_a_language_that_cannot_be_recognised_is_not_checked() -> None:
    rows = [("The kitchen tap has been dripping for weeks.", "Ilinniartitsisut atuartitsipput ulluinnarni.")]
    counts: Counter[str] = Counter()
    assert list(clean_pairs(rows, ("eng_Latn", "kal_Latn"), [HELD_OUT], counts)) == rows
    assert list(clean_pairs(rows, ("eng_Latn", "fra_Latn"), [HELD_OUT], counts)) == []
    assert counts["wrong language"] == 1


def test_documents_are_cleaned_likewise() -> None:
    documents = [
        "Það var einu sinni karl og kerling í koti sínu. Þau áttu þrjár dætur.",
        "",
        "Það var einu sinni  karl og kerling í koti sínu. Þau áttu þrjár dætur.",
        "Once upon a time there lived an old man and his wife in a cottage.",
        f"Hann skrifaði þetta niður: {HELD_OUT.target[0].lower()} Síðan fór hann heim.",
    ]
    counts: Counter[str] = Counter()
    assert list(clean_documents(documents, "isl_Latn", [HELD_OUT], counts)) == documents[:1]
    assert counts == {"read": 5, "kept": 1, "empty": 1, "duplicate": 1, "wrong language": 1, "held-out": 1}
