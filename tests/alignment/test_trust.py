"""What is claimed of p-values, on the real model's activations, and of intervals, on drawn vectors.

`benchmarks.coverage` measures the intervals on real activations.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from neuronxa_callback import NeuronXAEvaluator
from neuronxa_callback.alignment.cosines import cosine_similarity
from neuronxa_callback.alignment.evaluator import Encoded
from neuronxa_callback.alignment.report import pool_layers
from neuronxa_callback.alignment.scores import measure, random_orders
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.significance import bootstrap_interval, chance_p_value
from neuronxa_callback.vocabulary import ALIGNMENT, OVER_PAIRS, REPRESENTATION_OF, LayerPooling, Method
from tests.support import SMOLLM

pytestmark = pytest.mark.once

METHODS: tuple[Method, ...] = ("nasca", "nasca_rank", "navca", "mexa", "sads", "cka", "svcca", "anc")
POOLINGS: tuple[LayerPooling, ...] = ("mean", "max")
# Methods by which few pairs find each other are tested on all layers: fewer leave few values to their mean.
LAYERS: dict[Method, slice] = {"cka": slice(2, None, 9), "svcca": slice(2, None, 9), "anc": slice(2, None, 9)}


@pytest.fixture(scope="module")
def french() -> tuple[Encoded, Encoded]:
    """The embedded English-French pairs, encoded once for all methods."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(SMOLLM, dtype=torch.float32).eval()
    decoder = Decoder.find(model, AutoTokenizer.from_pretrained(SMOLLM))
    evaluator = NeuronXAEvaluator("eng_Latn-fra_Latn", METHODS)
    ((source, target),) = evaluator.each(decoder, evaluator.pairs, lambda pair, source, target: (source, target))
    return source, target


def unrelated(french: tuple[Encoded, Encoded], method: Method, trials: int) -> list[tuple[Tensor, Tensor]]:
    """English sentences and the translations of other sentences, 50 of each."""
    read = REPRESENTATION_OF[method]
    layers = slice(0, 3) if read == "signed" else LAYERS.get(method, slice(None))
    source, target = (side[read][layers] for side in french)
    generator = torch.Generator().manual_seed(1)
    orders = [torch.randperm(100, generator=generator) for _ in range(trials)]
    return [(source[:, order[:50]], target[:, order[50:]]) for order in orders]


@pytest.mark.parametrize("method", METHODS)
def test_a_p_value_is_below_005_as_often_as_it_says(method: Method, french: tuple[Encoded, Encoded]) -> None:
    """Of the mean over layers, of the greatest layer, and of any layer."""
    orders = random_orders(50, 199 if method in OVER_PAIRS else 39)
    rejected = []
    for source, target in unrelated(french, method, 400):
        measured = measure(source, target, method, orders)
        mean, greatest = (pool_layers(measured, pooling).chance for pooling in POOLINGS)
        assert mean is not None
        assert greatest is not None
        layer = bool(mean.torn.p_per_layer.le(0.05).any())
        rejected.append([mean.p_value <= 0.05, greatest.p_value <= 0.05, layer])
    of_mean, of_greatest, of_any_layer = torch.tensor(rejected).double().mean(dim=0).tolist()
    assert 0.03 <= of_mean <= 0.07
    # The greatest share of 50 pairs takes few values, so some level below 0.05 is the nearest that it can have.
    assert (0.005 if method in ALIGNMENT else 0.02) <= of_greatest <= 0.08
    assert 0.02 <= of_any_layer <= 0.08


def test_eq5_does_not_find_what_tearing_apart_finds(french: tuple[Encoded, Encoded]) -> None:
    """Ten samples of ten French pairs each: the same scores, and what each p-value says of them."""
    source, target = (side["nas"] for side in french)
    eq5, torn = 0, 0
    for start in range(0, 100, 10):
        measured = measure(
            source[:, start : start + 10], target[:, start : start + 10], "nasca", random_orders(10, 999)
        )
        pooled = pool_layers(measured, "mean")
        assert pooled.chance is not None
        eq5 += chance_p_value(pooled.score, 10) <= 0.05
        torn += pooled.chance.p_value <= 0.05
    assert eq5 < torn


def test_chance_on_real_text_is_below_eq5(french: tuple[Encoded, Encoded]) -> None:
    """Hubs: fewer cells are mutual nearest neighbours than 100 x 100 independent cosines would give."""
    source, target = (side["nas"] for side in french)
    measured = measure(source, target, "nasca")
    assert measured.chance is not None
    cells = 0
    for s, t in zip(source, target, strict=True):
        cosines = cosine_similarity(s, t)
        cells += sum(int(cosines[:, j].argmax()) == i for i, j in enumerate(cosines.argmax(dim=1).tolist()))
    assert measured.chance.mean().item() == pytest.approx(cells / (len(source) * 100 * 100))
    assert measured.chance.mean().item() < 1 / 199 / 5


def drawn(noise: float) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    """Pairs of a population without end: a sentence of its own, and a part that all sentences share, as hubs do."""

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        own, shared, errors = (torch.randn(4, n, 24, generator=generator) for n in (100, 1, 200))
        difficulty = torch.rand(1, 100, 1, generator=generator) * 2 * noise
        return own + shared + difficulty * errors[:, :100], own + shared + difficulty * errors[:, 100:]

    return draw


@pytest.mark.parametrize("method", ["nasca", "nasca_rank"])
@pytest.mark.parametrize(("noise", "least", "most"), [(0.5, 0.8, 0.95), (2.0, 0.2, 0.4), (12.0, 0.01, 0.06)])
def test_an_interval_holds_the_truth_as_often_as_it_says(
    noise: float, least: float, most: float, method: Method
) -> None:
    draw, generator = drawn(noise), torch.Generator().manual_seed(2)
    pooled = [pool_layers(measure(*draw(generator), method), "mean") for _ in range(500)]
    truth = sum(found.score for found in pooled) / len(pooled)
    assert method == "nasca_rank" or least <= truth <= most
    covered = [found.ci[0] <= truth <= found.ci[1] for found in pooled if found.ci]
    assert len(covered) == 500
    assert 0.93 <= sum(covered) / 500 <= 0.97


def test_the_bootstrap_of_the_parts_misses_low_scores() -> None:
    """The interval before: all of its misses lie on one side."""
    draw, generator = drawn(12.0), torch.Generator().manual_seed(2)
    pooled = [pool_layers(measure(*draw(generator), "nasca"), "mean") for _ in range(200)]
    truth = sum(found.score for found in pooled) / len(pooled)
    before = [bootstrap_interval(found.per_pair.numpy()) for found in pooled if found.per_pair is not None]
    assert sum(high < truth for _, high in before) > 3 * sum(low > truth for low, _ in before)
