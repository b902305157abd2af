"""Real parts, made small on the spot: a tokenizer trained on the embedded text, tiny models of each architecture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from neuronxa_callback.pairs import embedded

os.environ["HF_HUB_OFFLINE"] = "1"
SMOLLM = Path(__file__).parent.parent / ".models" / "smollm2-135m-instruct"
VOCABULARY = 600


def make_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; with `bos` it puts a BOS token in front, as Llama's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    sentences = [sentence for column in embedded("heldout.tsv").values() for sentence in column]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left"
    )


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


def tiny_llama(seed: int = 0, **settings: Any) -> LlamaForCausalLM:
    """A Llama of three layers with random weights large enough for sentences to differ."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.2,
            "pad_token_id": 2,
            "bos_token_id": 0,
            "eos_token_id": 1,
        }
        | settings
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def llama() -> LlamaForCausalLM:
    return tiny_llama().eval()


@pytest.fixture(scope="session")
def smollm_path() -> Path:
    if not (SMOLLM / "config.json").exists():
        pytest.fail("the real model is missing: run `make model`")
    return SMOLLM


@pytest.fixture(scope="session")
def smollm_tokenizer(smollm_path: Path) -> Any:
    return AutoTokenizer.from_pretrained(smollm_path)


@pytest.fixture(scope="session")
def smollm(smollm_path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(smollm_path, dtype=torch.float32).eval()
