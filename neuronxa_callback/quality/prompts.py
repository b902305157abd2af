"""The prompts with which a model is asked for translations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, TypeAlias

from neuronxa_callback.quality.chat import AnswerEnd, answer_end, chat_text, has_chat_template, holds
from neuronxa_callback.text.languages import language_name

# A template, or a function (source, source_lang, target_lang) -> the prompt as text or as chat messages.
Prompt: TypeAlias = str | Callable[[str, str, str], str | list[dict[str, str]]]

PLAIN_PROMPT = "{source_language}: {source}\n{target_language}:"
CHAT_PROMPT = (
    "Translate this sentence from {source_language} into {target_language}. "
    "Answer with the translation alone, on one line.\n\n{source}"
)
CHAT_PROMPT_OF_LINES = (
    "Translate this text from {source_language} into {target_language}. Answer with the translation alone.\n\n{source}"
)
TEMPLATE_FIELDS = ("source", "source_language", "target_language", "source_lang", "target_lang")


@dataclass(frozen=True)
class Prompts:
    """The prompts of one direction.

    Attributes:
        token_ids: the token ids of each sentence's prompt.
        end: what the chat template puts behind an answer, as far as these prompts are of its making.
        are_chats: whether the prompts are chat messages.
        without_source: the sentences whose prompt lacks them.
    """

    token_ids: list[list[int]]
    end: AnswerEnd
    are_chats: bool
    without_source: list[str]


def chat_prompt(source: str) -> str:
    """Return the template of the message that asks for the translation of a source of one line, or of several."""
    return CHAT_PROMPT if lines_in(source) == 1 else CHAT_PROMPT_OF_LINES


def lines_in(source: str) -> int:
    """Return the number of lines of a source that hold anything, 1 for an empty source."""
    return max(1, sum(bool(line.strip()) for line in re.split(r"[\r\n]", source)))


def make_prompts(
    tokenizer: Any, sentences: Sequence[str], source_lang: str, target_lang: str, prompt: Prompt | None = None
) -> Prompts:
    """Return the prompts that the model can continue.

    Args:
        tokenizer: the model's tokenizer.
        sentences: the sources.
        source_lang: their language's code.
        target_lang: the code of the language to translate into.
        prompt: see `translation.translate`.

    Raises:
        ValueError: a template lacks `{source}` or has an unknown field, a function returns neither a text nor a list
            of messages, or the chat template cannot be used.
    """
    if isinstance(prompt, str):
        check_template(prompt)
    filled = [_filled(tokenizer, sentence, source_lang, target_lang, prompt) for sentence in sentences]
    texts, token_ids = [], []
    for one in filled:
        texts.append(one if isinstance(one, str) else chat_text(tokenizer, one))
        token_ids.append(_text_ids(tokenizer, one) if isinstance(one, str) else _chat_ids(tokenizer, texts[-1]))
    chats = [one for one in filled if not isinstance(one, str)]
    end = AnswerEnd()
    if chats:
        end = answer_end(tokenizer, chats[0])
    elif has_chat_template(tokenizer):
        # A text that writes the template's tokens itself is answered with them, and any other text is not.
        end = answer_end(tokenizer, [{"role": "user", "content": "Halló."}])
        end = AnswerEnd(end.tokens.intersection(*map(set, token_ids[:1])))
    lacking = [sentence for sentence, text in zip(sentences, texts, strict=True) if not holds(text, sentence)]
    return Prompts(token_ids, end, bool(chats), lacking)


def prompt_ids(
    tokenizer: Any, sentences: Sequence[str], source_lang: str, target_lang: str, prompt: Prompt | None = None
) -> list[list[int]]:
    """Return the token ids of the prompts; see `make_prompts`."""
    return make_prompts(tokenizer, sentences, source_lang, target_lang, prompt).token_ids


def check_template(template: str) -> None:
    """Raise ValueError if a prompt template cannot be filled."""
    try:
        fields = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ValueError(f"the prompt {template!r} cannot be read ({error}); write a literal brace twice.") from None
    unknown = [field for field in fields if field not in TEMPLATE_FIELDS]
    if unknown:
        raise ValueError(
            f"the prompt {template!r} has the unknown field {{{unknown[0]}}}; "
            f"use {', '.join(f'{{{field}}}' for field in TEMPLATE_FIELDS)}, and write a literal brace twice."
        )
    if "source" not in fields:
        raise ValueError(f"the prompt {template!r} has no {{source}}, where the sentence would go; add it.")


def _filled(
    tokenizer: Any, source: str, source_lang: str, target_lang: str, prompt: Prompt | None
) -> str | list[dict[str, str]]:
    """Return the prompt of one sentence, as text or as messages."""
    fields = {
        "source": source,
        "source_language": language_name(source_lang),
        "target_language": language_name(target_lang),
        "source_lang": source_lang,
        "target_lang": target_lang,
    }
    if callable(prompt):
        made = prompt(source, source_lang, target_lang)
        is_chat = isinstance(made, list) and all(isinstance(message, Mapping) for message in made)
        if not isinstance(made, str) and not is_chat:
            raise ValueError(
                f"the prompt function returned {made!r:.60} for {source[:60]!r}; return a text or a list of messages."
            )
        return made
    if prompt is not None:
        return prompt.format(**fields)
    if has_chat_template(tokenizer):
        return [{"role": "user", "content": chat_prompt(source).format(**fields)}]
    return PLAIN_PROMPT.format(**fields)


def _chat_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _text_ids(tokenizer: Any, text: str) -> list[int]:
    """Return a text's token ids without the special tokens that the tokenizer should not have added.

    An end-of-sequence token is removed because the model has to continue the sequence. A second BOS is removed because
    a text from a chat template already has one.
    """
    token_ids = list(tokenizer(text, verbose=False)["input_ids"])
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    if begin is not None and token_ids[:2] == [begin, begin]:
        token_ids = token_ids[1:]
    return token_ids[:-1] if token_ids[-1:] == [end] else token_ids
