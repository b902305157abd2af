"""Copying, the wrong language and length, against what they are when each is worked out slowly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

import py3langid
import pytest

from neuronxa_callback import ParallelPairs
from neuronxa_callback.quality.faithfulness import Faithfulness, faithfulness, is_long_enough
from neuronxa_callback.text.embedded import embedded

pytestmark = pytest.mark.unit

PAIRS = ParallelPairs.load("eng_Latn-isl_Latn", n=20)
CHINESE = ParallelPairs(
    ("He went to the market yesterday.", "We sold seventy cars.", "The harbour is frozen."),
    ("他昨天去了市场。", "我们卖了七十辆车。", "港口结冰了。"),
    "eng_Latn",
    "zho_Hans",
)
LONG_CHINESE = ("他昨天去了市场买菜。", "我们今年卖了七十辆旧车。", "港口结冰了，船只不能出海。")


def slow_chrf(texts: Sequence[str], references: Sequence[str]) -> float:
    """chrF2 of a corpus by its definition (Popović 2015): character n-grams up to 6, without spaces, recall twice."""
    scores = []
    for n in range(1, 7):
        counts = [[grams(side, n) for side in sides] for sides in (texts, references)]
        shared = sum(sum((ours & theirs).values()) for ours, theirs in zip(*counts, strict=True))
        made, there = (sum(sum(of_one.values()) for of_one in side) for side in counts)
        precision, recall = shared / made, shared / there
        scores.append((precision, recall))
    p, r = (fmean(side) for side in zip(*scores, strict=True))
    return 100 * 5 * p * r / (4 * p + r)


def grams(text: str, n: int) -> Counter[str]:
    letters = "".join(text.split())
    return Counter(letters[start : start + n] for start in range(len(letters) - n + 1))


def mixed(pairs: ParallelPairs) -> list[str]:
    """Right, copied, in a third language, empty and too short, in turn."""
    german = embedded("heldout.tsv")["deu_Latn"]
    choices = (pairs.target, pairs.source, german, [""] * len(pairs), ["Já."] * len(pairs))
    return [choices[i % 5][i] for i in range(len(pairs))]


def test_each_number_is_what_it_says() -> None:
    texts = mixed(PAIRS)
    found = faithfulness(PAIRS, texts)
    assert found.copied == pytest.approx(slow_chrf(texts, PAIRS.source))
    long = [text for text in texts if len([letter for letter in text if letter.isalpha()]) >= 20]
    assert len(long) == 12
    assert found.off_target == sum(py3langid.classify(text)[0] != "is" for text in long) / 12 == 8 / 12
    assert found.length == len("".join(texts)) / len("".join(PAIRS.target))


def test_sources_that_were_left_as_they_were() -> None:
    found = faithfulness(PAIRS, PAIRS.source)
    assert found.copied == pytest.approx(100)
    assert found.off_target == 1


def test_perfect_translations() -> None:
    found = faithfulness(PAIRS, PAIRS.target)
    assert (found.off_target, found.length) == (0, 1)
    assert found.copied == pytest.approx(slow_chrf(PAIRS.target, PAIRS.source))


def test_empty_translations() -> None:
    assert faithfulness(PAIRS, [""] * len(PAIRS)) == Faithfulness(0.0, None, 0.0)


@pytest.mark.parametrize("code", ["kas_Deva", "kal_Latn"])
def test_a_language_that_py3langid_does_not_know_has_no_share(code: str) -> None:
    pairs = ParallelPairs(PAIRS.source, PAIRS.target, "eng_Latn", code)
    assert faithfulness(pairs, PAIRS.target).off_target is None
    assert faithfulness(pairs, PAIRS.target).length == 1


def test_translations_that_are_all_too_short_have_no_share() -> None:
    assert faithfulness(PAIRS, ["Yes, Peter, in 1945."] * len(PAIRS)).off_target is None
    assert faithfulness(PAIRS, ["1234 5678 9012 3456 7890 1234"] * len(PAIRS)).off_target is None


def test_a_short_translation_does_not_count_as_wrong() -> None:
    some = [PAIRS.target[0], "Yes, Peter.", *PAIRS.target[2:]]
    assert faithfulness(PAIRS, some).off_target == 0


def test_chinese_needs_fewer_letters() -> None:
    assert [is_long_enough(text) for text in CHINESE.target] == [True, True, False]
    found = faithfulness(CHINESE, LONG_CHINESE)
    assert found.off_target == 0
    assert found.length == sum(map(len, LONG_CHINESE)) / sum(map(len, CHINESE.target))
    wrong = ("彼は昨日市場へ行きました。", LONG_CHINESE[1], "We sold seventy old cars.")
    assert faithfulness(CHINESE, wrong).off_target == 2 / 3


def test_twenty_letters_are_counted_without_spaces_and_digits() -> None:
    assert is_long_enough("a" * 20)
    assert is_long_enough("ab " * 10)
    assert not is_long_enough("a" * 19 + " 1234567890 ...")
    assert is_long_enough("船" * 7)
    assert not is_long_enough("船" * 6 + "a")


def test_what_the_docs_say_of_short_texts_and_of_references() -> None:
    """docs/explanation/quality.md has these numbers."""
    there = [ParallelPairs.load(f"eng_Latn-{code}") for code in ("isl_Latn", "deu_Latn", "fra_Latn", "spa_Latn")]
    back = ParallelPairs(there[0].target, there[0].source, "isl_Latn", "eng_Latn")
    shares = {
        pairs.target_lang: faithfulness(pairs, list(map(beginning, pairs.target))).off_target
        for pairs in (back, *there)
    }
    assert shares == {"eng_Latn": 0.09, "isl_Latn": 0.02, "deu_Latn": 0.04, "fra_Latn": 0.04, "spa_Latn": 0.17}
    copied = {pairs.target_lang: round(faithfulness(pairs, pairs.target).copied) for pairs in there}
    assert copied == {"isl_Latn": 15, "deu_Latn": 21, "fra_Latn": 24, "spa_Latn": 22}


def beginning(text: str) -> str:
    """The first words of a text with 20 letters together."""
    words = text.split()
    return next(" ".join(words[:n]) for n in range(1, len(words) + 1) if is_long_enough(" ".join(words[:n])))
