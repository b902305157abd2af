"""The search for held-out sentences in training text, compared with a slow and simple one."""

from __future__ import annotations

import json
import logging
import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import example, given
from hypothesis import strategies as st

from neuronxa_callback import NeuronXACallback, ParallelPairs
from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.text.overlap import NEAR, NGRAM, Sentences, drop, search, texts_of
from tests.support import scored_steps, sft, tiny_llama, training_set

ENGLISH = ("The sea is calm.", "A red door opened.", "Nobody laughed.")
ICELANDIC = ("Sjórinn er lygn.", "Rauð hurð opnaðist.", "Enginn hló.")
PAIRS = ParallelPairs(ENGLISH, ICELANDIC, "eng_Latn", "isl_Latn")
EMBEDDED = ParallelPairs.load("eng_Latn-isl_Latn")
LONG = "The lighthouse keeper wrote every ship that passed into a thick green book."
OF_LONG = ParallelPairs((LONG, ENGLISH[0]), ("Vitavörðurinn skráði öll skip.", ICELANDIC[0]), "eng_Latn", "isl_Latn")


@pytest.mark.unit
class TestWholeSentences:
    def test_case_space_and_punctuation_do_not_hide_a_sentence(self) -> None:
        texts = ["nothing here", "He said: THE  SEA—is\u00a0calm!!", "translate: Enginn hló", "A red doorbell opened."]
        assert [tuple(found) for found in PAIRS.overlap(texts)] == [
            (1, 0, "The sea is calm.", 1.0),
            (2, 2, "Enginn hló.", 1.0),
        ]

    def test_part_of_a_word_is_not_a_sentence(self) -> None:
        pairs = ParallelPairs(("He ran.", "No."), ("Hann hljóp.", "Nei."), "eng_Latn", "isl_Latn")
        assert pairs.overlap(["She ran home.", "Nothing.", "the range"]) == []
        assert [found[:3] for found in pairs.overlap(["and he ran, no?"])] == [(0, 0, "He ran."), (0, 1, "No.")]

    def test_decomposed_accents_match(self) -> None:
        (found,) = PAIRS.overlap([unicodedata.normalize("NFD", "rauð hurð opnaðist")])
        assert found == (0, 1, "Rauð hurð opnaðist.", 1.0)

    def test_it_reads_a_stream_once(self) -> None:
        (found,) = PAIRS.overlap(text for text in ("x", "nobody laughed"))
        assert found == (1, 2, "Nobody laughed.", 1.0)

    @given(st.text(), st.integers(0, 2), st.text())
    def test_a_sentence_is_found_in_any_company(self, before: str, pair: int, after: str) -> None:
        found = PAIRS.overlap([f"{before} . {ENGLISH[pair].upper()} . {after}"])
        assert (0, pair, ENGLISH[pair], 1.0) in [tuple(overlap) for overlap in found]


def words_of(text: str) -> list[str]:
    """Return the text's words the slow way: everything except letters and digits becomes a space."""
    normal = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in normal).split()


def stands(sentence: str, text: str) -> bool:
    """Return the slow way whether consecutive words of the text spell the whole sentence."""
    words = words_of(text)
    spans = ["".join(words[begin:end]) for begin in range(len(words)) for end in range(begin + 1, len(words) + 1)]
    return "".join(words_of(sentence)) in spans


def shares(sentence: str, text: str) -> float:
    """Return the slow way the share of the sentence's runs of eight letters that the text holds.

    It is 1 only for the whole sentence. A text can hold all runs without the sentence: "zebra single oak" holds those
    of "A single oak".
    """

    def runs(of: str) -> set[str]:
        letters = "".join(words_of(of))
        return {letters[i : i + NGRAM] for i in range(len(letters) - NGRAM + 1)}

    if stands(sentence, text):
        return 1
    wanted = runs(sentence)
    return min(len([run for run in wanted if run in runs(text)]) / len(wanted), 0.99)


@pytest.mark.unit
class TestNearDuplicates:
    def test_another_word_or_order_is_found(self) -> None:
        texts = [
            "The lighthouse keeper wrote every ship that passed into a thick blue book.",
            "Into a thick green book the lighthouse keeper wrote every ship that passed.",
            "The lighthouse keeper wrote a letter.",
        ]
        found = OF_LONG.overlap(texts)
        assert [(overlap.text, overlap.sentence) for overlap in found] == [(0, LONG), (1, LONG)]
        for overlap in found:
            assert overlap.share == pytest.approx(shares(LONG, texts[overlap.text]))
            assert NEAR <= overlap.share < 1

    def test_inside_a_long_document(self) -> None:
        words = " ".join(" ".join(embedded("demo_train.tsv")["eng_Latn"]).split() * 20)
        near = LONG.replace("green", "blue")
        (found,) = OF_LONG.overlap([f"{words} {near} {words}"])
        assert found.share == pytest.approx(shares(LONG, near))

    def test_its_parts_all_over_a_long_document_are_no_sentence(self) -> None:
        filling = " ".join(embedded("demo_train.tsv")["eng_Latn"])
        quarters = [LONG[start : start + 19] for start in range(0, len(LONG), 19)]
        assert OF_LONG.overlap([f" {filling} ".join(quarters)]) == []

    def test_short_sentences_count_only_whole(self) -> None:
        assert PAIRS.overlap(["The sea is calmer.", "A red door opens."]) == []

    def test_a_script_without_spaces(self) -> None:
        chinese = "灯塔看守人把每一艘经过的船都写进了一本厚厚的绿色的书里"
        pairs = ParallelPairs((chinese, "海很平静"), ("a", "b"), "zho_Hans", "eng_Latn")
        assert [found.pair for found in pairs.overlap([f"他说{chinese}", chinese.replace("绿", "蓝")])] == [0, 0]

    @given(st.integers(0, 99), st.integers(0, 40))
    @example(66, 0)  # "zebra" ends in the sentence's first word, "A": the text holds all n-grams, but not the sentence
    def test_the_share_is_that_of_the_slow_reading(self, pair: int, place: int) -> None:
        words = EMBEDDED.source[pair].split()
        words[place % len(words)] = "zebra"
        text = " ".join(words)
        found = {sentence: share for _, sentence, share in Sentences([EMBEDDED]).find(text)}
        expected = shares(EMBEDDED.source[pair], text)
        if expected >= NEAR and EMBEDDED.source[pair] in found:
            assert found[EMBEDDED.source[pair]] == pytest.approx(expected)
        assert (EMBEDDED.source[pair] in found) == (expected >= NEAR) or len(words) < 4

    def test_the_embedded_training_text_holds_none(self) -> None:
        for texts in embedded("demo_train.tsv").values():
            report = search(texts, [ParallelPairs.load(f"eng_Latn-{code}") for code in ("isl_Latn", "fra_Latn")])
            assert (report.texts, report.whole, report.near) == (len(texts), 0, 0)


ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": f"Translate: {LONG}"}, {"role": "assistant", "content": "..."}], "id": 1},
    {"messages": [{"role": "user", "content": LONG.replace("green", "blue")}], "id": 2},
    {"messages": [{"role": "user", "content": "Hello!"}], "id": 3},
]


@pytest.mark.unit
class TestTrainingSets:
    def test_a_report_counts_each_text_once_and_keeps_examples(self) -> None:
        report = search(ROWS, [OF_LONG, PAIRS])
        assert (report.texts, report.whole, report.near) == (3, 1, 1)
        assert [(found.text, found.share == 1) for found in report.examples] == [(0, True), (1, False)]
        assert report.examples[0].begins.startswith("user\nTranslate: The lighthouse")

    @pytest.mark.parametrize("kind", ["list", "dataset", "stream"])
    def test_drop_leaves_the_others_in_place(self, kind: str) -> None:
        rows: Any = {"list": ROWS, "dataset": Dataset.from_list(ROWS)}.get(kind)
        rows = Dataset.from_list(ROWS).to_iterable_dataset() if rows is None else rows
        kept = drop(rows, [OF_LONG])
        assert isinstance(kept, type(rows))
        assert [row["id"] for row in kept] == [3]

    def test_what_counts_as_text(self) -> None:
        columns = {"translation": [{"en": "a", "is": "b"}], "input_ids": [[1, 2]], "n": [3], "none": [None]}
        assert list(texts_of(Dataset.from_dict(columns))) == ["a\nb"]
        assert list(texts_of(Dataset.from_dict({"text": ["a", "b"]})["text"])) == ["a", "b"]
        assert list(texts_of(Dataset.from_dict({"text": ["a", "b"]}).to_iterable_dataset())) == ["a", "b"]
        assert list(texts_of(text for text in "ab")) == ["a", "b"]

    @pytest.mark.parametrize("kind", ["pandas", "torch", "transform"])
    def test_a_format_set_for_training_hides_nothing(self, kind: str) -> None:
        data = Dataset.from_dict({"text": ["a", "b"]})
        tokenised = data.with_transform(lambda rows: {"input_ids": [[1]] * 2})
        formatted = tokenised if kind == "transform" else data.with_format(kind)
        assert list(texts_of(formatted)) == ["a", "b"]

    @pytest.mark.parametrize("kind", ["str", "DatasetDict", "DataFrame"])
    def test_what_has_no_rows_of_text_is_refused(self, kind: str) -> None:
        """Otherwise only its parts (letters, splits, column names) would be searched, and they are clean."""
        data = Dataset.from_dict({"text": [EMBEDDED.target[3]]})
        texts: Any = {"str": EMBEDDED.target[3], "DatasetDict": DatasetDict(train=data), "DataFrame": data.to_pandas()}
        with pytest.raises(ValueError, match=rf"training text in a {kind} cannot be searched; give one data set"):
            search(texts[kind], [EMBEDDED])

    def test_an_iterator_that_was_read_before_is_refused(self) -> None:
        texts = iter(["a", "b"])
        assert search(texts, [PAIRS]).texts == 2
        with pytest.raises(ValueError, match="train_texts gives no row: it is empty, or an iterator that was read"):
            search(texts, [PAIRS])

    def test_a_tokenised_set_is_refused(self) -> None:
        with pytest.raises(ValueError, match="train_texts holds no text in 2 rows; give the data set as it was before"):
            search(Dataset.from_dict({"input_ids": [[1], [2, 3]]}), [PAIRS])


@pytest.mark.trainer
class TestTheCallback:
    def run(self, folder: Path, texts: Any) -> Any:
        callback = NeuronXACallback("eng_Latn-isl_Latn", eval_steps=6, train_texts=texts)
        trainer = sft(folder, [callback])
        trainer.train()
        assert scored_steps(trainer) == [0, 6]
        return json.loads((folder / "neuronxa" / "overlap.json").read_text(encoding="utf-8"))

    def test_it_warns_of_what_it_found_and_says_where(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        texts = ["Eitt.", EMBEDDED.target[3], EMBEDDED.source[7] + " Two."]
        with caplog.at_level(logging.WARNING):
            report = self.run(tmp_path, texts)
        assert "of 3 training texts, 2 hold a whole held-out sentence and 0 a nearly whole one" in caplog.text
        assert [(found["text"], found["pair"]) for found in report["examples"]] == [(1, 3), (2, 7)]

    def test_a_clean_set_is_only_reported(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        report = self.run(tmp_path, training_set())
        assert report == {"texts": 64, "whole": 0, "near": 0, "examples": []}
        assert "training texts" not in caplog.text

    def test_text_that_draws_random_numbers_changes_no_training(self, tmp_path: Path) -> None:
        def texts() -> Iterator[str]:
            for _ in range(5):
                yield f"{random.random()} {np.random.rand()} {torch.rand(1).item()}"

        states = []
        for name, searched in (("without", None), ("with", texts())):
            callback = NeuronXACallback("eng_Latn-isl_Latn", eval_steps=6, train_texts=searched)
            model = tiny_llama(attention_dropout=0.2)
            sft(tmp_path / name, [callback], model).train()
            states.append((model.state_dict(), random.random()))
        assert all(torch.equal(value, states[1][0][name]) for name, value in states[0][0].items())
        assert states[0][1] == states[1][1]

    def test_what_cannot_be_searched_is_refused_before_training(self, tmp_path: Path) -> None:
        trainer = sft(tmp_path, [NeuronXACallback(train_texts=[1, 2])])
        with pytest.raises(ValueError, match="train_texts holds no text in 2 rows"):
            trainer.train()
        assert trainer.state.global_step == 0
