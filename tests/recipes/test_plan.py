"""The plan of a run against what the Trainer really makes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import plan
import pytest
from datasets import Dataset
from held_out import HeldOut, load
from languages import Languages
from trl import SFTConfig, SFTTrainer

from neuronxa_callback import NeuronXACallback, ParallelPairs
from tests.support import make_tokenizer, score_lines, tiny_llama

pytestmark = pytest.mark.recipe


def held(n: int) -> HeldOut:
    return load("embedded", Languages("eng_Latn", ("isl_Latn",)), n)


def sft_config(folder: Path, **settings: Any) -> SFTConfig:
    return SFTConfig(str(folder), report_to=[], **{"bf16": False, "max_length": 64} | settings)


@pytest.mark.parametrize("packing", [False, True])
def test_a_plan_counts_steps_and_evaluations(packing: bool, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    (pairs,) = held(10).watched
    texts = list(pairs.target)
    length = sum(len(tokenizer(text)["input_ids"]) for text in texts) / 10
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "num_train_epochs": 2}
    args = sft_config(tmp_path, packing=packing, packing_strategy="wrapped", **settings)
    found = plan.estimate(tokenizer, args, texts, 100, held(10), 0.25)
    rows = math.ceil(100 * length / 64) if packing else 100
    steps = 2 * math.ceil(rows / 6)
    assert (found.examples, found.steps) == (100, steps)
    assert found.evaluations == 1 + math.ceil(steps / math.ceil(steps / 4))
    assert found.epochs == pytest.approx(steps * 6 / rows)
    scored = sum(len(tokenizer(text)["input_ids"]) for text in (*pairs.source, *pairs.target))
    trained = steps * 6 * (64 if packing else length)
    assert found.alignment_cost == pytest.approx(found.evaluations * scored / (3 * trained))
    limits = [4 * len(tokenizer(text)["input_ids"]) + 16 for text in (*pairs.source, *pairs.target)]
    assert found.translated == sum(limits)
    one_way = plan.estimate(tokenizer, args, texts, 100, held(10), 0.25, "target->source")
    assert one_way.translated == sum(limits[len(pairs.source) :])


def test_a_control_is_encoded_and_not_translated(tmp_path: Path) -> None:
    tokenizer, args = make_tokenizer(), sft_config(tmp_path, max_steps=10)
    both = load("embedded", Languages("eng_Latn", ("isl_Latn",), ("deu_Latn",)), 10)
    found, alone = (plan.estimate(tokenizer, args, ["A."], 100, of, 0.5) for of in (both, held(10)))
    assert found.translated == alone.translated
    isl, deu = both.watched
    scored, more = (
        sum(len(tokenizer(text)["input_ids"]) for text in texts) for texts in ((*isl.source, *isl.target), deu.target)
    )
    assert found.alignment_cost / alone.alignment_cost == pytest.approx((scored + more) / scored)


def test_evaluations_follow_the_trainer_where_it_evaluates(tmp_path: Path) -> None:
    pairs = ParallelPairs.load("eng_Latn-isl_Latn", n=10)
    args = sft_config(tmp_path, max_steps=100, eval_strategy="steps", eval_steps=0.02)
    assert plan.estimate(make_tokenizer(), args, pairs.target, 100, held(10), 0.5).evaluations == 51


@pytest.mark.parametrize("settings", [{}, {"dataloader_drop_last": True}, {"max_steps": 7}, {"eval_steps": 0.3}])
@pytest.mark.parametrize("strategy", ["epoch", "steps"])
def test_steps_and_evaluations_are_what_the_trainer_makes(
    strategy: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    pairs, tokenizer = ParallelPairs.load("eng_Latn-isl_Latn", n=5), make_tokenizer()
    sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 2.5}
    schedule = {"eval_strategy": strategy, "logging_steps": 3, "save_strategy": "no", "use_cpu": True}
    args = sft_config(tmp_path, **sizes, **schedule, **settings)
    texts = list(ParallelPairs.load("eng_Latn-isl_Latn", n=23).target)
    dataset, callback = Dataset.from_dict({"text": texts}), NeuronXACallback(pairs, quality=())
    trainer = SFTTrainer(
        tiny_llama(),
        args=args,
        train_dataset=dataset,
        eval_dataset=dataset.select([0]),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    trainer.train()
    found = plan.estimate(tokenizer, args, texts, len(texts), held(5), 0.5)
    assert found.steps == trainer.state.global_step
    assert found.evaluations == len(score_lines(tmp_path))
