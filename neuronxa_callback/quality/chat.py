"""What a tokenizer's chat template makes of messages, and what it puts behind an assistant's answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

Message: TypeAlias = Mapping[str, Any]

# Llama 3's templates take this day where they have no clock. Today's date would make another prompt of every day.
FIXED_DAY = datetime(2024, 7, 26)
_DIRECTIVE = re.compile(r"(?<!{)%[-#]?[A-Za-z%]")
_OPEN_THOUGHT = re.compile(r"<((?:\w+:)?think\w*)>\s*\Z")
_ANSWER, _QUESTION = "neuronxaanswer", "neuronxaquestion"  # contents that no template has or changes
_FEWEST_CHARACTERS = 2  # of a text that ends an answer; a lone quotation mark also stands inside sentences


@dataclass(frozen=True)
class AnswerEnd:
    """What a chat template puts behind an assistant's answer, and so what a model trained on it ends an answer with.

    Attributes:
        tokens: the token that ends the answer, if there is one: <|eot_id|> in Llama 3's template.
        text: plain text in front of that token, or alone, "" if there is none.
    """

    tokens: frozenset[int] = frozenset()
    text: str = ""

    def __bool__(self) -> bool:
        return bool(self.tokens or self.text)


def has_chat_template(tokenizer: Any) -> bool:
    """Return whether a tokenizer has a chat template."""
    return getattr(tokenizer, "chat_template", None) is not None


def chat_text(tokenizer: Any, messages: Sequence[Message]) -> str:
    """Return the text with which a model begins its answer to messages.

    Contents are given as a list of parts where the template leaves out plain ones. The day is `FIXED_DAY`. A thought
    that the template opens is closed again, because a model that thinks aloud would use up its length limit on that.

    Args:
        tokenizer: a tokenizer with a chat template.
        messages: dicts with "role" and "content".

    Raises:
        ValueError: the template cannot be used, or its text lacks the last content.
    """
    _template(tokenizer)  # raises before a reason is sought in the messages
    asked = next((m.get("content", "") for m in reversed(messages) if m.get("role") != "assistant"), "")
    reason = ""
    for form in _forms(messages):
        try:
            text = _rendered(tokenizer, form, answer_next=True)
        except Exception as error:  # a template is a program and may raise anything
            first_line = next(iter(str(error).splitlines()), type(error).__name__)
            reason = reason or f": {first_line}"
            continue
        if not isinstance(asked, str) or holds(text, asked):
            return _OPEN_THOUGHT.sub(r"<\1>\n\n</\1>\n\n", text)
        reason = reason or ": its text lacks the message"
    raise ValueError(
        f"the chat template makes no prompt of {asked[-60:]!r}{reason.rstrip('.')}; set tokenizer.chat_template to the "
        "one that you train on, or give Quality(prompt=...), a text with {source} or a function that returns the "
        "messages that the template wants."
    )


def holds(text: str, sentence: str) -> bool:
    """Return whether a text has all words of a sentence. A template may trim or quote what it is given."""
    words = re.findall(r"\w+", sentence) or sentence.split()
    return all(word in text for word in words)


def answer_end(tokenizer: Any, messages: Sequence[Message]) -> AnswerEnd:
    """Return what the chat template puts behind an answer to messages. It is empty if that cannot be found out.

    A template may put nothing behind the last answer and a token in front of the next question. A model that has
    learnt this template ends its answer with that token.
    """
    answered = [*messages, {"role": "assistant", "content": _ANSWER}]
    behind = _behind_answer(tokenizer, answered)
    end = _first_end(tokenizer, behind)
    if behind == _behind_answer(tokenizer, answered, answer_next=True):
        # The template always asks for the next answer, and the text may be how it asks.
        end = AnswerEnd(end.tokens)
    if end:
        return end
    behind = _behind_answer(tokenizer, [*answered, {"role": "user", "content": _QUESTION}])
    return AnswerEnd(_first_end(tokenizer, behind.partition(_QUESTION)[0]).tokens)


def _behind_answer(tokenizer: Any, messages: Sequence[Message], answer_next: bool = False) -> str:
    """Return the text behind the answer, or "" if the template does not take the messages."""
    for form in _forms(messages):
        try:
            text = _rendered(tokenizer, form, answer_next)
        except Exception:  # as above; a template may refuse answers and still make prompts
            continue
        _, found, behind = text.rpartition(_ANSWER)
        if found:
            return behind
    return ""


def _first_end(tokenizer: Any, behind: str) -> AnswerEnd:
    """Return the first special token in a text and the plain text in front of it."""
    token_ids = tokenizer(behind, add_special_tokens=False, verbose=False)["input_ids"] if behind else []
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    place = next((place for place, token in enumerate(token_ids) if token in added), len(token_ids))
    text = tokenizer.decode(token_ids[:place]).strip() if place else ""
    return AnswerEnd(frozenset(token_ids[place : place + 1]), text if len(text) >= _FEWEST_CHARACTERS else "")


def _forms(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Yield the messages as they are, and with each plain content as a list of one part."""
    yield list(messages)
    yield [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message.get("content"), str)
        else message
        for message in messages
    ]


def _rendered(tokenizer: Any, messages: list[Message], answer_next: bool) -> str:
    """Return the chat template's text of messages.

    Raises:
        Exception: whatever the template raises.
    """
    template = _template(tokenizer)
    # The tokenizer's own template is left to it where nothing in it has to change.
    choices = {"chat_template": _on_a_fixed_day(template)} if "strftime_now" in template else {}
    return str(
        tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=answer_next, enable_thinking=False, **choices
        )
    )


def _template(tokenizer: Any) -> str:
    """Return the template that the tokenizer uses.

    Raises:
        ValueError: it has none, or several of which none is the default.
    """
    template = getattr(tokenizer, "chat_template", None)
    if template is None:
        raise ValueError(
            "the prompt function returned messages, and the tokenizer has no chat template; return a text, or set "
            "tokenizer.chat_template to the one that you train on."
        )
    if not isinstance(template, dict):
        return str(template)
    if "default" not in template:
        raise ValueError(
            f"the tokenizer has the chat templates {', '.join(template)} and none is called default; set "
            "tokenizer.chat_template to the one that you train on."
        )
    return str(template["default"])


def _on_a_fixed_day(template: str) -> str:
    """Return the template with its clock stopped: a macro of the clock's name that knows `FIXED_DAY` alone.

    transformers 5 hands no function of ours to a template, so the clock has to be written in the template's language.
    """
    formatted = "format"
    for directive in dict.fromkeys(_DIRECTIVE.findall(template)):
        formatted += f"|replace({json.dumps(directive)}, {json.dumps(FIXED_DAY.strftime(directive))})"
    # "+" keeps a newline with which the template may begin.
    return f"{{% macro strftime_now(format) %}}{{{{ {formatted} }}}}{{% endmacro +%}}{template}"
