"""MEXA as its authors' two scripts compute it (Kargaran et al. 2024, github.com/cisnlp/MEXA), for comparisons of cost.

`python -m benchmarks.mexa_published embed` reads one sentence at a time, takes all hidden states of the whole model, LM
head included, and saves the weighted mean over each sentence's tokens, a file for each language. `python -m
benchmarks.mexa_published score` reads two of these files, takes the cosine of each pair of vectors in Python loops, and
prints the share of weakly aligned pairs at each layer. This is written anew from the description. Two things that the
authors' scripts do besides are left out: the embeddings of the last tokens, and the scores of the pivot with itself. So
the authors' own scripts take longer. They save float16. This script saves float32, because float16 decided one of 100
English-French pairs of Tatoeba at one of 31 layers of SmolLM2-135M otherwise.
"""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def embeddings(model: Any, tokenizer: Any, sentences: Sequence[str]) -> list[list[Vectors]]:
    """Return the weighted means of each sentence's tokens at each layer.

    Returns:
        layer -> sentence -> (hidden size,). Layer 0 is the embedding layer.
    """
    import torch  # scoring needs none, and is a process of its own

    by_sentence = []
    for sentence in sentences:
        tokens = tokenizer(sentence, return_tensors="pt").to(model.device)
        with torch.no_grad():
            states = model(**tokens, output_hidden_states=True).hidden_states
        weights = torch.arange(1, states[0].shape[1] + 1, device=model.device).unsqueeze(-1)
        pooled = [(layer[0] * weights).sum(dim=0) / weights.sum() for layer in states]
        by_sentence.append([vector.float().cpu().numpy() for vector in pooled])
    return [list(layer) for layer in zip(*by_sentence, strict=True)]


def layer_scores(source: Sequence[Sequence[Vectors]], target: Sequence[Sequence[Vectors]]) -> list[float]:
    """Return MEXA at each layer, given what `embeddings` returned for the two sides."""
    return [weak_alignment(cosines(*sides)) for sides in zip(source, target, strict=True)]


def cosines(source: Sequence[Vectors], target: Sequence[Vectors]) -> NDArray[np.float64]:
    """Return the cosines of each source with each target, one pair of vectors after another."""
    from scipy.spatial.distance import cosine  # embedding needs none of scipy

    sources, targets = ([vector.astype(np.float64) for vector in side] for side in (source, target))
    found = np.zeros((len(source), len(target)))
    for row, one in enumerate(sources):
        for column, other in enumerate(targets):
            found[row, column] = 1 - cosine(one, other)
    return found


def weak_alignment(found: NDArray[np.float64]) -> float:
    """Return the share of pairs whose cosine is greater than all others of its row and of its column."""
    aligned = 0
    for place in range(len(found)):
        own = found[place, place]
        others = np.concatenate([np.delete(found[place], place), np.delete(found[:, place], place)])
        aligned += own > max(others)
    return aligned / len(found)


def embed(model_folder: Path, texts: Sequence[Path], folder: Path) -> None:
    """Write the embeddings of each text, a sentence a line, into a pickle with the text's name."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    folder.mkdir(parents=True, exist_ok=True)
    for text in texts:
        with text.open(encoding="utf-8") as lines:
            made = embeddings(model, tokenizer, [line.strip() for line in lines])
        (folder / f"{text.stem}.pkl").write_bytes(pickle.dumps(made))


def score(source: Path, target: Path) -> list[float]:
    """Return MEXA at each layer from two files of `embed`."""
    return layer_scores(*(pickle.loads(path.read_bytes()) for path in (source, target)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    embedding = steps.add_parser("embed", help="save the embeddings of texts")
    embedding.add_argument("model", type=Path)
    embedding.add_argument("texts", type=Path, nargs="+", help="a sentence a line")
    embedding.add_argument("--folder", type=Path, required=True, help="where the embeddings are saved")
    scoring = steps.add_parser("score", help="print the scores of two languages' saved embeddings")
    scoring.add_argument("files", type=Path, nargs=2)
    options = parser.parse_args()
    if options.step == "embed":
        embed(options.model, options.texts, options.folder)
    else:
        print(json.dumps(score(*options.files)))


if __name__ == "__main__":
    main()
