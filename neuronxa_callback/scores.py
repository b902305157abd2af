"""Alignment scores from the representations of parallel sentences (paper, section 2.2, Eq. 4)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from neuronxa_callback.encoder import Representation, check_choice

Method = Literal["nasca", "navca", "mexa"]

REPRESENTATION_OF: dict[Method, Representation] = {"nasca": "nas", "navca": "nav", "mexa": "embedding"}

# Two cosines closer than this are a tie. Rounding in float64 keeps equal cosines within about 1e-15 of each other;
# without the margin it would decide at random which of two equal sentences is "strictly" nearer.
TIE = 1e-12


def alignment_score(source: Tensor, target: Tensor, method: Method = "nasca") -> Tensor:
    """Share of weakly aligned pairs at each layer (Eq. 4): NASCA, NAVCA or MEXA by what the tensors represent.

    Args:
        source: (layers, sentences, features), as `encode` returns it.
        target: the same sentences in the other language, same shape.
        method: "nasca" on neuron states, "navca" on neuron values, "mexa" on embeddings. Eq. 4 is the same for each.

    Returns:
        float32 tensor (layers,), each in [0, 1].

    Raises:
        ValueError: an unknown method, shapes that differ, or fewer than two sentences.
    """
    check_choice("method", method, Method)
    return aligned_pairs(source, target).double().mean(dim=1).float()


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
    if source.shape != target.shape or source.dim() != 3:
        raise ValueError(
            f"source {tuple(source.shape)} and target {tuple(target.shape)} must both be (layers, sentences, features)."
        )
    if source.shape[1] < 2:
        raise ValueError("one pair has nothing to be told apart from; give two at least, 100 as in the paper.")
    # Layer by layer: float64 copies of all layers at once would double the memory of an evaluation.
    return torch.stack(
        [_weakly_aligned(cosine_similarity(s, t)) for s, t in zip(source.cpu(), target.cpu(), strict=True)]
    )


def cosine_similarity(source: Tensor, target: Tensor) -> Tensor:
    """Cosine of each source with each target sentence in float64: (sentences, sentences); 0 for zero vectors."""
    return _unit(source) @ _unit(target).T


def _unit(vectors: Tensor) -> Tensor:
    vectors = vectors.double()
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return torch.div(vectors, norms.masked_fill(norms == 0, 1))


def _weakly_aligned(similarity: Tensor) -> Tensor:
    own: Tensor = similarity.diagonal()
    others = similarity.clone().fill_diagonal_(-torch.inf)
    best_other = torch.maximum(others.amax(dim=0), others.amax(dim=1))
    return torch.gt(own, best_other + TIE)
