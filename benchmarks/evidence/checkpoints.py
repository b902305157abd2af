"""Score a run's checkpoints in more ways than the run did: `python -m benchmarks.evidence.checkpoints NAME`.

At each checkpoint it computes

* the loss on the held-out targets, given the prompt that the run trains on; the Trainer calls it `eval_loss`;
* alignment in the ways that might follow translation closer: NASCA, NAVCA and MEXA, and the rank score on states,
  values and embeddings; on 100, 300 and 1,000 held-out pairs; of bare sentences, and of the same sentences inside the
  translation prompt, pooled over all tokens or read at the last one.

It writes one line a checkpoint into runs/evidence/NAME/checkpoints.jsonl, without any text, and goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel
from torch import Tensor, nn
from transformers import AutoTokenizer

from benchmarks.evidence.runs import CONFIGS, ROOT, RUNS
from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.alignment.cosines import contributions, cosine_similarity
from neuronxa_callback.alignment.evaluator import Encoded
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.loading import Loader
from neuronxa_callback.quality.evaluator import directions
from neuronxa_callback.quality.prompts import PLAIN_PROMPT
from neuronxa_callback.text.corpora import open_corpus
from neuronxa_callback.text.languages import language_name
from neuronxa_callback.training.sweep import find_checkpoints
from neuronxa_callback.vocabulary import Direction, Method, Representation, TokenPooling

FILE = "checkpoints.jsonl"
PAIRS = (100, 300, 1000)
WATCHED = 100  # pairs that a run watches
DIGITS = 5
# What a variant is called -> what it reads and which score it gives.
SCORES: dict[str, tuple[Representation, Method]] = {
    "nasca": ("nas", "nasca"),
    "rank of states": ("nas", "nasca_rank"),
    "navca": ("nav", "nasca"),
    "rank of values": ("nav", "nasca_rank"),
    "mexa": ("embedding", "nasca"),
    "rank of embeddings": ("embedding", "nasca_rank"),
}
# What a method of the package is called among them.
NAME_OF: dict[Method, str] = {"nasca": "nasca", "nasca_rank": "rank of states", "navca": "navca", "mexa": "mexa"}
PROMPTED: tuple[TokenPooling, ...] = ("weighted", "last")


class CheckpointScores(BaseModel):
    """A line of checkpoints.jsonl.

    Attributes:
        step: the step of the checkpoint; 0 is the base model.
        held_out_loss: the mean cross entropy of the held-out targets, in the directions that the run translates.
        per_layer: the name of a variant -> its score at each layer.
    """

    step: int
    held_out_loss: float
    per_layer: dict[str, list[float]]


def read(folder: Path) -> dict[int, CheckpointScores]:
    """Return the lines of a run's checkpoints.jsonl by step. There is none where the file is missing."""
    path = folder / FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {found.step: found for found in map(CheckpointScores.model_validate_json, lines)}


def prompt_of(sentence: str, source_lang: str, target_lang: str) -> str:
    """Return the plain prompt, in which the runs train."""
    languages = {"source_language": language_name(source_lang), "target_language": language_name(target_lang)}
    return PLAIN_PROMPT.format(source=sentence, **languages)


def prompted(pairs: ParallelPairs) -> ParallelPairs:
    """Return the pairs with each sentence inside the prompt that asks for its translation."""
    first, second = pairs.source_lang, pairs.target_lang
    source = [prompt_of(sentence, first, second) for sentence in pairs.source]
    target = [prompt_of(sentence, second, first) for sentence in pairs.target]
    return ParallelPairs(tuple(source), tuple(target), first, second)


# ---------------------------------------------------------------------------------------------- alignment


def variants(decoder: Decoder, pairs: ParallelPairs, counts: Sequence[int] = PAIRS) -> dict[str, list[float]]:
    """Return each variant's score at each layer: name -> numbers.

    Args:
        decoder: the model and its tokenizer.
        pairs: the held-out pairs, of which each count takes the first.
        counts: numbers of pairs. Sentences inside a prompt are scored on the first of them alone.
    """
    found = dict(_scored(decoder, pairs, "weighted", "bare", [count for count in counts if count <= len(pairs)]))
    for pooling in PROMPTED:
        found |= dict(
            _scored(decoder, prompted(_first(pairs, counts[0])), pooling, f"in the prompt, {pooling}", counts[:1])
        )
    return found


def _first(pairs: ParallelPairs, count: int) -> ParallelPairs:
    return replace(pairs, source=pairs.source[:count], target=pairs.target[:count])


def _scored(
    decoder: Decoder, pairs: ParallelPairs, pooling: TokenPooling, where: str, counts: Sequence[int]
) -> Iterator[tuple[str, list[float]]]:
    evaluator = NeuronXAEvaluator(pairs, ("nasca", "navca", "mexa"), token_pooling=pooling)

    def sides(_: ParallelPairs, source: Encoded, target: Encoded) -> tuple[Encoded, Encoded]:
        return source, target

    source, target = next(evaluator.each(decoder, evaluator.pairs, sides))
    for name, (read, method) in SCORES.items():
        for count in counts:
            yield f"{name}, {where}, {count}", _per_layer(source[read][:, :count], target[read][:, :count], method)


def _per_layer(source: Tensor, target: Tensor, method: Method) -> list[float]:
    """Return the score at each layer. A layer at a time bounds the memory of a thousand pairs."""
    scores = []
    for layer in range(len(source)):
        cosines = cosine_similarity(source[layer : layer + 1], target[layer : layer + 1])
        scores.append(float(contributions(cosines, method).diagonal(dim1=1, dim2=2).mean()))
    return [round(score, DIGITS) for score in scores]


# ---------------------------------------------------------------------------------------------- the loss


@torch.no_grad()
def held_out_loss(decoder: Decoder, pairs: ParallelPairs, direction: Direction, batch: int = 10) -> float:
    """Return the mean cross entropy of the targets' tokens and the end token, given the prompt.

    Args:
        decoder: the model and its tokenizer.
        pairs: the held-out pairs.
        direction: which sides are targets. A run's own makes the loss a rival that knows as much as the translations.
        batch: examples in a forward pass.
    """
    rows = [row for way in directions([pairs], direction).values() for row in _examples(decoder.tokenizer, way)]
    rows.sort(key=lambda row: len(row[0]))
    total, count = 0.0, 0
    with decoder.evaluation_mode():
        for start in range(0, len(rows), batch):
            loss, tokens = _loss_of(decoder, rows[start : start + batch])
            total, count = total + loss, count + tokens
    return total / count


def _examples(tokenizer: Any, pairs: ParallelPairs) -> Iterator[tuple[list[int], int]]:
    """Yield the tokens of each example and how many of them are its prompt's."""
    for source, target in zip(pairs.source, pairs.target, strict=True):
        prompt = tokenizer(prompt_of(source, pairs.source_lang, pairs.target_lang))["input_ids"]
        completion = tokenizer(f" {target}", add_special_tokens=False)["input_ids"]
        yield [*prompt, *completion, tokenizer.eos_token_id], len(prompt)


def _loss_of(decoder: Decoder, rows: Sequence[tuple[list[int], int]]) -> tuple[float, int]:
    """Return the summed loss of some examples' completions, and how many tokens these have."""
    longest = max(len(ids) for ids, _ in rows)
    device = decoder.device
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows], device=device)
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows], device=device)
    places = torch.arange(longest, device=device)
    prompts = torch.tensor([prompt for _, prompt in rows], device=device).unsqueeze(1)
    learned = mask.bool() & (places >= prompts)
    model: Any = decoder.base
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return float(losses[learned[:, 1:]].sum()), int(learned.sum())


# ---------------------------------------------------------------------------------------------- a run


def score(run_dir: Path, config: dict[str, Any], most: int) -> None:
    """Score the base model and every checkpoint of a run that has no line yet.

    Args:
        run_dir: the run.
        config: the settings of its configuration.
        most: how many held-out pairs to read at most. Counts of pairs beyond what there is are left out.
    """
    done = read(run_dir)
    checkpoints = find_checkpoints(run_dir)
    loader = Loader(checkpoints, config["dtype"], config.get("load_in_4bit", False))
    tokenizer = AutoTokenizer.from_pretrained(config["model_name_or_path"])
    corpus = open_corpus(config["held_out"], most)
    trained = corpus.pairs(config["source_lang"], config["target_lang"])
    direction = config.get("direction", "both")
    for checkpoint in checkpoints:
        if checkpoint.step in done:
            continue
        with loader.model(checkpoint) as model:
            decoder = Decoder.find(model, tokenizer)
            found = CheckpointScores(
                step=checkpoint.step,
                held_out_loss=round(held_out_loss(decoder, _first(trained, WATCHED), direction), DIGITS),
                per_layer=variants(decoder, trained),
            )
        with (run_dir / FILE).open("a", encoding="utf-8") as file:
            file.write(found.model_dump_json() + "\n")
        print(found.step, found.held_out_loss, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a run in runs/evidence/")
    parser.add_argument("--pairs", type=int, default=max(PAIRS), help="held-out pairs at most; 100 take half the time")
    options = parser.parse_args()
    config = yaml.safe_load((ROOT / CONFIGS / f"{options.name}.yaml").read_text(encoding="utf-8"))
    score(RUNS / options.name, config, options.pairs)


if __name__ == "__main__":
    main()
