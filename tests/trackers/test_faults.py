"""A tracker that fails, and the block of docs/how-to/trackers.md."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from neuronxa_callback import NeuronXACallback
from tests.docs.pages import blocks_of
from tests.support import ICELANDIC, ROOT, make_tokenizer, scored_steps, sft, tiny_llama, training_set

pytestmark = [pytest.mark.trainer, pytest.mark.once]


class FullDisk(SummaryWriter):
    """A writer that has room for numbers, and not for pictures."""

    def add_image(self, *args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")


def full(folder: Path, **options: Any) -> Any:
    ours = NeuronXACallback(ICELANDIC, methods="nasca", eval_steps=2, quality=(), **options)
    return sft(folder / "run", [ours, TensorBoardCallback(FullDisk(str(folder / "board")))])


def test_a_tracker_that_takes_no_pictures_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        trainer = full(tmp_path)
        trainer.train()
    assert scored_steps(trainer) == [0, 2, 4, 6]
    failed = [record.getMessage() for record in caplog.records if "pictures" in record.getMessage()]
    assert failed == [
        "NeuronXA: TensorBoard did not take the pictures. OSError: [Errno 28] No space left on device",
    ]


class Once(SummaryWriter):
    """A writer that fails the first time that it is given a text, and a number of ours."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self._failed: set[str] = set()

    def _fail_once(self, what: str) -> None:
        if what not in self._failed:
            self._failed.add(what)
            raise OSError(28, "No space left on device")

    def add_text(self, tag: str, *args: Any, **kwargs: Any) -> None:
        if tag.startswith("neuronxa/"):
            self._fail_once("text")
        super().add_text(tag, *args, **kwargs)

    def add_scalar(self, tag: str, *args: Any, **kwargs: Any) -> None:
        if tag.startswith("neuronxa/"):
            self._fail_once("number")
        super().add_scalar(tag, *args, **kwargs)


def test_what_a_tracker_did_not_take_is_offered_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours = NeuronXACallback(ICELANDIC, methods="nasca", eval_steps=2, quality="chrf")
    with caplog.at_level(logging.WARNING):
        trainer = sft(tmp_path / "run", [ours, TensorBoardCallback(Once(str(tmp_path / "board")))])
        trainer.train()
    assert scored_steps(trainer) == [0, 2, 4, 6]
    failed = [record.getMessage() for record in caplog.records if "did not take" in record.getMessage()]
    lost = ("the best step and the signature", "the scores")
    reason = "OSError: [Errno 28] No space left on device"
    assert failed == [f"NeuronXA: TensorBoard did not take {what}. {reason}" for what in lost]
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert {"neuronxa/signature/text_summary", "neuronxa/best_step/text_summary"} <= set(events.Tags()["tensors"])
    assert [point.step for point in events.Scalars("neuronxa/chrf_divided_by_100")] == [2, 4, 6]


class Leaves(TrainerCallback):
    """A callback that removes itself when it is told of a log."""

    def __init__(self) -> None:
        self.told = 0
        self.trainer: Any = None

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        self.told += 1
        self.trainer.remove_callback(self)


def test_a_callback_may_remove_itself_in_our_log(tmp_path: Path) -> None:
    leaves = Leaves()
    ours = NeuronXACallback(ICELANDIC, methods="nasca", eval_steps=2, quality=())
    trainer = leaves.trainer = sft(tmp_path / "run", [ours, leaves])
    trainer.train()
    assert leaves.told == 1
    assert leaves not in trainer.callback_handler.callbacks


def test_it_ends_the_run_where_the_user_wants_that(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        full(tmp_path, on_error="raise").train()


def test_the_block_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks_of(ROOT / "docs" / "how-to" / "trackers.md", "python")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "ACCELERATE_MIXED_PRECISION", "no")  # SFTConfig's bf16 would leave another
    names = {"model": tiny_llama(), "dataset": training_set().select(range(8)), "tokenizer": make_tokenizer()}
    exec(block.code, names)
    assert scored_steps(names["trainer"])[0] == 0
    assert list(Path("runs/first").rglob("events.out.tfevents.*"))
