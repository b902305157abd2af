"""The evaluator's arguments: their defaults and their help. Importing this module loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neuronxa_callback.vocabulary import LayerPooling, Method, Representation, TokenPooling


@dataclass(frozen=True)
class AlignmentSettings:
    """What `NeuronXAEvaluator` is given, with the default and the help of each argument.

    `NeuronXAEvaluator`, `NeuronXACallback` and the command line read both from here. `tests/test_help.py` compares the
    docstrings with the help.
    """

    pairs: Any = field(
        default="eng_Latn-isl_Latn",
        metadata={
            "help": "Held-out pairs of one language pair or several: a file, or two codes such as eng_Latn-isl_Latn "
            "for the embedded set."
        },
    )
    methods: tuple[Method, ...] = field(
        default=("nasca", "nasca_rank"),
        metadata={"help": "One or several of nasca, nasca_rank, navca, mexa, cka, svcca, anc and sads."},
    )
    token_pooling: TokenPooling = field(
        default="weighted",
        metadata={"help": "How tokens become a sentence: weighted (Eq. 3 of the paper), average or last."},
    )
    token_budget: int | None = field(
        default=None, metadata={"help": "Padded tokens in a batch at most; a smaller budget needs less memory."}
    )
    layer_pooling: LayerPooling = field(
        default="mean",
        metadata={"help": "How layers become a score: mean, or max, which the paper uses for retrieval."},
    )
    representations: Mapping[Method, Representation] | None = field(
        default=None,
        metadata={
            "help": "What cka, svcca, anc or sads reads instead of its own representation: nas, nav, embedding or "
            "signed."
        },
    )
    permutations: int = field(
        default=199,
        metadata={
            "help": "Random re-pairings of the sentences for chance and p-values of cka, svcca and anc; 0 gives none. "
            "The other methods always take 9,999."
        },
    )
    layers: tuple[int, ...] | None = field(
        default=None,
        metadata={
            "help": "Which layers to read, such as 8,16,24; the forward pass ends after the deepest. FFNs count from 1."
        },
    )
