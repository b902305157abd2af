"""How much of a score the surface explains, compared with a slow reading of Eq. 4 and with closed cases."""

from __future__ import annotations

import pytest

from neuronxa_callback import ParallelPairs
from neuronxa_callback.alignment.surface import (
    FEWEST_CARRIERS,
    SurfaceControl,
    few_carriers,
    ngram_alignment,
    surface_control,
)
from tests.text.test_surface import slow_cosine

pytestmark = pytest.mark.unit

CODES = ("eng_Latn", "isl_Latn")
PAIRS = ParallelPairs(
    ("Marta saw 47 boats.", "The sea is calm.", "Nobody laughed.", "A red door."),
    ("Marta sá 47 báta.", "Sjórinn er lygn.", "Enginn hló.", "Rauð hurð."),
    *CODES,
)


def slow_alignment(pairs: ParallelPairs) -> float:
    """Return the share of pairs that Eq. 4 counts, one comparison at a time."""
    aligned = 0
    for i in range(len(pairs)):
        own = slow_cosine(pairs.source[i], pairs.target[i], 4)
        others = [slow_cosine(pairs.source[i], pairs.target[j], 4) for j in range(len(pairs)) if j != i]
        others += [slow_cosine(pairs.source[j], pairs.target[i], 4) for j in range(len(pairs)) if j != i]
        aligned += all(own > other + 1e-12 for other in others)
    return aligned / len(pairs)


class TestNgramAlignment:
    @pytest.mark.parametrize("lang", ["isl", "deu", "spa"])
    def test_it_is_that_of_the_slow_reading(self, lang: str) -> None:
        pairs = ParallelPairs.load(f"eng_Latn-{lang}_Latn", n=40)
        assert ngram_alignment(pairs) == slow_alignment(pairs) > 0

    @pytest.mark.parametrize(("lang", "score"), [("isl", 0.43), ("deu", 0.56), ("fra", 0.74), ("spa", 0.70)])
    def test_the_figures_of_the_docs(self, lang: str, score: float) -> None:
        assert ngram_alignment(ParallelPairs.load(f"eng_Latn-{lang}_Latn")) == pytest.approx(score, abs=1e-9)

    def test_nothing_in_common_is_a_tie_at_0_and_not_aligned(self) -> None:
        assert ngram_alignment(ParallelPairs(("abcdef", "ghijkl"), ("海很平静", "没有人笑"), *CODES)) == 0

    def test_a_sentence_too_short_for_an_ngram_is_not_aligned(self) -> None:
        pairs = ParallelPairs(("a", "one taxi", "no bus"), ("a", "ein taxi", "kein bus"), *CODES)
        assert ngram_alignment(pairs) == slow_alignment(pairs) == 2 / 3

    def test_equal_cosines_are_a_tie(self) -> None:
        """The same runs in another case: both targets are as near to each source, and rounding must not choose."""
        pairs = ParallelPairs(("One taxi.", "Other"), ("one taxi.", "ONE TAXI."), *CODES)
        assert ngram_alignment(pairs) == slow_alignment(pairs) == 0


class TestSurfaceControl:
    def test_the_pairs_without_a_shared_form_have_their_own_score(self) -> None:
        control = surface_control(PAIRS, [0.9, 0.0, 0.25, 0.5])
        assert control == SurfaceControl(
            n=4,
            n_without_shared=3,
            without_shared=0.25,
            carriers=3,
            carriers_sharing=1,
            ngram_baseline=slow_alignment(PAIRS),
        )

    def test_no_pair_is_left_if_all_share_a_form(self) -> None:
        pairs = ParallelPairs(("Anna 1", "Petra 2"), ("Hún Anna", "Hún Petra"), *CODES)
        control = surface_control(pairs, [1.0, 0.5])
        assert (control.without_shared, control.n_without_shared) == (None, 0)
        assert (control.carriers, control.carriers_sharing) == (2, 2)

    def test_parts_of_other_pairs_are_refused(self) -> None:
        with pytest.raises(ValueError, match="3 parts of a score do not belong to 4 pairs"):
            surface_control(PAIRS, [0.1, 0.2, 0.3])


class TestFewCarriers:
    def warning(self, carriers: int) -> str | None:
        pairs = ParallelPairs.load("eng_Latn-isl_Latn", n=20)
        control = surface_control(pairs, [0.5] * carriers + [0.0] * (20 - carriers))
        return few_carriers("eng_Latn-isl_Latn", control.n, control.carriers, control.carriers_sharing)

    def test_ten_are_enough(self) -> None:
        assert self.warning(FEWEST_CARRIERS) is None
        assert self.warning(FEWEST_CARRIERS - 1) is not None

    def test_it_names_the_pairs_and_how_many_share_a_form(self) -> None:
        assert few_carriers("eng_Latn-isl_Latn", 100, 7, 5) == (
            "the score of eng_Latn-isl_Latn comes from 7 of 100 pairs alone, 5 of which share a word form, such as a "
            "name or a number; so few pairs say little about the language."
        )

    def test_no_pair_at_all(self) -> None:
        assert (
            self.warning(0) == "none of the 20 pairs of eng_Latn-isl_Latn is aligned at any layer that the score reads."
        )
