"""Scores of parallel sentences' representations: alignment (Eq. 4), similarity measures and retrieval accuracy.

The scores take the two sides as tensors (layers, sentences, features). They are computed in float64, layer by layer.
Float64 copies of all layers at once would double the memory of an evaluation.
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

# Two cosines closer than this are a tie. Rounding in float64 keeps equal cosines within about 1e-15 of each other.
# Without the margin, rounding would decide at random which of two equal sentences is "strictly" nearer.
TIE = 1e-12
# A feature that varies by no more than this share of its size counts as constant, because representations are float32.
CONSTANT = 1e-6
SVCCA_VARIANCE = 0.99


@dataclass(frozen=True)
class Measurement:
    """A method's values on the pairs of two languages.

    Attributes:
        per_layer: float64 tensor (layers,).
        per_pair: float64 tensor (layers, pairs). Its mean over the pairs is `per_layer`. None for CKA, SVCCA and ANC,
            which measure all pairs together.
    """

    per_layer: Tensor
    per_pair: Tensor | None


def alignment_score(source: Tensor, target: Tensor, method: Method = "nasca") -> Tensor:
    """Return a method's score at each layer.

    Args:
        source: (layers, sentences, features), as `encode` returns it.
        target: the same sentences in the other language, in the same shape.
        method: "nasca", "navca" and "mexa" are the share of weakly aligned pairs (Eq. 4): on neuron states, on neuron
            values and on embeddings. For "cka", "svcca", "anc" and "sads" see `linear_cka`, `svcca`, `anc` and
            `similarity_gap`. `REPRESENTATION_OF` names the representation that each method's own paper uses.

    Returns:
        float32 tensor (layers,) in [0, 1]; for "sads" in [-2, 2].

    Raises:
        ValueError: an unknown method, shapes that differ, or fewer than two sentences.
    """
    return measure(source, target, method).per_layer.float()


def measure(source: Tensor, target: Tensor, method: Method) -> Measurement:
    """Return a method's value at each layer, and each pair's part if the method is a mean over the pairs."""
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
    """Return which pairs are weakly aligned: c_ii is strictly greater than the rest of row i and column i (Eq. 4).

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
    """Return which sentences have their translation as the strictly nearest one (paper, section 3.1, Tables 1 and 5).

    Args:
        source: (layers, sentences, features).
        target: the same shape.

    Returns:
        boolean tensors (layers, sentences). "source->target" says whether a source's nearest target is its own
        translation. "target->source" says the same of a target's nearest source. "both" is the weak alignment of Eq. 4.
        Their means over sentences are the retrieval accuracies.

    Raises:
        ValueError: shapes that differ, or fewer than two sentences.
    """
    found = [_nearest(cosine_similarity(s, t)) for s, t in _layers(source, target)]
    forward, backward = (torch.stack(side) for side in zip(*found, strict=True))
    return {"source->target": forward, "target->source": backward, "both": forward & backward}


def cosine_similarity(source: Tensor, target: Tensor) -> Tensor:
    """Return the float64 cosines (sentences, sentences) of each source with each target; 0 for zero vectors."""
    return _unit(source) @ _unit(target).T


def _unit(vectors: Tensor) -> Tensor:
    vectors = vectors.double()
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return torch.div(vectors, norms.masked_fill(norms == 0, 1))


def _nearest(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Return where c_ii is strictly the greatest of row i, and where it is of column i."""
    own: Tensor = similarity.diagonal()
    others = similarity.clone().fill_diagonal_(-torch.inf)
    return torch.gt(own, others.amax(dim=1) + TIE), torch.gt(own, others.amax(dim=0) + TIE)


# -------------------------------------------------------------------------------------------- similarity measures


def similarity_gap(source: Tensor, target: Tensor) -> Tensor:
    """Return SADS (Zeng et al. 2025) of each pair.

    It is the pair's cosine minus the mean cosine of its two sentences with all others. Its mean over the pairs is the
    mean cosine of translation pairs minus the mean cosine of all other pairs.

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
    """Return linear centred kernel alignment (Kornblith et al. 2019, Eq. 3 with linear kernels, biased HSIC).

    It is invariant to rotation, and to one scale for all features of a side. With fewer sentences than features it is
    well above 0 for unrelated text, too. So compare it with its value on pairs torn apart and not with 0.

    Returns:
        float64 tensor (layers,) in [0, 1]; 0 if one side does not vary over the sentences.

    Raises:
        ValueError: shapes that differ, or fewer than two sentences.
    """
    return torch.stack([_cka(_kernel_factor(s), _kernel_factor(t)) for s, t in _layers(source, target)])


def _kernel_factor(vectors: Tensor) -> Tensor:
    """Return (sentences, at most sentences) with the same inner products as the centred vectors."""
    centred = _centred(vectors)
    return torch.linalg.qr(centred.T).R.T if centred.shape[1] > len(centred) else centred


def _cka(source: Tensor, target: Tensor) -> Tensor:
    cross, own_source, own_target = (
        torch.linalg.matrix_norm(one.T @ other) for one, other in ((source, target), (source, source), (target, target))
    )
    size: Tensor = own_source * own_target
    return torch.div(cross**2, size).clamp(max=1) if size > 0 else size


def svcca(source: Tensor, target: Tensor) -> Tensor:
    """Return singular vector canonical correlation analysis (Raghu et al. 2017).

    Both sides are centred and reduced to the fewest singular directions that hold 99 % of their variance. The score is
    the mean canonical correlation of the reduced sides, over as many directions as the smaller side has kept.

    It is invariant to rotation and scale. There are at most sentences - 1 directions. If both sides keep more than half
    of these, their subspaces meet by necessity, and unrelated text scores high. 100 sentences of many features do this.
    So compare the score with its value on pairs torn apart and not with 0.

    Returns:
        float64 tensor (layers,) in [0, 1]; 0 if one side does not vary over the sentences.

    Raises:
        ValueError: shapes that differ, or fewer than two sentences.
    """
    return torch.stack([_svcca(_directions(s), _directions(t)) for s, t in _layers(source, target)])


def _directions(vectors: Tensor) -> Tensor:
    """Return an orthonormal basis (sentences, kept) of the singular directions that hold the variance."""
    left: Tensor
    left, values, _ = torch.linalg.svd(_kernel_factor(vectors), full_matrices=False)
    variance = values**2
    if variance.sum() == 0:
        return left[:, :0]
    held = variance.cumsum(0) / variance.sum()
    return left[:, : int((held < SVCCA_VARIANCE).sum()) + 1]


def _svcca(source: Tensor, target: Tensor) -> Tensor:
    # The canonical correlations of two orthonormal bases are the singular values of their product.
    values: Tensor = torch.linalg.svdvals(source.T @ target)
    return values.clamp(max=1).mean() if values.numel() else source.new_zeros(())


def anc(source: Tensor, target: Tensor) -> Tensor:
    """Return averaged neuron-wise correlation (Del and Fishel 2022).

    It is the mean over features of the absolute Pearson r between a feature on one side and the same feature on the
    other. A feature that does not vary over the sentences of one side has no correlation and is left out.

    Returns:
        float64 tensor (layers,) in [0, 1]; 0 if no feature varies on both sides. Unrelated text scores about
        sqrt(2 / (pi * sentences)), which is 0.08 for 100 sentences.

    Raises:
        ValueError: shapes that differ, or fewer than two sentences.
    """
    return torch.stack([_anc(_standardised(s), _standardised(t)) for s, t in _layers(source, target)])


def _standardised(vectors: Tensor) -> Tensor:
    """Return the features centred and scaled to length 1; features that do not vary are 0."""
    return _unit(_centred(vectors).T).T


def _anc(source: Tensor, target: Tensor) -> Tensor:
    varies = (source != 0).any(dim=0) & (target != 0).any(dim=0)
    correlations: Tensor = (source * target).sum(dim=0)[varies]
    return correlations.abs().clamp(max=1).mean() if correlations.numel() else correlations.sum()


def _centred(vectors: Tensor) -> Tensor:
    """Return float64 vectors minus the mean sentence; a feature that varies by no more than rounding is exactly 0."""
    vectors = vectors.double()
    centred: Tensor = vectors - vectors.mean(dim=0)
    size, spread = torch.linalg.vector_norm(vectors, dim=0), torch.linalg.vector_norm(centred, dim=0)
    return centred.masked_fill(spread <= CONSTANT * size, 0)


# ------------------------------------------------------------------------------------------------------- chance


def permuted_scores(source: Tensor, target: Tensor, method: Method, permutations: int, seed: int = 0) -> Tensor:
    """Return a method's scores on pairs that are torn apart at random, as unrelated text would score.

    The part that one side contributes is computed once. Another order of its sentences only reorders the rows of that
    part.

    Args:
        source: (layers, sentences, features).
        target: the same shape.
        method: the method.
        permutations: how often the targets are put in a random order.
        seed: the seed of the random orders.

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
    """Return one layer's score as a function of the targets' order."""
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
    """Return both sides layer by layer on the CPU, after a check of their shapes."""
    if source.shape != target.shape or source.dim() != 3:
        raise ValueError(
            f"source {tuple(source.shape)} and target {tuple(target.shape)} must both be (layers, sentences, features)."
        )
    if source.shape[1] < 2:
        raise ValueError("one pair has no other pair to be compared with; give at least two, 100 as in the paper.")
    return zip(source.cpu(), target.cpu(), strict=True)


def representations_of(
    methods: Sequence[Method], chosen: Mapping[Method, Representation]
) -> dict[Method, Representation]:
    """Return the representation that each method reads: the chosen one, or the one of the method's own paper.

    Raises:
        ValueError: a choice for a method that is not measured, an unknown representation, or another representation
            for NASCA, NAVCA or MEXA, which are named by what they read.
    """
    for method, representation in chosen.items():
        if method not in methods:
            raise ValueError(f"a representation is chosen for {method!r}, but methods are {', '.join(methods)}.")
        check_choice("representation", representation, Representation)
        if method in ALIGNMENT and representation != REPRESENTATION_OF[method]:
            names = {REPRESENTATION_OF[name]: name for name in ALIGNMENT}
            raise ValueError(f"{method} on {representation} is called {names[representation]}; ask for that.")
    return {method: chosen.get(method, REPRESENTATION_OF[method]) for method in methods}
