"""Translate the held-out sentences with the current model: batched greedy generation that leaves no trace in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from string import Formatter
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from neuronxa_callback.alignment.encoder import batches
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.signature import Signature
from neuronxa_callback.text.languages import language_name

# A template, or a function (source, source_lang, target_lang) -> the prompt as text or as chat messages.
Prompt: TypeAlias = str | Callable[[str, str, str], str | list[dict[str, str]]]

PLAIN_PROMPT = "{source_language}: {source}\n{target_language}:"
CHAT_PROMPT = (
    "Translate this sentence from {source_language} into {target_language}. "
    "Answer with the translation alone, on one line.\n\n{source}"
)
TEMPLATE_FIELDS = ("source", "source_language", "target_language", "source_lang", "target_lang")

# A translation may take LENGTH_RATIO times the tokens of its source, plus EXTRA_TOKENS. A script that a tokenizer
# knows badly takes three or more times the tokens of English.
LENGTH_RATIO = 4
EXTRA_TOKENS = 16

# The largest number of prompt tokens in a batch, including padding. The KV cache grows to a few times that. The CPU's
# value was measured. A step of the decoder costs little more there for 32 sentences than for one.
CPU_TOKEN_BUDGET = 1024
ACCELERATOR_TOKEN_BUDGET = 8192


@dataclass(frozen=True)
class Translations:
    """The model's translations, in the order of the sources.

    Attributes:
        texts: the translations, stripped; "" if the model wrote nothing.
        empty: the number of empty translations.
        truncated: the number of translations that reached their length limit and were cut there.
    """

    texts: tuple[str, ...]
    empty: int
    truncated: int


def translate(
    decoder: Decoder,
    sentences: Sequence[str],
    source_lang: str,
    target_lang: str,
    prompt: Prompt | None = None,
    token_budget: int | None = None,
) -> Translations:
    """Translate greedily with the model in its current state.

    Prompts are padded on the left and batched in order of length. A translation ends at an end-of-sequence token, at
    the first newline, or at 4 times the source's tokens plus 16. The call leaves the model's mode and generation
    configuration, the random state and the tokenizer's settings as they were.

    Args:
        decoder: the model and its tokenizer.
        sentences: the sources.
        source_lang: FLORES-200 code of the sources.
        target_lang: FLORES-200 code to translate into.
        prompt: a template with `{source}`, `{source_language}`, `{target_language}` (English names),
            `{source_lang}` and `{target_lang}` (codes), or a function. A template is used as it is. A function
            `(source, source_lang, target_lang)` returns the prompt's text, or a list of messages for the chat
            template. The prompt should be the one that the model is trained on. Default: a user message that asks for
            the translation if the tokenizer has a chat template, otherwise two lines, "English: SOURCE" and
            "Icelandic:".
        token_budget: the largest number of prompt tokens in a batch, including padding. A smaller budget needs less
            memory. Default: 1024 on a CPU, 8192 elsewhere.

    Returns:
        the translations, and how many are empty or were cut.

    Raises:
        ValueError: a prompt cannot be used, or it leaves no room in the model's context.
    """
    tokenizer = decoder.tokenizer
    prompts = prompt_ids(tokenizer, sentences, source_lang, target_lang, prompt)
    limits = _limits(decoder, sentences, prompts)
    generation = _greedy(decoder)
    texts = [""] * len(sentences)
    truncated = 0
    with decoder.evaluation_mode(), _generating_with(decoder, generation):
        for rows in batches(prompts, token_budget or default_token_budget(decoder)):
            batch_limits = [limits[row] for row in rows]
            generated = _generate(decoder, [prompts[row] for row in rows], batch_limits)
            for row, limit, token_ids in zip(rows, batch_limits, generated, strict=True):
                texts[row], cut = _finish(tokenizer, token_ids, limit, generation.eos_token_id)
                truncated += cut
    return Translations(tuple(texts), sum(not text for text in texts), truncated)


def default_token_budget(decoder: Decoder) -> int:
    """Return the default number of prompt tokens in a batch, including padding."""
    return decoder.budget(CPU_TOKEN_BUDGET, ACCELERATOR_TOKEN_BUDGET)


def check(
    decoder: Decoder, sentences: Sequence[str], source_lang: str, target_lang: str, prompt: Prompt | None = None
) -> None:
    """Check before any translation that every sentence has a prompt and room for its translation.

    Raises:
        ValueError: a prompt cannot be made, or it leaves no room in the model's context.
    """
    _limits(decoder, sentences, prompt_ids(decoder.tokenizer, sentences, source_lang, target_lang, prompt))


def prompt_ids(
    tokenizer: Any, sentences: Sequence[str], source_lang: str, target_lang: str, prompt: Prompt | None = None
) -> list[list[int]]:
    """Return the prompts as token ids that the model can continue.

    Raises:
        ValueError: a template lacks `{source}` or has an unknown field, or a function returns neither a text nor a
            list of messages.
    """
    if isinstance(prompt, str):
        check_template(prompt)
    return [_prompt_ids(tokenizer, sentence, source_lang, target_lang, prompt) for sentence in sentences]


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


def signature(
    tokenizer: Any, sentences: Sequence[str], source_lang: str, target_lang: str, prompt: Prompt | None = None
) -> Signature:
    """Return the choices behind translations: the kind of prompt, a hash of all prompts' tokens, decoding and limit."""
    kind = "own" if prompt is not None else "chat" if _has_chat_template(tokenizer) else "plain"
    prompts = json.dumps(prompt_ids(tokenizer, sentences, source_lang, target_lang, prompt))
    digest = hashlib.sha256(prompts.encode()).hexdigest()[:8]
    return Signature.of(prompt=f"{kind}-{digest}", decode="greedy", limit=f"{LENGTH_RATIO}x+{EXTRA_TOKENS}")


def _has_chat_template(tokenizer: Any) -> bool:
    return getattr(tokenizer, "chat_template", None) is not None


def _prompt_ids(tokenizer: Any, source: str, source_lang: str, target_lang: str, prompt: Prompt | None) -> list[int]:
    fields = {
        "source": source,
        "source_language": language_name(source_lang),
        "target_language": language_name(target_lang),
        "source_lang": source_lang,
        "target_lang": target_lang,
    }
    filled: Any
    if callable(prompt):
        filled = prompt(source, source_lang, target_lang)
    elif prompt is not None:
        filled = prompt.format(**fields)
    elif _has_chat_template(tokenizer):
        filled = [{"role": "user", "content": CHAT_PROMPT.format(**fields)}]
    else:
        filled = PLAIN_PROMPT.format(**fields)
    if isinstance(filled, str):
        return _without_extras(tokenizer, list(tokenizer(filled, verbose=False)["input_ids"]))
    if not isinstance(filled, list):
        raise ValueError(
            f"the prompt function returned {filled!r:.60} for {source[:60]!r}; return a text or a list of messages."
        )
    # A model that thinks aloud first would use up its length limit on that. Other templates ignore this switch.
    text = tokenizer.apply_chat_template(filled, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _without_extras(tokenizer: Any, token_ids: list[int]) -> list[int]:
    """Return the prompt without the special tokens that the tokenizer should not have added.

    An end-of-sequence token is removed because the model has to continue the sequence. A second BOS is removed because
    a text from a chat template already has one.
    """
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    if begin is not None and token_ids[:2] == [begin, begin]:
        token_ids = token_ids[1:]
    return token_ids[:-1] if token_ids[-1:] == [end] else token_ids


def _limits(decoder: Decoder, sentences: Sequence[str], prompts: Sequence[Sequence[int]]) -> list[int]:
    """Return the largest number of tokens that each translation may take."""
    context = decoder.context_length
    limits = []
    for sentence, prompt in zip(sentences, prompts, strict=True):
        source_tokens = len(decoder.tokenizer(sentence, add_special_tokens=False, verbose=False)["input_ids"])
        limit = LENGTH_RATIO * source_tokens + EXTRA_TOKENS
        room = limit if context is None else context - len(prompt)
        if not prompt or room < 1:
            raise ValueError(
                f"the prompt of {sentence[:60]!r} has {len(prompt)} tokens, of a context of {context}; "
                "the model has nothing to go on from or no room to translate: change the prompt or remove the pair."
            )
        limits.append(min(limit, room))
    return limits


def _greedy(decoder: Decoder) -> GenerationConfig:
    """Return plain greedy search with the end tokens of the model and its tokenizer.

    It takes no other default of the checkpoint (sampling, repetition penalty, ...), because these would make the
    translations another decoder's.
    """
    tokenizer = decoder.tokenizer
    own = getattr(getattr(decoder.base, "generation_config", None), "eos_token_id", None)
    ends = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id} - {None}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=0)
    return GenerationConfig(
        do_sample=False, num_beams=1, use_cache=True, eos_token_id=sorted(ends) or None, pad_token_id=pad
    )


@contextmanager
def _generating_with(decoder: Decoder, generation: GenerationConfig) -> Iterator[None]:
    """Give the transformers model this generation configuration, and restore its own when the block ends.

    A model inside a PEFT wrapper is used without the wrapper. It generates with its adapters all the same, and the
    wrapper would overwrite its configuration.
    """
    base: Any = decoder.base
    own = base.generation_config
    base.generation_config = generation
    try:
        yield
    finally:
        base.generation_config = own


class _Stop(StoppingCriteria):
    """Stops each sentence by itself, at a newline or at its own length limit."""

    def __init__(self, tokenizer: Any, prompt_length: int, limits: Tensor) -> None:
        self.tokenizer, self.prompt_length, self.limits = tokenizer, prompt_length, limits

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        newline = ["\n" in text for text in self.tokenizer.batch_decode(input_ids[:, -1:])]
        at_limit = self.limits <= input_ids.shape[1] - self.prompt_length
        return torch.tensor(newline, device=input_ids.device) | at_limit


def _generate(decoder: Decoder, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
    """Return the token ids that follow each prompt, including the padding that generation adds at the end."""
    generator: Any = decoder.base
    device = decoder.device
    longest = max(map(len, prompts))
    pad = generator.generation_config.pad_token_id
    input_ids = torch.tensor([[pad] * (longest - len(ids)) + list(ids) for ids in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    stop = _Stop(decoder.tokenizer, longest, torch.tensor(limits, device=device))
    output = generator.generate(
        input_ids=input_ids,
        attention_mask=mask,
        max_new_tokens=max(limits),
        stopping_criteria=StoppingCriteriaList([stop]),
    )
    return output[:, longest:].tolist()  # type: ignore[no-any-return]


def _finish(tokenizer: Any, token_ids: Sequence[int], limit: int, ends: Sequence[int] | None) -> tuple[str, bool]:
    """Return the translation's text, and whether it was cut at its limit."""
    kept = list(token_ids[:limit])
    end = next((place for place, token in enumerate(kept) if token in (ends or ())), None)
    text = tokenizer.decode(kept[:end], skip_special_tokens=True)
    line, newline, _ = text.partition("\n")
    return line.strip(), end is None and not newline and len(kept) == limit
