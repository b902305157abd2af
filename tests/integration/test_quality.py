"""Translation quality inside real training runs: what is logged when, that training is unchanged, and faults."""

from __future__ import annotations

import copy
import json
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainerCallback
from trl import SFTTrainer

from neuronxa_callback import NeuronXACallback, ParallelPairs, Quality, StoppingRule
from neuronxa_callback.correlation import over_run, spearman
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality.comet import environment as comet_environment
from neuronxa_callback.quality.comet.process import QualityError
from neuronxa_callback.quality.evaluator import QualityReport
from neuronxa_callback.quality.faithfulness import Faithfulness, faithfulness
from neuronxa_callback.quality.settings import COMET_MODEL, COMETKIWI_MODEL
from neuronxa_callback.quality.translation import translate
from neuronxa_callback.training.page import write
from tests.support import Interrupt, make_tokenizer, score_lines, scored_steps, sft, tiny_llama

pytestmark = pytest.mark.trainer

FRENCH = ParallelPairs.load("eng_Latn-fra_Latn", n=10)
ICELANDIC = ParallelPairs.load("eng_Latn-isl_Latn", n=10)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("base")
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(folder)
    return folder


def lora_run(base: Path, output_dir: Path, callbacks: list[Any], **settings: Any) -> SFTTrainer:
    """Six steps in NF4 with LoRA and dropout."""
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    trainer = sft(
        output_dir,
        callbacks,
        AutoModelForCausalLM.from_pretrained(base, quantization_config=nf4, dtype=torch.float32),
        peft_config=LoraConfig(r=4, lora_dropout=0.3, target_modules="all-linear"),
        **settings,
    )
    trainer.train()
    return trainer


def tiny_comet(comet_models: Path) -> dict[str, Any]:
    return {"comet_model": str(comet_models / "comet"), "cometkiwi_model": str(comet_models / "cometkiwi")}


def entries(trainer: SFTTrainer, key: str) -> dict[int, float]:
    found = [(entry["step"], entry[key]) for entry in trainer.state.log_history if key in entry]
    assert len(dict(found)) == len(found)  # no step twice
    return dict(found)


def no_comet_is_left() -> bool:
    """Neither a thread nor a process."""
    threads = [thread for thread in threading.enumerate() if thread.name == "neuronxa-comet"]
    children = [child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
    return not threads and not any("comet/worker.py" in argument for child in children for argument in child.cmdline())


class TestA4bitRun:
    @pytest.fixture(scope="class")
    def run(self, base: Path, comet_models: Path, comet_python: Path, tmp_path_factory: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(comet_environment.VARIABLE, str(comet_python))
            callback = NeuronXACallback(
                FRENCH, eval_steps=2, quality=Quality(("comet", "cometkiwi", "chrf"), **tiny_comet(comet_models))
            )
            settings = {"report_to": "tensorboard", "learning_rate": 0.1}  # high, so that NASCA moves within six steps
            return lora_run(base, tmp_path_factory.mktemp("run"), [callback], **settings)

    def test_every_score_is_logged_once_at_every_evaluation(self, run: SFTTrainer) -> None:
        for name in ("nasca", "comet", "cometkiwi", "chrf"):
            for suffix in ("", "_eng_Latn-fra_Latn"):
                assert list(entries(run, f"eval_{name}{suffix}")) == [0, 2, 4, 6]
        for key in ("eval_translation_empty", "eval_translation_truncated", "eval_translation_runtime"):
            assert list(entries(run, key)) == [0, 2, 4, 6]

    def test_how_much_is_copied_and_the_length_are_logged_once_at_every_evaluation(self, run: SFTTrainer) -> None:
        records = score_lines(run.args.output_dir)
        for name in ("copied", "length", "off_target"):
            kept = {record["step"]: record["quality"]["eng_Latn-fra_Latn"][name] for record in records}
            there = {step: value for step, value in kept.items() if value is not None}
            for suffix in ("", "_eng_Latn-fra_Latn"):
                assert entries(run, f"eval_translation_{name}{suffix}") == there
            assert list(there) == [0, 2, 4, 6] or name == "off_target"
        made = records[-1]["quality"]["eng_Latn-fra_Latn"]
        assert Faithfulness(made["copied"], made["off_target"], made["length"]) == faithfulness(
            FRENCH, made["translations"]
        )

    def test_comet_came_while_training_went_on(self, run: SFTTrainer) -> None:
        steps = [entry["step"] for entry in run.state.log_history]
        assert steps != sorted(steps)  # logged later than what followed, with the step that it belongs to
        epochs = {entry["step"]: entry["epoch"] for entry in run.state.log_history if "eval_nasca" in entry}
        assert all(entry["epoch"] == epochs[entry["step"]] for entry in run.state.log_history if "eval_comet" in entry)
        assert run.state.global_step == 6

    def test_tensorboard_has_each_at_its_step(self, run: SFTTrainer) -> None:
        (file,) = Path(run.args.output_dir).rglob("events.out.tfevents.*")
        events = EventAccumulator(str(file.parent), size_guidance={"scalars": 0}).Reload()
        for name in ("nasca", "comet", "cometkiwi", "chrf", "comet_eng_Latn-fra_Latn", "translation_empty"):
            scalars = {scalar.step: scalar.value for scalar in events.Scalars(f"eval/{name}")}
            assert scalars == pytest.approx(entries(run, f"eval_{name}"))
        assert [scalar.step for scalar in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]

    def test_scores_jsonl_holds_translations_and_segments(self, run: SFTTrainer) -> None:
        lines = (Path(run.args.output_dir) / "neuronxa" / "scores.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        assert [record["step"] for record in records] == [0, 2, 4, 6]
        for record in records:
            french = record["quality"]["eng_Latn-fra_Latn"]
            assert len(french["translations"]) == 10
            for name in ("comet", "cometkiwi", "chrf"):
                judged = french["metrics"][name]
                assert len(judged["segments"]) == 10
                assert judged["signature"]
                assert judged["score"] == entries(run, f"eval_{name}")[record["step"]] == record["quality_score"][name]
        last = records[-1]["quality"]["eng_Latn-fra_Latn"]["translations"]
        decoder = Decoder.find(run.model, run.processing_class)
        assert tuple(last) == translate(decoder, FRENCH.source, "eng_Latn", "fra_Latn").texts

    def test_r_from_three_evaluations_on(self, run: SFTTrainer) -> None:
        records = score_lines(run.args.output_dir)
        nasca = [record["score"]["nasca"] for record in records]
        copied = [record["quality"]["eng_Latn-fra_Latn"]["copied"] for record in records]
        for name in ("comet", "cometkiwi", "chrf"):
            scores = [record["quality_score"][name] for record in records]
            logged = entries(run, f"eval_pearson_nasca_{name}")
            assert logged
            for n in (3, 4):
                expected = over_run(nasca[:n], scores[:n], copied[:n])
                if expected is None:  # nothing varied
                    assert 2 * n - 2 not in logged
                    continue
                assert logged[2 * n - 2] == expected.r
                kept = records[n - 1]["pearson"][f"nasca_{name}"]
                assert kept == asdict(expected)
                of_changes = entries(run, f"eval_pearson_diff_nasca_{name}")
                assert of_changes.get(2 * n - 2) == expected.r_diff
                held_fixed = entries(run, f"eval_pearson_partial_nasca_{name}")
                assert held_fixed.get(2 * n - 2) == expected.r_partial
            assert set(logged) <= {4, 6}

    def test_rho_over_the_sentences_of_each_evaluation(self, run: SFTTrainer) -> None:
        for record in score_lines(run.args.output_dir):
            aligned = record["languages"]["eng_Latn-fra_Latn"]["per_pair"]["nasca"]
            for name, judged in record["quality"]["eng_Latn-fra_Latn"]["metrics"].items():
                expected = spearman(aligned, judged["segments"])
                logged = entries(run, f"eval_over_sentences_nasca_{name}_eng_Latn-fra_Latn")
                kept = record["over_sentences"].get("eng_Latn-fra_Latn", {})
                if expected is None:  # a score does not vary
                    assert f"nasca_{name}" not in kept
                    assert record["step"] not in logged
                    continue
                assert logged[record["step"]] == kept[f"nasca_{name}"]["r"] == expected.r
                assert kept[f"nasca_{name}"]["n"] == 10

    def test_nothing_outlives_the_run(self, run: SFTTrainer) -> None:
        assert no_comet_is_left()


@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient_checkpointing": True}],
    ids=["plain", "gradient checkpointing"],
)
def test_training_is_bit_identical(
    settings: dict[str, Any], base: Path, comet_models: Path, with_comet: None, tmp_path: Path
) -> None:
    callback = NeuronXACallback(
        FRENCH, eval_steps=3, quality=Quality(("comet", "cometkiwi", "chrf"), "both", **tiny_comet(comet_models))
    )
    without = lora_run(base, tmp_path / "without", [], max_steps=9, **settings)
    watched = lora_run(base, tmp_path / "with", [callback], max_steps=9, **settings)
    assert list(entries(watched, "eval_comet_fra_Latn-eng_Latn")) == [0, 3, 6, 9]
    expected, got = (get_peft_model_state_dict(trainer.model) for trainer in (without, watched))
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert any(bool(tensor.any()) for name, tensor in got.items() if "lora_B" in name)


EVALUATING = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}


class TestWaiting:
    def test_comet_can_choose_the_best_model(self, comet_models: Path, with_comet: None, tmp_path: Path) -> None:
        callback = NeuronXACallback(FRENCH, quality=Quality(("comet", "chrf"), **tiny_comet(comet_models)))
        trainer = sft(
            tmp_path,
            [callback],
            metric_for_best_model="eval_comet",
            greater_is_better=True,
            load_best_model_at_end=True,
            **EVALUATING,
        )
        trainer.train()
        watched = {step: score for step, score in entries(trainer, "eval_comet").items() if step}
        assert list(watched) == [2, 4, 6]
        assert trainer.state.best_metric == max(watched.values())
        assert trainer.state.best_global_step == max(watched, key=lambda step: watched[step])

    def test_wait_puts_comet_into_the_metrics_of_the_evaluation(
        self, comet_models: Path, with_comet: None, tmp_path: Path
    ) -> None:
        callback = NeuronXACallback(FRENCH, quality=Quality("comet", wait=True, **tiny_comet(comet_models)))
        reader = Reader()
        trainer = sft(tmp_path, [callback, reader], **EVALUATING)
        trainer.train()
        assert reader.seen == [entries(trainer, "eval_comet")[step] for step in (2, 4, 6)]
        steps = [entry["step"] for entry in trainer.state.log_history]
        assert steps == sorted(steps)

    def test_a_best_metric_that_will_not_be_logged_is_refused_before_training(self, tmp_path: Path) -> None:
        refused: list[tuple[str, Any]] = [("eval_comet", "auto"), ("chrf", "bleu"), ("eval_pearson_nasca_chrf", "chrf")]
        refused.append(("over_sentences_nasca_chrf_eng_Latn-fra_Latn", "chrf"))
        refused.append(("pearson_partial_nasca_chrf", "chrf"))
        refused.append(("eval_translation_copied", ()))
        refused.append(("translation_off_target_eng_Latn-isl_Latn", "chrf"))
        for metric, quality in refused:
            settings = {"metric_for_best_model": metric, "load_best_model_at_end": True} | EVALUATING
            trainer = sft(tmp_path, [NeuronXACallback(FRENCH, quality=quality)], **settings)
            with pytest.raises(ValueError, match=f"metric_for_best_model='{metric}'"):
                trainer.train()
            assert trainer.state.global_step == 0

    @pytest.mark.parametrize("metric", ["translation_off_target", "eval_translation_copied_eng_Latn-fra_Latn"])
    def test_the_best_model_can_be_the_one_that_copies_least(
        self, metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At one step the value is absent, which ends no run."""
        measured = iter([Faithfulness(9.0, 0.9, 1.0), Faithfulness(7.0, 0.7, 1.0), ONE_LACKS, ONE_LACKS])
        monkeypatch.setattr("neuronxa_callback.quality.evaluator.faithfulness", lambda *_: next(measured))
        settings = {"metric_for_best_model": metric, "greater_is_better": False, "load_best_model_at_end": True}
        trainer = sft(tmp_path, [NeuronXACallback(FRENCH, quality="chrf")], **settings, **EVALUATING)
        trainer.train()
        assert trainer.state.global_step == 6
        assert trainer.state.best_global_step == (2 if "off_target" in metric else 4)

    def test_a_share_that_is_rightly_absent_is_not_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("neuronxa_callback.quality.evaluator.faithfulness", lambda *_: ONE_LACKS)
        callback = NeuronXACallback(FRENCH, quality="chrf")
        metrics = sft(tmp_path, [callback]).evaluate()
        assert callback.missing == ()
        assert metrics["eval_translation_copied_eng_Latn-fra_Latn"] == metrics["eval_translation_copied"] == 1.0
        assert not [name for name in metrics if "off_target" in name]

    def test_an_evaluation_outside_training_waits_and_leaves_nothing(
        self, comet_models: Path, with_comet: None, tmp_path: Path
    ) -> None:
        callback = NeuronXACallback(FRENCH, quality=Quality(("comet", "chrf"), **tiny_comet(comet_models)))
        metrics = sft(tmp_path, [callback]).evaluate()
        assert {"eval_comet", "eval_chrf", "eval_nasca"} <= metrics.keys()
        assert no_comet_is_left()
        assert not (tmp_path / "neuronxa").exists()

    def test_a_missing_score_does_not_end_a_run_that_chooses_by_it(self, tmp_path: Path) -> None:
        callback = NeuronXACallback(FRENCH, quality=Quality("comet", comet_model="Some/model"))
        settings = {"metric_for_best_model": "comet", "load_best_model_at_end": True} | EVALUATING
        trainer = sft(tmp_path, [callback], **settings)
        trainer.train()
        assert trainer.state.global_step == 6
        assert scored_steps(trainer) == [0, 2, 4, 6]


ONE_LACKS = Faithfulness(1.0, None, 1.0)


class Reader(TrainerCallback):
    """Reads the metrics as EarlyStoppingCallback does."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.seen.append(metrics["eval_comet"])


@pytest.mark.once
class TestFaults:
    """Whatever happens to COMET, training ends normally, NASCA is logged, and the file says what is missing."""

    @pytest.mark.parametrize(
        ("script", "reason"),
        [
            ("kill -9 $$", "ended with exit code -9"),
            ("exec sleep 600", "no answer within 1 s"),
            ("echo rubbish; exec sleep 600", "wrote 'rubbish"),
            ("echo 'no memory' >&2; exit 1", r"(no memory)"),
        ],
        ids=["killed", "hung", "rubbish", "crashed"],
    )
    def test_a_broken_process(
        self, script: str, reason: str, tmp_path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv(comet_environment.VARIABLE, str(program))
        self.assert_training_goes_on(tmp_path, {"comet_timeout": 1}, reason, caplog)

    @pytest.mark.parametrize(
        ("model", "reason"),
        [("Some/misspelt-model", "Some/misspelt-model is no local path"), ("not a name", "is neither the path of")],
    )
    def test_a_wrong_model_name(
        self, model: str, reason: str, with_comet: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.assert_training_goes_on(tmp_path, {"comet_model": model}, reason, caplog)

    def test_a_gated_model(
        self, hub_says: Any, with_comet: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        hub_says("GatedRepo")
        reason = "Some/model is gated: accept its licence at https://huggingface.co/Some/model"
        self.assert_training_goes_on(tmp_path, {"comet_model": "Some/model"}, reason, caplog)

    def test_killed_once_it_serves_the_next_evaluation(
        self, comet_models: Path, with_comet: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        callback = NeuronXACallback(FRENCH, eval_steps=3, quality=Quality("comet", **tiny_comet(comet_models)))
        with caplog.at_level(logging.WARNING, "neuronxa_callback"):
            trainer = sft(tmp_path, [callback, KillComet(callback)])
            trainer.train()
        assert list(entries(trainer, "eval_comet")) == [3, 6]
        assert "no comet at step 0: the COMET process ended with exit code -9" in caplog.text
        assert scored_steps(trainer) == [0, 3, 6]

    def test_no_environment(self, tmp_path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setattr(comet_environment, "comet_works_here", lambda: False)
        self.assert_training_goes_on(tmp_path, {}, "`neuronxa comet setup` makes one", caplog)

    def assert_training_goes_on(
        self, folder: Path, options: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        callback = NeuronXACallback(FRENCH, eval_steps=3, quality=Quality(("comet", "chrf"), **options))
        with caplog.at_level(logging.WARNING, "neuronxa_callback"):
            trainer = sft(folder, [callback])
            trainer.train()
        assert trainer.state.global_step == 6
        assert scored_steps(trainer) == [0, 3, 6]
        assert list(entries(trainer, "eval_chrf")) == [0, 3, 6]
        assert not entries(trainer, "eval_comet")
        for record in score_lines(folder):
            metrics = record["quality"]["eng_Latn-fra_Latn"]["metrics"]
            assert reason in metrics["comet"]["missing"]
            assert metrics["chrf"]["score"] == record["quality_score"]["chrf"]
        told = [record.message for record in caplog.records if reason in record.message]
        assert told[0].startswith("NeuronXA: no comet at step 0: ")
        reasons = [message.partition("no comet at step ")[2][3:] for message in told]
        assert len(set(reasons)) == len(reasons)  # the same reason three times is told once
        assert len(told) == 1 or "was not asked" in told[1]
        assert no_comet_is_left()

    def test_raised_if_wanted(self, with_comet: None, tmp_path: Path) -> None:
        callback = NeuronXACallback(
            FRENCH, quality=Quality("comet", comet_model="not a name", wait=True), on_error="raise"
        )
        with pytest.raises(QualityError, match="no comet at step 0: not a name is neither"):
            sft(tmp_path, [callback]).train()
        assert no_comet_is_left()

    def test_a_translation_that_fails_leaves_alignment(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        calls: list[str] = []

        def prompt(source: str, source_lang: str, target_lang: str) -> str:
            calls.append(source)
            return source if len(calls) <= 10 else 1 / 0  # type: ignore[return-value]

        with caplog.at_level(logging.WARNING, "neuronxa_callback"):
            trainer = sft(tmp_path, [NeuronXACallback(FRENCH, eval_steps=3, quality=Quality("chrf", prompt=prompt))])
            trainer.train()
        assert scored_steps(trainer) == [0, 3, 6]
        assert "the held-out sources could not be translated. ZeroDivisionError" in caplog.text

    def test_a_prompt_that_cannot_be_made_is_refused_before_training(self, tmp_path: Path) -> None:
        callback = NeuronXACallback(FRENCH, quality=Quality("chrf", prompt=lambda *_: None))  # type: ignore[arg-type]
        trainer = sft(tmp_path, [callback])
        with pytest.raises(ValueError, match="the prompt function returned None"):
            trainer.train()
        assert trainer.state.global_step == 0

    def test_a_failure_to_measure_the_translations_leaves_their_scores(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("neuronxa_callback.quality.evaluator.faithfulness", lambda *_: 1 / 0)
        callback = NeuronXACallback(FRENCH, eval_steps=3, quality="chrf")
        with caplog.at_level(logging.WARNING, "neuronxa_callback"):
            trainer = sft(tmp_path, [callback])
            trainer.train()
        assert list(entries(trainer, "eval_chrf")) == list(entries(trainer, "eval_translation_empty")) == [0, 3, 6]
        assert not entries(trainer, "eval_translation_copied")
        assert set(callback.missing) == {
            f"eval_translation_{name}{suffix}" for name in ("copied", "length") for suffix in ("", f"_{FRENCH.name}")
        }
        assert caplog.text.count("could not be measured at step 0: ZeroDivisionError: division by zero") == 1
        callback = NeuronXACallback(FRENCH, quality="chrf", on_error="raise")
        with pytest.raises(QualityError, match="could not be measured at step 0"):
            sft(tmp_path / "raised", [callback]).train()

    def test_an_alignment_that_fails_leaves_quality_a_line_of_its_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        callback = NeuronXACallback(FRENCH, eval_steps=3, quality="chrf")
        monkeypatch.setattr(callback.evaluator, "representations", {"nasca": "broken"})
        trainer = sft(tmp_path, [callback])
        trainer.train()
        records = score_lines(tmp_path)
        assert [record["step"] for record in records] == [0, 3, 6]
        assert all(record["score"] == {} and record["quality_score"].keys() == {"chrf"} for record in records)
        assert list(entries(trainer, "eval_chrf")) == [0, 3, 6]

    def test_nothing_is_left_when_an_error_ends_the_run(
        self, comet_models: Path, with_comet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        callback = NeuronXACallback(
            FRENCH, eval_steps=3, quality=Quality("comet", **tiny_comet(comet_models)), on_error="raise"
        )

        class Break(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                callback.evaluator.representations = {"nasca": "broken"}  # type: ignore[dict-item]

        with pytest.raises(ValueError, match="'broken' is unknown"):
            sft(tmp_path, [callback, Break()]).train()
        assert no_comet_is_left()

    def test_nothing_is_left_when_the_wait_at_the_end_is_interrupted(
        self, comet_models: Path, with_comet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(report: QualityReport) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(QualityReport, "wait", interrupted)
        callback = NeuronXACallback(FRENCH, eval_steps=3, quality=Quality("comet", **tiny_comet(comet_models)))
        with pytest.raises(KeyboardInterrupt):
            sft(tmp_path, [callback]).train()
        assert no_comet_is_left()

    def test_a_run_after_an_interrupted_one(self, comet_models: Path, with_comet: None, tmp_path: Path) -> None:
        callback = NeuronXACallback(FRENCH, eval_steps=2, quality=Quality("comet", **tiny_comet(comet_models)))
        with pytest.raises(KeyboardInterrupt):
            sft(tmp_path / "first", [callback, Interrupt(3)]).train()
        trainer = sft(tmp_path / "second", [callback])
        trainer.train()
        assert list(entries(trainer, "eval_comet")) == [0, 2, 4, 6]
        assert no_comet_is_left()


class KillComet(TrainerCallback):
    """Kills COMET's process as soon as it has begun on the first evaluation's translations."""

    def __init__(self, callback: NeuronXACallback) -> None:
        self.callback = callback

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            while self.callback.quality.worker.process is None:
                time.sleep(0.01)
            self.callback.quality.worker.process.kill()


class Letters:
    name = "letters"

    def score(self, sources: Sequence[str], translations: Sequence[str], references: Sequence[str]) -> list[int]:
        return [len(text) for text in translations]


class Drawing(Letters):
    """A metric that draws from every random state there is."""

    def score(self, sources: Sequence[str], translations: Sequence[str], references: Sequence[str]) -> list[int]:
        torch.rand(7), random.random(), np.random.rand()
        return super().score(sources, translations, references)


def test_a_metric_that_draws_random_numbers_does_not_change_training(base: Path, tmp_path: Path) -> None:
    without = lora_run(base, tmp_path / "without", [])
    watched = lora_run(base, tmp_path / "with", [NeuronXACallback(FRENCH, eval_steps=2, quality=Drawing())])
    expected, got = (get_peft_model_state_dict(trainer.model) for trainer in (without, watched))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_the_callback_can_be_copied() -> None:
    assert copy.deepcopy(NeuronXACallback(FRENCH, quality=("comet", "chrf"))).quality.slow == ["comet"]


def test_a_metric_of_ones_own_and_several_languages(tmp_path: Path) -> None:
    callback = NeuronXACallback(
        [FRENCH, ICELANDIC], eval_steps=3, quality=[Letters(), "bleu"], methods=("nasca", "mexa")
    )
    trainer = sft(tmp_path, [callback])
    trainer.train()
    for step, mean in entries(trainer, "eval_letters").items():
        each = [entries(trainer, f"eval_letters_{pair.name}")[step] for pair in (FRENCH, ICELANDIC)]
        assert mean == pytest.approx(sum(each) / 2)
    assert entries(trainer, "eval_pearson_mexa_letters")


def test_a_control_is_watched_and_not_translated(tmp_path: Path) -> None:
    callback = NeuronXACallback(
        [FRENCH, ICELANDIC], eval_steps=2, quality=Quality([Letters()], "both", pairs=FRENCH.name), on_error="raise"
    )
    trainer = sft(tmp_path, [callback], learning_rate=0.1)
    trainer.train()
    back = "fra_Latn-eng_Latn"
    logged = {name for entry in trainer.state.log_history for name in entry}
    assert {f"eval_nasca_{ICELANDIC.name}", f"eval_nasca_{FRENCH.name}", f"eval_letters_{back}"} <= logged
    of_control = {name for name in logged if name.endswith((ICELANDIC.name, "isl_Latn-eng_Latn"))}
    assert of_control == {f"eval_{method}_{ICELANDIC.name}" for method in ("nasca", "nasca_rank")}
    assert callback.missing == ()
    records = score_lines(tmp_path)
    assert all(record["languages"].keys() == {FRENCH.name, ICELANDIC.name} for record in records)
    assert all(record["quality"].keys() == {FRENCH.name, back} for record in records)
    french = [record["languages"][FRENCH.name]["score"]["nasca_rank"] for record in records]
    letters = [record["quality_score"]["letters"] for record in records]
    expected = over_run(french, letters)
    assert expected is not None
    assert entries(trainer, "eval_pearson_nasca_rank_letters")[6] == expected.r
    assert {name for record in records for name in record["over_sentences"]} <= {FRENCH.name, back}
    page = write(tmp_path).read_text(encoding="utf-8")
    assert f"| NASCA rank | letters | {expected.r:.3f} |" in page
    assert f"| {ICELANDIC.name} | 10 |" not in page


def test_some_of_the_sources_are_translated(tmp_path: Path) -> None:
    """Alignment stays that of all pairs, and the correlation over sentences takes that of the translated ones."""
    quality = Quality([Letters()], "both", translate_n=5)
    trainer = sft(tmp_path, [NeuronXACallback([FRENCH, ICELANDIC], eval_steps=3, quality=quality, on_error="raise")])
    trainer.train()
    (*_, record) = score_lines(tmp_path)
    for name, made in record["quality"].items():
        watched = record["languages"].get(name) or record["languages"]["-".join(reversed(name.split("-")))]
        places, segments = made["places"], made["metrics"]["letters"]["segments"]
        assert len(places) == len(made["translations"]) == len(segments) == 5
        expected = spearman([watched["per_pair"]["nasca_rank"][place] for place in places], segments)
        assert expected is not None
        assert record["over_sentences"][name]["nasca_rank_letters"]["r"] == expected.r
        low, high = made["metrics"]["letters"]["ci"]
        assert low < made["metrics"]["letters"]["score"] < high
    low, high = record["quality_ci"]["letters"]
    assert entries(trainer, "eval_letters_ci_low")[6] == low < entries(trainer, "eval_letters")[6] < high
    assert entries(trainer, "eval_letters_ci_high")[6] == high
    assert record["languages"][FRENCH.name]["signature"].split("|")[1] == f"n:{len(FRENCH)}"
    page = write(tmp_path).read_text(encoding="utf-8")
    assert f"| {ICELANDIC.name} | 5 |" in page


def test_a_score_of_a_direction_that_is_not_translated_is_refused(tmp_path: Path) -> None:
    quality = Quality("chrf", pairs=FRENCH.name)
    settings = {"metric_for_best_model": f"chrf_{ICELANDIC.name}", "load_best_model_at_end": True} | EVALUATING
    said = f"will not be logged; choose from chrf, chrf_{FRENCH.name}"
    with pytest.raises(ValueError, match=f"metric_for_best_model='chrf_{ICELANDIC.name}' {said}"):
        sft(tmp_path, [NeuronXACallback([FRENCH, ICELANDIC], quality=quality)], **settings).train()
    rule = StoppingRule(2, f"chrf_{ICELANDIC.name}")
    with pytest.raises(ValueError, match=f"the stopping rule's metric='chrf_{ICELANDIC.name}' {said}"):
        sft(tmp_path, [NeuronXACallback([FRENCH, ICELANDIC], quality=quality, stopping=rule)], **EVALUATING).train()


def test_the_summary_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = sft(tmp_path, [NeuronXACallback(FRENCH, eval_steps=2, quality=Letters())])
    trainer.train()
    output = " ".join(capsys.readouterr().out.split())
    assert "Alignment and translation quality" in output
    r = entries(trainer, "eval_pearson_nasca_letters")[6]
    assert f"{r:.3f} over 4 evaluations; r of their changes: " in output
    assert "; r with copying held fixed: " in output


DEFAULT_RUN = """
import sys
from pathlib import Path
from neuronxa_callback import NeuronXACallback
from tests.support import sft

trainer = sft(Path(sys.argv[1]), [NeuronXACallback(eval_steps=6)])
trainer.train()
print("logged", sorted({key for entry in trainer.state.log_history for key in entry if key.startswith("eval_comet")}))
"""


@pytest.mark.parametrize("here", [True, False])
def test_the_default_logs_comet_where_it_is_there(
    here: bool, comet_models: Path, comet_python: Path, tmp_path: Path
) -> None:
    """The models lie in the hub's local cache, as `neuronxa comet check` leaves them, or do not."""
    if here:
        for name, model in (("comet", COMET_MODEL), ("cometkiwi", COMETKIWI_MODEL)):
            folder = tmp_path / "hub" / f"models--{model.replace('/', '--')}"
            (folder / "snapshots").mkdir(parents=True)
            (folder / "snapshots" / "0123").symlink_to(comet_models / name)
            (folder / "refs").mkdir()
            (folder / "refs" / "main").write_text("0123")
    done = subprocess.run(
        [sys.executable, "-c", DEFAULT_RUN, str(tmp_path / "out")],
        env={**os.environ, "HF_HOME": str(tmp_path), comet_environment.VARIABLE: str(comet_python)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    keys = [f"eval_{name}{suffix}" for name in ("comet", "cometkiwi") for suffix in ("", "_eng_Latn-isl_Latn")]
    assert f"logged {sorted(keys) if here else []}" in done.stdout
    commands = f"`neuronxa comet check {COMET_MODEL}` and `neuronxa comet check {COMETKIWI_MODEL}`"
    assert done.stderr.count(
        f"COMET and CometKiwi will not be logged: the local cache does not have what {commands}"
    ) == (0 if here else 1)


def test_the_padding_side_and_the_models_settings_are_left_alone(tmp_path: Path) -> None:
    """They are those of a run without us; the Trainer itself aligns some of them with the tokenizer."""
    settings = []
    for callbacks in ([], [NeuronXACallback(FRENCH, eval_steps=3, quality="chrf")]):
        tokenizer = make_tokenizer()
        tokenizer.padding_side = "right"
        trainer = sft(tmp_path, list(callbacks), tokenizer=tokenizer)
        trainer.train()
        model = trainer.model
        settings.append((tokenizer.padding_side, model.config.to_dict(), model.generation_config.to_dict()))
    assert settings[0] == settings[1]
