"""docs/explanation/security.md, shown: nothing is unpickled, nothing asks the network, no checkpoint's code is run."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from neuronxa_callback import NeuronXACallback, NeuronXAEvaluator
from neuronxa_callback.model.loading import ModelError
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.training import page as report
from neuronxa_callback.training import sweep
from neuronxa_callback.training.history import History
from tests.support import ICELANDIC, make_tokenizer, scored_steps, sft, tiny_llama

pytestmark = pytest.mark.trainer


def refuse(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("this must not be called")


@pytest.fixture
def without_network_and_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, refuse)


@pytest.mark.usefixtures("without_network_and_pickle")
@pytest.mark.parametrize("offline", ["0", "1"])
@pytest.mark.parametrize("quality", [None, "chrf"])
def test_a_run_with_the_callback_unpickles_nothing_and_asks_nobody(
    quality: str | None, offline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    options: dict[str, Any] = {"quality": quality} if quality else {}
    callback = NeuronXACallback(
        ICELANDIC, eval_steps=3, early_stopping_patience=5, train_texts=["a"], on_error="raise", **options
    )
    trainer = sft(tmp_path, [callback])
    trainer.train()
    assert scored_steps(trainer) == [0, 3, 6]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint-5"
    tiny_llama().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("without_network_and_pickle")
def test_nor_do_a_sweep_and_a_report(checkpoint: Path, tmp_path: Path) -> None:
    sweep.run(tmp_path, NeuronXAEvaluator(ICELANDIC), QualityEvaluator("chrf", [ICELANDIC]))
    assert report.write(tmp_path).exists()


@pytest.mark.usefixtures("without_network_and_pickle")
def test_the_code_of_a_checkpoint_is_not_run(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    marker = tmp_path / "was here"
    (checkpoint / "mine.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    with pytest.raises(ModelError, match="could not be loaded"):
        sweep.run(tmp_path, NeuronXAEvaluator(ICELANDIC), dtype="float32")
    assert not marker.exists()


def test_a_checkpoint_that_is_a_harmful_pickle_does_nothing(checkpoint: Path, tmp_path: Path) -> None:
    marker = tmp_path / "was here"

    class Harm:
        def __reduce__(self) -> Any:
            return open, (str(marker), "w")

    (checkpoint / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Harm()}, checkpoint / "pytorch_model.bin")
    with pytest.raises(ModelError, match="could not be loaded"):
        sweep.run(tmp_path, NeuronXAEvaluator(ICELANDIC))
    assert not marker.exists()


def test_a_folder_with_markup_in_its_name_is_shown_as_it_is(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "<b>[x](javascript:alert(1))|*"
    shutil.copytree(checkpoint, folder / "checkpoint-5")
    sweep.run(folder, NeuronXAEvaluator(ICELANDIC))
    page = report.write(folder).read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "](javascript" not in page
    assert str(History(folder).path).split("/")[-2] in page
