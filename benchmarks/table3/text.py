"""What needs no method at all: how finely the tokenizer cuts a language, and the model's loss on its sentences."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.table3.records import PAIRS, TextLine
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.state import TokenBudget
from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.knowledge.likelihood import mean_losses


def text_line(
    decoder: Decoder, model: str, lang: str, sentences: Sequence[str], key: Signature, budget: TokenBudget
) -> TextLine:
    """Return the line of a language, over its first 100 sentences."""
    sentences = sentences[:PAIRS]
    means = mean_losses(decoder, [[sentence] for sentence in sentences], budget)
    predicted = [len(ids) - 1 for ids in decoder.tokenize(sentences)]
    return TextLine(
        model=model,
        lang=lang,
        sentences=len(sentences),
        characters=sum(map(len, sentences)),
        tokens=sum(map(len, decoder.tokenize(sentences, special_tokens=False))),
        predicted=sum(predicted),
        loss=sum(loss * count for (loss,), count in zip(means, predicted, strict=True)),
        key=key,
    )
