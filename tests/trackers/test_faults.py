"""A tracker that fails, and the block of docs/how-to/trackers.md."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter
from transformers.integrations import TensorBoardCallback

from neuronxa_callback import NeuronXACallback
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


def test_it_ends_the_run_where_the_user_wants_that(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        full(tmp_path, on_error="raise").train()


def test_the_block_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "how-to" / "trackers.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "ACCELERATE_MIXED_PRECISION", "no")  # SFTConfig's bf16 would leave another
    names = {"model": tiny_llama(), "dataset": training_set().select(range(8)), "tokenizer": make_tokenizer()}
    exec(block, names)
    assert scored_steps(names["trainer"])[0] == 0
    assert list(Path("runs/first").rglob("events.out.tfevents.*"))
