"""What a chat template puts behind an answer, and what is made of the templates that people have."""

from __future__ import annotations

import datetime
import re
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from neuronxa_callback.quality.chat import FIXED_DAY, AnswerEnd, answer_end, chat_text
from tests.quality.scripted import CHATML, LLAMA_3, chat_tokenizer, ids

ASKED = [{"role": "user", "content": "Say it."}]
REFUSES_ANSWERS = CHATML.replace(
    "{{ m.content }}", "{{ raise_exception('no') if m.role == 'assistant' }}{{ m.content }}"
)
ASKS_FOR_A_SYSTEM = "{{ raise_exception('system role missing') if messages[0].role != 'system' else '' }}" + CHATML
IN_PARTS = CHATML.replace("m.content", "m.content[0].text")


def behind(answer: str, between: str = "") -> str:
    """A template with some text behind each content, and other text in front of each user's."""
    return (
        "{% for m in messages %}"
        + (f"{{% if m.role == 'user' %}}{between}{{% else %}}<|assistant|>{{% endif %}}")
        + "{{ m.content }}"
        + answer
        + "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )


@pytest.mark.parametrize(
    ("template", "token", "text"),
    [
        (LLAMA_3, "<|eot_id|>", ""),
        (CHATML, "<|im_end|>", ""),
        (behind("<end_of_turn>\n"), "<end_of_turn>", ""),
        (behind("<|END_OF_TURN_TOKEN|>"), "<|END_OF_TURN_TOKEN|>", ""),
        (behind(" </s>"), "</s>", ""),
        (behind("{{ eos_token }}"), "</s>", ""),
        (behind("\n\n<|im_end|>\n"), "<|im_end|>", ""),
        (behind("<|im_end|>\n</s>"), "<|im_end|>", ""),
        (behind("\n### End\n<|eot_id|>"), "<|eot_id|>", "### End"),
        (behind("\n### End\n"), "", "### End"),
        (behind('"'), "", ""),  # stands inside sentences too
        (behind("\n"), "", ""),
        (behind("", between="<|user|>"), "<|user|>", ""),  # GLM-4's
        (behind("", between="### Question: "), "", ""),
        (CHATML.replace("m.content", "m.content | trim"), "<|im_end|>", ""),
        (CHATML.replace("m.content", "m.content.split('</think>')[-1]"), "<|im_end|>", ""),
        (IN_PARTS, "<|im_end|>", ""),
        ({"default": CHATML, "rag": LLAMA_3}, "<|im_end|>", ""),
        (REFUSES_ANSWERS, "", ""),
        # It always asks for the next answer.
        (CHATML + "<|im_start|>", "<|im_end|>", ""),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:", "", ""),
        ("{{ messages[0].content }}", "", ""),
    ],
)
@pytest.mark.parametrize("special", [True, False])
def test_what_ends_an_answer(template: Any, token: str, text: str, special: bool) -> None:
    tokenizer = chat_tokenizer(template, special)
    found = answer_end(tokenizer, ASKED)
    assert found == AnswerEnd(frozenset(ids(tokenizer, token)), text)
    assert len(found.tokens) <= 1


def test_a_template_that_wants_a_system_message_says_it_behind_one() -> None:
    tokenizer = chat_tokenizer(ASKS_FOR_A_SYSTEM)
    assert answer_end(tokenizer, ASKED) == AnswerEnd()
    assert answer_end(tokenizer, [{"role": "system", "content": "Be brief."}, *ASKED]).tokens


class TestTemplatesThatPeopleHave:
    def test_a_plain_one(self) -> None:
        assert (
            chat_text(chat_tokenizer(CHATML), ASKED) == "<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n"
        )

    @pytest.mark.parametrize("template", [{"default": CHATML, "rag": LLAMA_3}, IN_PARTS])
    def test_named_ones_and_one_that_takes_parts_alone(self, template: Any) -> None:
        assert chat_text(chat_tokenizer(template), ASKED) == chat_text(chat_tokenizer(CHATML), ASKED)

    @pytest.mark.parametrize("tag", ["think", "thinking", "seed:think"])
    def test_an_opened_thought_is_closed(self, tag: str) -> None:
        opens = CHATML.replace("assistant\n{%", f"assistant\n<{tag}>\n{{%")
        assert chat_text(chat_tokenizer(opens), ASKED).endswith(f"assistant\n<{tag}>\n\n</{tag}>\n\n")

    def test_what_the_template_quotes_is_held_by_it(self) -> None:
        said = [{"role": "user", "content": 'He said "yes".\nShe said "no".'}]
        assert chat_text(chat_tokenizer("{{ messages | tojson }}"), said).startswith('[{"role"')

    @pytest.mark.parametrize(
        ("template", "messages", "message"),
        [
            ({"chat": CHATML, "rag": CHATML}, ASKED, "chat templates chat, rag and none is called default; set tok"),
            (ASKS_FOR_A_SYSTEM, ASKED, "no prompt of 'Say it.': system role missing; set tokenizer.chat_template to"),
            ("{{ bos_token }}", ASKED, "no prompt of 'Say it.': its text lacks the message; set tokenizer"),
            ("{{ messages[0].content }", ASKED, "makes no prompt of 'Say it.': .*; set tokenizer.chat_template to the"),
            ("{{ raise_exception('two\nlines') }}", ASKED, "no prompt of 'Say it.': two; set tokenizer.chat_template"),
            (None, ASKED, "the prompt function returned messages, and the tokenizer has no chat template; return a"),
            (CHATML, [], "makes no prompt of '': .*; set tokenizer.chat_template"),
        ],
    )
    def test_what_cannot_be_used_is_said_in_one_sentence(self, template: Any, messages: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            chat_text(chat_tokenizer(template), messages)
        assert "\n" not in str(caught.value)


class TestTheDay:
    """Llama 3.2's template and others write today's date."""

    DATED = (
        "{%- set day = strftime_now('%d %b %Y') if strftime_now is defined else 'never' %}"
        "{%- macro header(role) %}<|start_header_id|>{{ role }}<|end_header_id|>{{ strftime_now('%-d') }}\n"
        "{% endmacro -%}"
        "Today Date: {{ day }}, 100%, {{ strftime_now(format='%Y-%m-%d %H:%M %%') }}\n"
        + LLAMA_3
        + "{{ header('tool') }}"
    )

    @pytest.fixture(autouse=True)
    def _clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Clock:
                return cls(2031, 3, 9)

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)

    def test_it_is_always_the_same_one(self) -> None:
        tokenizer = chat_tokenizer(self.DATED)
        todays = tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)
        assert "Today Date: 09 Mar 2031, 100%, 2031-03-09 00:00 %\n" in todays
        ours = chat_text(tokenizer, ASKED)
        assert ours.startswith(f"Today Date: {FIXED_DAY:%d %b %Y}, 100%, 2024-07-26 00:00 %\n")
        # Nothing else of the prompt differs.
        assert (
            re.sub("26 Jul 2024", "09 Mar 2031", ours).replace("2024-07-26", "2031-03-09").replace(">26", ">9")
            == todays
        )

    def test_a_newline_in_front_of_the_template_stays(self) -> None:
        tokenizer = chat_tokenizer("\nOn {{ strftime_now('%Y') }}: {{ messages[0].content }}")
        assert chat_text(tokenizer, ASKED) == "\nOn 2024: Say it."
