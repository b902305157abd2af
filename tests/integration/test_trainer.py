"""The real Trainer and SFTTrainer on tiny models: what is logged, what is read, and that training is unchanged."""

from __future__ import annotations

import gc
import json
import logging
import math
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    DataCollatorForLanguageModeling,
    EarlyStoppingCallback,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import SFTTrainer

from neuronxa_callback import NeuronXACallback, NeuronXAEvaluator, ParallelPairs, StoppingRule, plots, run_map
from neuronxa_callback.model.layers import UnreadableFFNError
from neuronxa_callback.training import page as report
from neuronxa_callback.training.history import History
from neuronxa_callback.training.maps import run_maps
from neuronxa_callback.vocabulary import OVER_PAIRS, Method, score_name
from tests.support import (
    ICELANDIC,
    Interrupt,
    StopAt,
    hooks_of,
    make_tokenizer,
    score_lines,
    scored_steps,
    sft,
    tiny_llama,
)

pytestmark = pytest.mark.trainer

FRENCH = ParallelPairs.load("eng_Latn-fra_Latn", n=10)
KEYS = {"eval_nasca", "eval_nasca_eng_Latn-isl_Latn", "eval_nasca_eng_Latn-fra_Latn", "eval_neuronxa_runtime"}


class TestWhenItScores:
    def test_every_eval_steps_where_the_trainer_never_evaluates(self, tmp_path: Path) -> None:
        trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=4)], max_steps=10)
        trainer.train()
        assert scored_steps(trainer) == [0, 4, 8, 10]

    def test_with_no_argument_every_tenth_of_the_run(self, tmp_path: Path) -> None:
        trainer = sft(tmp_path, [NeuronXACallback()], max_steps=20, logging_steps=20)
        trainer.train()
        assert scored_steps(trainer) == list(range(0, 21, 2))
        record = score_lines(tmp_path)[0]["languages"]["eng_Latn-isl_Latn"]
        assert len(record["per_pair"]["nasca"]) == 100
        assert "|n:100|pair:eng_Latn-isl_Latn|" in record["signature"]

    def test_a_callback_that_joins_during_training_scores_from_then_on(self, tmp_path: Path) -> None:
        late = NeuronXACallback(ICELANDIC, eval_steps=2)

        class Adding(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == 1:
                    trainer.add_callback(late)

        trainer = sft(tmp_path, [Adding()])
        trainer.train()
        assert scored_steps(trainer) == [2, 4, 6]

    def test_at_every_evaluation_of_the_trainer(self, tmp_path: Path) -> None:
        trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC)], eval_strategy="steps", eval_steps=2)
        trainer.train()
        assert scored_steps(trainer) == [0, 2, 4, 6]

    def test_once_at_step_0_with_eval_on_start(self, tmp_path: Path) -> None:
        trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC)], eval_strategy="steps", eval_steps=4, eval_on_start=True)
        trainer.train()
        assert scored_steps(trainer) == [0, 4, 6]

    def test_every_epoch(self, tmp_path: Path) -> None:
        settings = {"eval_strategy": "epoch", "max_steps": -1, "num_train_epochs": 2}
        trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC)], **settings)
        trainer.train()
        assert scored_steps(trainer) == [0, 16, 32]

    def test_once_a_step_with_several_evaluation_sets(self, tmp_path: Path) -> None:
        trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC)], eval_strategy="steps", eval_steps=3)
        trainer.eval_dataset = {"one": trainer.eval_dataset, "two": trainer.eval_dataset}
        trainer.train()
        assert scored_steps(trainer) == [0, 3, 6]

    def test_a_share_of_the_steps_is_rounded_up_as_the_trainer_does(self, tmp_path: Path) -> None:
        trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=0.25)], max_steps=6)
        trainer.train()
        assert scored_steps(trainer) == [0, 2, 4, 6]

    def test_a_resumed_run_goes_on_in_the_same_file(self, tmp_path: Path) -> None:
        settings = {"save_strategy": "steps", "save_steps": 2}
        sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=2), StopAt(4)], **settings).train()
        trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=2)], **settings)
        trainer.train(resume_from_checkpoint=True)
        assert [record["step"] for record in score_lines(tmp_path)] == [0, 2, 4, 6]
        assert scored_steps(trainer) == [0, 2, 4, 6]

    def test_added_after_the_trainer_was_made(self, tmp_path: Path) -> None:
        trainer = sft(tmp_path, [])
        trainer.add_callback(NeuronXACallback(ICELANDIC, eval_steps=3))
        trainer.train()
        assert scored_steps(trainer) == [0, 3, 6]

    def test_in_evaluate_without_training(self, tmp_path: Path) -> None:
        trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC)])
        metrics = trainer.evaluate()
        expected = NeuronXAEvaluator(ICELANDIC)(trainer.model, trainer.processing_class)
        assert metrics["eval_nasca"] == expected.score["nasca"]

    def test_evaluate_after_training_scores_the_model_as_it_is(self, tmp_path: Path) -> None:
        trainer = sft(tmp_path, [NeuronXACallback(FRENCH, eval_steps=6)])
        trainer.train()
        history = score_lines(tmp_path)
        for weight in trainer.model.parameters():
            torch.nn.init.normal_(weight.data, std=0.2)
        metrics = trainer.evaluate()
        expected = NeuronXAEvaluator(FRENCH)(trainer.model, trainer.processing_class)
        assert metrics["eval_nasca"] == expected.score["nasca"] != scores(trainer)[-2]
        assert score_lines(tmp_path) == history

    def test_evaluate_after_an_interrupted_run_too(self, tmp_path: Path) -> None:
        trainer = sft(tmp_path, [NeuronXACallback(FRENCH, eval_steps=2), Interrupt(2)])
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        for weight in trainer.model.parameters():
            torch.nn.init.normal_(weight.data, std=0.2)
        expected = NeuronXAEvaluator(FRENCH)(trainer.model, trainer.processing_class)
        assert trainer.evaluate()["eval_nasca"] == expected.score["nasca"]

    def test_the_loaded_best_model_is_not_logged_as_the_last_step(self, tmp_path: Path) -> None:
        settings = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
        callbacks = [NeuronXACallback(ICELANDIC), StopAt(3)]
        trainer = sft(tmp_path, callbacks, load_best_model_at_end=True, **settings)
        trainer.train()
        assert trainer.state.global_step == 3
        assert scored_steps(trainer) == [0, 2]

    def test_the_last_step_of_a_run_that_was_stopped(self, tmp_path: Path) -> None:
        trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC), StopAt(3)], eval_strategy="steps", eval_steps=2)
        trainer.train()
        assert scored_steps(trainer) == [0, 2, 3]


class TestWhereTheScoresGo:
    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory: pytest.TempPathFactory) -> SFTTrainer:
        trainer = sft(
            tmp_path_factory.mktemp("run"),
            [NeuronXACallback([ICELANDIC, FRENCH])],
            report_to="tensorboard",
            eval_strategy="steps",
            eval_steps=2,
        )
        trainer.train()
        return trainer

    def test_log_history(self, run: SFTTrainer) -> None:
        entries = [entry for entry in run.state.log_history if "eval_nasca" in entry]
        assert [entry["step"] for entry in entries] == [0, 2, 4, 6]
        for entry in entries:
            assert entry.keys() >= KEYS
            languages = [entry["eval_nasca_eng_Latn-isl_Latn"], entry["eval_nasca_eng_Latn-fra_Latn"]]
            assert entry["eval_nasca"] == pytest.approx(sum(languages) / 2)

    def test_one_tensorboard_run_holds_scores_and_figures(self, run: SFTTrainer) -> None:
        files = list(Path(run.args.output_dir).rglob("events.out.tfevents.*"))
        assert len(files) == 1
        events = EventAccumulator(str(files[0].parent), size_guidance={"images": 0, "scalars": 0}).Reload()
        logged = {e["step"]: e for e in run.state.log_history if "eval_nasca" in e}
        for key in KEYS:
            scalars = events.Scalars(f"eval/{key.removeprefix('eval_')}")
            assert [scalar.step for scalar in scalars] == [0, 2, 4, 6]
            assert [s.value for s in scalars] == pytest.approx([logged[s.step][key] for s in scalars])
        assert [s.step for s in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
        images = events.Images("neuronxa/nasca_per_layer")
        assert [image.step for image in images] == [0, 2, 4, 6]
        assert all(image.width > 500 for image in images)

    def test_tensorboard_holds_the_maps_of_the_whole_run(self, run: SFTTrainer) -> None:
        """They are drawn when the number of evaluations has doubled: of two and of four evaluations."""
        evaluations = History(run.args.output_dir).read()
        images = tensorboard_images(run.args.output_dir)
        for name, figure in run_maps(evaluations, "nasca").items():
            assert list(images[f"neuronxa/nasca_{name}"]) == [2, 6]
            assert np.array_equal(images[f"neuronxa/nasca_{name}"][6], plots.pixels(figure))

    def test_scores_jsonl(self, run: SFTTrainer) -> None:
        lines = (Path(run.args.output_dir) / "neuronxa" / "scores.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        assert [record["step"] for record in records] == [0, 2, 4, 6]
        logged = {e["step"]: e for e in run.state.log_history if "eval_nasca" in e}
        for record in records:
            french = record["languages"]["eng_Latn-fra_Latn"]
            assert french["score"]["nasca"] == logged[record["step"]]["eval_nasca_eng_Latn-fra_Latn"]
            assert len(french["per_layer"]["nasca"]) == 3
            assert sum(french["per_pair"]["nasca"]) / 10 == pytest.approx(french["score"]["nasca"], abs=1e-6)

    def test_the_last_scores_are_those_of_the_evaluator_without_a_trainer(self, run: SFTTrainer) -> None:
        report = NeuronXAEvaluator([ICELANDIC, FRENCH])(run.model, run.processing_class)
        last = [entry for entry in run.state.log_history if "eval_nasca" in entry][-1]
        assert last["eval_nasca"] == report.score["nasca"]

    def test_no_hook_is_left(self, run: SFTTrainer) -> None:
        assert not hooks_of(run.model)


def test_all_methods_reach_the_log_and_tensorboard_and_the_report(tmp_path: Path) -> None:
    methods = get_args(Method)
    callback = NeuronXACallback([ICELANDIC, FRENCH], methods=methods, eval_steps=2)
    trainer = sft(tmp_path, [callback], max_steps=2, report_to="tensorboard")
    trainer.train()
    keys = {key for entry in trainer.state.log_history for key in entry}
    assert {f"eval_{method}" for method in methods} <= keys
    assert {f"eval_{method}_{FRENCH.name}" for method in methods} <= keys
    (events,) = {path.parent for path in tmp_path.rglob("events.out.*")}
    accumulator = EventAccumulator(str(events)).Reload()
    layered = [method for method in methods if method != "sads"]  # it joins the layers
    kinds = [("per_layer", layered), ("layer_map", layered), ("pair_map", OVER_PAIRS)]
    tags = {f"neuronxa/{method}_{kind}" for kind, drawn in kinds for method in drawn}
    assert tags == set(accumulator.Tags()["images"])
    page = report.write(tmp_path)
    text = page.read_text(encoding="utf-8")
    for method in methods:
        assert f"| {score_name(method)} |" in text
        assert (page.parent / f"alignment-{method}.png").stat().st_size > 10_000


def test_the_maps_at_the_end_show_every_evaluation_and_no_figure_is_left(tmp_path: Path) -> None:
    before = figures_in_memory()
    trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=2)], max_steps=4, report_to="tensorboard")
    trainer.train()
    assert scored_steps(trainer) == [0, 2, 4]
    images = tensorboard_images(tmp_path)["neuronxa/nasca_layer_map"]
    assert list(images) == [2, 4]
    expected = run_maps(History(tmp_path).read(), "nasca")
    assert np.array_equal(images[4], plots.pixels(expected["layer_map"]))
    del expected
    assert figures_in_memory() == before
    trainer.evaluate()  # outside training there is no run to draw
    assert list(tensorboard_images(tmp_path)["neuronxa/nasca_layer_map"]) == [2, 4]


def test_maps_that_cannot_be_drawn_cost_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_map, "MOST_LAYER_TICKS", 0)
    trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=2)], max_steps=2, report_to="tensorboard")
    trainer.train()
    assert [record["step"] for record in score_lines(tmp_path)] == scored_steps(trainer) == [0, 2]
    assert list(tensorboard_images(tmp_path)) == ["neuronxa/nasca_per_layer", "neuronxa/nasca_rank_per_layer"]
    assert "the maps of the run were not drawn. ZeroDivisionError" in caplog.text


def figures_in_memory() -> int:
    gc.collect()
    return sum(isinstance(thing, Figure) for thing in gc.get_objects())


def tensorboard_images(output_dir: str | Path) -> dict[str, dict[int, NDArray[np.uint8]]]:
    """Tag -> step -> the image, as TensorBoard reads it."""
    (folder,) = {file.parent for file in Path(output_dir).rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return {
        tag: {e.step: np.asarray(Image.open(BytesIO(e.encoded_image_string))) for e in events.Images(tag)}
        for tag in events.Tags()["images"]
    }


def test_a_run_stops_by_a_method_without_values_a_pair(tmp_path: Path) -> None:
    """Any curve has a trend; that of a model that does not learn does not rise."""
    callback = NeuronXACallback(ICELANDIC, methods="cka", eval_steps=1, early_stopping_patience=2)
    trainer = sft(tmp_path, [callback], learning_rate=0.0)
    trainer.train()
    assert trainer.state.global_step == 2
    assert any("eval_cka_best" in entry for entry in trainer.state.log_history)


def test_a_floor_needs_a_method_with_values_a_pair() -> None:
    with pytest.raises(
        ValueError, match="floor needs a score of each sentence pair; add one of nasca, navca, mexa, nasca_rank, sads"
    ):
        NeuronXACallback(ICELANDIC, methods=("cka", "anc"), stopping=StoppingRule(floor={"isl_Latn": 0.02}))


def test_an_earlier_run_in_the_same_folder_is_kept_apart(tmp_path: Path) -> None:
    for _ in range(3):
        sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=6)]).train()
    names = sorted(path.name for path in (tmp_path / "neuronxa").iterdir())
    assert names == ["scores.1.jsonl", "scores.2.jsonl", "scores.jsonl"]
    assert [record["step"] for record in score_lines(tmp_path)] == [0, 6]


class Reader(TrainerCallback):
    """Reads the metrics as EarlyStoppingCallback does."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.seen.append(metrics["eval_nasca"])


@pytest.mark.parametrize("first", [True, False])
def test_best_model_and_early_stopping_follow_nasca(first: bool, tmp_path: Path) -> None:
    """Wherever the user put our callback in the list. A learning rate of 0 never improves, so patience runs out."""
    reader = Reader()
    ours, others = NeuronXACallback(ICELANDIC), [EarlyStoppingCallback(early_stopping_patience=2), reader]
    trainer = sft(
        tmp_path,
        [ours, *others] if first else [*others, ours],
        max_steps=20,
        learning_rate=0.0,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_nasca",
        greater_is_better=True,
    )
    trainer.train()
    assert trainer.state.global_step == 6
    assert trainer.state.best_global_step == 2
    assert trainer.state.best_metric == reader.seen[0] == scores(trainer)[1]


@pytest.mark.parametrize("metric", ["eval_nasca", "eval_nasca_rank"])
def test_the_step_with_the_highest_score_is_the_best_and_is_loaded(metric: str, tmp_path: Path) -> None:
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = sft(
        tmp_path,
        [NeuronXACallback(ParallelPairs.load("eng_Latn-fra_Latn", n=40))],
        max_steps=12,
        learning_rate=3e-2,
        load_best_model_at_end=True,
        metric_for_best_model=metric,
        greater_is_better=True,
        **settings,
    )
    trainer.train()
    watched = scores(trainer, metric)[1:]
    assert len(set(watched)) > 2
    assert trainer.state.best_metric == max(watched)
    assert trainer.state.best_global_step == 2 + 2 * watched.index(max(watched))
    assert trainer.evaluate()[metric] == max(watched)


def test_several_evaluation_sets_cost_patience_once_a_step(tmp_path: Path) -> None:
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = sft(
        tmp_path,
        [EarlyStoppingCallback(early_stopping_patience=4), NeuronXACallback(ICELANDIC)],
        max_steps=20,
        learning_rate=0.0,
        load_best_model_at_end=True,
        metric_for_best_model="eval_nasca",
        **settings,
    )
    trainer.eval_dataset = {"one": trainer.eval_dataset, "two": trainer.eval_dataset}
    trainer.train()
    assert trainer.state.global_step == 5


def test_a_model_that_needs_autocast_is_scored_in_it(tmp_path: Path) -> None:
    """bfloat16 weights with float32 norms run in mixed precision only."""
    model = tiny_llama().bfloat16()
    for name, module in model.named_modules():
        if "norm" in name:
            module.float()
    trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=3)], model, bf16=True, use_cpu=True)
    trainer.train()
    assert scored_steps(trainer) == [0, 3, 6]
    signature = score_lines(tmp_path)[0]["languages"]["eng_Latn-isl_Latn"]["signature"]
    assert "autocast-bfloat16" in signature


def scores(trainer: Trainer, metric: str = "eval_nasca") -> list[float]:
    return [entry[metric] for entry in trainer.state.log_history if metric in entry]


class TestTrainingIsUnchanged:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder: Path = tmp_path_factory.mktemp("base")
        tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(folder)
        return folder

    @staticmethod
    def lora_run(folder: Path, output_dir: Path, callbacks: list[Any], **settings: Any) -> SFTTrainer:
        """12 steps in NF4 with LoRA and dropout."""
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
        trainer = sft(
            output_dir,
            callbacks,
            AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantization, dtype=torch.float32),
            peft_config=LoraConfig(r=4, lora_dropout=0.3, target_modules="all-linear"),
            max_steps=12,
            **settings,
        )
        trainer.train()
        return trainer

    @pytest.mark.parametrize(
        "settings",
        [{}, {"gradient_checkpointing": True}, {"eval_strategy": "steps", "eval_steps": 3}],
        ids=["plain", "gradient checkpointing", "evaluating"],
    )
    def test_4bit_lora_with_dropout_is_bit_identical(
        self, settings: dict[str, Any], folder: Path, tmp_path: Path
    ) -> None:
        without = self.lora_run(folder, tmp_path / "without", [], **settings)
        watched = self.lora_run(folder, tmp_path / "with", [NeuronXACallback(FRENCH, eval_steps=3)], **settings)
        assert scored_steps(watched) == [0, 3, 6, 9, 12]
        expected, got = (get_peft_model_state_dict(trainer.model) for trainer in (without, watched))
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[name], got[name]) for name in expected)
        assert any(bool(tensor.any()) for name, tensor in got.items() if "lora_B" in name)
        assert self.train_metrics(without) == self.train_metrics(watched)

    @staticmethod
    def train_metrics(trainer: SFTTrainer) -> list[dict[str, float]]:
        """What SFTTrainer logs of training itself, its own averages included."""
        names = ("step", "loss", "mean_token_accuracy", "entropy", "num_tokens", "grad_norm", "learning_rate")
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert entries[0].keys() >= set(names)
        return [{name: entry[name] for name in names} for entry in entries]

    def test_the_plain_trainer_with_a_callback_that_fails(self, tmp_path: Path, tokenizer: Any) -> None:
        weights = []
        for callbacks in ([], [NeuronXACallback(ICELANDIC, eval_steps=1)], [failing(eval_steps=1)]):
            model = tiny_llama(attention_dropout=0.2)
            trainer = Trainer(
                model,
                TrainingArguments(
                    str(tmp_path), max_steps=5, report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=1
                ),
                train_dataset=[{"input_ids": tokenizer(text)["input_ids"]} for text in ICELANDIC.target],
                data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
                processing_class=tokenizer,
                callbacks=callbacks,
            )
            trainer.train()
            weights.append(model.state_dict())
        for other in weights[1:]:
            assert all(torch.equal(weights[0][name], other[name]) for name in other)


def failing(**options: Any) -> NeuronXACallback:
    """A callback whose every evaluation meets a model that breaks in the middle of its forward pass."""
    callback = NeuronXACallback(ICELANDIC, **options)
    score = callback.evaluator.score

    def break_then_score(decoder: Any, budget: Any) -> Any:
        handle = decoder.model.get_decoder().layers[1].register_forward_hook(lambda *_: 1 / 0)
        try:
            return score(decoder, budget)
        finally:
            handle.remove()

    class Breaking:
        check, pairs, methods = callback.evaluator.check, callback.evaluator.pairs, callback.evaluator.methods
        score = staticmethod(break_then_score)
        token_budget = None

    callback.evaluator = Breaking()  # type: ignore[assignment]
    return callback


class TestAFailingEvaluation:
    def test_warns_and_training_goes_on(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        trainer = sft(tmp_path, [failing(eval_steps=2)])
        with caplog.at_level(logging.WARNING):
            trainer.train()
        assert trainer.state.global_step == 6
        assert scored_steps(trainer) == []
        assert caplog.text.count("training goes on without its scores. ZeroDivisionError") == 4
        assert not hooks_of(trainer.model)

    def test_does_not_end_a_run_whose_best_model_it_should_choose(self, tmp_path: Path) -> None:
        settings = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
        trainer = sft(tmp_path, [failing()], metric_for_best_model="eval_nasca", greater_is_better=True, **settings)
        trainer.train()
        assert trainer.state.global_step == 6
        assert trainer.state.best_model_checkpoint is None
        assert math.isnan(trainer.evaluate()["eval_nasca"])

    def test_does_not_cost_patience(self, tmp_path: Path) -> None:
        trainer = sft(
            tmp_path,
            [EarlyStoppingCallback(early_stopping_patience=2), failing()],
            max_steps=10,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model="eval_nasca",
        )
        trainer.train()
        assert trainer.state.global_step == 10

    def test_is_raised_on_request(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError):
            sft(tmp_path, [failing(on_error="raise")]).train()

    def test_diverged_weights_warn(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=2)], learning_rate=1e30, max_grad_norm=1e30)
        with caplog.at_level(logging.WARNING):
            trainer.train()
        assert trainer.state.global_step == 6
        assert scored_steps(trainer) == [0]
        assert "NaN or infinite" in caplog.text

    def test_a_read_only_history_warns(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "neuronxa").write_text("a file where the folder should be")
        trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=3)])
        with caplog.at_level(logging.WARNING):
            trainer.train()
        assert scored_steps(trainer) == [0, 3, 6]
        assert caplog.text.count("logged but not written to scores.jsonl. FileExistsError") == 3


class TestRefusedBeforeTraining:
    def test_an_unreadable_model(self, tmp_path: Path) -> None:
        model = tiny_llama()
        for layer in model.model.layers:
            layer.mlp.forward = lambda x: x
        trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC)], model)
        with pytest.raises(UnreadableFFNError, match=r"model\.layers\.0\.mlp"):
            trainer.train()
        assert trainer.state.global_step == 0

    def test_a_sentence_beyond_the_context(self, tmp_path: Path) -> None:
        trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC)], tiny_llama(max_position_embeddings=16))
        with pytest.raises(ValueError, match="more than the model's context of 16; remove or split"):
            trainer.train()
        assert trainer.state.global_step == 0

    def test_two_callbacks(self, tmp_path: Path) -> None:
        trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC), NeuronXACallback(FRENCH)])
        with pytest.raises(ValueError, match=r"several NeuronXACallbacks.*give one of them all the pairs"):
            trainer.train()

    def test_no_tokenizer(self, tmp_path: Path) -> None:
        args = TrainingArguments(str(tmp_path), report_to="none", max_steps=1, disable_tqdm=True)
        trainer = Trainer(tiny_llama(), args, train_dataset=[{"x": 1}], callbacks=[NeuronXACallback(ICELANDIC)])
        with pytest.raises(ValueError, match="processing_class=tokenizer to the Trainer, or tokenizer=tokenizer"):
            trainer.train()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"pairs": "eng_Latn-xxx_Latn"}, "'xxx_Latn' is not a FLORES-200"),
            ({"pairs": "gone.tsv"}, "gone.tsv does not exist"),
            ({"pairs": []}, "no held-out pairs"),
            ({"pairs": [ICELANDIC, ICELANDIC]}, "eng_Latn-isl_Latn was given twice"),
            ({"methods": ["comet"]}, "method 'comet' is unknown"),
            ({"methods": []}, "methods is empty"),
            ({"eval_steps": 0}, "eval_steps=0 must be a whole number"),
            ({"eval_steps": 2.5}, "eval_steps=2.5 must be a whole number"),
            ({"eval_steps": math.nan}, "eval_steps=nan must be"),
            ({"eval_steps": math.inf}, "eval_steps=inf must be"),
            ({"eval_steps": "10"}, "eval_steps='10' must be"),
            ({"token_budget": 0}, "token_budget=0 must be"),
            ({"on_error": "ignore"}, "choose warn or raise"),
            ({"token_pooling": "first"}, "token_pooling 'first' is unknown"),
        ],
    )
    def test_bad_arguments(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            NeuronXACallback(**options)


def test_the_tokenizers_padding_side_is_left_alone(tmp_path: Path) -> None:
    tokenizer: PreTrainedTokenizerFast = make_tokenizer()
    tokenizer.padding_side = "right"
    sft(tmp_path, [NeuronXACallback(ICELANDIC)], tokenizer=tokenizer).train()
    assert tokenizer.padding_side == "right"
