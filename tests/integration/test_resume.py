"""Runs that are killed and resumed: the history is that of an unbroken run."""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from packaging.version import Version
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainerCallback

from neuronxa_callback import NeuronXACallback, ParallelPairs, Quality
from neuronxa_callback.correlation import over_run
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.training.history import History
from neuronxa_callback.training.records import NOT_YET, Evaluation
from tests.support import ICELANDIC, Interrupt, StopAt, change_line, score_lines, scored_steps, sft, tiny_llama

pytestmark = pytest.mark.trainer

PAIRS = [ParallelPairs.load(f"eng_Latn-{code}", n=5) for code in ("isl_Latn", "fra_Latn")]
SAVING = {"save_strategy": "steps", "save_steps": 2}
KILLS = 20

# Processes that have imported everything before they begin, and have run nothing.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.integration.test_resume"])


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name != "runtime"} for record in records]


def lines(folder: Path) -> list[int]:
    """The steps of the file's lines as they stand there."""
    return [json.loads(line)["step"] for line in History(folder).path.read_text().splitlines()]


class Began(TrainerCallback):
    def __init__(self, event: Any) -> None:
        self.event = event

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.event.set()


def whole_checkpoint(folder: Path) -> str | None:
    """The last checkpoint whose last file was written to its end."""

    def is_whole(path: Path) -> bool:
        try:
            return bool(json.loads(path.read_text()))
        except ValueError:
            return False

    # Not that of the last step: from there transformers would make one more than it should.
    found = [path.parent for path in folder.glob("checkpoint-?/trainer_state.json") if is_whole(path)]
    found += [path.parent for path in folder.glob("checkpoint-1?/trainer_state.json") if is_whole(path)]
    last = max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return str(last) if last else None


def train(folder: Path, began: Any, die: Callable[[], None] | None = None) -> None:
    """A run of 20 steps with dropout, two languages, translations and a patience, from its last checkpoint on."""
    torch.set_num_threads(1)
    gc.freeze()  # as in conftest.py: what the process was forked with is not looked through at each start
    checkpoint = whole_checkpoint(folder)
    if die is not None and checkpoint is None:
        die()
    callback = NeuronXACallback(PAIRS, eval_steps=2, quality="chrf", early_stopping_patience=30)
    model = tiny_llama(attention_dropout=0.2)
    settings = {"max_steps": 20, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    trainer = sft(folder, [callback, Began(began)], model, **settings)
    trainer.train(resume_from_checkpoint=checkpoint)
    torch.save(model.state_dict(), folder / "trained.pt")


def start(folder: Path, die: Callable[[], None] | None = None) -> Any:
    began = processes.Event()
    process = processes.Process(target=train, args=(folder, began, die))
    process.start()
    while not began.wait(0.05) and process.is_alive():
        pass
    return process


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    process = start(folder)
    began = time.perf_counter()
    process.join()
    assert process.exitcode == 0
    (folder / "seconds").write_text(str(time.perf_counter() - began))
    return folder


def assert_same_run(broken: Path, unbroken: Path) -> None:
    assert lines(broken) == lines(unbroken) == list(range(0, 21, 2))
    assert without_times(score_lines(broken)) == without_times(score_lines(unbroken))
    weights = [torch.load(folder / "trained.pt", weights_only=True) for folder in (broken, unbroken)]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


# With the lowest versions (accelerate 1.10, transformers 4.57.1) a step's scores differed in two of three runs of this
# test. The cause was not found. It may lie in this package or in theirs.
@pytest.mark.skipif(
    Version(accelerate.__version__) < Version("1.15"), reason="at times fails with accelerate 1.10; cause not found"
)
def test_twenty_kills_at_random_moments_change_nothing(unbroken: Path, tmp_path: Path) -> None:
    seconds = float((unbroken / "seconds").read_text())
    moments = random.Random(0)
    kills = 0
    for run in range(KILLS):  # one, unless a slow machine comes to its end before the last kill
        folder = tmp_path / str(run)
        folder.mkdir()
        while not (folder / "trained.pt").exists():
            process = start(folder)
            if kills < KILLS:
                process.join(moments.uniform(0, seconds / 8))
            else:
                process.join()
            if process.is_alive():
                process.kill()
                process.join()
            kills += process.exitcode == -signal.SIGKILL
            assert process.exitcode in (0, -signal.SIGKILL)
        assert_same_run(folder, unbroken)
        if kills >= KILLS:
            break
    assert kills >= KILLS


def die_in_an_evaluation() -> None:
    run_decoder, calls = Decoder.run, iter(range(1000))

    def run(*arguments: Any) -> Any:
        if next(calls) == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return run_decoder(*arguments)

    Decoder.run = run  # type: ignore[assignment, method-assign]


def die_in_a_write() -> None:
    """In the middle of a new line, with a part of it on the disk."""
    fsync, calls = os.fsync, iter(range(1000))

    def sync(file: Any) -> None:
        if Path(f"/proc/self/fd/{file}").readlink().name == "scores.jsonl" and next(calls) == 3:
            os.ftruncate(file, os.fstat(file).st_size - 25)
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(file)

    os.fsync = sync  # type: ignore[assignment]


def die_before_a_replacement() -> None:
    replace, calls = Path.replace, iter(range(1000))

    def put(self: Path, target: Any) -> Path:
        if self.name == "scores.jsonl.new" and next(calls) == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = put  # type: ignore[assignment, method-assign]


@pytest.mark.once
@pytest.mark.parametrize("die", [die_in_an_evaluation, die_in_a_write, die_before_a_replacement])
def test_a_kill_at_a_bad_moment_changes_nothing(die: Callable[[], None], unbroken: Path, tmp_path: Path) -> None:
    process = start(tmp_path, die)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert 0 < len(score_lines(tmp_path)) < 11
    is_torn = not History(tmp_path).path.read_bytes().endswith(b"\n")
    assert is_torn == (die is die_in_a_write)
    process = start(tmp_path)
    process.join()
    assert process.exitcode == 0
    assert_same_run(tmp_path, unbroken)


def test_a_checkpoint_older_than_the_last_evaluations(tmp_path: Path) -> None:
    def run(folder: Path, *others: TrainerCallback, resume: bool = False) -> None:
        callbacks = [NeuronXACallback(ICELANDIC, eval_steps=1, early_stopping_patience=30), *others]
        settings = SAVING | {"save_steps": 4, "max_steps": 8}
        sft(folder, callbacks, tiny_llama(attention_dropout=0.2), **settings).train(resume_from_checkpoint=resume)

    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", Interrupt(7))
    assert lines(tmp_path / "broken") == list(range(8))
    run(tmp_path / "broken", resume=True)
    assert lines(tmp_path / "broken") == list(range(9))
    broken, whole = (without_times(score_lines(tmp_path / name)) for name in ("broken", "whole"))
    assert broken == whole


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"pairs": ParallelPairs.load("eng_Latn-isl_Latn", n=11)}, "n 10 before, 11 now"),
        ({"pairs": ParallelPairs.load("eng_Latn-deu_Latn", n=10)}, "languages eng_Latn-isl_Latn before, eng_Latn-deu"),
        ({"token_pooling": "last"}, "tokens weighted before, last now"),
        ({"quality": Quality("chrf", prompt="{source} =")}, "prompt plain-"),
        ({"quality": Quality("chrf", translate_n=4)}, "n 10 before, 4 now"),
    ],
)
def test_other_choices_begin_a_new_series(
    options: dict[str, Any], told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen: dict[str, Any] = {"pairs": ICELANDIC, "eval_steps": 2, "quality": "chrf"}
    sft(tmp_path, [NeuronXACallback(**chosen), StopAt(4)], **SAVING).train()
    earlier = History(tmp_path).path.read_bytes()
    trainer = sft(tmp_path, [NeuronXACallback(**chosen | options)], **SAVING)
    with caplog.at_level(logging.WARNING):
        trainer.train(resume_from_checkpoint=True)
    assert "the run is resumed at step 4 with other pairs or options" in caplog.text
    assert told in caplog.text
    assert (tmp_path / "neuronxa" / "scores.1.jsonl").read_bytes() == earlier
    assert lines(tmp_path) == [4, 6]
    assert len({record["languages"].keys().__str__() for record in score_lines(tmp_path)}) == 1


def test_other_translated_pairs_begin_a_new_series_and_the_same_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(names: Any, last: int, resume: bool) -> None:
        callback = NeuronXACallback(PAIRS, eval_steps=2, quality=Quality("chrf", pairs=names))
        sft(tmp_path, [callback, StopAt(last)], **SAVING).train(resume_from_checkpoint=resume)

    run(PAIRS[1].name, 2, resume=False)
    run([PAIRS[1].name], 4, resume=True)
    assert lines(tmp_path) == [0, 2, 4]
    run(None, 6, resume=True)
    assert f"directions {PAIRS[1].name} before, {PAIRS[0].name} {PAIRS[1].name} now" in caplog.text
    assert lines(tmp_path) == [4, 6]


@pytest.mark.parametrize(
    ("signature", "options", "told"),
    [
        ("metric:comet|model:old", {"comet_model": "new"}, "comet old before, new now"),
        ("model:m|comet:2.2.7", {"comet_dtype": "bfloat16"}, "comet's dtype float32 before, bfloat16 now"),
        ("model:m|dtype:bfloat16|comet:2.2.7", {}, "comet's dtype bfloat16 before, float32 now"),
        ("model:m|comet:2.2.7", {}, None),  # as version 0.1 wrote it
        ("model:m|comet:2.2.6|python:3.12.0|references:1", {}, None),
    ],
)
def test_another_comet_model_or_precision_begins_a_new_series(
    signature: str, options: dict[str, Any], told: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its scores are another's, though alignment and translations are made as before. Versions begin none."""
    sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=2, quality="chrf"), StopAt(4)], **SAVING).train()
    for record in score_lines(tmp_path):
        (direction,) = record["quality"].values()
        judged = {"score": 0.5, "segments": None, "signature": signature}
        quality = {ICELANDIC.name: direction | {"metrics": direction["metrics"] | {"comet": judged}}}
        change_line(tmp_path, record["step"], quality=quality)
    callback = NeuronXACallback(
        ICELANDIC, eval_steps=2, quality=Quality(("chrf", "comet"), **{"comet_model": "m"} | options)
    )
    with caplog.at_level(logging.WARNING):
        sft(tmp_path, [callback], **SAVING).train(resume_from_checkpoint=True)
    assert (told or "") in caplog.text
    assert ("with other pairs or options" in caplog.text) == (told is not None)
    assert lines(tmp_path) == ([0, 2, 4, 6] if told is None else [4, 6])


def test_bleu_of_other_words_begins_a_new_series(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Earlier versions split Chinese at spaces under codes such as cmn_Hans, and so had BLEU 0.0."""
    sentences = tuple(f"第{number}只狗在旧椅子上睡觉。" for number in "一二三四五")
    chinese = ParallelPairs(PAIRS[0].source, sentences, "eng_Latn", "cmn_Hans")
    sft(tmp_path, [NeuronXACallback(chinese, eval_steps=2, quality="bleu"), StopAt(4)], **SAVING).train()
    for record in score_lines(tmp_path):
        (direction,) = record["quality"].values()
        bleu = direction["metrics"]["bleu"]
        assert "|tok:zh|" in bleu["signature"]
        bleu["signature"] = bleu["signature"].replace("tok:zh", "tok:13a")
        change_line(tmp_path, record["step"], quality={chinese.name: direction})
    with caplog.at_level(logging.WARNING):
        callback = NeuronXACallback(chinese, eval_steps=2, quality="bleu")
        sft(tmp_path, [callback], **SAVING).train(resume_from_checkpoint=True)
    assert "bleu tok:13a before, tok:zh now" in caplog.text
    assert lines(tmp_path) == [4, 6]


def test_a_run_that_had_no_callback_before_begins_its_curves_where_it_is_resumed(tmp_path: Path) -> None:
    sft(tmp_path, [StopAt(2)], **SAVING).train()
    trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=2)], **SAVING)
    trainer.train(resume_from_checkpoint=True)
    assert lines(tmp_path) == scored_steps(trainer) == [2, 4, 6]


def test_scores_that_had_not_come_when_the_run_ended_come_now(tmp_path: Path) -> None:
    def callback() -> NeuronXACallback:
        return NeuronXACallback(ICELANDIC, eval_steps=2, quality=("chrf", "bleu"))

    sft(tmp_path, [callback(), StopAt(4)], **SAVING).train()
    before = score_lines(tmp_path)
    (direction,) = before[1]["quality"].values()
    waiting = {**direction, "metrics": direction["metrics"] | {"chrf": {"missing": NOT_YET}}}
    bleu = before[1]["quality_score"]["bleu"]
    change_line(tmp_path, 2, quality={ICELANDIC.name: waiting}, quality_score={"bleu": bleu})
    trainer = sft(tmp_path, [callback()], **SAVING)
    trainer.train(resume_from_checkpoint=True)
    assert without_times(score_lines(tmp_path))[:3] == without_times(before)
    late = [entry for entry in trainer.state.log_history if entry["step"] == 2 and "eval_chrf" in entry]
    assert [entry["eval_chrf"] for entry in late] == [before[1]["quality_score"]["chrf"]] * 2


def test_what_an_early_version_did_not_measure_comes_from_the_translations_on_the_line(tmp_path: Path) -> None:
    def callback() -> NeuronXACallback:
        return NeuronXACallback(ICELANDIC, eval_steps=2, quality="chrf")

    sft(tmp_path, [callback(), StopAt(4)], **SAVING).train()
    before = score_lines(tmp_path)
    for record in before:
        kept = {
            name: {key: value for key, value in made.items() if key not in ("copied", "off_target", "length")}
            for name, made in record["quality"].items()
        }
        change_line(tmp_path, record["step"], quality=kept)
    assert score_lines(tmp_path)[0]["quality"] != before[0]["quality"]
    sft(tmp_path, [callback()], **SAVING).train(resume_from_checkpoint=True)
    after = score_lines(tmp_path)
    assert [record["step"] for record in after] == [0, 2, 4, 6]
    assert [record["quality"] for record in after[:3]] == [record["quality"] for record in before]
    copied = [record["quality"][ICELANDIC.name]["copied"] for record in after]
    nasca, chrf = [record["score"]["nasca"] for record in after], [record["quality_score"]["chrf"] for record in after]
    expected = over_run(nasca, chrf, copied)
    assert expected is None or after[-1]["pearson"]["nasca_chrf"]["r_partial"] == expected.r_partial


def test_scores_that_came_after_the_checkpoint_are_logged_once(tmp_path: Path) -> None:
    """As COMET's of step 2 that finished between the checkpoint of step 4 and a kill."""

    def callback() -> NeuronXACallback:
        return NeuronXACallback(ICELANDIC, eval_steps=2, quality="chrf")

    sft(tmp_path, [callback(), StopAt(4)], **SAVING).train()
    path = tmp_path / "checkpoint-4" / "trainer_state.json"
    saved = json.loads(path.read_text())
    saved["log_history"] = [e for e in saved["log_history"] if not (e["step"] == 2 and "eval_chrf" in e)]
    path.write_text(json.dumps(saved))
    trainer = sft(tmp_path, [callback()], **SAVING)
    trainer.train(resume_from_checkpoint=True)
    logged = [(e["step"], e["eval_chrf"]) for e in trainer.state.log_history if "eval_chrf" in e]
    assert sorted(logged) == [(r["step"], r["quality_score"]["chrf"]) for r in score_lines(tmp_path)]
    named = f"eval_chrf_{ICELANDIC.name}"
    assert sorted(e["step"] for e in trainer.state.log_history if named in e) == [0, 2, 4, 6]


def test_a_run_resumed_at_its_end_scores_nothing_twice(tmp_path: Path) -> None:
    def run(resume: bool) -> Any:
        settings = {"max_steps": -1, "num_train_epochs": 1, "save_strategy": "steps", "save_steps": 8}
        trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=8)], **settings)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    last = run(resume=False).state.global_step
    before = History(tmp_path).path.read_bytes()
    trainer = run(resume=True)
    assert trainer.state.global_step == last
    assert History(tmp_path).path.read_bytes() == before
    assert len(scored_steps(trainer)) == len(set(scored_steps(trainer)))


def test_an_evaluation_on_start_is_no_score_of_a_resumed_run(tmp_path: Path) -> None:
    settings = {"eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True, "save_strategy": "steps"}

    def run(folder: Path, *others: TrainerCallback, resume: bool = False) -> None:
        callbacks = [NeuronXACallback(ICELANDIC), *others]
        sft(folder, callbacks, **settings, save_steps=3).train(resume_from_checkpoint=resume)

    run(tmp_path / "whole")
    run(tmp_path / "broken", StopAt(3))
    History(tmp_path / "broken").rewind(2)  # as a kill leaves it: the run's end would not have come
    run(tmp_path / "broken", resume=True)
    assert lines(tmp_path / "broken") == lines(tmp_path / "whole") == [0, 2, 4, 6]


def test_scores_that_cannot_be_put_aside_are_left_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=2)]).train()
    before = History(tmp_path).path.read_bytes()
    rename = Path.rename

    def refuse(self: Path, target: Any) -> Path:
        if self.name == "scores.jsonl":
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    callback = NeuronXACallback(ICELANDIC, eval_steps=2, token_pooling="last", early_stopping_patience=9)
    trainer = sft(tmp_path, [callback])
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert History(tmp_path).path.read_bytes() == before
    assert scored_steps(trainer) == [0, 2, 4, 6]
    assert "scores.jsonl is left as it is, and this run's scores are in the Trainer's log alone" in caplog.text
    assert [e["step"] for e in trainer.state.log_history if "eval_nasca_best" in e] == [0, 2, 4, 6]


class Filling(TrainerCallback):
    """From step 3 on no file may grow beyond a limit that scores.jsonl reaches: a write ends in its middle."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            change_line(args.output_dir, 0, large="x" * 10_000_000)  # what pytest captures needs room, too
            size = History(args.output_dir).path.stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))


def test_a_disk_that_fills_up_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = NeuronXACallback(ICELANDIC, eval_steps=2, early_stopping_patience=9)
    trainer = sft(tmp_path, [callback, Filling()])
    try:
        with caplog.at_level(logging.WARNING):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert trainer.state.global_step == 6
    assert scored_steps(trainer) == [0, 2, 4, 6]
    assert caplog.text.count("logged but not written to scores.jsonl. OSError: [Errno 27]") == 2
    assert [record["step"] for record in score_lines(tmp_path)] == [0, 2]
    History(tmp_path).put(Evaluation(step=6, score={}, languages={}))
    assert lines(tmp_path) == [0, 2, 6]


def test_a_4bit_run_in_mixed_precision_goes_on_in_its_series(tmp_path: Path) -> None:
    """Its signatures say what the arithmetic runs in, which must be known before the first step as well."""
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "base")
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")

    def run(*others: TrainerCallback, resume: bool = False) -> None:
        sft(
            tmp_path,
            [NeuronXACallback(ICELANDIC, eval_steps=2, quality="chrf"), *others],
            AutoModelForCausalLM.from_pretrained(
                tmp_path / "base", quantization_config=quantization, dtype=torch.bfloat16
            ),
            peft_config=LoraConfig(r=4, target_modules="all-linear"),
            bf16=True,
            use_cpu=True,
            **SAVING,
        ).train(resume_from_checkpoint=resume)

    run(StopAt(4))
    run(resume=True)
    assert lines(tmp_path) == [0, 2, 4, 6]
    records = score_lines(tmp_path)
    (signature,) = {record["languages"][ICELANDIC.name]["signature"] for record in records}
    assert "autocast-bfloat16" in signature
    assert not (tmp_path / "neuronxa" / "scores.1.jsonl").exists()
