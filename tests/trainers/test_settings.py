"""The section `neuronxa:` of a YAML file: what it makes, and one sentence for each fault."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuronxa_callback import NeuronXACallback, Quality, StoppingRule
from neuronxa_callback.integrations.settings import (
    PairsSection,
    QualitySection,
    Settings,
    SettingsError,
    StoppingSection,
    callback_of,
    settings_of,
)
from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.text.pairs import ParallelPairs
from tests.trainers.page import block

pytestmark = pytest.mark.once

PYTHON_ALONE = {"tokenizer", "train_texts"}


def attributes(callback: NeuronXACallback) -> dict[str, Any]:
    """What a callback was given, as far as two of them can be compared."""
    evaluator = callback.evaluator
    return {
        "pairs": evaluator.pairs,
        "methods": evaluator.methods,
        "pooling": (evaluator.token_pooling, evaluator.token_budget, evaluator.layers),
        "quality": callback.quality_settings,
        "rest": (callback.stopping, callback.eval_steps, callback.max_overhead, callback.on_error),
    }


@pytest.mark.parametrize("section", [None, {}, {"pairs": None}, {"quality": None}, {"stopping": None}])
def test_an_empty_section_takes_every_default(section: Any) -> None:
    assert attributes(callback_of(section)) == attributes(NeuronXACallback())


def test_the_section_of_the_page_is_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = embedded("heldout.tsv")
    for name, code in (("dev.en", "eng_Latn"), ("dev.is", "isl_Latn")):
        Path(name).write_text("\n".join(text[code]) + "\n", encoding="utf-8")
    rows = zip(text["eng_Latn"], text["deu_Latn"], strict=True)
    Path("heldout.tsv").write_text("\n".join(["eng_Latn\tdeu_Latn", *map("\t".join, rows)]) + "\n", encoding="utf-8")
    section = yaml.safe_load(block("The section of a YAML file", "yaml"))["neuronxa"]
    expected = NeuronXACallback(
        [
            "eng_Latn-fra_Latn",
            "heldout.tsv",
            ParallelPairs.load(("dev.en", "dev.is"), "eng_Latn", "isl_Latn", n=50),
        ],
        methods=("nasca", "mexa"),
        eval_steps=50,
        quality=Quality(("chrf",), direction="both", prompt="English: {source}\nTranslation:"),
        stopping=StoppingRule(15, floor={"fra_Latn": 0.02}),
        on_error="raise",
    )
    assert attributes(callback_of(section)) == attributes(expected)


def test_short_forms() -> None:
    short = callback_of({"pairs": "eng_Latn-deu_Latn", "methods": "mexa", "quality": "chrf", "layers": 2})
    expected = NeuronXACallback("eng_Latn-deu_Latn", methods="mexa", quality=Quality(("chrf",)), layers=(2,))
    assert attributes(short) == attributes(expected)
    assert callback_of({"quality": []}).quality_settings == Quality(())
    assert callback_of({"quality": {"metrics": "auto"}}).quality_settings == Quality()
    assert callback_of({"max_overhead": "1e-2"}).max_overhead == 0.01  # YAML reads 1e-2 as text


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        (
            "eng_Latn-isl_Latn",
            'neuronxa is "eng_Latn-isl_Latn"; write its settings below it, one `key: value` a line, ',
        ),
        ({"eval_stpes": 50}, "neuronxa.eval_stpes is unknown; the nearest key is eval_steps."),
        (
            {"train_texts": "x"},
            "neuronxa.train_texts is unknown; remove it, or choose from pairs, methods, eval_steps, ",
        ),
        ({"methods": "nasa"}, "neuronxa.methods is \"nasa\"; it must be 'nasca', 'nasca_rank', "),
        ({"methods": ["nasca", "nasa"]}, "neuronxa.methods.1 is \"nasa\"; it must be 'nasca', 'nasca_rank', "),
        ({"methods": None}, "neuronxa.methods is null; it must be 'nasca', 'nasca_rank', "),
        ({"eval_steps": "often"}, 'neuronxa.eval_steps is "often"; it must be a number.'),
        ({"eval_steps": True}, "neuronxa.eval_steps is true; it must be a number."),
        ({"layers": True}, "neuronxa.layers is true; it must be a number."),
        ({"layers": [1, True]}, "neuronxa.layers.1 is true; it must be a number."),
        ({"layers": [1.5]}, "neuronxa.layers.0 is 1.5; it must be a whole number."),
        ({"token_budget": True}, "neuronxa.token_budget is true; it must be a number."),
        ({"early_stopping_patience": True}, "neuronxa.early_stopping_patience is true; it must be a number."),
        ({"max_overhead": False}, "neuronxa.max_overhead is false; it must be a number."),
        ({True: 1}, "neuronxa has the key true, which is no word; choose from pairs, methods, "),
        ({"eval_steps": 0}, "neuronxa: eval_steps=0.0 must be a whole number of steps, or below 1 a share of all."),
        ({"quality": "bleurt"}, "neuronxa.quality is \"bleurt\"; it must be 'auto', 'comet', "),
        ({"quality": {"directon": "both"}}, "neuronxa.quality.directon is unknown; the nearest key is direction."),
        ({"quality": {"comet_batch_size": True}}, "neuronxa.quality.comet_batch_size is true; it must be a number."),
        ({"quality": {"comet_dtype": "int8"}}, "neuronxa.quality.comet_dtype is \"int8\"; it must be 'float32' or 'bf"),
        ({"quality": {"comet_timeout": True}}, "neuronxa.quality.comet_timeout is true; it must be a number."),
        ({"quality": {"wait": 5}}, "neuronxa.quality.wait is 5; it must be true or false."),
        ({"quality": {"prompt": 5}}, "neuronxa.quality.prompt is 5; it must be text, in quotes if YAML would read it "),
        ({"quality": {True: 1}}, "neuronxa.quality has the key true, which is no word; choose from metrics, "),
        ({"stopping": 5}, "neuronxa.stopping is 5; write its settings below it, one `key: value` a line."),
        ({"stopping": {"warmup": True}}, "neuronxa.stopping.warmup is true; it must be a number."),
        ({"stopping": {"min_delta": True}}, "neuronxa.stopping.min_delta is true; it must be a number."),
        ({"stopping": {"floor": 5}}, "neuronxa.stopping.floor is 5; it must be keys with values, one `key: value` a "),
        (
            {"stopping": {"floor": {"fra_Latn": True}}},
            "neuronxa.stopping.floor.fra_Latn is true; it must be a number.",
        ),
        (
            {"stopping": {"floor": {False: 0.1}}},
            "neuronxa.stopping.floor has the key false, which is no word; put it in quotes.",
        ),
        ({"stopping": {"pacience": 5}}, "neuronxa.stopping.pacience is unknown; the nearest key is patience."),
        ({"stopping": {"patience": 1}}, "neuronxa.stopping: patience=1 must be 2 evaluations or more, such as 15."),
        ({"pairs": {"n": 10}}, "neuronxa.pairs.text is missing; add it."),
        ({"pairs": [{"n": 10}]}, "neuronxa.pairs.0.text is missing; add it."),
        ({"pairs": 5}, "neuronxa.pairs is 5; it must be text, in quotes if YAML would read it otherwise."),
        ({"pairs": {"text": ["a", "b", "c"]}}, "neuronxa.pairs.text has 3 values; give 2 at most."),
        ({"pairs": {"text": []}}, "neuronxa.pairs.text has 0 values; give 1 at least."),
        ({"pairs": {"text": "a.tsv", "n": True}}, "neuronxa.pairs.n is true; it must be a number."),
        ({"pairs": {"text": "a.tsv", "columns": "en"}}, 'neuronxa.pairs.columns is "en"; it must be a list.'),
        (
            {"pairs": {"text": "a.tsv", "lang": "x"}},
            "neuronxa.pairs.lang is unknown; remove it, or choose from text, ",
        ),
        ({"pairs": "gone.tsv"}, "neuronxa: gone.tsv does not exist; check the path of the held-out pairs."),
        ({"pairs": []}, "neuronxa: no held-out pairs were given; "),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_fault_is_one_sentence(section: Any, sentence: str) -> None:
    with pytest.raises(SettingsError) as raised:
        callback_of(section)
    assert str(raised.value).startswith(sentence)
    assert str(raised.value).count("\n") == 0
    assert str(raised.value).endswith(".")


def test_checking_reads_no_file() -> None:
    assert settings_of({"pairs": "gone.tsv"}).pairs == (PairsSection(text=("gone.tsv",)),)


def test_every_argument_has_its_key() -> None:
    arguments = set(inspect.signature(NeuronXACallback).parameters)
    assert set(Settings.model_fields) == arguments - PYTHON_ALONE
    assert set(QualitySection.model_fields) == {its.name for its in fields(Quality)}
    load = set(inspect.signature(ParallelPairs.load).parameters)
    assert set(PairsSection.model_fields) == load - {"spec"} | {"text"}
    assert QualitySection().read() == Quality()
    assert set(StoppingSection.model_fields) == {its.name for its in fields(StoppingRule)}
    assert StoppingSection().read() == StoppingRule()
