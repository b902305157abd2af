"""Runs of the kind that others reported faults of; docs/explanation/tried.md says whose."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from neuronxa_callback import NeuronXACallback
from tests.support import ICELANDIC, StopAt, make_tokenizer, raw_lines, score_lines, scored_steps, sft

pytestmark = pytest.mark.trainer

EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1}
BEST = {"metric_for_best_model": "eval_nasca_rank", "greater_is_better": True}


def watch(**options: Any) -> NeuronXACallback:
    return NeuronXACallback(ICELANDIC, **({"quality": (), "on_error": "raise"} | options))


class TestReduceLROnPlateau:
    WARNING = (
        "lr_scheduler_type='reduce_lr_on_plateau' lowers the learning rate while eval_nasca_rank rises, because its "
        "mode is 'min'; pass lr_scheduler_kwargs={'mode': 'max'}."
    )

    @pytest.mark.parametrize("mode", ["max", "min"])
    def test_it_follows_a_score(self, mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The rate is halved at each step that does not improve on the best one."""
        kwargs = {"patience": 0, "factor": 0.5, "threshold": 0.0} | ({"mode": "max"} if mode == "max" else {})
        options = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": kwargs, **EVERY_STEP, **BEST}
        trainer = sft(tmp_path, [watch()], **options)
        with caplog.at_level(logging.WARNING):
            trainer.train()
        log = trainer.state.log_history
        first, *later = [entry["eval_nasca_rank"] for entry in log if "eval_nasca_rank" in entry][1:]
        sign = 1 if mode == "max" else -1
        best, expected = sign * first, [1e-2, 1e-2]
        for score in later:
            expected.append(expected[-1] if sign * score > best else expected[-1] / 2)
            best = max(best, sign * score)
        rates = [entry["learning_rate"] for entry in log if "learning_rate" in entry]
        assert rates == pytest.approx(expected[: len(rates)])
        assert (self.WARNING in caplog.text) == (mode == "min")

    def test_a_loss_may_fall(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        options = {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "loss", **EVERY_STEP}
        with caplog.at_level(logging.WARNING):
            sft(tmp_path, [watch()], max_steps=1, **options).train()
        assert "lr_scheduler_type" not in caplog.text


class OutOfMemoryOnce(TrainerCallback):
    def __init__(self) -> None:
        self.left = 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3 and self.left:
            self.left = 0
            torch.empty(1 << 50)  # a petabyte: the CPU's own allocator refuses


def test_a_batch_size_that_is_tried_again_begins_a_new_series(tmp_path: Path) -> None:
    """transformers begins anew at step 0, with the weights of the attempt before."""
    trainer = sft(
        tmp_path, [watch(early_stopping_patience=9), OutOfMemoryOnce()], auto_find_batch_size=True, **EVERY_STEP
    )
    trainer.train()
    assert scored_steps(trainer) == [*range(7)]
    assert [line["step"] for line in score_lines(tmp_path)] == [*range(7)]
    first = raw_lines(tmp_path / "neuronxa" / "scores.1.jsonl")
    assert [line["step"] for line in first if "step" in line] == [0, 1, 2]


def test_early_stopping_goes_on_counting_when_a_run_is_resumed(tmp_path: Path) -> None:
    """Its restored copy stands last in the list of callbacks, and still behind this package's scores."""
    options = {"save_strategy": "steps", "save_steps": 1, "restore_callback_states_from_checkpoint": True}
    options |= EVERY_STEP | {"metric_for_best_model": "eval_nasca", "greater_is_better": True, "learning_rate": 0.0}
    options |= {"load_best_model_at_end": True, "max_steps": 9}
    whole = sft(tmp_path / "whole", [EarlyStoppingCallback(3), watch()], **options)
    whole.train()
    sft(tmp_path / "cut", [EarlyStoppingCallback(3), watch(), StopAt(2)], **options).train()
    resumed = sft(tmp_path / "cut", [EarlyStoppingCallback(8), watch()], **options)
    resumed.train(resume_from_checkpoint=True)
    assert whole.state.global_step == resumed.state.global_step == 4
    assert scored_steps(whole) == scored_steps(resumed)


def test_a_saved_tokenizer_does_not_truncate(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    trainer = sft(
        tmp_path, [watch(quality="chrf")], tokenizer=tokenizer, max_steps=1, save_strategy="steps", save_steps=1
    )
    tokenizer("The sea is calm.", truncation=True, max_length=3, padding="max_length")
    trainer.train()
    saved = json.loads((tmp_path / "checkpoint-1" / "tokenizer.json").read_text(encoding="utf-8"))
    assert (saved["truncation"], saved["padding"]) == (None, None)
    other = sft(tmp_path / "other", [watch(quality="chrf")], max_steps=1)
    other.train()
    truncating, plain = score_lines(tmp_path), score_lines(tmp_path / "other")
    assert [line["score"] for line in truncating] == [line["score"] for line in plain]
    assert [line["quality"] for line in truncating] == [line["quality"] for line in plain]
    assert all(line["quality"] for line in plain)
