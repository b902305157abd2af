"""Translate the held-out sentences with the current model: batched greedy generation that leaves no trace in it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from transformers import GenerationConfig

from neuronxa_callback.alignment.batches import shares
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality.chat import has_chat_template
from neuronxa_callback.quality.generation import generate
from neuronxa_callback.quality.prompts import Prompt, Prompts, lines_in, make_prompts
from neuronxa_callback.signature import Signature

logger = logging.getLogger(__name__)

# A translation may take LENGTH_RATIO times the tokens of its source, plus EXTRA_TOKENS. A script that a tokenizer
# knows badly takes three or more times the tokens of English.
LENGTH_RATIO = 4
EXTRA_TOKENS = 16

# The largest number of prompt tokens in a batch, including padding. The KV cache grows to two to four times that if all
# translations reach their limits. It takes 2 x layers x key-value heads x size of a head numbers for each token: 1.1 GB
# for 24,576 tokens of SmolLM2-135M in float32, and 3.2 GB for those of Llama-3.1-8B in bfloat16. A step of the decoder
# costs little more for a hundred sentences than for a few, on a CPU too.
TOKEN_BUDGET = 8192


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
    what the chat template puts behind an answer, at 4 times the source's tokens plus 16, or behind as many lines as the
    source has. Empty lines do not count. A source of several lines has no such end of lines if the prompt is a chat
    message and the chat template says how an answer ends. The call leaves the model's mode and generation
    configuration, the random state and the tokenizer's own settings (`padding_side`, ...) as they were. A fast
    tokenizer also keeps the truncation and padding of its last call. Each call sets them anew, and the calls made here,
    which neither truncate nor pad, leave them off.

    If several processes share the sentences (`Decoder.readers`), each translates its share, and all of them return all
    translations. Where parameters are sharded, generation stays in step.

    Args:
        decoder: the model and its tokenizer.
        sentences: the sources.
        source_lang: FLORES-200 code of the sources.
        target_lang: FLORES-200 code to translate into.
        prompt: a template with `{source}`, `{source_language}`, `{target_language}` (English names),
            `{source_lang}` and `{target_lang}` (codes), or a function. A template is used as it is. A function
            `(source, source_lang, target_lang)` returns the prompt's text, or a list of messages for the chat
            template, whose clock shows one fixed day. The prompt should be the one that the model is trained on.
            Default: a user message that asks for the translation if the tokenizer has a chat template, otherwise two
            lines, "English: SOURCE" and "Icelandic:".
        token_budget: the largest number of prompt tokens in a batch, including padding. A smaller budget needs less
            memory. Default: 8192.

    Returns:
        the translations, and how many are empty or were cut.

    Raises:
        ValueError: a prompt cannot be used, or it leaves no room in the model's context.
        RankError: another process failed.
        OutOfStepError: see `Decoder.in_one_step`.
    """
    ranks = decoder.ranks
    # A prompt function may draw random numbers, so the first process makes the prompts of all.
    prompts = ranks.first_does(lambda: make_prompts(decoder.tokenizer, sentences, source_lang, target_lang, prompt))
    with ranks.together():
        endings = _endings(decoder, sentences, prompts)
        generation = _greedy(decoder, prompts.end.tokens)
    budget = token_budget or TOKEN_BUDGET
    # A batch makes a pass for every token of its longest translation, so few batches are best.
    dealt = shares(prompts.token_ids, budget, pass_tokens=None, processes=decoder.readers.size)
    mine, spare = dealt[decoder.readers.rank], min(prompts.token_ids, key=len)
    with ranks.together(), decoder.evaluation_mode(), _generating_with(decoder, generation):
        generated: dict[int, list[int]] = {}
        for rows in mine:
            with decoder.in_one_step():
                answers = _generate(decoder, [prompts.token_ids[row] for row in rows], [endings[row] for row in rows])
            generated |= zip(rows, answers, strict=True)
        if len(mine) < len(dealt[0]):  # the other processes generate once more
            with decoder.in_one_step():
                _generate(decoder, [spare], [_Ending(limit=1, lines=None, text="")])
        made = {
            row: _finish(decoder.tokenizer, token_ids, endings[row], generation.eos_token_id)
            for row, token_ids in generated.items()
        }
    of_all = {row: each for its in decoder.readers.values(made) for row, each in its.items()}
    texts = tuple(of_all[row][0] for row in range(len(sentences)))
    return Translations(texts, sum(not text for text in texts), sum(cut for _, cut in of_all.values()))


def check(
    decoder: Decoder, sentences: Sequence[str], source_lang: str, target_lang: str, prompt: Prompt | None = None
) -> None:
    """Check before any translation that every sentence has a prompt and room for its translation.

    It warns of a prompt of the user's own that lacks its sentence, because that may be meant.

    Raises:
        ValueError: a prompt cannot be made, or it leaves no room in the model's context.
    """
    prompts = make_prompts(decoder.tokenizer, sentences, source_lang, target_lang, prompt)
    _endings(decoder, sentences, prompts)
    if prompts.without_source:
        logger.warning(
            "NeuronXA: %d of %d prompts from %s into %s lack the sentence to translate, as that of %r does; check the "
            "prompt unless it changes sentences on purpose.",
            len(prompts.without_source),
            len(sentences),
            source_lang,
            target_lang,
            prompts.without_source[0][:60],
        )


def signature(
    decoder: Decoder, sentences: Sequence[str], source_lang: str, target_lang: str, prompt: Prompt | None = None
) -> Signature:
    """Return the choices behind translations: the kind of prompt, a hash of all prompts' tokens, decoding and limit.

    `end` is what ends an answer by the chat template alone. `lines` says that translations may have several lines. A
    signature without them is that of a direction that needs neither.
    """
    kind = "own" if prompt is not None else "chat" if has_chat_template(decoder.tokenizer) else "plain"
    prompts = make_prompts(decoder.tokenizer, sentences, source_lang, target_lang, prompt)
    digest = hashlib.sha256(json.dumps(prompts.token_ids).encode()).hexdigest()[:8]
    choices = {"prompt": f"{kind}-{digest}", "decode": "greedy", "limit": f"{LENGTH_RATIO}x+{EXTRA_TOKENS}"}
    tokens = sorted(prompts.end.tokens - _own_ends(decoder))
    if tokens or prompts.end.text:
        choices["end"] = prompts.end.text + decoder.tokenizer.decode(tokens)
    if any(lines_in(sentence) > 1 for sentence in sentences):
        choices["lines"] = "source"
    return Signature.of(choices)


@dataclass(frozen=True)
class _Ending:
    """Where one translation ends besides at an end token.

    Attributes:
        limit: the largest number of its tokens.
        lines: the largest number of its lines that are not empty; None if a newline does not end it.
        text: the text that ends it, "" if there is none.
    """

    limit: int
    lines: int | None
    text: str

    def cut(self, text: str) -> tuple[str, bool]:
        """Return the part of a generated text that is the translation, and whether the text goes on behind it."""
        ended = bool(self.text) and self.text in text
        if ended:
            text = text.partition(self.text)[0]
        *complete, _ = text.split("\n")
        written = [place for place, line in enumerate(complete) if line.strip()]
        if self.lines is not None and len(written) >= self.lines:
            return "\n".join(complete[: written[self.lines - 1] + 1]), True
        return text, ended


def _endings(decoder: Decoder, sentences: Sequence[str], prompts: Prompts) -> list[_Ending]:
    """Return where each translation ends."""
    knows_end = prompts.are_chats and bool(prompts.end)
    lines = [lines_in(sentence) for sentence in sentences]
    return [
        _Ending(limit, None if knows_end and count > 1 else count, prompts.end.text)
        for limit, count in zip(_limits(decoder, sentences, prompts.token_ids), lines, strict=True)
    ]


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


def _own_ends(decoder: Decoder) -> set[int]:
    """Return the end tokens of the model and its tokenizer."""
    own = getattr(getattr(decoder.base, "generation_config", None), "eos_token_id", None)
    return {*(own if isinstance(own, list) else [own]), decoder.tokenizer.eos_token_id} - {None}


def _greedy(decoder: Decoder, answer_ends: frozenset[int]) -> GenerationConfig:
    """Return plain greedy search with the end tokens of the model, its tokenizer and its chat template.

    It takes no other default of the checkpoint (sampling, repetition penalty, ...), because these would make the
    translations another decoder's.
    """
    tokenizer = decoder.tokenizer
    ends = _own_ends(decoder) | answer_ends
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
        with decoder.generating():
            yield
    finally:
        base.generation_config = own


def _ends_of_text(tokenizer: Any, endings: Sequence[_Ending]) -> Callable[[int, Sequence[int]], bool]:
    """Return what says whether the text of a translation ends with the newest of its tokens; see `generate`."""

    @cache
    def has_newline(token: int) -> bool:
        return "\n" in tokenizer.decode([token])

    def has_ended(row: int, made: Sequence[int]) -> bool:
        ending = endings[row]
        # Only a newline can complete a line, and to decode everything at each step would take long.
        return (has_newline(made[-1]) or bool(ending.text)) and ending.cut(_text(tokenizer, made))[1]

    return has_ended


def _text(tokenizer: Any, token_ids: Sequence[int]) -> str:
    return str(tokenizer.decode(token_ids, skip_special_tokens=True))


def _generate(decoder: Decoder, prompts: Sequence[Sequence[int]], endings: Sequence[_Ending]) -> list[list[int]]:
    """Return the token ids that follow each prompt."""
    limits = [ending.limit for ending in endings]
    return generate(decoder, prompts, limits, _ends_of_text(decoder.tokenizer, endings))


def _finish(tokenizer: Any, token_ids: Sequence[int], ending: _Ending, ends: Sequence[int] | None) -> tuple[str, bool]:
    """Return the translation's text, and whether it was cut at its limit."""
    has_end = token_ids[-1] in (ends or ())
    text, ended = ending.cut(_text(tokenizer, token_ids[:-1] if has_end else token_ids))
    return text.strip(), not has_end and not ended and len(token_ids) == ending.limit
