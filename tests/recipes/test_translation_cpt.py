"""The order of the texts in continued pretraining, and the notes on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import held_out
import languages
import pytest
import settings
import translation_cpt
from datasets import Dataset
from transformers import AutoTokenizer
from trl import ModelConfig, SFTConfig

from tests.support import make_tokenizer

pytestmark = pytest.mark.recipe

RECIPES = Path(__file__).parents[2] / "recipes"
LANGUAGES = languages.Languages("eng_Latn", ("isl_Latn",))
PAIRS = Dataset.from_dict({"eng_Latn": ["A.", "B."], "isl_Latn": ["Á.", "BÉ."]})


def documents(name: str, number: int) -> Dataset:
    return Dataset.from_dict({"text": [f"{name} {i}" for i in range(number)]})


def all_texts(english: int) -> translation_cpt.Texts:
    return translation_cpt.Texts([documents("is", 400)], documents("en", english), [PAIRS], {})


@pytest.mark.parametrize("english", [1, 50, 100])
def test_all_monolingual_text_comes_first_evenly_mixed_and_then_the_pairs(english: int) -> None:
    texts = translation_cpt.in_order(all_texts(english))["text"][:]
    assert texts[-2:] == ["English: A.\nIcelandic: Á.", "Icelandic: BÉ.\nEnglish: B."]
    for name, number in (("is", 400), ("en", english)):
        assert [text for text in texts if text.startswith(name)] == [f"{name} {i}" for i in range(number)]
    places = [place for place, text in enumerate(texts) if text.startswith("en")]
    for number, place in enumerate(places):
        assert place == pytest.approx((number + 0.5) * (400 + english) / english, abs=1.5)


def test_the_texts_of_several_targets_are_mixed(tmp_path: Path) -> None:
    french = Dataset.from_dict({"eng_Latn": ["A."], "fra_Latn": ["À."]})
    of_both = translation_cpt.Texts([documents("is", 4), documents("fr", 2)], documents("en", 1), [PAIRS, french], {})
    texts = translation_cpt.in_order(of_both)["text"][:]
    assert texts[:7] == ["is 0", "fr 0", "is 1", "en 0", "is 2", "fr 1", "is 3"]
    assert texts[7:] == ["English: A.\nIcelandic: Á.", "English: A.\nFrench: À.", "Icelandic: BÉ.\nEnglish: B."]
    assert of_both.monolingual == (6, 1)


def notes(tmp_path: Path, english: int = 100, share: float = 0.2, **given: Any) -> list[str]:
    tokenizer = make_tokenizer()
    recipe = translation_cpt.RecipeArguments(source_share=share)
    args = SFTConfig(str(tmp_path), report_to=[], bf16=False, max_length=64, per_device_train_batch_size=2, **given)
    texts = translation_cpt.in_order(all_texts(english))
    return translation_cpt.notes(recipe, args, tokenizer, texts, (400, english))


def test_the_step_at_which_the_pairs_begin_is_noted(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    texts = [*documents("is", 400)["text"], *documents("en", 100)["text"]]
    whole = sum(len(tokenizer(text)["input_ids"]) + 1 for text in texts)
    (sentence,) = notes(tmp_path, max_steps=200)
    begin = int(sentence.removeprefix("The sentence pairs begin at about step ").split()[0])
    assert begin == pytest.approx(whole / 128, rel=0.1)
    (sentence,) = notes(tmp_path, max_steps=begin)
    assert sentence.startswith(
        f"The run ends before the sentence pairs begin, at about step {begin}; lower --documents"
    )


def test_english_that_ends_early_is_noted(tmp_path: Path) -> None:
    assert notes(tmp_path, english=40, max_steps=500)[1:] == [
        "English ends early: its share is 0.091, where --source_share is 0.2."
    ]


def test_the_smoke_run_reads_both_phases(smollm_path: Path, tmp_path: Path) -> None:
    arguments = [
        "--config",
        str(RECIPES / "configs" / "icelandic-cpt-smoke.yaml"),
        "--model_name_or_path",
        str(smollm_path),
    ]
    recipe, args, _ = settings.parse((translation_cpt.RecipeArguments, SFTConfig, ModelConfig), arguments)
    held = held_out.load(recipe.held_out, LANGUAGES, recipe.held_out_pairs)
    found = translation_cpt.texts(recipe, held, tmp_path)
    assert found.monolingual == (20, 5)
    assert found.counts["eng_Latn, embedded"]["kept"] == 5
    texts = translation_cpt.in_order(found)
    tokenizer = AutoTokenizer.from_pretrained(smollm_path)
    before = sum(len(tokenizer(text)["input_ids"]) + 1 for text in texts["text"][:25])
    read = args.max_steps * args.per_device_train_batch_size * args.max_length
    assert before < read / 2
    assert "The sentence pairs begin at about step" in translation_cpt.notes(recipe, args, tokenizer, texts, (20, 5))[0]
