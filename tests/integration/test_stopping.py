"""Stopping in real SFTTrainer runs: by the trend, by another metric, beside what transformers has for it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from neuronxa_callback import NeuronXACallback, ParallelPairs, StoppingRule
from neuronxa_callback.quality.faithfulness import Faithfulness
from neuronxa_callback.training.history import History
from tests.support import make_tokenizer, score_lines, sft, tiny_llama

pytestmark = pytest.mark.trainer

ICELANDIC = ParallelPairs.load("eng_Latn-isl_Latn", n=10)
FRENCH = ParallelPairs.load("eng_Latn-fra_Latn", n=100)
EVALUATING = {"eval_strategy": "steps", "eval_steps": 2}

# The reason of a rule with so much patience, where nothing moved.
UNMOVED = "did not rise over {} evaluations (its line moves by +0.0000, with a jitter of 0.0000)"


def test_a_run_that_does_not_improve_stops_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = NeuronXACallback(ICELANDIC, eval_steps=2, early_stopping_patience=3)
    trainer = sft(tmp_path, [callback], max_steps=20, learning_rate=0.0)
    trainer.train()
    assert trainer.state.global_step == 6
    reason = f"nasca {UNMOVED.format(3)}"
    assert f"training stops at step 6: {reason}" in caplog.text
    records = score_lines(tmp_path)
    assert records[-1]["stopping"]["reason"] == reason
    score = records[0]["score"]["nasca"]
    assert f"Stopped at step 6: {reason}. The best step was 0, with {score:.4f}." in capsys.readouterr().out
    logged = [entry for entry in trainer.state.log_history if "eval_nasca_best" in entry]
    assert [entry["step"] for entry in logged] == [0, 2, 4, 6]
    assert [entry["eval_nasca_best"] for entry in logged] == [score] * 4
    for name in ("rise", "jitter"):
        values = [entry.get(f"eval_nasca_{name}") for entry in logged]
        assert values == [None, None, pytest.approx(0), pytest.approx(0)]


def test_the_verdicts_of_a_run_that_learns_are_those_of_its_curve(tmp_path: Path) -> None:
    callback = NeuronXACallback(FRENCH, eval_steps=2, early_stopping_patience=3)
    trainer = sft(tmp_path, [callback], max_steps=40, learning_rate=3e-2)
    trainer.train()
    records = score_lines(tmp_path)
    scores = [record["score"]["nasca"] for record in records]
    for number, record in enumerate(records):
        verdict = record["stopping"]
        assert verdict["value"] == scores[number]
        assert verdict["best"] == max(scores[: number + 1])
        if number >= 3:
            slope = np.polyfit(range(4), scores[number - 3 : number + 1], 1)[0]
            assert verdict["rise"] == pytest.approx(3 * slope, abs=1e-9)
            assert (verdict["reason"] is not None) == (verdict["rise"] <= 0 and number < 20)


@pytest.mark.parametrize("ours_first", [True, False])
def test_it_composes_with_transformers_early_stopping_and_best_model(ours_first: bool, tmp_path: Path) -> None:
    ours = NeuronXACallback(ICELANDIC, early_stopping_patience=2)
    theirs = EarlyStoppingCallback(early_stopping_patience=5)
    trainer = sft(
        tmp_path,
        [ours, theirs] if ours_first else [theirs, ours],
        max_steps=20,
        learning_rate=0.0,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_nasca",
        greater_is_better=True,
        **EVALUATING,
    )
    trainer.train()
    assert trainer.state.global_step == 4
    assert trainer.state.best_global_step == 2
    assert (tmp_path / "checkpoint-4").is_dir()


def test_a_loss_that_does_not_fall_stops_a_run(tmp_path: Path) -> None:
    callback = NeuronXACallback(ICELANDIC, stopping=StoppingRule(2, "loss"))
    trainer = sft(tmp_path, [callback], max_steps=20, learning_rate=0.0, **EVALUATING)
    trainer.train()
    assert trainer.state.global_step == 6
    assert score_lines(tmp_path)[-1]["stopping"]["reason"] == f"loss {UNMOVED.format(2)}".replace("rise", "fall")


@pytest.mark.parametrize("metric", ["nasca_rank", "nasca_rank_eng_Latn-isl_Latn"])
def test_the_rank_score_stops_a_run(metric: str, tmp_path: Path) -> None:
    callback = NeuronXACallback(ICELANDIC, eval_steps=2, stopping=StoppingRule(2, metric))
    trainer = sft(tmp_path, [callback], max_steps=20, learning_rate=0.0)
    trainer.train()
    assert trainer.state.global_step == 4
    last = score_lines(tmp_path)[-1]["stopping"]
    assert last["reason"] == f"{metric} {UNMOVED.format(2)}"
    logged = {name for entry in trainer.state.log_history for name in entry}
    assert {f"eval_{metric}_best", f"eval_{metric}_rise", f"eval_{metric}_jitter"} <= logged


def test_a_quality_metric_stops_a_run(tmp_path: Path) -> None:
    callback = NeuronXACallback(ICELANDIC, eval_steps=2, quality="chrf", stopping=StoppingRule(2, "chrf"))
    trainer = sft(tmp_path, [callback], max_steps=20, learning_rate=0.0)
    trainer.train()
    assert trainer.state.global_step == 4


@pytest.mark.parametrize("metric", ["translation_copied", "eval_translation_off_target_eng_Latn-isl_Latn"])
def test_a_run_stops_where_copying_or_another_language_does_not_fall(
    metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model stands still, so the value is the same at every evaluation."""
    monkeypatch.setattr("neuronxa_callback.quality.evaluator.faithfulness", lambda *_: Faithfulness(20.0, 0.5, 1.0))
    callback = NeuronXACallback(ICELANDIC, eval_steps=2, quality="chrf", stopping=StoppingRule(2, metric))
    trainer = sft(tmp_path, [callback], max_steps=20, learning_rate=0.0)
    trainer.train()
    assert trainer.state.global_step == 4
    reason = f"{metric.removeprefix('eval_')} {UNMOVED.format(2)}".replace("rise", "fall")
    assert score_lines(tmp_path)[-1]["stopping"]["reason"] == reason


@pytest.mark.parametrize(
    ("metric", "quality", "said"),
    [
        ("translation_copied", (), "nothing is translated"),
        ("translation_copied_eng_Latn-fra_Latn", "chrf", "translation_copied_eng_Latn-isl_Latn"),
    ],
)
def test_a_metric_of_translations_that_will_not_be_logged_is_refused(
    metric: str, quality: Any, said: str, tmp_path: Path
) -> None:
    callback = NeuronXACallback(ICELANDIC, quality=quality, stopping=StoppingRule(2, metric))
    trainer = sft(tmp_path, [callback], **EVALUATING)
    with pytest.raises(ValueError, match=f"the stopping rule's metric='{metric}' will not be logged.*{said}"):
        trainer.train()
    assert trainer.state.global_step == 0


class Forgetting(TrainerCallback):
    """Closes every gate after the first evaluation."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            for layer in kwargs["model"].model.layers:
                layer.mlp.gate_proj.weight.zero_()


@pytest.mark.parametrize(("stop_at_floor", "steps"), [(True, 8), (False, 12)])
def test_a_language_that_is_forgotten_is_seen(
    stop_at_floor: bool, steps: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = NeuronXACallback(
        FRENCH, eval_steps=2, stopping=StoppingRule(floor={"fra_Latn": 0.0}, stop_at_floor=stop_at_floor)
    )
    trainer = sft(tmp_path, [callback, Forgetting()], model=tiny_llama(), max_steps=12, learning_rate=0.0)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == steps
    assert caplog.text.count("nasca_rank of eng_Latn-fra_Latn fell ") == 1
    lines = score_lines(tmp_path)
    # Without an open gate all cosines are 0, and a tie puts every pair on the last rank.
    assert lines[1]["score"] == {"nasca": 0, "nasca_rank": pytest.approx(0)}
    start = pytest.approx(lines[0]["score"]["nasca_rank"])
    # The jitter of fewer than five evaluations is not known.
    assert [line["stopping"]["forgotten"] for line in lines[:5]] == [{}] * 4 + [{"eng_Latn-fra_Latn": start}]


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        (
            {"eval_strategy": "steps", "eval_steps": 4},
            "patience 3 cannot stop this run: the number of values of nasca before the last step is 3.",
        ),
        ({"eval_strategy": "steps", "eval_steps": 3}, None),
        (
            {"eval_strategy": "epoch"},
            "the number of values of nasca before the last step is 1. Evaluate more often (eval_steps)",
        ),
        ({}, None),  # the callback's own interval, every second step
    ],
)
def test_a_patience_that_is_longer_than_the_run_is_told(
    settings: dict[str, Any], warned: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = NeuronXACallback(ICELANDIC, eval_steps=2, early_stopping_patience=3)
    trainer = sft(tmp_path, [callback], max_steps=12, learning_rate=0.0, **settings)
    trainer.train()
    if warned is None:
        assert "cannot stop this run" not in caplog.text
        assert trainer.state.global_step < 12
    else:
        assert warned in caplog.text
        assert trainer.state.global_step == 12


@pytest.mark.parametrize(
    ("settings", "values"),
    [({}, 2), ({"eval_on_start": True}, None), ({"eval_steps": 1, "eval_delay": 4}, 2), ({"eval_steps": 1}, None)],
)
def test_a_metric_of_the_trainer_has_no_value_at_the_start(
    settings: dict[str, Any], values: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = NeuronXACallback(ICELANDIC, stopping=StoppingRule(2, "loss"))
    schedule = {"eval_strategy": "steps", "eval_steps": 2} | settings
    sft(tmp_path, [callback], max_steps=6, learning_rate=0.0, **schedule).train()
    judged = [line["stopping"] for line in score_lines(tmp_path) if line.get("stopping") and line["step"] < 6]
    if values is None:
        assert "cannot stop this run" not in caplog.text
        assert judged[-1]["reason"]
    else:
        assert (
            f"patience 2 cannot stop this run: the number of values of loss before the last step is {values}."
            in caplog.text
        )
        assert len(judged) == values


def test_a_resumed_run_stops_where_an_unbroken_one_does(tmp_path: Path) -> None:
    def run(folder: Path, max_steps: int, resume: bool = False) -> int:
        callback = NeuronXACallback(ICELANDIC, eval_steps=2, early_stopping_patience=4)
        settings = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 0.0}
        trainer = sft(folder, [callback], max_steps=max_steps, **settings)
        trainer.train(resume_from_checkpoint=resume)
        return int(trainer.state.global_step)

    assert run(tmp_path / "whole", 20) == 8
    assert run(tmp_path / "broken", 4) == 4
    assert run(tmp_path / "broken", 20, resume=True) == 8
    whole, broken = ([record["stopping"] for record in score_lines(tmp_path / name)] for name in ("whole", "broken"))
    assert whole == broken


def test_a_run_that_had_stopped_stops_again_when_it_is_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a kill between its last checkpoint and its end."""

    def run(resume: bool) -> Any:
        callback = NeuronXACallback(ICELANDIC, eval_steps=2, early_stopping_patience=2)
        trainer = sft(tmp_path, [callback], max_steps=20, learning_rate=0.0, save_strategy="steps", save_steps=2)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    assert run(resume=False).state.global_step == 4
    before = History(tmp_path).path.read_bytes()
    trainer = run(resume=True)
    assert trainer.state.global_step == 5  # transformers makes one step before it can be stopped
    assert History(tmp_path).path.read_bytes() == before
    assert "training stops by its evaluations before it was resumed: nasca did not rise" in caplog.text


def test_the_step_too_many_is_no_evaluation_of_the_best_model(tmp_path: Path) -> None:
    def run(resume: bool, strategy: str = "steps") -> Any:
        callback = NeuronXACallback(ICELANDIC, early_stopping_patience=2)
        settings = {"eval_strategy": strategy, "eval_steps": 1, "save_strategy": strategy, "save_steps": 1}
        best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_nasca", "greater_is_better": True}
        trainer = sft(tmp_path, [callback], max_steps=40, learning_rate=0.0, **settings, **best)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    assert run(resume=False).state.global_step == 2
    before = History(tmp_path).path.read_bytes()
    for _ in range(2):  # the step is not saved, so that it is the same each time
        assert run(resume=True).state.global_step == 3
        assert History(tmp_path).path.read_bytes() == before


@pytest.mark.parametrize("rule", [StoppingRule(4), StoppingRule(), StoppingRule(2, "nasca_rank")])
def test_a_run_that_had_stopped_goes_on_where_the_rule_now_says_so(rule: StoppingRule, tmp_path: Path) -> None:
    settings = {"learning_rate": 0.0, "save_strategy": "steps", "save_steps": 2}
    sft(
        tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=2, early_stopping_patience=2)], max_steps=20, **settings
    ).train()
    assert [record["step"] for record in score_lines(tmp_path)] == [0, 2, 4]
    trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=2, stopping=rule)], max_steps=20, **settings)
    trainer.train(resume_from_checkpoint=True)
    # Two evaluations more; to the end; or anew by another metric.
    assert trainer.state.global_step == {4: 8, None: 20, 2: 10}[rule.patience]


def test_another_rule_is_told_when_a_run_is_resumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"learning_rate": 0.0, "save_strategy": "steps", "save_steps": 2}
    sft(
        tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=2, early_stopping_patience=4)], max_steps=6, **settings
    ).train()
    callback = NeuronXACallback(ICELANDIC, eval_steps=2, stopping=StoppingRule(4, "nasca_rank"))
    trainer = sft(tmp_path, [callback], max_steps=10, **settings)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 10
    assert "judged by another rule before it was resumed (metric nasca before, nasca_rank now)" in caplog.text
    assert [record["stopping"]["metric"] for record in score_lines(tmp_path)] == ["nasca"] * 4 + ["nasca_rank"] * 2


def test_a_run_whose_history_cannot_be_written_stops_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "neuronxa").write_text("a file where the folder should be")
    trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=1, early_stopping_patience=2)], learning_rate=0.0)
    trainer.train()
    assert trainer.state.global_step == 2
    assert [e["step"] for e in trainer.state.log_history if "eval_nasca_best" in e] == [0, 1, 2]


def test_patience_that_ends_with_the_run_has_not_stopped_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = NeuronXACallback(ICELANDIC, eval_steps=2, early_stopping_patience=3)
    sft(tmp_path, [callback], max_steps=6, learning_rate=0.0).train()
    last = score_lines(tmp_path)[-1]["stopping"]
    assert (last["rise"], last["reason"]) == (pytest.approx(0), None)
    assert "Stopped" not in capsys.readouterr().out


def test_a_metric_that_does_not_come_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = NeuronXACallback(ICELANDIC, stopping=StoppingRule(2, "accuracy"))
    trainer = sft(tmp_path, [callback], learning_rate=0.0, **EVALUATING)
    trainer.train()
    assert trainer.state.global_step == 6
    assert caplog.text.count("two evaluations have no 'accuracy', by which training should stop") == 1
    assert "loss" in caplog.text.partition("their metrics are ")[2].splitlines()[0]


@pytest.mark.parametrize(
    ("metric", "remedy"),
    [
        ("mexa", r"name 'mexa' in NeuronXACallback\(methods=...\)"),
        ("nasca_eng_Latn-fra_Latn", "choose from nasca, nasca_eng_Latn-isl_Latn"),
        ("NASCA", "the nearest names are eval_nasca, "),
        ("chrf", r"name 'chrf' in NeuronXACallback\(quality=...\)"),
    ],
)
def test_a_score_that_is_not_measured_is_refused(metric: str, remedy: str, tmp_path: Path) -> None:
    callback = NeuronXACallback(ICELANDIC, quality=(), stopping=StoppingRule(2, metric))
    with pytest.raises(ValueError, match=f"the stopping rule's metric='{metric}' will not be logged; {remedy}"):
        sft(tmp_path, [callback], **EVALUATING).train()


@pytest.mark.parametrize("ending", ["_best", "_rise", "_jitter"])
def test_the_best_model_is_not_chosen_by_a_comparison(ending: str, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": True}
    trainer = sft(
        tmp_path, [NeuronXACallback(ICELANDIC)], metric_for_best_model=f"eval_nasca{ending}", **saving, **EVALUATING
    )
    with pytest.raises(ValueError, match=f"'eval_nasca{ending}' compares a step with those before it; choose"):
        trainer.train()


def test_each_trial_of_a_hyperparameter_search_has_a_patience_of_its_own(tmp_path: Path) -> None:
    # A plain Trainer: TRL 1's SFTTrainer cannot make its model anew, with or without us.
    callback = NeuronXACallback(ICELANDIC, early_stopping_patience=2)
    tokenizer = make_tokenizer()
    arguments = TrainingArguments(
        tmp_path, max_steps=20, learning_rate=0.0, use_cpu=True, report_to=[], disable_tqdm=True, **EVALUATING
    )
    dataset = [{"input_ids": (ids := tokenizer("Hvernig gengur?")["input_ids"]), "labels": ids}] * 16
    trainer = Trainer(
        args=arguments,
        train_dataset=dataset,
        eval_dataset=dataset[:2],
        processing_class=tokenizer,
        callbacks=[callback],
        model_init=lambda trial=None: tiny_llama(),
    )
    steps: list[int] = []

    def objective(metrics: dict[str, float]) -> float:
        steps.append(trainer.state.global_step)
        return metrics["eval_nasca"]

    trainer.hyperparameter_search(
        hp_space=lambda trial: {"weight_decay": trial.suggest_float("weight_decay", 0.0, 0.1)},
        n_trials=2,
        backend="optuna",
        compute_objective=objective,
        direction="maximize",
    )
    assert steps == [2, 4, 2, 4]  # the Trainer asks at every evaluation of both trials
    assert [record["step"] for record in score_lines(tmp_path)] == [0, 2, 4]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"early_stopping_patience": 0}, "patience=0 must be 2 evaluations or more"),
        (
            {"stopping": StoppingRule(floor={"deu_Latn": 0.02})},
            "floor names deu_Latn, which is not watched; choose from eng_Latn, isl_Latn",
        ),
        ({"early_stopping_patience": 3, "stopping": StoppingRule(3)}, "were both given; give the patience to Stopping"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        NeuronXACallback(ICELANDIC, **options)


def test_a_metric_that_will_not_be_logged_is_refused_before_training(tmp_path: Path) -> None:
    callback = NeuronXACallback(ICELANDIC, stopping=StoppingRule(2, "loss"))
    with pytest.raises(ValueError, match="metric='loss' will not be logged"):
        sft(tmp_path, [callback]).train()
