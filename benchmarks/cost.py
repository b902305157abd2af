"""Measure what an evaluation costs: `make bench`.

Each row divides the cost of one work by that of another, and shows its target and whether the ratio meets it. The works
of a section run interleaved in one process, and medians are compared. Works that take a minute or more run once: those
of the sections translation, languages and pairs, and those of published and training with five rounds or fewer. Times
of a machine that does anything else meanwhile mean nothing. The whole benchmark takes about 25 minutes on two cores;
`--only` measures some of its sections, and leaves the recorded rows of the others as they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    StoppingCriteria,
    StoppingCriteriaList,
)

from benchmarks import mexa_published
from benchmarks.machine import RESULTS
from benchmarks.rows import Row, in_seconds, interleaved, peak_memory, read, save, show, timed
from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.alignment.batches import batches
from neuronxa_callback.alignment.encoder import default_token_budget, pass_tokens
from neuronxa_callback.alignment.pair_scores import of_report
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality import translation
from neuronxa_callback.quality.prompts import prompt_ids
from neuronxa_callback.quality.translation import EXTRA_TOKENS, LENGTH_RATIO
from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.vocabulary import Method

RESULT = RESULTS / "cost.json"
STEP_TOKENS = 8192
DEMO = ("isl_Latn", "fra_Latn", "spa_Latn")  # the demo watches these with English
EIGHT: tuple[Method, ...] = ("nasca", "nasca_rank", "navca", "mexa", "cka", "svcca", "anc", "sads")
FIXED_BATCHES = (50, 100)  # 28 a batch took 1.17 times as long as 55, and 14 took 1.5 times as long
STEPS_BETWEEN = 50


@dataclass(frozen=True)
class Bench:
    """What the sections measure with.

    Attributes:
        path: the folder of SmolLM2-135M.
        pairs: 100 pairs of English and another language.
        rounds: how often each work is timed.
    """

    path: Path
    pairs: ParallelPairs
    rounds: int

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return AutoTokenizer.from_pretrained(self.path)

    @cached_property
    def float32(self) -> Decoder:
        """The model in float32."""
        return self._decoder()

    @cached_property
    def nf4(self) -> Decoder:
        """The model in NF4."""
        return self._decoder(
            quantization_config=BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
            )
        )

    def _decoder(self, **options: Any) -> Decoder:
        return Decoder.find(
            AutoModelForCausalLM.from_pretrained(self.path, dtype=torch.float32, **options), self.tokenizer
        )


# ------------------------------------------------------------------------------------------------- forward passes


def forward(decoder: Decoder, token_ids: Sequence[Sequence[int]], rows: Sequence[Sequence[int]]) -> None:
    """Run the decoder over batches of rows, without hooks and without the LM head."""
    with decoder.evaluation_mode():
        for batch in rows:
            decoder.run([token_ids[row] for row in batch])


def bare(decoder: Decoder, pairs: ParallelPairs) -> None:
    """Make the forward passes of an evaluation, whole and without hooks."""
    for side in (pairs.source, pairs.target):
        token_ids = decoder.tokenize(side)
        forward(decoder, token_ids, batches(token_ids, default_token_budget(decoder), pass_tokens(decoder)))


def packed(decoder: Decoder, pairs: ParallelPairs) -> None:
    """Make forward passes over as many tokens as the sentences have, without any padding.

    The tokens of a side follow each other in rows of the mean sentence's length. So attention sees about as many
    tokens as it does in the sentences.
    """
    for side in (pairs.source, pairs.target):
        token_ids = [token for sentence in decoder.tokenize(side) for token in sentence]
        length = round(len(token_ids) / len(side))
        rows = [token_ids[start : start + length] for start in range(0, len(token_ids), length)]
        forward(decoder, rows, batches(rows, default_token_budget(decoder), pass_tokens(decoder)))


def alignment_float32(bench: Bench) -> Iterator[Row]:
    """NASCA in float32 against the passes that it needs, other methods, fewer layers, and memory."""
    section, decoder, pairs = "alignment-float32", bench.float32, bench.pairs
    nasca, layers = NeuronXAEvaluator(pairs, "nasca"), len(decoder.layers)
    ranked = NeuronXAEvaluator(pairs, ("nasca", "nasca_rank"))
    eight = NeuronXAEvaluator(pairs, EIGHT)
    middle = NeuronXAEvaluator(pairs, "nasca", layers=range(layers // 3 + 1, 2 * layers // 3 + 1))
    seconds = interleaved(
        {
            "bare forward pass": partial(bare, decoder, pairs),
            "packed tokens": partial(packed, decoder, pairs),
            "NASCA": lambda: nasca.score(decoder),
            "NASCA, rank score, surface control": lambda: of_report(ranked.score(decoder), pairs),
            "all eight methods, surface control": lambda: of_report(eight.score(decoder), pairs),
            "NASCA of the middle third": lambda: middle.score(decoder),
        },
        bench.rounds,
    )
    row = partial(in_seconds, section, seconds=seconds)
    yield row("hooks and scores", ("NASCA", "bare forward pass"), target=1.03)
    yield row("the limit", ("NASCA", "packed tokens"), target=1.1)
    yield row("more methods", ("NASCA, rank score, surface control", "NASCA"), target=1.1)
    yield row("all methods", ("all eight methods, surface control", "NASCA"), target=1.1)
    yield row("a third of the layers", ("NASCA of the middle third", "NASCA"), target=0.6)
    pooled = 2 * len(pairs) * layers * max(ffn.neurons for its in decoder.ffns for ffn in its) * 4
    memory = (peak_memory(lambda: nasca.score(decoder)), pooled + peak_memory(partial(bare, decoder, pairs)))
    yield Row(section, "peak extra memory", "NASCA", "pooled states + bare forward pass", memory, "bytes", 1.05)


def alignment_nf4(bench: Bench) -> Iterator[Row]:
    """NASCA in NF4 against the passes that it needs."""
    nasca = NeuronXAEvaluator(bench.pairs, "nasca")
    seconds = interleaved(
        {
            "bare forward pass": partial(bare, bench.nf4, bench.pairs),
            "packed tokens": partial(packed, bench.nf4, bench.pairs),
            "NASCA": lambda: nasca.score(bench.nf4),
        },
        bench.rounds,
    )
    row = partial(in_seconds, "alignment-nf4", seconds=seconds)
    yield row("hooks and scores", ("NASCA", "bare forward pass"), target=1.03)
    yield row("the limit", ("NASCA", "packed tokens"), target=1.1)


def mexa_scores(bench: Bench) -> list[float]:
    """Score the pairs as MEXA's authors do."""
    sides = (bench.pairs.source, bench.pairs.target)
    read = [mexa_published.embeddings(bench.float32.model, bench.tokenizer, side) for side in sides]
    return mexa_published.layer_scores(*read)


def published(bench: Bench) -> Iterator[Row]:
    """NASCA against MEXA's published way, with the model in memory already."""
    nasca = NeuronXAEvaluator(bench.pairs, "nasca")
    works = ("NASCA", "MEXA's published way")
    seconds = interleaved(
        {
            works[0]: lambda: nasca.score(bench.float32),
            works[1]: lambda: mexa_scores(bench),
        },
        max(1, bench.rounds // 3),
    )
    yield in_seconds("published", "one sentence at a time", works, seconds, target=1 / 6)


# ---------------------------------------------------------------------------------------------- beside a training


def sft_step(model: Any, tokenizer: Any) -> Callable[[], None]:
    """Return a LoRA fine-tuning step on 16 sequences of 512 tokens from the demo's training text."""
    text = " ".join(sentence for column in embedded("demo_train.tsv").values() for sentence in column)
    ids = tokenizer(text)["input_ids"]
    whole = torch.tensor((ids * (1 + STEP_TOKENS // len(ids)))[:STEP_TOKENS])
    input_ids = whole.view(16, 512).to(model.device)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-5)

    def step() -> None:
        model.train()
        model(input_ids=input_ids, labels=input_ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def training(bench: Bench) -> Iterator[Row]:
    """The demo's four languages in NF4 with a LoRA, against a training step.

    The last row adds up: an evaluation of one language pair with 100 translations takes as long as measured, beside 50
    steps of the measured length.
    """
    model = get_peft_model(bench.nf4.model, LoraConfig(r=16, target_modules="all-linear"))
    decoder = Decoder.find(model, bench.tokenizer)
    demo = NeuronXAEvaluator([ParallelPairs.load(f"eng_Latn-{language}") for language in DEMO])
    works = ("four languages", f"SFT step of {STEP_TOKENS:,} tokens")
    step = sft_step(model, bench.tokenizer)
    seconds = interleaved({works[0]: lambda: demo.score(decoder), works[1]: step}, max(1, bench.rounds // 3))
    yield in_seconds("training", "an evaluation", works, seconds, target=0.5)
    one = NeuronXAEvaluator(bench.pairs)
    evaluation = timed(lambda: (one.score(decoder), translate(decoder, bench.pairs)))
    steps = STEPS_BETWEEN * seconds[works[1]]
    yield Row(
        "training",
        f"every {STEPS_BETWEEN} steps, added up, without COMET",
        "steps, alignment and 100 translations",
        "steps alone",
        (steps + evaluation, steps),
        "seconds",
        1.03,
    )
    model.unload()


# ---------------------------------------------------------------------------------------------------- translation


def translate(decoder: Decoder, pairs: ParallelPairs) -> translation.Translations:
    """Translate the sources as an evaluation does."""
    return translation.translate(decoder, pairs.source, pairs.source_lang, pairs.target_lang)


class _Ends(StoppingCriteria):
    """Ends each answer at its own limit, or behind its first line."""

    def __init__(self, tokenizer: Any, start: int, limits: Sequence[int]) -> None:
        self.tokenizer, self.start, self.limits = tokenizer, start, limits

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        made = input_ids.shape[1] - self.start
        newest = self.tokenizer.batch_decode(input_ids[:, -1:])
        ended = [made >= limit or "\n" in text for limit, text in zip(self.limits, newest, strict=True)]
        return torch.tensor(ended, device=input_ids.device)


def plain_generate(decoder: Decoder, pairs: ParallelPairs, size: int) -> None:
    """Translate with a plain call of `generate` for each batch of `size` sources, in order of their length."""
    tokenizer, model = decoder.tokenizer, decoder.base
    prompts = prompt_ids(tokenizer, pairs.source, pairs.source_lang, pairs.target_lang)
    limits = [LENGTH_RATIO * len(tokenizer(text)["input_ids"]) + EXTRA_TOKENS for text in pairs.source]
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    pad = tokenizer.pad_token_id
    with decoder.evaluation_mode():
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            longest = max(len(prompts[row]) for row in rows)
            padded = [[pad] * (longest - len(prompts[row])) + prompts[row] for row in rows]
            real = [[0] * (longest - len(prompts[row])) + [1] * len(prompts[row]) for row in rows]
            ends = [limits[row] for row in rows]
            model.generate(  # type: ignore[operator]
                input_ids=torch.tensor(padded),
                attention_mask=torch.tensor(real),
                max_new_tokens=max(ends),
                do_sample=False,
                pad_token_id=pad,
                stopping_criteria=StoppingCriteriaList([_Ends(tokenizer, longest, ends)]),
            )


def _translation(section: str, decoder: Decoder, pairs: ParallelPairs) -> Iterator[Row]:
    works = {f"generate, {size} a batch": partial(plain_generate, decoder, pairs, size) for size in FIXED_BATCHES} | {
        "translate": partial(translate, decoder, pairs)
    }
    seconds = interleaved(works, 1, warm_up=False)
    best = min((name for name in works if name != "translate"), key=seconds.__getitem__)
    yield in_seconds(section, "translating 100 sources", ("translate", best), seconds, target=0.8)


def translation_float32(bench: Bench) -> Iterator[Row]:
    """Translation in float32 against `generate` with its best number of sources in a batch."""
    return _translation("translation-float32", bench.float32, bench.pairs)


def translation_nf4(bench: Bench) -> Iterator[Row]:
    """Translation in NF4 against `generate` with its best number of sources in a batch."""
    return _translation("translation-nf4", bench.nf4, bench.pairs)


# ------------------------------------------------------------------------------------------------------- linearity


def repeated(pairs: ParallelPairs, n: int, target_lang: str) -> ParallelPairs:
    """Return n pairs: the same ones again and again, told apart by a number, under another language's name."""
    rounds = [f"{sentence} {number}" for number in range(-(-n // len(pairs))) for sentence in pairs.source]
    targets = [f"{sentence} {number}" for number in range(-(-n // len(pairs))) for sentence in pairs.target]
    return ParallelPairs(tuple(rounds[:n]), tuple(targets[:n]), pairs.source_lang, target_lang)


def languages(bench: Bench) -> Iterator[Row]:
    """Sixteen languages against what the cost of one and of four says."""
    names = "ces dan deu est fin fra hun isl ita lit lvs nld nob pol por slk"
    codes = [f"{name}_Latn" for name in names.split()]

    def score(count: int) -> Callable[[], object]:
        evaluator = NeuronXAEvaluator([repeated(bench.pairs, len(bench.pairs), code) for code in codes[:count]])
        return lambda: evaluator.score(bench.float32)

    seconds = interleaved({f"{count} languages": score(count) for count in (1, 4, 16)}, 1, warm_up=False)
    each = (seconds["4 languages"] - seconds["1 languages"]) / 3
    line = "the line through 1 and 4"
    seconds |= {line: seconds["1 languages"] + 15 * each}
    yield in_seconds("languages", "languages", ("16 languages", line), seconds, target=1.05)


def more_pairs(bench: Bench) -> Iterator[Row]:
    """300 and 1,000 pairs against what the cost of 100 says."""

    def score(n: int) -> Callable[[], object]:
        evaluator = NeuronXAEvaluator(repeated(bench.pairs, n, "isl_Latn"))
        return lambda: evaluator.score(bench.float32)

    score(100)()  # the first evaluation of a model checks it, too
    seconds = interleaved({f"{n} pairs": score(n) for n in (100, 300, 1000)}, 1, warm_up=False)
    for n in (300, 1000):
        times = f"{n // 100} times 100 pairs"
        seconds |= {times: n // 100 * seconds["100 pairs"]}
        yield in_seconds("pairs", "pairs", (f"{n} pairs", times), seconds, target=1.05)


# ---------------------------------------------------------------------------------------------------------- results

SECTIONS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "alignment-float32": alignment_float32,
    "alignment-nf4": alignment_nf4,
    "published": published,
    "translation-float32": translation_float32,
    "translation-nf4": translation_nf4,
    "training": training,
    "languages": languages,
    "pairs": more_pairs,
}


def main() -> None:
    """Measure, print and record the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(".models/smollm2-135m-instruct"))
    parser.add_argument("--rounds", type=int, default=5, help="how often each work is timed")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="the sections to measure")
    parser.add_argument("--recorded", action="store_true", help="only print the recorded rows")
    options = parser.parse_args()
    console = Console(width=170)
    if not options.recorded:
        bench = Bench(options.model, ParallelPairs.load("eng_Latn-isl_Latn"), options.rounds)
        for name in options.only:
            rows = list(SECTIONS[name](bench))
            show(rows, console)
            save(RESULT, rows, bench.pairs, f"python -m benchmarks.cost --rounds {options.rounds} --only {name}")
    show(read(RESULT), console)


if __name__ == "__main__":
    main()
