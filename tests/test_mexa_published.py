"""MEXA in its authors' way, which the benchmarks compare with, gives the scores that this package gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import mexa_published
from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from tests.support import ICELANDIC, SMOLLM, make_tokenizer, tiny_llama

pytestmark = pytest.mark.once


@pytest.mark.parametrize("n", [10, 40])
def test_from_files_of_embeddings(n: int, tmp_path: Path) -> None:
    pairs = ParallelPairs.load("eng_Latn-isl_Latn", n=n)
    model, tokenizer = tiny_llama().eval(), make_tokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    texts = [tmp_path / "eng_Latn.txt", tmp_path / "isl_Latn.txt"]
    for text, side in zip(texts, (pairs.source, pairs.target), strict=True):
        text.write_text("\n".join(side) + "\n", encoding="utf-8")
    mexa_published.embed(tmp_path / "model", texts, tmp_path / "made")
    found = mexa_published.score(*(tmp_path / "made" / f"{text.stem}.pkl" for text in texts))
    ours = NeuronXAEvaluator(pairs, methods=("mexa",))(model, tokenizer).per_layer["mexa"]
    assert ours.max() > 0
    assert found == pytest.approx(ours.tolist(), abs=1e-6)


def test_on_smollm() -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(SMOLLM), AutoTokenizer.from_pretrained(SMOLLM)
    sides = [mexa_published.embeddings(model, tokenizer, side) for side in (ICELANDIC.source, ICELANDIC.target)]
    ours = NeuronXAEvaluator(ICELANDIC, methods=("mexa",))(model, tokenizer).per_layer["mexa"]
    assert ours.max() > 0
    assert mexa_published.layer_scores(*sides) == pytest.approx(ours.tolist(), abs=1e-6)
