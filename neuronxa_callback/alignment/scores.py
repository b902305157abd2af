"""Scores of parallel sentences' representations: alignment (Eq. 4), similarity measures and retrieval accuracy.

The scores take the two sides as tensors (layers, sentences, features). They are computed in float64, a few layers at a
time. Float64 copies of all layers at once could double the memory of an evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar, get_args

import torch
from torch import Tensor

from neuronxa_callback.alignment.cosines import (
    contributions,
    cosine_similarity,
    joined_cosines,
    mean_over_pairs,
    means_without,
)
from neuronxa_callback.alignment.similarity import similarity
from neuronxa_callback.vocabulary import (
    ALIGNMENT,
    OVER_PAIRS,
    REPRESENTATION_OF,
    Direction,
    Method,
    Representation,
    check_choice,
)

# Of several layers, so many numbers are held at a time, or those of one layer: 8 MB in float64.
MOST_NUMBERS = 1_000_000


@dataclass(frozen=True)
class Measurement:
    """A method's values on the pairs of two languages.

    Attributes:
        per_layer: float64 tensor (layers,). SADS on joined layers has one value for all.
        per_pair: float64 tensor (layers, pairs). Its mean over the pairs is `per_layer`. None for CKA, SVCCA and ANC,
            which measure all pairs together.
        without_pair: float64 tensor (layers, pairs): the value when one pair is left out, with both its sentences. None
            where `per_pair` is None, and for fewer than three pairs.
        chance: float64 tensor (layers,): the mean value over random orders of the targets. For methods that have a
            `per_pair` it is the mean over all orders. None if no orders were tried.
        torn: float64 tensor (orders, layers): the value for each random order of the targets. None if none were tried.
    """

    per_layer: Tensor
    per_pair: Tensor | None
    without_pair: Tensor | None
    chance: Tensor | None
    torn: Tensor | None


def alignment_score(source: Tensor, target: Tensor, method: Method = "nasca") -> Tensor:
    """Return a method's score at each layer.

    Args:
        source: (layers, sentences, features), as `encode` returns it.
        target: the same sentences in the other language, in the same shape.
        method: "nasca", "navca" and "mexa" are the share of weakly aligned pairs (Eq. 4): on neuron states, on neuron
            values and on embeddings. For "nasca_rank" and "sads" see docs/explanation/method.md, and for "cka", "svcca"
            and "anc" see `similarity`. `REPRESENTATION_OF` names the representation that each method reads. "sads" is
            computed at each layer here. `measure(..., joined=True)` joins the layers as its source does.

    Returns:
        float32 tensor (layers,) in [0, 1]; for "sads" in [-2, 2].

    Raises:
        ValueError: an unknown method, shapes that differ, or fewer than two sentences.
    """
    return measure(source, target, method).per_layer.float()


def measure(
    source: Tensor, target: Tensor, method: Method, orders: Tensor | None = None, joined: bool = False
) -> Measurement:
    """Return a method's value at each layer; see `measure_all`."""
    return measure_all(source, target, {method: orders}, joined)[method]


def measure_all(
    source: Tensor, target: Tensor, methods: Mapping[Method, Tensor | None], joined: bool = False
) -> dict[Method, Measurement]:
    """Return the values of several methods that read the same representation. The cosines are computed once.

    Args:
        source: (layers, sentences, features).
        target: the same shape.
        methods: each method with the orders of the targets that tear its pairs apart, as `random_orders` returns them,
            or with None.
        joined: whether SADS takes the neurons of all layers as one vector, as its source does with signed values. It
            then has one value for all layers. The other methods have one for each layer.

    Raises:
        ValueError: an unknown method, shapes that differ, or fewer than two sentences.
    """
    for method in methods:
        check_choice("method", method, Method)
    of_pairs = {method: orders for method, orders in methods.items() if method in OVER_PAIRS}
    together = {method: orders for method, orders in methods.items() if method not in OVER_PAIRS}
    found: dict[Method, Measurement] = {}
    if joined and "sads" in of_pairs:
        cosines = joined_cosines(_layers(source, target), source.shape[1])
        found["sads"] = _of_cosines(cosines, "sads", of_pairs.pop("sads"))
    found |= _over_pairs(source, target, of_pairs)
    for method, orders in together.items():
        found[method] = _together(source, target, method, orders)
    return {method: found[method] for method in methods}


K = TypeVar("K", Method, Direction)


def _over_pairs(source: Tensor, target: Tensor, kinds: Mapping[K, Tensor | None]) -> dict[K, Measurement]:
    """Measure what is a mean over the pairs: kind -> the orders that tear the pairs apart, or None."""
    found: dict[K, list[Measurement]] = {kind: [] for kind in kinds}
    for sides in _layers(source, target, max(1, MOST_NUMBERS // source.shape[-2] ** 2)) if kinds else ():
        # A layer at a time: its float64 copies stay in the processor's cache.
        cosines = torch.stack([cosine_similarity(s, t) for s, t in zip(*sides, strict=True)])
        for kind, orders in kinds.items():
            found[kind].append(_of_cosines(cosines, kind, orders))
    return {kind: _joined(layers) for kind, layers in found.items()}


def _of_cosines(cosines: Tensor, kind: Method | Direction, orders: Tensor | None) -> Measurement:
    table = contributions(cosines, kind)
    per_pair = table.diagonal(dim1=1, dim2=2).clone()
    return Measurement(
        per_layer=per_pair.mean(dim=1),
        per_pair=per_pair,
        without_pair=means_without(cosines, kind) if cosines.shape[1] > 2 else None,
        chance=table.mean(dim=(1, 2)),
        torn=None if orders is None else mean_over_pairs(table, orders),
    )


def _together(source: Tensor, target: Tensor, method: Method, orders: Tensor | None) -> Measurement:
    """Measure by a method that takes all pairs together."""
    measure = similarity(method)
    n, features = source.shape[-2:]
    tried = torch.arange(n).unsqueeze(0)  # the true order first
    if orders is not None:
        tried = torch.cat([tried.to(orders.dtype), orders])
    found = [
        measure.compare([measure.prepare(layer) for layer in s], [measure.prepare(layer) for layer in t], tried)
        for s, t in _layers(source, target, max(1, MOST_NUMBERS // (n * max(n, features))))
    ]
    value, torn = torch.cat(found, dim=1).split([1, len(tried) - 1])
    if orders is None:
        return Measurement(value[0], None, None, None, None)
    return Measurement(value[0], None, None, torn.mean(dim=0), torn)


def _joined(parts: Sequence[Measurement]) -> Measurement:
    """Return one measurement of all layers."""

    def join(tensors: Iterable[Tensor | None], dim: int = 0) -> Tensor | None:
        there = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(there, dim=dim) if there else None

    return Measurement(
        per_layer=torch.cat([part.per_layer for part in parts]),
        per_pair=join(part.per_pair for part in parts),
        without_pair=join(part.without_pair for part in parts),
        chance=join(part.chance for part in parts),
        torn=join((part.torn for part in parts), dim=1),
    )


# ------------------------------------------------------------------------------------- alignment and retrieval


def retrieved(source: Tensor, target: Tensor, orders: Tensor | None = None) -> dict[Direction, Measurement]:
    """Return which sentences have their translation as the strictly nearest one (paper, section 3.1, Tables 1 and 5).

    Args:
        source: (layers, sentences, features).
        target: the same shape.
        orders: the orders of the targets that tear the pairs apart, or None.

    Returns:
        "source->target" says whether a source's nearest target is its own translation. "target->source" says the same
        of a target's nearest source. "both" is the weak alignment of Eq. 4. The values are the retrieval accuracies.

    Raises:
        ValueError: shapes that differ, or fewer than two sentences.
    """
    directions: tuple[Direction, ...] = get_args(Direction)
    return _over_pairs(source, target, dict.fromkeys(directions, orders))


# ------------------------------------------------------------------------------------------------------- chance


@lru_cache(maxsize=2)
def random_orders(n: int, count: int) -> Tensor | None:
    """Return random orders of n targets, which tear the pairs apart. The same call returns the same orders.

    So language pairs of n pairs share these orders. A source that they share then meets the translations of one and the
    same other sentence in all languages, and the dependence between the languages is kept.

    Args:
        n: the number of sentences.
        count: the number of orders; 0 for none.

    Returns:
        an integer tensor (count, n), or None.
    """
    if not count:
        return None
    generator = torch.Generator().manual_seed(n)
    orders = torch.rand(count, n, generator=generator).argsort(dim=1).int()
    return orders.T.contiguous().T  # `mean_over_pairs` reads one source's targets in all orders


# ------------------------------------------------------------------------------------------------------- checks


def _layers(source: Tensor, target: Tensor, at_once: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """Return both sides in parts of a few layers on the CPU, after a check of their shapes."""
    if source.shape != target.shape or source.dim() != 3:
        raise ValueError(
            f"source {tuple(source.shape)} and target {tuple(target.shape)} must both be (layers, sentences, features)."
        )
    if source.shape[1] < 2:
        raise ValueError("one pair has no other pair to be compared with; give at least two, 100 as in the paper.")
    return zip(*(side.detach().cpu().split(at_once) for side in (source, target)), strict=True)


def representations_of(
    methods: Sequence[Method], chosen: Mapping[Method, Representation]
) -> dict[Method, Representation]:
    """Return the representation that each method reads: the chosen one, or the one of the method's own paper.

    Raises:
        ValueError: a choice for a method that is not measured, an unknown representation, or another representation
            for NASCA, NAVCA, MEXA or the rank score, which are named by what they read.
    """
    for method, representation in chosen.items():
        if method not in methods:
            raise ValueError(f"a representation is chosen for {method!r}, but methods are {', '.join(methods)}.")
        check_choice("representation", representation, Representation)
        if method == "nasca_rank" and representation != "nas":
            raise ValueError(f"nasca_rank reads nas, as NASCA does; {representation} cannot be chosen for it.")
        if method in ALIGNMENT and representation != REPRESENTATION_OF[method]:
            names = {REPRESENTATION_OF[name]: name for name in ALIGNMENT}
            if representation not in names:
                raise ValueError(f"{method} reads {REPRESENTATION_OF[method]}; {representation} is read by sads.")
            raise ValueError(f"{method} on {representation} is called {names[representation]}; ask for that.")
    return {method: chosen.get(method, REPRESENTATION_OF[method]) for method in methods}
