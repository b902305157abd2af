"""How unlikely a model finds sentences. What the sentences of a group begin with is read once for all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuronxa_callback.alignment.batches import batches
from neuronxa_callback.model.cache import depends_on_length, is_plain, keeps_positions, shared_tokens
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.state import TokenBudget
from neuronxa_callback.model.tolerance import differ, rounding

CHUNK = 256  # tokens whose probabilities over the vocabulary are in memory at once, in float32
CPU_TOKENS, ACCELERATOR_TOKENS = 1024, 8192  # padded tokens of a batch


class LikelihoodError(ValueError):
    """A sentence has no likelihood. The message shows it and says what to do."""


@dataclass(frozen=True)
class _Group:
    """The token ids of sentences that begin alike.

    Attributes:
        prefix: what all begin with, at least one token less than the shortest sentence.
        rests: what follows in each sentence, at least one token.
    """

    prefix: list[int]
    rests: list[list[int]]

    @classmethod
    def of(cls, sentences: Sequence[Sequence[int]]) -> _Group:
        shared = min(shared_tokens(sentences), min(map(len, sentences)) - 1)
        return cls(list(sentences[0][:shared]), [list(ids[shared:]) for ids in sentences])

    @property
    def sentences(self) -> list[list[int]]:
        return [self.prefix + rest for rest in self.rests]

    @property
    def is_shared(self) -> bool:
        """Whether several sentences begin alike."""
        return bool(self.prefix) and len(self.rests) > 1

    @property
    def longest(self) -> int:
        return max(map(len, self.rests))


def mean_losses(
    decoder: Decoder, groups: Sequence[Sequence[str]], budget: TokenBudget | None = None
) -> list[list[float]]:
    """Return each sentence's negative log-likelihood, as a mean over its tokens from the second on.

    The first token has none, because no token stands before it. Where the tokenizer puts a BOS token in front, every
    token of the text counts. It is what BMLAMA's authors compute for decoders (`predict_mask` in 1_easyrun/main.py).

    What the sentences of a group begin with goes through the model once, and the rests follow from its KV cache. The
    groups of a batch have beginnings of equal length, so that nothing is padded on the left. Sentences are read whole
    where the cache holds anything but keys and values of its own tokens (Mamba), where these depend on what follows,
    and where a trial on the first group gives other numbers. The way, the batch and the padding change a loss by
    rounding alone.

    Args:
        decoder: the model, in evaluation mode (`Decoder.evaluation_mode`).
        groups: the sentences.
        budget: the padded tokens of a batch, 1,024 on a CPU and 8,192 elsewhere. It is halved when memory runs out.

    Returns:
        a loss in nats for each sentence.

    Raises:
        LikelihoodError: a sentence has one token, or the model returns numbers that are not finite.
        ValueError: a sentence has no token, or more than the model's context.
    """
    ids = [decoder.tokenize(sentences) for sentences in groups]
    for sentences, its in zip(groups, ids, strict=True):
        for sentence, tokens in zip(sentences, its, strict=True):
            if len(tokens) < 2:
                raise LikelihoodError(
                    f"the sentence {sentence!r} has one token, and nothing stands before it that would give it a "
                    "likelihood; remove it."
                )
    split = [_Group.of(its) for its in ids]

    def run(tokens: int) -> list[list[float]]:
        return _losses(decoder, split, tokens)

    default = decoder.budget(CPU_TOKENS, ACCELERATOR_TOKENS)
    found = (budget or TokenBudget()).fit(run, lambda: max(len(s) for its in ids for s in its), default)
    for sentences, losses in zip(groups, found, strict=True):
        for sentence, loss in zip(sentences, losses, strict=True):
            if not abs(loss) < float("inf"):
                raise LikelihoodError(
                    f"the model gives {sentence!r} a likelihood that is not finite; load it in another dtype (--dtype)."
                )
    return found


def _losses(decoder: Decoder, groups: Sequence[_Group], tokens: int) -> list[list[float]]:
    found: dict[int, Tensor] = {}
    for batch in _shareable(decoder, groups, tokens):
        losses = _shared(decoder, [groups[number] for number in batch])
        if losses is not None:
            found |= zip(batch, losses, strict=True)
    left = [number for number in range(len(groups)) if number not in found]
    found |= zip(left, _whole(decoder, [groups[number] for number in left], tokens), strict=True)
    counts = [torch.tensor([len(ids) - 1 for ids in group.sentences]) for group in groups]
    return [(found[number] / count).tolist() for number, count in enumerate(counts)]


def _shareable(decoder: Decoder, groups: Sequence[_Group], tokens: int) -> Iterator[list[int]]:
    """Yield batches of groups whose beginnings may be read once. They have the same length within a batch."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        if group.is_shared:
            by_length[len(group.prefix)].append(number)
    first = next(iter(by_length.values()), None)
    if first is not None and _may_share(decoder, groups[first[0]]):
        for length, numbers in by_length.items():
            yield from _cut(groups, numbers, length, tokens)


def _cut(groups: Sequence[_Group], numbers: Sequence[int], length: int, tokens: int) -> Iterator[list[int]]:
    """Yield batches of groups whose beginnings have this length. At least one group is in each."""
    batch: list[int] = []
    rows = 0
    for number in sorted(numbers, key=lambda number: groups[number].longest):
        more = rows + len(groups[number].rests)
        # Each row's cache holds the beginning, too.
        if batch and more * (length + groups[number].longest) > tokens:
            yield batch
            batch, more = [], len(groups[number].rests)
        batch.append(number)
        rows = more
    if batch:
        yield batch


def _may_share(decoder: Decoder, group: _Group) -> bool:
    """Return whether a group's losses are the same with its beginning read once, up to rounding."""
    if decoder.bidirectional or decoder.in_step or keeps_positions(decoder):
        return False
    found = _shared(decoder, [group])
    plain = _whole(decoder, [group], 1)
    return found is not None and not differ(found[0], plain[0], rounding(decoder.model, decoder.device))


def _shared(decoder: Decoder, groups: Sequence[_Group]) -> list[Tensor] | None:
    """Return the summed losses of groups whose beginnings have the same length; None if these cannot be read once."""
    model: Any = decoder.base
    longest = max(group.longest for group in groups)
    length = len(groups[0].prefix)
    prefixes = _tensor([group.prefix for group in groups], decoder)
    output = model(input_ids=prefixes, use_cache=True)
    cache: Any = getattr(output, "past_key_values", None)  # Mamba and GPT-1 have none
    if not is_plain(cache, length) or depends_on_length(decoder, cache, length + longest):
        return None
    common = _loss_of(output.logits[:, :-1], prefixes[:, 1:]).sum(dim=1)  # (groups,)
    rows = torch.tensor([place for place, group in enumerate(groups) for _ in group.rests], device=decoder.device)
    rests = [rest for group in groups for rest in group.rests]
    losses = common[rows] + _loss_of(output.logits[rows, -1:], _tensor([rest[:1] for rest in rests], decoder))[:, 0]
    if longest > 1:
        cache.batch_select_indices(rows.to("cpu"))
        padded = decoder.inputs(rests)["input_ids"]
        logits = model(input_ids=padded[:, :-1], past_key_values=cache, use_cache=True).logits
        losses += (_loss_of(logits, padded[:, 1:]) * _counts(rests, decoder)).sum(dim=1)
    return list(losses.cpu().split([len(group.rests) for group in groups]))


def _whole(decoder: Decoder, groups: Sequence[_Group], tokens: int) -> list[Tensor]:
    """Return the summed losses of groups whose sentences are read whole."""
    model: Any = decoder.base
    sentences = [ids for group in groups for ids in group.sentences]
    losses = torch.zeros(len(sentences), dtype=torch.float64)
    for batch in batches(sentences, tokens, None):
        its = [sentences[row] for row in batch]
        inputs = decoder.inputs(its)
        logits = model(**inputs, use_cache=False).logits[:, :-1]
        losses[batch] = (_loss_of(logits, inputs["input_ids"][:, 1:]) * _counts(its, decoder)).sum(dim=1).cpu()
    return list(losses.split([len(group.rests) for group in groups]))


def _loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Return each target's negative log-likelihood (rows, tokens) in float64, given its logits (rows, tokens, words).

    The softmax is in float32, a few tokens at a time, because a vocabulary may have a quarter of a million words.
    """
    flat, wanted = logits.flatten(0, 1), targets.flatten()
    parts = [
        torch.nn.functional.cross_entropy(some.float(), its, reduction="none")
        for some, its in zip(flat.split(CHUNK), wanted.split(CHUNK), strict=True)
    ]
    return torch.cat(parts).double().view(targets.shape)


def _counts(rows: Sequence[Sequence[int]], decoder: Decoder) -> Tensor:
    """Return whether each token but the first is no padding: (rows, tokens - 1)."""
    places = torch.arange(1, max(map(len, rows)), device=decoder.device)
    return places < torch.tensor([len(ids) for ids in rows], device=decoder.device)[:, None]


def _tensor(rows: Sequence[Sequence[int]], decoder: Decoder) -> Tensor:
    return torch.tensor(rows, device=decoder.device)
