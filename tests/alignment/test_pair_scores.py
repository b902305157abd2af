"""A line's control of the surface, and the warning about scores that few pairs carry."""

from __future__ import annotations

from typing import Any

import pytest

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.alignment.pair_scores import PairScores, Surface, of_report
from neuronxa_callback.alignment.surface import surface_control
from neuronxa_callback.signature import Signature
from tests.support import make_tokenizer, tiny_llama

PAIRS = ParallelPairs(
    ("Anna sees 12 dogs.", "It rains.", "We saw Oslo.", "The cat sleeps."),
    ("Anna sér 12 hunda.", "Það rignir.", "Við sáum Oslo.", "Kötturinn sefur."),
    "eng_Latn",
    "isl_Latn",
)


def scores(carriers: dict[Any, int], n: int = 100) -> PairScores:
    surface = Surface(
        n_without_shared=40, without_shared={}, carriers=carriers, carriers_sharing=carriers, ngram_baseline=0.5
    )
    return PairScores(signature=Signature.of(n=n), score={}, surface=surface)


@pytest.mark.unit
class TestTheSurface:
    def test_carriers_are_those_of_shares_and_the_score_without_shared_forms_that_of_every_mean(self) -> None:
        found = Surface.of(PAIRS, {"nasca": [0.5, 0.0, 0.25, 0.75], "nasca_rank": [0.5, 0.25, 1, 0.75]})
        assert found is not None
        assert (found.n_without_shared, found.without_shared) == (2, {"nasca": 0.375, "nasca_rank": 0.5})
        assert (found.carriers, found.carriers_sharing) == ({"nasca": 3}, {"nasca": 2})
        assert found.ngram_baseline == surface_control(PAIRS, [0.0] * 4).ngram_baseline

    def test_without_a_value_a_pair_there_is_none(self) -> None:
        assert Surface.of(PAIRS, {}) is None

    def test_if_every_pair_shares_a_form_no_score_is_left(self) -> None:
        pairs = ParallelPairs(("Anna", "Oslo 1"), ("Anna!", "Osló 1"), "eng_Latn", "isl_Latn")
        found = Surface.of(pairs, {"nasca": [1.0, 0.0]})
        assert found is not None
        assert (found.n_without_shared, found.without_shared) == (0, {})

    def test_a_line_holds_it_and_is_read_again(self) -> None:
        line = scores({"nasca": 3})
        assert PairScores.model_validate_json(line.model_dump_json()) == line
        assert PairScores(signature=Signature(), score={}).surface is None


@pytest.mark.unit
class TestFewCarriers:
    @pytest.mark.parametrize(("carriers", "warned"), [(10, False), (9, True)])
    def test_fewer_than_10_are_few(self, carriers: int, warned: bool) -> None:
        found = scores({"nasca": carriers}).few_carriers("a-b")
        assert (found is not None) == warned

    def test_the_score_with_the_fewest_is_named_alone(self) -> None:
        found = scores({"nasca": 5, "mexa": 2}).few_carriers("a-b")
        assert found is not None
        assert found.startswith("the score of a-b (MEXA) comes from 2 of 100 pairs alone, 2 of which share a word form")

    def test_none_at_all_is_said_otherwise(self) -> None:
        found = scores({"nasca": 0}).few_carriers("a-b")
        assert found == "none of the 100 pairs of a-b (NASCA) is aligned at any layer that the score reads."

    def test_a_line_of_an_older_format_and_one_of_other_methods_say_nothing(self) -> None:
        assert PairScores(signature=Signature.of(n=4), score={}).few_carriers("a-b") is None
        assert scores({}).few_carriers("a-b") is None


def test_a_report_with_its_sentences_has_the_control_of_its_own_parts() -> None:
    report = NeuronXAEvaluator(PAIRS, ("nasca", "cka"))(tiny_llama().eval(), make_tokenizer())
    found = of_report(report, PAIRS).surface
    control = surface_control(PAIRS, report.per_pair["nasca"].tolist())
    assert found is not None
    assert found.without_shared == {"nasca": control.without_shared}
    assert found.carriers == {"nasca": control.carriers}
    assert of_report(report).surface is None
