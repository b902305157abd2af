"""Measure what a model knows in many languages. Each language is on disk as soon as it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from rich.progress import Progress

from neuronxa_callback._version import __version__
from neuronxa_callback.files import append_record
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.state import TokenBudget
from neuronxa_callback.ranks import Ranks
from neuronxa_callback.signature import Signature
from neuronxa_callback.significance import layer_interval
from neuronxa_callback.survey.knowledge.likelihood import mean_losses
from neuronxa_callback.survey.knowledge.prompts import Fact, Prompts, fingerprint
from neuronxa_callback.survey.knowledge.records import FILE, KnowledgeLine
from neuronxa_callback.survey.measure import ModelChoice, title
from neuronxa_callback.survey.shares import collected, length, own_file, put_together, share


def measure(
    choice: ModelChoice,
    prompts: Prompts,
    languages: Sequence[str],
    n: int | None,
    folder: Path,
    progress: Progress | None = None,
    token_budget: int | None = None,
    ranks: Ranks = Ranks(),
) -> list[KnowledgeLine]:
    """Rank the candidates of every fact by their likelihood in each language, and write knowledge.jsonl.

    The likelihood of a candidate is that of the whole sentence; see `likelihood.mean_losses`. Of candidates that are
    equally likely, the one that stands first in the file counts as the likelier.

    After a stop the same call goes on where it was. Several processes share the languages.

    Args:
        choice: the model. It is loaded only if a language is left to measure.
        prompts: the facts.
        languages: FLORES-200 codes; an empty list means all languages of the prompts.
        n: how many facts, from the first on; None takes all.
        folder: where knowledge.jsonl is, or will be.
        progress: shows a task that counts the languages.
        token_budget: padded tokens of a batch; see `likelihood.mean_losses`.
        ranks: the processes that share the work. All of them must make this call.

    Returns:
        the lines of these languages, in their order.

    Raises:
        PromptsError: the prompts cannot be used.
        LikelihoodError: a sentence has no likelihood.
        ModelError: the model cannot be loaded.
        ValueError: a sentence is longer than the model's context, or the file holds something else.
        RankError: another process failed.
    """
    with ranks.together():
        codes = prompts.chosen(languages)
        facts = prompts.facts(codes, n)
    path = folder / FILE
    keys, done = ranks.first_does(lambda: _known(choice, prompts.name, facts, path))
    progress = progress or Progress(disable=True)
    left = [code for code in codes if keys[code] not in done]
    mine = share(left, lambda code: length(s for fact in facts[code] for s in fact.sentences), ranks)
    task = progress.add_task(title(choice, ranks), total=len(codes) - len(left) + len(mine), completed=len(done))
    if not left:
        return [done[keys[code]] for code in codes]
    new: list[KnowledgeLine] = []
    budget = TokenBudget(token_budget)
    with ExitStack() as stack:
        with ranks.together():
            decoder = Decoder.find(*stack.enter_context(choice.loaded()))
        with ranks.together(), decoder.evaluation_mode():
            for code in mine:
                new.append(_line(decoder, choice.name, prompts.name, code, facts[code], keys[code], budget))
                append_record(own_file(path, ranks), new[-1])
                progress.advance(task)
    done |= put_together(path, new, ranks)
    return [done[keys[code]] for code in codes]


def _known(
    choice: ModelChoice, data: str, facts: Mapping[str, Sequence[Fact]], path: Path
) -> tuple[dict[str, Signature], dict[Signature, KnowledgeLine]]:
    """Return each language's key, and by their keys the lines of these languages that are on the disk."""
    identity = choice.identity
    keys = {
        code: identity.joined(_choices(data, its)).with_fields(lang=code, version=__version__)
        for code, its in facts.items()
    }
    lines = collected(path, KnowledgeLine)
    return keys, {key: lines[key] for key in keys.values() if key in lines}


def _choices(data: str, facts: Sequence[Fact]) -> Signature:
    """Return the part of the signature that needs no model."""
    return Signature.of(prompts=data, n=len(facts), data=fingerprint(facts), likelihood="sentence(mean)")


def _line(
    decoder: Decoder, model: str, data: str, lang: str, facts: Sequence[Fact], key: Signature, budget: TokenBudget
) -> KnowledgeLine:
    losses = mean_losses(decoder, [fact.sentences for fact in facts], budget)
    signature = _choices(data, facts).with_fields(
        special=decoder.special_tokens, dtype=decoder.dtype, version=__version__
    )
    rankings = [np.argsort(its, kind="stable").tolist() for its in losses]
    answers = [list(fact.answers) for fact in facts]
    right = sum(place in ranking[: len(its)] for ranking, its in zip(rankings, answers, strict=True) for place in its)
    count = sum(map(len, answers))
    return KnowledgeLine(
        model=model,
        lang=lang,
        signature=signature,
        key=key,
        data=data,
        accuracy=right / count,
        ci=layer_interval(right / count, count),
        chance=sum(map(_by_chance, facts)) / count,
        facts=[fact.number for fact in facts],
        rankings=rankings,
        answers=answers,
    )


def _by_chance(fact: Fact) -> float:
    """Return how many right answers a ranking at random is expected to have at its beginning."""
    offered = sum(place is not None for place in fact.answers)
    return offered * min(1.0, len(fact.answers) / len(fact.candidates))
