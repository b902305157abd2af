"""Evaluations of several sets and prefixes at one step: what each returns, and what the Trainer and callbacks read."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import (
    DataCollatorForLanguageModeling,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import SFTTrainer

from neuronxa_callback import NeuronXACallback, NeuronXAEvaluator, ParallelPairs, StoppingRule
from tests.support import ICELANDIC, make_tokenizer, score_lines, scored_steps, sft, tiny_llama

pytestmark = pytest.mark.trainer

FRENCH = ParallelPairs.load("eng_Latn-fra_Latn", n=40)
EPOCHS = {"max_steps": -1, "num_train_epochs": 2, "eval_strategy": "epoch", "save_strategy": "epoch"}
STEPS = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
OF_SFT = ("eval_entropy", "eval_mean_token_accuracy", "eval_num_tokens")  # SFTTrainer's own, whatever the prefix is
BEST = {"metric_for_best_model": "eval_nasca", "greater_is_better": True, "load_best_model_at_end": True}


class OnTrain(TrainerCallback):
    """The recipe that is copied most: it evaluates the training set when the Trainer is about to evaluate."""

    trainer: Trainer

    def __init__(self, prefix: str = "train") -> None:
        self.prefix = prefix
        self.returned: list[dict[str, float]] = []

    def _evaluate(self, control: Any) -> Any:
        before = copy.deepcopy(control)
        rows = self.trainer.train_dataset.select(range(8))
        self.returned.append(self.trainer.evaluate(rows, metric_key_prefix=self.prefix))
        return before

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        return self._evaluate(control) if control.should_evaluate else None

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        return self._evaluate(control) if control.should_evaluate else None


class AfterOwn(OnTrain):
    """The other order: the Trainer's own evaluation comes first."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        return None

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        return None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        return self._evaluate(control)


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """What transformers' callbacks warn of. Its loggers do not propagate, so caplog cannot see it."""
    messages: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler, logger = Kept(), logging.getLogger("transformers")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
    assert not logging.getLogger(EarlyStoppingCallback.__module__).filters


def of_train(folder: Path, own: OnTrain, callbacks: list[Any], **settings: Any) -> SFTTrainer:
    trainer = sft(folder, [own, *callbacks], **settings)
    own.trainer = trainer
    return trainer


def plain_trainer(folder: Path, callbacks: list[Any], **settings: Any) -> Trainer:
    tokenizer = make_tokenizer()
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in FRENCH.target]
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=8, report_to="none", disable_tqdm=True, use_cpu=True, **settings
    )
    return Trainer(
        tiny_llama(),
        arguments,
        train_dataset=rows,
        eval_dataset=rows[:4],
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        callbacks=callbacks,
    )


def entries(trainer: Trainer, name: str) -> list[tuple[int, float]]:
    return [(entry["step"], entry[name]) for entry in trainer.state.log_history if name in entry]


def scores_of(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    """The scores of the callback among metrics, without their prefix; the seconds are left out."""
    ours = {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items() if f"{prefix}_nasca" in name}
    assert ours
    return ours


class TestTheTrainingSet:
    @pytest.mark.parametrize("own", [OnTrain, AfterOwn])
    def test_its_evaluation_gets_the_scores_of_the_step_and_ends_no_run(
        self, own: Callable[[], OnTrain], tmp_path: Path, warned: list[str]
    ) -> None:
        recipe = own()
        callbacks = [NeuronXACallback(ICELANDIC), EarlyStoppingCallback(5)]
        trainer = of_train(tmp_path, recipe, callbacks, report_to="tensorboard", **EPOCHS, **BEST)
        trainer.train()
        logged = dict(entries(trainer, "eval_nasca"))
        assert list(logged) == [0, 16, 32] == [line["step"] for line in score_lines(tmp_path)]
        assert [metrics["train_nasca"] for metrics in recipe.returned] == [logged[16], logged[32]]
        assert all("eval_nasca" not in metrics for metrics in recipe.returned)
        assert recipe.returned[0].keys() >= {"train_loss", "train_nasca_rank_eng_Latn-isl_Latn", "train_nasca_best"}
        assert trainer.state.best_metric == max(logged[16], logged[32])
        assert not [message for message in warned if "early stopping" in message]
        # Each score is once in the log and in TensorBoard, under one name.
        names = {name for entry in trainer.state.log_history for name in entry}
        assert not [name for name in names if name.startswith("train_") and "nasca" in name]
        (folder,) = {path.parent for path in tmp_path.rglob("events.out.*")}
        events = EventAccumulator(str(folder)).Reload()
        assert [scalar.step for scalar in events.Scalars("eval/nasca")] == [0, 16, 32]
        assert not [tag for tag in events.Tags()["scalars"] if "nasca" in tag and not tag.startswith("eval/")]

    def test_a_plain_trainer_too(self, tmp_path: Path) -> None:
        class Plain(OnTrain):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
                if control.should_evaluate:
                    before = copy.deepcopy(control)
                    rows = self.trainer.train_dataset
                    self.returned.append(self.trainer.evaluate(rows, metric_key_prefix=self.prefix))
                    return before
                return None

        recipe = Plain()
        trainer = recipe.trainer = plain_trainer(
            tmp_path, [recipe, NeuronXACallback(ICELANDIC)], max_steps=4, **STEPS, **BEST
        )
        trainer.train()
        assert [metrics["train_nasca"] for metrics in recipe.returned] == [
            v for s, v in entries(trainer, "eval_nasca") if s
        ]
        assert scored_steps(trainer) == [0, 2, 4]

    @pytest.mark.parametrize("own", [OnTrain, AfterOwn])
    @pytest.mark.parametrize("metric", ["nasca", "loss"])
    def test_the_stopping_rule_stops_although_the_recipe_brings_old_flags(
        self, metric: str, own: Callable[[], OnTrain], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        callback = NeuronXACallback(ICELANDIC, stopping=StoppingRule(2, metric))
        trainer = of_train(tmp_path, own(), [callback], max_steps=20, learning_rate=0.0, **STEPS)
        trainer.train()
        # The loss has no value at step 0.
        assert trainer.state.global_step == (4 if metric == "nasca" else 6)
        assert caplog.text.count("training stops at step") == 1
        assert "evaluations have no" not in caplog.text
        assert [step for step, _ in entries(trainer, f"eval_{metric}_best")] == {"nasca": [0, 2, 4], "loss": [2, 4, 6]}[
            metric
        ]

    @pytest.mark.parametrize("own", [OnTrain, AfterOwn])
    def test_patience_counts_the_trainers_evaluation_alone(
        self, own: Callable[[], OnTrain], tmp_path: Path, warned: list[str]
    ) -> None:
        callbacks = [EarlyStoppingCallback(3), NeuronXACallback(ICELANDIC)]
        trainer = of_train(tmp_path, own(), callbacks, max_steps=20, learning_rate=0.0, **STEPS, **BEST)
        trainer.train()
        assert trainer.state.global_step == 8  # the first has nothing to compare with; then three without a rise
        assert not [message for message in warned if "early stopping" in message]

    def test_patience_also_counts_an_evaluation_with_the_trainers_prefix(self, tmp_path: Path) -> None:
        """As it does where the metric is a loss. The stop that the recipe loses comes with the Trainer's own."""
        for metric in ("eval_nasca", "eval_loss"):
            callbacks = [EarlyStoppingCallback(3), NeuronXACallback(ICELANDIC)]
            settings = {**STEPS, **BEST, "metric_for_best_model": metric}
            own = OnTrain("eval")
            trainer = of_train(tmp_path / metric, own, callbacks, max_steps=20, learning_rate=0.0, **settings)
            trainer.eval_dataset = trainer.train_dataset.select(range(8))
            trainer.train()
            assert trainer.state.global_step == 6

    def test_weights_are_those_of_a_run_without_the_callback(self, tmp_path: Path) -> None:
        weights = []
        for name, callbacks in (("without", []), ("with", [NeuronXACallback(ICELANDIC, quality="chrf")])):
            model = tiny_llama(attention_dropout=0.2)
            trainer = of_train(tmp_path / name, OnTrain(), callbacks, model=model, **STEPS)
            trainer.train()
            weights.append(model.state_dict())
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    def test_a_failed_evaluation_is_missing_at_each_evaluation_of_its_step(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: list[str]
    ) -> None:
        callback, recipe = NeuronXACallback(ICELANDIC), OnTrain()
        trainer = of_train(tmp_path, recipe, [callback, EarlyStoppingCallback(1)], **STEPS, **BEST)
        monkeypatch.setattr(callback.evaluator, "representations", {"nasca": "broken"})
        trainer.train()
        assert trainer.state.global_step == 6
        assert all(math.isnan(metrics["train_nasca"]) for metrics in recipe.returned)
        assert trainer.state.best_model_checkpoint is None
        assert not [message for message in warned if "early stopping" in message]

    def test_a_callback_that_joins_during_training_gives_its_scores_likewise(
        self, tmp_path: Path, warned: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        late = NeuronXACallback(ICELANDIC)

        class Adding(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == 1:
                    trainer.add_callback(late)
                if state.global_step == 4:
                    monkeypatch.setattr(late.evaluator, "representations", {"nasca": "broken"})

        recipe = OnTrain()
        trainer = of_train(tmp_path, recipe, [Adding(), EarlyStoppingCallback(5)], **STEPS, **BEST)
        trainer.train()
        assert scored_steps(trainer) == [2, 4]
        assert [metrics["train_nasca"] for metrics in recipe.returned[:2]] == [
            v for _, v in entries(trainer, "eval_nasca")
        ]
        assert math.isnan(recipe.returned[2]["train_nasca"])
        # It cannot come before its elders in the first event of which it is told.
        assert len([message for message in warned if "early stopping" in message]) == 1

    def test_an_evaluation_after_the_optimizers_step_gets_no_stale_scores(self, tmp_path: Path) -> None:
        class Between(OnTrain):
            def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
                if state.global_step == 2:
                    self.returned.append(self.trainer.evaluate(metric_key_prefix="between"))

        between = Between()
        trainer = of_train(tmp_path, between, [NeuronXACallback(ICELANDIC, eval_steps=2)])
        trainer.train()
        assert not [name for name in between.returned[0] if "nasca" in name]
        assert scored_steps(trainer) == [0, 2, 4, 6]


class TestSeveralSets:
    @staticmethod
    def run(folder: Path, callbacks: list[Any], **settings: Any) -> SFTTrainer:
        trainer = sft(folder, callbacks, **{**STEPS, **BEST, **settings})
        trainer.eval_dataset = {"a": trainer.eval_dataset, "b": trainer.eval_dataset}
        trainer.train()
        return trainer

    def test_early_stopping_counts_a_step_once_and_says_nothing_false(self, tmp_path: Path, warned: list[str]) -> None:
        callbacks = [EarlyStoppingCallback(2), NeuronXACallback(ICELANDIC)]
        trainer = self.run(tmp_path, callbacks, max_steps=20, learning_rate=0.0)
        assert trainer.state.global_step == 6
        assert trainer.state.best_metric == entries(trainer, "eval_nasca")[1][1]
        assert not [message for message in warned if "early stopping" in message]

    def test_early_stopping_by_the_loss_of_a_set_is_left_as_it_is(self, tmp_path: Path, warned: list[str]) -> None:
        """It counts the set once a step and says what it says without this callback."""
        settings = {"metric_for_best_model": "eval_b_loss", "greater_is_better": False}
        callbacks = [EarlyStoppingCallback(2), NeuronXACallback(ICELANDIC)]
        trainer = self.run(tmp_path, callbacks, max_steps=20, learning_rate=0.0, **settings)
        assert trainer.state.global_step == 6
        assert len([message for message in warned if "did not find eval_b_loss" in message]) == 3

    def test_the_stopping_rule_can_follow_the_loss_of_the_second_set(self, tmp_path: Path) -> None:
        callback = NeuronXACallback(ICELANDIC, stopping=StoppingRule(2, "b_loss"))
        trainer = self.run(tmp_path, [callback], max_steps=20, learning_rate=0.0)
        assert trainer.state.global_step == 6

    def test_each_set_is_evaluated_after_training_with_the_scores(self, tmp_path: Path) -> None:
        trainer = self.run(tmp_path, [NeuronXACallback(ICELANDIC)])
        metrics = trainer.evaluate()
        expected = NeuronXAEvaluator(ICELANDIC)(trainer.model, trainer.processing_class)
        assert metrics["eval_nasca"] == expected.score["nasca"]
        assert {"eval_a_loss", "eval_b_loss"} <= metrics.keys()


class TestATest:
    def test_during_training(self, tmp_path: Path) -> None:
        recipe = OnTrain("test")
        trainer = of_train(tmp_path, recipe, [NeuronXACallback(ICELANDIC, quality="chrf")], **STEPS)
        trainer.train()
        for metrics, (_, nasca), (_, chrf) in zip(
            recipe.returned, entries(trainer, "eval_nasca")[1:], entries(trainer, "eval_chrf")[1:], strict=True
        ):
            assert (metrics["test_nasca"], metrics["test_chrf"]) == (nasca, chrf)
            assert {"test_chrf_eng_Latn-isl_Latn", "test_translation_copied", "test_neuronxa_runtime"} <= metrics.keys()
            assert not [name for name in metrics if name.startswith("eval_") and name not in OF_SFT]

    @pytest.mark.parametrize("way", ["evaluate", "predict"])
    def test_after_training_the_loaded_best_model_is_scored(self, way: str, tmp_path: Path, warned: list[str]) -> None:
        callbacks = [NeuronXACallback(FRENCH), EarlyStoppingCallback(10)]
        trainer = sft(tmp_path, callbacks, max_steps=8, learning_rate=3e-2, report_to="tensorboard", **STEPS, **BEST)
        trainer.train()
        logged = dict(entries(trainer, "eval_nasca"))
        lines = score_lines(tmp_path)
        assert trainer.state.best_metric != logged[8]
        if way == "evaluate":
            metrics = trainer.evaluate(trainer.eval_dataset, metric_key_prefix="test")
        else:
            metrics = trainer.predict(trainer.eval_dataset).metrics
        expected = NeuronXAEvaluator(FRENCH)(trainer.model, trainer.processing_class)
        assert metrics["test_nasca"] == trainer.state.best_metric == expected.score["nasca"]
        assert {"test_loss", "test_nasca_rank", f"test_nasca_{FRENCH.name}", "test_neuronxa_runtime"} <= metrics.keys()
        assert not [name for name in metrics if name.startswith("eval_") and name not in OF_SFT]
        assert score_lines(tmp_path) == lines
        # The last point of the run's curve stays the last step's.
        assert entries(trainer, "eval_nasca") == list(logged.items())
        assert entries(trainer, "test_nasca") == [(8, metrics["test_nasca"])]
        assert not [message for message in warned if "early stopping" in message]

    def test_when_training_ends_the_loaded_best_model_is_scored(self, tmp_path: Path) -> None:
        class AtEnd(OnTrain):
            def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
                self.returned.append(self.trainer.evaluate(metric_key_prefix="test"))
                self.returned.append(self.trainer.evaluate(metric_key_prefix="test"))

        recipe = AtEnd()
        trainer = of_train(
            tmp_path, recipe, [NeuronXACallback(FRENCH)], max_steps=8, learning_rate=3e-2, **STEPS, **BEST
        )
        trainer.train()
        lines = score_lines(tmp_path)
        assert [line["step"] for line in lines] == [0, 2, 4, 6, 8]
        assert lines[-1]["score"]["nasca"] != trainer.state.best_metric
        assert [metrics["test_nasca"] for metrics in recipe.returned[-2:]] == [trainer.state.best_metric] * 2

    def test_predict_at_a_scored_step_of_training_measures_nothing_anew(self, tmp_path: Path) -> None:
        class Predicts(OnTrain):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
                if state.global_step == 2:
                    self.returned.append(self.trainer.predict(self.trainer.eval_dataset).metrics)

        recipe = Predicts()
        trainer = of_train(tmp_path, recipe, [NeuronXACallback(ICELANDIC, eval_steps=2)])
        trainer.train()
        assert recipe.returned[0]["test_nasca"] == dict(entries(trainer, "eval_nasca"))[2]
        assert scored_steps(trainer) == [0, 2, 4, 6]


def test_a_resumed_step_is_evaluated_with_its_scores_and_not_counted_again(tmp_path: Path, warned: list[str]) -> None:
    def trainer(max_steps: int) -> SFTTrainer:
        callbacks = [NeuronXACallback(ICELANDIC), EarlyStoppingCallback(3), seen]
        return sft(
            tmp_path,
            callbacks,
            max_steps=max_steps,
            learning_rate=0.0,
            eval_on_start=True,
            lr_scheduler_type="constant",
            **STEPS,
            **BEST,
        )

    class Seen(TrainerCallback):
        """The metrics of the evaluations as the Trainer has them after all callbacks."""

        def __init__(self) -> None:
            self.metrics: list[dict[str, float]] = []

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
            self.metrics.append(metrics)

    seen = Seen()
    trainer(4).train()
    seen.metrics.clear()
    resumed = trainer(20)
    resumed.train(resume_from_checkpoint=True)
    # Steps 6, 8 and 10 do not improve. Step 4 does not either, but it is evaluated by the run before.
    assert resumed.state.global_step == 10
    assert scored_steps(resumed) == [0, 2, 4, 6, 8, 10]
    assert seen.metrics[0]["eval_nasca"] == dict(entries(resumed, "eval_nasca"))[4]
    assert not [message for message in warned if "early stopping" in message]


# transformers 4.57 does not say which checkpoint is the best with save_strategy="best".
knows_its_best = pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) < 5, reason='save_strategy="best" of transformers 4 names none'
)


@pytest.mark.parametrize(
    "settings", [{"prediction_loss_only": True}, pytest.param({"save_strategy": "best"}, marks=knows_its_best)]
)
def test_the_best_step_is_kept(settings: dict[str, Any], tmp_path: Path) -> None:
    options = {**STEPS, **BEST, **settings}
    trainer = sft(tmp_path, [NeuronXACallback(FRENCH)], max_steps=8, learning_rate=3e-2, **options)
    trainer.train()
    logged = {step: value for step, value in entries(trainer, "eval_nasca") if step}
    assert trainer.state.best_metric == max(logged.values())
    assert (
        Path(str(trainer.state.best_model_checkpoint)).name
        == f"checkpoint-{max(logged, key=lambda step: logged[step])}"
    )
    assert trainer.evaluate()["eval_nasca"] == max(logged.values())


class TestNamesOfMetrics:
    @pytest.mark.parametrize("metric", ["eval_NASCA", "NASCA", "eval_is_nasca", "eval_nasca_en-is", "nasca_isl_Latn"])
    def test_a_metric_that_never_comes_is_refused_before_training(self, metric: str, tmp_path: Path) -> None:
        settings = {**STEPS, **BEST, "metric_for_best_model": metric}
        trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC, quality=())], **settings)
        trainer.eval_dataset = {"is": trainer.eval_dataset}
        with pytest.raises(
            ValueError, match=f"metric_for_best_model='{metric}' will not be logged; the nearest names are eval_na"
        ):
            trainer.train()
        assert trainer.state.global_step == 0

    def test_the_name_needs_no_prefix(self, tmp_path: Path) -> None:
        settings = {**STEPS, **BEST, "metric_for_best_model": "nasca"}
        trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC)], **settings)
        trainer.train()
        assert trainer.state.best_metric == max(value for step, value in entries(trainer, "eval_nasca") if step)

    @pytest.mark.parametrize("giver", ["compute_metrics", "evaluate", "callback"])
    def test_a_metric_of_the_users_own_is_not_refused(self, giver: str, tmp_path: Path) -> None:
        """It has the name of one of ours that is not measured."""

        class Bleu(TrainerCallback):
            def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
                metrics["eval_bleu"] = 7.0

        class WithBleu(Trainer):
            def evaluate(self, *arguments: Any, **options: Any) -> Any:
                return super().evaluate(*arguments, **options) | {"eval_bleu": 7.0}

        callbacks = [NeuronXACallback(ICELANDIC, quality=()), *([Bleu()] if giver == "callback" else [])]
        settings = {**STEPS, **BEST, "metric_for_best_model": "bleu"}
        trainer = plain_trainer(tmp_path, callbacks, max_steps=2, **settings)
        if giver == "evaluate":
            trainer.__class__ = WithBleu
        elif giver == "compute_metrics":
            trainer.compute_metrics = lambda _: {"bleu": 7.0}
        trainer.train()
        assert trainer.state.best_metric == 7.0
        assert scored_steps(trainer) == [0, 2]
