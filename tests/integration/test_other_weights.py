"""Evaluations that must not get the step's scores: of other weights, of a removed callback, of another Trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from neuronxa_callback import NeuronXACallback, NeuronXAEvaluator
from tests.support import ICELANDIC, raw_lines, scored_steps, sft, tiny_llama

pytestmark = pytest.mark.trainer

STEPS = {"eval_strategy": "steps", "eval_steps": 2}
BEST = {**STEPS, "save_strategy": "steps", "save_steps": 2, "metric_for_best_model": "eval_nasca"}
BEST |= {"greater_is_better": True, "load_best_model_at_end": True}
LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


def nasca(metrics: dict[str, float]) -> list[str]:
    return [name for name in metrics if "nasca" in name]


def logged(trainer: Trainer) -> dict[int, float]:
    return {entry["step"]: entry["eval_nasca"] for entry in trainer.state.log_history if "eval_nasca" in entry}


class Evaluating(TrainerCallback):
    """Evaluate at an event with other weights, and keep what is returned."""

    trainer: Trainer

    def __init__(
        self, swapped: Callable[[Any], AbstractContextManager[None]], event: str, prefix: str = "base"
    ) -> None:
        self.swapped, self.event, self.prefix = swapped, event, prefix
        self.returned: list[dict[str, float]] = []

    def _evaluate(self) -> None:
        with self.swapped(self.trainer.model):
            self.returned.append(self.trainer.evaluate(metric_key_prefix="base"))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.event == "step_end" and state.global_step % 2 == 0:
            self._evaluate()
            control.should_evaluate = True

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        if self.event == "evaluate" and "eval_loss" in metrics:
            self._evaluate()


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    with model.disable_adapter():
        yield


@contextmanager
def other_adapter(model: Any) -> Iterator[None]:
    if "other" not in model.peft_config:
        model.add_adapter("other", LORA)
    model.set_adapter("other")
    yield
    model.set_adapter("default")


@contextmanager
def average(model: Any) -> Iterator[None]:
    """Swap weights in as averaging callbacks do: by their data, which no version counter sees."""
    kept = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.data.copy_(weight.data * 0.9)
    yield
    for name, weight in model.named_parameters():
        weight.data.copy_(kept[name])


def run(folder: Path, own: Evaluating, *others: Any, **settings: Any) -> Trainer:
    lora = None if own.swapped is average else LORA
    trainer = sft(folder, [*others, own], peft_config=lora, **{**STEPS, **settings})
    own.trainer = trainer
    trainer.train()
    return trainer


class TestOtherWeights:
    @pytest.mark.parametrize("event", ["step_end", "evaluate"])
    @pytest.mark.parametrize("swapped", [without_adapter, other_adapter, average])
    def test_get_no_scores_and_are_not_measured_for_the_step(
        self, swapped: Any, event: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        undisturbed = run(tmp_path / "plain", Evaluating(swapped, "never"), NeuronXACallback(ICELANDIC))
        own = Evaluating(swapped, event)
        trainer = run(tmp_path / "swapped", own, NeuronXACallback(ICELANDIC))
        assert logged(trainer) == logged(undisturbed)
        assert list(logged(trainer)) == [0, 2, 4, 6]
        assert len(own.returned) == 3
        assert not [name for metrics in own.returned for name in nasca(metrics)]
        assert caplog.text.count("an evaluation at step 2 is of other weights or adapters than the step's scores") == 1
        assert caplog.text.count("other weights") == 1

    @pytest.mark.parametrize("event", ["step_end", "evaluate"])
    def test_the_same_weights_get_them(self, event: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        @contextmanager
        def same(model: Any) -> Iterator[None]:
            model.merge_adapter()
            model.unmerge_adapter()
            yield

        own = Evaluating(same, event)
        trainer = run(tmp_path, own, NeuronXACallback(ICELANDIC))
        assert [metrics["base_nasca"] for metrics in own.returned] == [v for s, v in logged(trainer).items() if s]
        assert "other weights" not in caplog.text

    def test_weights_that_the_trainers_own_evaluation_finds_are_scored(self, tmp_path: Path) -> None:
        """The averages' callbacks swap for it, and the best model is chosen by what they score."""

        class Averaging(TrainerCallback):
            swapped: Any = None

            def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
                if control.should_evaluate:
                    self.swapped = average(model)
                    self.swapped.__enter__()
                    report = NeuronXAEvaluator(ICELANDIC)(model, trainer.processing_class)
                    expected.append(report.score["nasca"])

            def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if self.swapped is not None:
                    self.swapped.__exit__(None, None, None)
                    self.swapped = None

        expected: list[float] = []
        trainer = sft(tmp_path, [Averaging(), NeuronXACallback(ICELANDIC), EarlyStoppingCallback(9)], **BEST)
        trainer.train()
        assert [value for step, value in logged(trainer).items() if step] == expected
        assert trainer.state.best_metric == max(expected)

    def test_the_trainers_own_evaluation_after_another_one_is_missing_its_scores(self, tmp_path: Path) -> None:
        """Without a value the Trainer would end the run with a KeyError."""

        class Swapping(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
                if state.global_step == 2:
                    trainer.evaluate(metric_key_prefix="raw")
                    control.should_evaluate = control.should_save = True
                    self.swapped = average(model)
                    self.swapped.__enter__()

            def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == 2:
                    self.swapped.__exit__(None, None, None)

        class Seen(TrainerCallback):
            def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
                kept.append(metrics)

        kept: list[dict[str, float]] = []
        trainer = sft(tmp_path, [Swapping(), NeuronXACallback(ICELANDIC), Seen()], **BEST)
        trainer.train()
        assert trainer.state.global_step == 6
        raw, own = kept[:2]
        assert raw["raw_nasca"] == logged(trainer)[2]
        assert math.isnan(own["eval_nasca"])
        assert trainer.state.best_metric == max(logged(trainer)[4], logged(trainer)[6])

    def test_training_ends_with_the_weights_of_a_run_without_the_callback(self, tmp_path: Path) -> None:
        weights = []
        for name, callbacks in (("without", []), ("with", [NeuronXACallback(ICELANDIC)])):
            trainer = run(tmp_path / name, Evaluating(without_adapter, "evaluate"), *callbacks)
            weights.append(trainer.model.state_dict())
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


class TestARemovedCallback:
    @pytest.mark.parametrize("way", ["remove_callback", "pop_callback"])
    def test_gives_no_scores_any_more(self, way: str, tmp_path: Path) -> None:
        callback = NeuronXACallback(ICELANDIC)
        trainer = sft(tmp_path, [callback], **STEPS)
        trainer.train()
        assert nasca(trainer.evaluate())
        getattr(trainer, way)(callback if way == "remove_callback" else NeuronXACallback)
        assert not nasca(trainer.evaluate())
        assert not nasca(trainer.predict(trainer.eval_dataset).metrics)
        trainer.train()
        assert not [entry for entry in trainer.state.log_history if nasca(entry)]

    def test_is_quiet_for_the_rest_of_the_run_it_was_removed_in(self, tmp_path: Path) -> None:
        class Removing(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == 2:
                    trainer.remove_callback(callback)

        class Evaluates(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if control.should_evaluate:
                    control.should_evaluate = False
                    returned.append(trainer.evaluate())

        returned: list[dict[str, float]] = []
        callback = NeuronXACallback(ICELANDIC)
        trainer = sft(tmp_path, [Removing(), callback, Evaluates()], **STEPS)
        trainer.train()
        assert [bool(nasca(metrics)) for metrics in returned] == [True, False, False]

    def test_comes_to_the_front_when_it_is_added_again(self, tmp_path: Path) -> None:
        callback = NeuronXACallback(ICELANDIC)
        trainer = sft(tmp_path, [callback])
        trainer.remove_callback(callback)
        trainer.add_callback(callback)
        before = trainer.evaluate()["eval_nasca"]
        assert before == trainer.evaluate()["eval_nasca"]
        assert trainer.callback_handler.callbacks.index(callback) == 1
        names = [type(each).__name__ for each in trainer.callback_handler.callbacks]
        assert names.count("LastTurn") == 1
        assert names[-1] == "LastTurn"


def test_a_prediction_in_training_measures_nothing(tmp_path: Path) -> None:
    class Predicting(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            returned.append(trainer.predict(trainer.eval_dataset).metrics)

    returned: list[dict[str, float]] = []
    callback = NeuronXACallback(ICELANDIC, eval_steps=3, early_stopping_patience=9)
    trainer = sft(tmp_path, [callback, Predicting()], tiny_llama())
    trainer.train()
    assert scored_steps(trainer) == [0, 3, 6]
    assert [line["step"] for line in raw_lines(tmp_path / "neuronxa" / "scores.jsonl")] == [0, 3, 6]
    assert ["test_nasca" in metrics for metrics in returned] == [False, False, True, False, False, True]
    assert [returned[2]["test_nasca"], returned[5]["test_nasca"]] == [logged(trainer)[3], logged(trainer)[6]]


class TestTwoTrainers:
    """The callback has one run, so another Trainer must not take it over."""

    def test_a_training_within_another_ones_is_refused(self, tmp_path: Path) -> None:
        class Training(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == 2:
                    with pytest.raises(ValueError, match="watches the training of another Trainer; give each Trainer"):
                        inner.train()

        callback = NeuronXACallback(ICELANDIC, eval_steps=2)
        trainer = sft(tmp_path / "outer", [callback, Training()])
        inner = sft(tmp_path / "inner", [callback])
        trainer.train()
        assert inner.state.global_step == 0
        assert scored_steps(trainer) == [0, 2, 4, 6]

    @pytest.mark.parametrize("way", ["evaluate", "predict"])
    def test_an_evaluation_within_another_ones_training_gets_no_scores(
        self, way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Other(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                returned.append(inner.evaluate() if way == "evaluate" else inner.predict(inner.eval_dataset).metrics)

        returned: list[dict[str, float]] = []
        callback = NeuronXACallback(ICELANDIC, eval_steps=2)
        trainer = sft(tmp_path / "outer", [callback, Other()])
        inner = sft(tmp_path / "inner", [callback])
        trainer.train()
        assert not [name for metrics in returned for name in nasca(metrics)]
        assert caplog.text.count("another Trainer with the same NeuronXACallback evaluates during this training") == 1
        assert scored_steps(trainer) == [0, 2, 4, 6]
        assert [line["step"] for line in raw_lines(tmp_path / "outer" / "neuronxa" / "scores.jsonl")] == [0, 2, 4, 6]
        assert nasca(inner.evaluate())

    def test_one_after_the_other_may_share_it(self, tmp_path: Path) -> None:
        callback = NeuronXACallback(ICELANDIC, eval_steps=3)
        trainers = [sft(tmp_path / name, [callback]) for name in "ab"]
        for trainer in trainers:
            trainer.train()
            assert scored_steps(trainer) == [0, 3, 6]
        assert nasca(trainers[0].evaluate())
