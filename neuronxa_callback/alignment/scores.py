"""What the representations of parallel sentences say: alignment (Eq. 4), similarity measures, retrieval accuracy.

Every function takes (layers, sentences, features) tensors, works in float64 and goes layer by layer: float64 copies of
all layers at once would double the memory of an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuronxa_callback.vocabulary import (
    ALIGNMENT,
    OVER_PAIRS,
    REPRESENTATION_OF,
    Direction,
    Method,
    Representation,
    check_choice,
)

# Two cosines closer than this are a tie. Rounding in float64 keeps equal cosines within about 1e-15 of each other;
# without the margin it would decide at random which of two equal sentences is "strictly" nearer.
TIE = 1e-12
# A feature, or a direction, that varies by less than this share of its size does not vary: representations are float32.
CONSTANT = 1e-6
SVCCA_VARIANCE = 0.99


@dataclass(frozen=True)
class Measurement:
    """A method's values on the pairs of two languages.

    Attributes:
        per_layer: float64 tensor (layers,).
        per_pair: float64 tensor (layers, pairs) whose mean over the pairs is `per_layer`; None for measures of all
            pairs together (CKA, SVCCA, ANC).
    """

    per_layer: Tensor
    per_pair: Tensor | None


def alignment_score(source: Tensor, target: Tensor, method: Method = "nasca") -> Tensor:
    """A method's score at each layer.

    Args:
        source: (layers, sentences, features), as `encode` returns it.
        target: the same sentences in the other language, same shape.
        method: the share of weakly aligned pairs (Eq. 4), which is "nasca" on neuron states, "navca" on neuron values
            and "mexa" on embeddings; or "cka", "svcca", "anc" or "sads": see `linear_cka`, `svcca`, `anc`,
            `similarity_gap`. `REPRESENTATION_OF` names the representation that each method's source uses.

    Returns:
        float32 tensor (layers,), each in [0, 1]; of "sads" in [-2, 2].

    Raises:
        ValueError: an unknown method, shapes that differ, or fewer than two sentences.
    """
    return measure(source, target, method).per_layer.float()


def measure(source: Tensor, target: Tensor, method: Method) -> Measurement:
    """As `alignment_score`, with each pair's part where the method is a mean over the pairs."""
    check_choice("method", method, Method)
    if method == "sads":
        per_pair = similarity_gap(source, target)
    elif method in ALIGNMENT:
        per_pair = aligned_pairs(source, target).double()
    else:
        return Measurement({"cka": linear_cka, "svcca": svcca, "anc": anc}[method](source, target), None)
    return Measurement(per_pair.mean(dim=1), per_pair)


# ------------------------------------------------------------------------------------- alignment and retrieval


def aligned_pairs(source: Tensor, target: Tensor) -> Tensor:
    """Which pairs are weakly aligned: c_ii strictly greater than the rest of row i and of column i (Eq. 4).

    Cosines are computed in float64. The cosine with a zero vector is 0, and ties do not count as aligned.

    Args:
        source: (layers, sentences, features).
        target: the same shape.

    Returns:
        boolean tensor (layers, sentences) on the CPU.

    Raises:
        ValueError: shapes that differ, or fewer than two sentences.
    """
    return retrieved(source, target)["both"]


def retrieved(source: Tensor, target: Tensor) -> dict[Direction, Tensor]:
    """Which sentences find their translation as the nearest one, strictly (paper, section 3.1, Tables 1 and 5).

    Args:
        source: (layers, sentences, features).
        target: the same shape.

    Returns:
        boolean tensors (layers, sentences): "source->target" where a source's nearest target is its own,
        "target->source" where a target's nearest source is, and "both", which is the weak alignment of Eq. 4. Their
        means over sentences are the retrieval accuracies.

    Raises:
        ValueError: shapes that differ, or fewer than two sentences.
    """
    found = [_nearest(cosine_similarity(s, t)) for s, t in _layers(source, target)]
    forward, backward = (torch.stack(side) for side in zip(*found, strict=True))
    return {"source->target": forward, "target->source": backward, "both": forward & backward}


def cosine_similarity(source: Tensor, target: Tensor) -> Tensor:
    """Cosine of each source with each target sentence in float64: (sentences, sentences); 0 for zero vectors."""
    return _unit(source) @ _unit(target).T


def _unit(vectors: Tensor) -> Tensor:
    vectors = vectors.double()
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return torch.div(vectors, norms.masked_fill(norms == 0, 1))


def _nearest(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Where c_ii is strictly the greatest of row i, and of column i."""
    own: Tensor = similarity.diagonal()
    others = similarity.clone().fill_diagonal_(-torch.inf)
    return torch.gt(own, others.amax(dim=1) + TIE), torch.gt(own, others.amax(dim=0) + TIE)


# -------------------------------------------------------------------------------------------- similarity measures


def similarity_gap(source: Tensor, target: Tensor) -> Tensor:
    """SADS (Zeng et al. 2025) by pair: the cosine of a pair less the mean cosine of its two sentences with others.

    The mean over the pairs is the mean cosine of translation pairs minus the mean cosine of all other pairs.

    Returns:
        float64 tensor (layers, sentences), each in [-2, 2]; 0 where all vectors are zero.

    Raises:
        ValueError: shapes that differ, or fewer than two sentences.
    """
    return torch.stack([_gaps(cosine_similarity(s, t)) for s, t in _layers(source, target)])


def _gaps(cosines: Tensor) -> Tensor:
    own: Tensor = cosines.diagonal()
    others = cosines.sum(dim=0) + cosines.sum(dim=1) - 2 * own
    return own - others / (2 * (len(cosines) - 1))


def linear_cka(source: Tensor, target: Tensor) -> Tensor:
    """Linear centred kernel alignment (Kornblith et al. 2019, Eq. 3 with linear kernels, biased HSIC).

    Invariant to rotation and to one scale for all features of a side. With fewer sentences than features it is well
    above 0 for unrelated text, too: compare it with the value of pairs torn apart rather than with 0.

    Returns:
        float64 tensor (layers,) in [0, 1]; 0 where one side does not vary over the sentences.

    Raises:
        ValueError: shapes that differ, or fewer than two sentences.
    """
    return torch.stack([_cka(_kernel_factor(s), _kernel_factor(t)) for s, t in _layers(source, target)])


def _kernel_factor(vectors: Tensor) -> Tensor:
    """(sentences, at most sentences) with the same inner products as the centred vectors."""
    centred = _centred(vectors)
    return torch.linalg.qr(centred.T).R.T if centred.shape[1] > len(centred) else centred


def _cka(source: Tensor, target: Tensor) -> Tensor:
    cross, own_source, own_target = (
        torch.linalg.matrix_norm(one.T @ other) for one, other in ((source, target), (source, source), (target, target))
    )
    size: Tensor = own_source * own_target
    return torch.div(cross**2, size).clamp(max=1) if size > 0 else size


def svcca(source: Tensor, target: Tensor) -> Tensor:
    """Singular vector canonical correlation analysis (Raghu et al. 2017).

    Both sides are centred and reduced to the fewest singular directions that hold 99 % of their variance; the score
    is the mean canonical correlation of what is left, over as many directions as the smaller side has kept.

    Invariant to rotation and scale. The directions are at most sentences - 1: where both sides keep more than
    half of that, which 100 sentences of many features do, their subspaces meet by necessity and unrelated text scores
    high. Compare it with the value of pairs torn apart rather than with 0.

    Returns:
        float64 tensor (layers,) in [0, 1]; 0 where one side does not vary over the sentences.

    Raises:
        ValueError: shapes that differ, or fewer than two sentences.
    """
    return torch.stack([_svcca(_directions(s), _directions(t)) for s, t in _layers(source, target)])


def _directions(vectors: Tensor) -> Tensor:
    """Orthonormal (sentences, kept) basis of the singular directions that hold the variance."""
    left: Tensor
    left, values, _ = torch.linalg.svd(_kernel_factor(vectors), full_matrices=False)
    variance = values**2
    if variance.sum() == 0:
        return left[:, :0]
    held = variance.cumsum(0) / variance.sum()
    return left[:, : int((held < SVCCA_VARIANCE).sum()) + 1]


def _svcca(source: Tensor, target: Tensor) -> Tensor:
    # Of orthonormal bases the canonical correlations are the singular values of their product.
    values: Tensor = torch.linalg.svdvals(source.T @ target)
    return values.clamp(max=1).mean() if values.numel() else source.new_zeros(())


def anc(source: Tensor, target: Tensor) -> Tensor:
    """Averaged neuron-wise correlation (Del and Fishel 2022): mean absolute Pearson r of each feature with itself.

    Features that do not vary over the sentences of one side have no correlation and are left out.

    Returns:
        float64 tensor (layers,) in [0, 1]; 0 where no feature varies on both sides. Unrelated text scores about
        sqrt(2 / (pi * sentences)), 0.08 for 100.

    Raises:
        ValueError: shapes that differ, or fewer than two sentences.
    """
    return torch.stack([_anc(_standardised(s), _standardised(t)) for s, t in _layers(source, target)])


def _standardised(vectors: Tensor) -> Tensor:
    """Centred features of length 1; those that do not vary are 0."""
    return _unit(_centred(vectors).T).T


def _anc(source: Tensor, target: Tensor) -> Tensor:
    varies = (source != 0).any(dim=0) & (target != 0).any(dim=0)
    correlations: Tensor = (source * target).sum(dim=0)[varies]
    return correlations.abs().clamp(max=1).mean() if correlations.numel() else correlations.sum()


def _centred(vectors: Tensor) -> Tensor:
    """Float64 without the mean sentence; a feature that varies by no more than rounding is exactly 0."""
    vectors = vectors.double()
    centred: Tensor = vectors - vectors.mean(dim=0)
    size, spread = torch.linalg.vector_norm(vectors, dim=0), torch.linalg.vector_norm(centred, dim=0)
    return centred.masked_fill(spread <= CONSTANT * size, 0)


# ------------------------------------------------------------------------------------------------------- chance


def permuted_scores(source: Tensor, target: Tensor, method: Method, permutations: int, seed: int = 0) -> Tensor:
    """A method's scores when the pairs are torn apart at random: what unrelated text of these languages would score.

    What a side contributes is computed once: putting its sentences in another order puts the rows of that in another
    order.

    Args:
        source: (layers, sentences, features).
        target: the same shape.
        method: the method.
        permutations: how often the targets are put in a random order.
        seed: of the orders.

    Returns:
        float64 tensor (permutations, layers).

    Raises:
        ValueError: shapes that differ, or fewer than two sentences.
    """
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(source.shape[1], generator=generator) for _ in range(permutations)]
    by_layer = []
    for s, t in _layers(source, target):
        score = _score_of_order(s, t, method)
        by_layer.append(torch.stack([score(order) for order in orders]))
    return torch.stack(by_layer, dim=1)


def _score_of_order(source: Tensor, target: Tensor, method: Method) -> Callable[[Tensor], Tensor]:
    """One layer's score as a function of the targets' order."""
    if method in OVER_PAIRS:
        cosines = cosine_similarity(source, target)
        if method == "sads":
            return lambda order: _gaps(cosines[:, order]).mean()
        return lambda order: torch.logical_and(*_nearest(cosines[:, order])).double().mean()
    prepare, compare = {"cka": (_kernel_factor, _cka), "svcca": (_directions, _svcca), "anc": (_standardised, _anc)}[
        method
    ]
    prepared, other = prepare(source), prepare(target)
    return lambda order: compare(prepared, other[order])


# ------------------------------------------------------------------------------------------------------- checks


def _layers(source: Tensor, target: Tensor) -> zip[tuple[Tensor, Tensor]]:
    """Both sides layer by layer on the CPU."""
    if source.shape != target.shape or source.dim() != 3:
        raise ValueError(
            f"source {tuple(source.shape)} and target {tuple(target.shape)} must both be (layers, sentences, features)."
        )
    if source.shape[1] < 2:
        raise ValueError("one pair has nothing to be told apart from; give two at least, 100 as in the paper.")
    return zip(source.cpu(), target.cpu(), strict=True)


def representations_of(
    methods: Sequence[Method], chosen: Mapping[Method, Representation]
) -> dict[Method, Representation]:
    """What each method reads: its source's representation, or the chosen one.

    Raises:
        ValueError: a choice for a method that is not measured, of an unknown representation, or for a method that is
            named by what it reads.
    """
    for method, representation in chosen.items():
        if method not in methods:
            raise ValueError(f"a representation is chosen for {method!r}, but methods are {', '.join(methods)}.")
        check_choice("representation", representation, Representation)
        if method in ALIGNMENT and representation != REPRESENTATION_OF[method]:
            names = {REPRESENTATION_OF[name]: name for name in ALIGNMENT}
            raise ValueError(f"{method} on {representation} is called {names[representation]}; ask for that.")
    return {method: chosen.get(method, REPRESENTATION_OF[method]) for method in methods}
