"""Where a translation ends: at the chat template's own end of an answer, and behind as many lines as its source has."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from neuronxa_callback import ParallelPairs
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality import translation
from neuronxa_callback.quality.comet.process import QualityScore
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.quality.prompts import CHAT_PROMPT, chat_prompt, prompt_ids
from neuronxa_callback.quality.translation import Translations, translate
from tests.quality.scripted import CHATML, LLAMA_3, chat_tokenizer, says
from tests.support import make_tokenizer, tiny_llama

PAIR = ("eng_Latn", "isl_Latn")
ALPACA = "### Input:\n{source}\n\n### Response:"
WRITTEN_BY_HAND = "<|im_start|>user\n{source}<|im_end|>\n<|im_start|>assistant\n"
IN_PLAIN_TEXT = CHATML.replace("<|im_end|>", "\n### End")


def translated(tokenizer: Any, answer: str, source: str = "Yes", prompt: Any = None) -> Translations:
    """The translation by a model that has learnt to say this answer."""
    return translate(Decoder.find(says(tokenizer, answer), tokenizer), [source], *PAIR, prompt)


class TestAtTheEndOfAnAnswer:
    """A base model whose end of sequence is </s>, trained on a chat template that ends answers otherwise."""

    @pytest.mark.parametrize(
        ("template", "answer", "prompt"),
        [
            (LLAMA_3, "Já<|eot_id|><|start_header_id|>user", None),
            (LLAMA_3, "Já<|eot_id|> more", None),
            (CHATML, "Já<|im_end|>\n<|im_start|>user", None),
            (CHATML, "Já<|im_end|>user", lambda *_: [{"role": "user", "content": "Yes"}]),
            (CHATML, "Já<|im_end|>user", WRITTEN_BY_HAND),
            (IN_PLAIN_TEXT, "Já### End<|im_start|>user", None),
        ],
    )
    @pytest.mark.parametrize("special", [True, False])
    def test_nothing_behind_it_is_kept(self, template: str, answer: str, prompt: Any, special: bool) -> None:
        assert translated(chat_tokenizer(template, special), answer, prompt=prompt) == Translations(("Já",), 0, 0)

    @pytest.mark.parametrize("template", [None, CHATML])
    def test_the_token_does_not_end_an_answer_to_another_prompt(self, template: str | None) -> None:
        tokenizer = chat_tokenizer(template)
        assert translated(tokenizer, "Já<|im_end|> so\n", prompt="{source} =").texts == ("Já so",)

    def test_the_signature_names_it_where_it_was_no_end_before(self) -> None:
        tokenizer, model = chat_tokenizer(LLAMA_3), tiny_llama()
        eot = tokenizer.convert_tokens_to_ids("<|eot_id|>")

        def signed(prompt: Any = None) -> str:
            return str(translation.signature(Decoder.find(model, tokenizer), ["Yes"], *PAIR, prompt))

        assert signed().endswith("|end:<%7Ceot_id%7C>")
        assert "end:" not in signed("{source} =")
        model.generation_config.eos_token_id = [1, eot]  # Llama 3 Instruct
        assert "end:" not in signed()
        tokenizer.chat_template = IN_PLAIN_TEXT
        assert signed().endswith("|end:### End")


class TestLines:
    def test_a_translation_that_begins_on_a_new_line_is_not_empty(self) -> None:
        made = translated(make_tokenizer(), "\n \n\nJá \nNei", prompt=ALPACA)
        assert made == Translations(("Já",), empty=0, truncated=0)

    @pytest.mark.parametrize("source", ["One.\nTwo.", "One.\n\nTwo.", "One.\r\nTwo.\n", "\nOne.\n \nTwo."])
    def test_a_source_of_two_lines_has_a_translation_of_two(self, source: str) -> None:
        made = translated(make_tokenizer(), "Já\n\nNei\nEnglish:", source)
        assert made == Translations(("Já\n\nNei",), empty=0, truncated=0)

    def test_a_source_of_one_line_has_one(self) -> None:
        assert translated(make_tokenizer(), "Já\nNei", "One. Two.\n").texts == ("Já",)

    def test_each_sentence_of_a_batch_has_its_own_number(self) -> None:
        tokenizer = make_tokenizer()
        model = says(tokenizer, "Já\nNei\n#")
        made = translate(Decoder.find(model, tokenizer), ["Yes", "Yes\nNo", "No"], *PAIR)
        assert made == Translations(("Já", "Já\nNei", "Já"), 0, 0)

    def test_the_end_of_an_answer_alone_ends_a_chat_about_several_lines(self) -> None:
        made = translated(chat_tokenizer(CHATML), "Já\nNei\n\nEkki<|im_end|>user", "One.\nTwo.")
        assert made.texts == ("Já\nNei\n\nEkki",)

    def test_a_chat_template_without_an_end_has_as_many_lines_as_the_source(self) -> None:
        template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
        assert translated(chat_tokenizer(template), "Já\nNei\n\nEkki", "One.\nTwo.").texts == ("Já\nNei",)

    def test_several_lines_are_not_asked_for_on_one(self) -> None:
        assert chat_prompt("One. Two.\n") is CHAT_PROMPT
        assert "one line" not in chat_prompt("One.\nTwo.")
        (asked,) = prompt_ids(chat_tokenizer(CHATML), ["One.\nTwo."], *PAIR)
        text = chat_tokenizer(CHATML).decode(asked)
        assert "text from English into Icelandic. Answer with the translation alone.\n\nOne.\nTwo.<|im_end|>" in text

    def test_a_model_that_says_the_reference_has_all_points(self) -> None:
        pairs = ParallelPairs(("One.\nTwo.", "Yes.\nNo."), ("Já.\nNei.", "Jú.\nNei."), *PAIR)
        tokenizer = make_tokenizer()
        decoder = Decoder.find(says(tokenizer, "Já.\nNei.</s>"), tokenizer)
        with QualityEvaluator("chrf", [pairs]) as quality:
            quality.check(decoder)
            report = quality.score(quality.translate(decoder))
            found = report.by_direction[pairs.name].finished()["chrf"]
            assert isinstance(found, QualityScore)
            assert found.segments is not None
            assert found.segments[0] == 100 > found.segments[1]

    def test_the_signature_names_them_where_there_are_several(self, tokenizer: PreTrainedTokenizerFast) -> None:
        decoder = Decoder.find(tiny_llama(), tokenizer)
        assert str(translation.signature(decoder, ["One.", "One.\nTwo."], *PAIR)).endswith("|limit:4x+16|lines:source")
        assert str(translation.signature(decoder, ["One.", "Two."], *PAIR)).endswith("|limit:4x+16")


class TestAPromptWithoutItsSentence:
    def warned(self, caplog: pytest.LogCaptureFixture, prompt: Any) -> list[str]:
        tokenizer = chat_tokenizer(CHATML)
        with caplog.at_level(logging.WARNING, logger="neuronxa_callback"):
            translation.check(Decoder.find(says(tokenizer, "a"), tokenizer), ["Yes.", "No."], *PAIR, prompt)
        return [record.getMessage() for record in caplog.records]

    def test_the_users_own_is_warned_of_once(self, caplog: pytest.LogCaptureFixture) -> None:
        assert self.warned(caplog, lambda source, *_: "Translate: " + source.replace("Y", "y")) == [
            "NeuronXA: 1 of 2 prompts from eng_Latn into isl_Latn lack the sentence to translate, as that of 'Yes.' "
            "does; check the prompt unless it changes sentences on purpose."
        ]

    @pytest.mark.parametrize("prompt", [None, "{source} =", lambda source, *_: [{"role": "user", "content": source}]])
    def test_one_that_holds_it_is_not(self, prompt: Any, caplog: pytest.LogCaptureFixture) -> None:
        assert not self.warned(caplog, prompt)

    def test_a_template_that_loses_it_is_refused_before_training(self) -> None:
        tokenizer = chat_tokenizer(CHATML.replace("{{ m.content }}", "{{ m.text }}"))
        with pytest.raises(
            ValueError, match=r"no prompt of '.*\\n\\nYes\.': its text lacks the message; set tokenizer"
        ):
            translation.check(Decoder.find(tiny_llama(), tokenizer), ["Yes."], *PAIR)
