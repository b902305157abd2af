"""The similarity measures in many orders at a time, against their plain definitions in one order after another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from torch import Tensor

from neuronxa_callback import ParallelPairs, encode
from neuronxa_callback.alignment import similarity
from neuronxa_callback.alignment.scores import measure, random_orders
from neuronxa_callback.vocabulary import Method

CLOSE = 1e-12


def centred(vectors: np.ndarray) -> np.ndarray:
    """A feature that varies by no more than rounding does not vary."""
    moved = vectors - vectors.mean(axis=0)
    constant = np.linalg.norm(moved, axis=0) <= 1e-6 * np.linalg.norm(vectors, axis=0)
    return np.where(constant, 0, moved)


def cka(source: np.ndarray, target: np.ndarray) -> float:
    own = np.linalg.norm(source.T @ source) * np.linalg.norm(target.T @ target)
    return float(np.linalg.norm(target.T @ source) ** 2 / own) if own else 0.0


def svcca(source: np.ndarray, target: np.ndarray) -> float:
    """Both bases, whole, whatever must be common to them."""
    kept = []
    for side in (source, target):
        left, values, _ = np.linalg.svd(side, full_matrices=False)
        held = np.cumsum(values**2)
        if held[-1] == 0:
            return 0.0
        kept.append(left[:, : int((held / held[-1] < 0.99).sum()) + 1])
    return float(np.cos(subspace_angles(*kept)).mean())


def anc(source: np.ndarray, target: np.ndarray) -> float:
    lengths = np.linalg.norm(source, axis=0) * np.linalg.norm(target, axis=0)
    products = np.abs((source * target).sum(axis=0))[lengths > 0]
    return float((products / lengths[lengths > 0]).mean()) if len(products) else 0.0


PLAIN: dict[Method, Callable[[np.ndarray, np.ndarray], float]] = {"cka": cka, "svcca": svcca, "anc": anc}


def by_definition(source: Tensor, target: Tensor, method: Method, orders: Tensor) -> np.ndarray:
    """(orders, layers)."""
    sides = [[centred(layer) for layer in side.double().numpy()] for side in (source, target)]
    return np.array([[PLAIN[method](s, t[order]) for s, t in zip(*sides, strict=True)] for order in orders.numpy()])


def check(source: Tensor, target: Tensor, method: Method, count: int = 7) -> None:
    orders = random_orders(source.shape[1], count)
    assert orders is not None
    found = measure(source, target, method, orders)
    true = torch.arange(source.shape[1]).unsqueeze(0)
    assert found.torn is not None
    np.testing.assert_allclose(found.torn, by_definition(source, target, method, orders), atol=CLOSE)
    np.testing.assert_allclose(found.per_layer[None], by_definition(source, target, method, true), atol=CLOSE)


def sides(seed: int, n: int, features: int, rank: int, shared: float) -> tuple[Tensor, Tensor]:
    """Two layers of a source side of a low rank, and of a target side that shares a part of it."""
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(2, n, rank)) @ rng.normal(size=(2, rank, features)) + rng.normal(size=features)
    target = shared * source + rng.normal(size=(2, n, features))
    source[:, :, 0] = 3  # does not vary
    return torch.tensor(source), torch.tensor(target)


@pytest.mark.unit
@pytest.mark.parametrize("method", list(PLAIN))
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(2, 14),
    features=st.integers(2, 20),
    rank=st.integers(1, 16),
    shared=st.sampled_from([0.0, 0.5, 10.0]),
)
def test_many_orders_equal_one_after_another(
    method: Method, seed: int, n: int, features: int, rank: int, shared: float
) -> None:
    """Sides of few and of many dimensions, so that their subspaces must meet and need not."""
    check(*sides(seed, n, features, rank, shared), method)


@pytest.mark.unit
@pytest.mark.parametrize("method", list(PLAIN))
def test_blocks_of_orders_are_put_together(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "BLOCK", 130)
    check(*sides(1, 10, 12, 9, 1.0), method, 23)


@pytest.mark.unit
@pytest.mark.parametrize("method", list(PLAIN))
def test_a_side_that_does_not_vary_scores_zero_in_every_order(method: Method) -> None:
    source, target = torch.rand(1, 9, 12), torch.ones(1, 9, 12)
    orders = random_orders(9, 5)
    for sides in ((source, target), (target, source)):
        torn = measure(*sides, method, orders).torn
        assert torn is not None
        assert (torn == 0).all()


@pytest.mark.unit
def test_subspaces_of_all_dimensions_but_the_mean_are_one() -> None:
    """Ten sentences of equal variance in all nine dimensions: every order has nine correlations of 1."""
    centring = np.eye(10) - 0.1
    source = torch.tensor(np.stack([centring]))
    torn = measure(source, source, "svcca", random_orders(10, 20)).torn
    assert torn is not None
    np.testing.assert_allclose(torn, 1, atol=CLOSE)


@pytest.mark.once
def test_a_real_models_activations_give_the_plain_definitions(smollm_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(smollm_path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(smollm_path)
    pairs = ParallelPairs.load("eng_Latn-fra_Latn", n=24)
    texts = (pairs.source, pairs.target)
    for representation in ("nas", "embedding"):
        source, target = (encode(model, tokenizer, text, representation)[::6] for text in texts)
        for method in PLAIN:
            check(source, target, method)
