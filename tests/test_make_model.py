"""What the scripts that make real models keep, with tokenizers made on the spot in the place of downloads."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.support import ROOT, make_tokenizer


@pytest.fixture
def make_gemma(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import make_gemma

    return make_gemma


def like_gemmas(make_gemma: ModuleType) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words with <bos>, as Gemma's reads the sentence of the check."""
    words = {token: place for place, token in enumerate(make_gemma.TOKENS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<bos>"))
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([metaspace, pre_tokenizers.Punctuation()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>")


def make(make_gemma: ModuleType, destination: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a model's folder with this tokenizer, as if it came out of the GGUF file."""

    def convert(gguf: Path, folder: Path, kind: type) -> None:
        tokenizer.save_pretrained(folder)
        (folder / "model.safetensors").touch()

    monkeypatch.setattr("make_model.convert", convert)
    make_gemma.make(destination, lambda folder: folder, object, make_gemma.check_tokenizer)


def test_a_model_with_gemmas_tokenizer_is_kept(
    make_gemma: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(make_gemma, tmp_path / "gemma", like_gemmas(make_gemma), monkeypatch)
    assert (tmp_path / "gemma" / "model.safetensors").exists()


def test_a_model_with_another_tokenizer_is_not_kept(
    make_gemma: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="tokenizer is not Gemma's"):
        make(make_gemma, tmp_path / "gemma", make_tokenizer(), monkeypatch)
    assert not [*tmp_path.iterdir()]


def test_a_model_that_is_there_is_refused_and_left_alone(
    make_gemma: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(SystemExit, match="Remove the model if it is there"):
        make(make_gemma, tmp_path, like_gemmas(make_gemma), monkeypatch)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
