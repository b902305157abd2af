from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from neuronxa_callback.alignment.report import AlignmentReport, report_of_all, report_of_pair
from neuronxa_callback.alignment.scores import measure_all, random_orders
from neuronxa_callback.signature import Signature
from neuronxa_callback.vocabulary import LayerPooling, Method

pytestmark = pytest.mark.unit


def sides(seed: int, n: int, noise: float, layers: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(layers, n, 12, generator=generator, dtype=torch.float64)
    return source, source + noise * torch.randn(source.shape, generator=generator, dtype=torch.float64)


def report(
    source: Tensor,
    target: Tensor,
    pooling: LayerPooling = "mean",
    methods: tuple[Method, ...] = ("nasca", "nasca_rank", "sads"),
) -> AlignmentReport:
    orders = random_orders(source.shape[1], 999)
    return report_of_pair(measure_all(source, target, dict.fromkeys(methods, orders)), pooling, Signature())


def test_languages_of_unequal_numbers_count_equally() -> None:
    """The interval of 200 and 20 pairs that were put together lay beside the score: 0.433, and 0.700 to 0.764."""
    many, few = report(*sides(0, 200, 0.5)), report(*sides(1, 20, 2.5))
    together = report_of_all({"many": many, "few": few}, ["many", "few"])
    score = together.score["nasca"]
    assert score == pytest.approx((many.score["nasca"] + few.score["nasca"]) / 2)
    low, high = together.ci["nasca"]
    assert low < score < high
    # The standard error of a mean of two independent scores.
    errors = [
        np.sqrt((n - 1) / n * ((w - w.mean()) ** 2).sum())
        for w, n in ((many.without_pair["nasca"].numpy(), 200), (few.without_pair["nasca"].numpy(), 20))
    ]
    # The error is nearly that of the 20 pairs alone, so Student's quantile has about 19 degrees of freedom.
    assert (high - low) / 2 == pytest.approx(stats.t.isf(0.025, 19) * np.hypot(*errors) / 2, rel=0.1)


def test_languages_that_share_their_sentences_are_resampled_together() -> None:
    """The same language twice is as certain as once. Two independent ones are more certain."""
    once = report(*sides(2, 60, 1.5))
    twice = report_of_all({"a": once, "b": once}, ["a", "a"])
    assert twice.ci["nasca"] == pytest.approx(once.ci["nasca"])
    assert twice.p_value == once.p_value
    apart = report_of_all({"a": once, "b": once}, ["a", "b"])
    width = [high - low for low, high in (once.ci["nasca"], apart.ci["nasca"])]
    assert width[1] == pytest.approx(width[0] / np.sqrt(2), rel=0.1)


def test_languages_some_of_which_share_their_sentences() -> None:
    """Two translations of one text and one of another: the two are resampled together, and the third apart."""
    one, other = report(*sides(2, 60, 1.5)), report(*sides(3, 60, 1.5))
    together = report_of_all({"a": one, "b": one, "c": other}, ["text", "text", "other text"])
    without = [2 * one.without_pair["nasca"] / 3, other.without_pair["nasca"] / 3]
    error = np.hypot(*(np.sqrt(59 / 60 * ((w - w.mean()) ** 2).sum().item()) for w in without))
    low, high = together.ci["nasca"]
    assert (high - low) / 2 == pytest.approx(stats.norm.isf(0.025) * error, rel=0.1)
    assert together.per_pair == {}


@pytest.mark.parametrize("source", [["text", "text"], ["text", "other text"]])
def test_a_mean_over_languages_is_compared_with_means_of_torn_apart_languages(source: list[str]) -> None:
    reports = {name: report(*sides(seed, 20, 3.0)) for name, seed in (("a", 3), ("b", 4))}
    together = report_of_all(reports, source)
    torn = np.mean([part.torn["nasca"].score.numpy() for part in reports.values()], axis=0)
    expected = (1 + (torn >= together.score["nasca"] - 1e-7).sum()) / 1000
    assert together.p_value["nasca"] == pytest.approx(expected)
    assert together.chance["nasca"] == pytest.approx(np.mean([part.chance["nasca"] for part in reports.values()]))


def standing(values: np.ndarray, torn: np.ndarray) -> np.ndarray:
    standardised: np.ndarray = (values - torn.mean(axis=0)) / torn.std(axis=0)
    return standardised


def test_layers_are_corrected_over_all_layers_and_languages() -> None:
    """The slow way: each layer by its own torn-apart values, and the greatest of all of them at each order."""
    orders = random_orders(20, 999)
    measured = {name: measure_all(*sides(seed, 20, 2.0), {"nasca_rank": orders}) for name, seed in (("a", 5), ("b", 6))}
    reports = {name: report_of_pair(values, "mean", Signature()) for name, values in measured.items()}
    together = report_of_all(reports, ["text", "text"])
    every = {}
    for name, values in measured.items():
        of_rank = values["nasca_rank"]
        assert of_rank.torn is not None
        torn = of_rank.torn.numpy()
        every[name] = standing(of_rank.per_layer.numpy(), torn), standing(torn, torn)
    greatest = np.concatenate([apart for _, apart in every.values()], axis=1).max(axis=1)
    for name, part in together.by_language.items():
        expected = [(1 + (greatest >= value - 1e-7).sum()) / 1000 for value in every[name][0]]
        assert part.p_per_layer["nasca_rank"].tolist() == pytest.approx(expected)
        assert (part.p_per_layer["nasca_rank"] >= reports[name].p_per_layer["nasca_rank"]).all()


def test_a_layer_of_high_chance_does_not_hide_another() -> None:
    """SVCCA of few sentences: 0.95 and more by chance where features are many, and far less where they are few."""
    generator = torch.Generator().manual_seed(9)
    few, many = torch.randn(2, 1, 40, 30, generator=generator, dtype=torch.float64)
    few[..., 3:] = 0
    source = torch.cat([few.unsqueeze(0), many.unsqueeze(0)]).squeeze(1)
    target = source.clone()
    target[1] = torch.randn(40, 30, generator=generator, dtype=torch.float64)
    target[0, :, :3] += torch.randn(40, 3, generator=generator, dtype=torch.float64)
    found = report_of_pair(measure_all(source, target, {"svcca": random_orders(40, 199)}), "mean", Signature())
    assert found.per_layer["svcca"][0] < found.chance_per_layer["svcca"][1]
    assert found.p_per_layer["svcca"][0] <= 0.01
    assert found.p_per_layer["svcca"][1] > 0.05


def test_a_language_of_few_pairs_does_not_hide_one_of_many() -> None:
    many, few = report(*sides(10, 200, 2.5)), report(*sides(11, 20, 50.0))
    together = report_of_all({"many": many, "few": few}, ["many", "few"])
    assert (many.p_per_layer["nasca"] <= 0.002).all()
    assert (together.by_language["many"].p_per_layer["nasca"] <= 0.01).all()


@pytest.mark.parametrize("aligned", [1, 3, 10])
def test_a_score_to_which_all_pairs_contribute_the_same_has_an_interval(aligned: int) -> None:
    """Some of thirty layers align every pair, the others none: leaving out a pair changes nothing but rounding."""
    source = torch.eye(100).expand(30, 100, 100).clone()
    target = source.clone()
    target[aligned:] = target[aligned:].roll(1, 1)
    low, high = report(source, target).ci["nasca"]
    assert low < aligned / 30 < high
    assert 0.05 < high - low < 0.25


def test_no_layer_of_unrelated_sentences_is_found_more_often_than_the_level() -> None:
    """Eight layers of unrelated sentences, some of which agree: any p below 0.05 in about 5 % of 300 trials."""
    found = 0
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        source, target = torch.randn(2, 1, 30, 6, generator=generator).expand(2, 8, 30, 6) + torch.randn(
            2, 8, 30, 6, generator=generator
        )
        measured = measure_all(source, target, {"nasca_rank": random_orders(30, 199)})
        found += bool((report_of_pair(measured, "mean", Signature()).p_per_layer["nasca_rank"] <= 0.05).any())
    assert 0.02 <= found / 300 <= 0.085  # three standard errors about 0.05


def test_no_pair_and_every_pair_aligned_have_an_interval_of_some_width() -> None:
    source = torch.eye(100).unsqueeze(0)
    every, none = report(source, source), report(source, source.roll(1, 1))
    exact = stats.binomtest(100, 100).proportion_ci()
    assert every.ci["nasca"] == pytest.approx((exact.low, 1), abs=0.002)
    assert none.ci["nasca"] == pytest.approx((0, 1 - exact.low), abs=0.002)


def test_two_pairs_say_nothing() -> None:
    found = report(*sides(7, 2, 0.1))
    assert found.ci == {"nasca": (0, 1), "nasca_rank": (0, 1), "sads": (-2, 2)}


def test_without_orders_there_is_no_chance() -> None:
    source, target = sides(8, 10, 0.5)
    found = report_of_pair(measure_all(source, target, {"cka": None}), "mean", Signature())
    assert (found.chance, found.p_value, found.p_per_layer, found.ci) == ({}, {}, {}, {})
