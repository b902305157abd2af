"""What a quality metric can mistake for quality: text copied from the source, the wrong language, and odd lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

from neuronxa_callback.text.recognition import can_recognise, is_in_language

if TYPE_CHECKING:
    from neuronxa_callback.text.pairs import ParallelPairs

FEWEST_LETTERS = 20  # of a translation whose language is judged
# A Chinese sentence has far fewer letters than an English one, and py3langid knows its language by fewer.
LETTERS_OF_A_WIDE_ONE = 3


@dataclass(frozen=True)
class Faithfulness:
    """What one direction's translations have to do with their sources, with the target language and in length.

    Attributes:
        copied: chrF of the translations against their sources, 0 to 100. Translations that equal their sources have
            100. Translations into a related language with the same script do not have 0, because names and related
            words are alike in both.
        off_target: the share of the translations with `FEWEST_LETTERS` or more that are not in the target language, 0
            to 1. py3langid judges them. A shorter translation is neither right nor wrong. None if no translation has so
            many letters, or if py3langid does not know the language.
        length: the characters of all translations over those of all references.
    """

    copied: float
    off_target: float | None
    length: float


def faithfulness(pair: ParallelPairs, texts: Sequence[str]) -> Faithfulness:
    """Measure the translations of one direction.

    Args:
        pair: the sources and the references.
        texts: the translation of each source. It may be empty.
    """
    from sacrebleu.metrics import CHRF  # reading what was measured does not need it

    copied = CHRF().corpus_score(list(texts), [list(pair.source)]).score
    length = sum(map(len, texts)) / sum(map(len, pair.target))
    return Faithfulness(float(copied), _off_target(texts, pair.target_lang), length)


def is_long_enough(text: str) -> bool:
    """Return whether a text has enough letters for its language to be judged.

    A Han character, a kana or a Hangul syllable counts as three letters.
    """
    return sum(_letters(character) for character in text) >= FEWEST_LETTERS


def _letters(character: str) -> int:
    if not character.isalpha():
        return 0
    return LETTERS_OF_A_WIDE_ONE if east_asian_width(character) in "WF" else 1


def _off_target(texts: Sequence[str], code: str) -> float | None:
    judged = [text for text in texts if is_long_enough(text)]
    if not judged or not can_recognise(code):
        return None
    return sum(not is_in_language(text, code) for text in judged) / len(judged)
