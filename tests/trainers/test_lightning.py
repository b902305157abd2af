"""Lightning's real Trainer: what its logger, its ModelCheckpoint and its EarlyStopping recorded."""

from __future__ import annotations

import csv
import math
import os
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from neuronxa_callback import NeuronXAEvaluator
from neuronxa_callback.model.layers import UnreadableFFNError
from neuronxa_callback.text.embedded import embedded
from tests.support import ICELANDIC, ROOT, make_tokenizer, run_processes, score_lines, tiny_llama
from tests.trainers.page import block, prepare

pytest.importorskip("lightning.pytorch", reason="Lightning is not installed; `make test` installs it")

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from neuronxa_callback.integrations.lightning import NeuronXALightning

pytestmark = pytest.mark.trainer

TOKENIZER = make_tokenizer()


class Translator(LightningModule):
    """A module whose training draws random numbers, so that it tells whether something else draws them."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_llama(attention_dropout=0.2)

    def training_step(self, batch: Any, _: int) -> Any:
        return self.model(**batch, labels=batch["input_ids"]).loss

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val_loss", self.model(**batch, labels=batch["input_ids"]).loss)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Drawing(Callback):
    """A callback that draws random numbers at each validation, as an evaluation must not."""

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        torch.rand(1)


class Diverging(NeuronXALightning):
    """A callback whose evaluations fail after the start, as of a user's own mistake while training is under way."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self.tokenizer = None


def batches(shuffle: bool = False) -> DataLoader[Any]:
    texts = list(embedded("demo_train.tsv")["fra_Latn"])[:16]
    return DataLoader(
        texts,  # type: ignore[arg-type]
        4,
        shuffle=shuffle,
        collate_fn=lambda texts: TOKENIZER(texts, padding=True, return_tensors="pt"),
    )


def fit(folder: Path, *callbacks: Any, **settings: Any) -> tuple[Trainer, Translator]:
    seed_everything(3)
    module = Translator()
    options = {"max_steps": 6, "val_check_interval": 2, "enable_progress_bar": False, "enable_model_summary": False}
    logger = CSVLogger(folder, name="", version="")
    trainer = Trainer(accelerator="cpu", logger=logger, callbacks=list(callbacks), **options | settings)
    trainer.fit(module, batches(shuffle=True), batches())
    return trainer, module


def logged(folder: Path, key: str) -> dict[int, float]:
    with (folder / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[key]) for row in csv.DictReader(file) if row.get(key)}


def test_the_logger_and_the_checkpoint_have_the_scores(tmp_path: Path) -> None:
    best = ModelCheckpoint(monitor="eval_nasca_rank", mode="max", save_top_k=-1)
    trainer, _ = fit(tmp_path, best, NeuronXALightning(TOKENIZER, ICELANDIC, on_error="raise"))
    lines = {line["step"]: line["score"]["nasca_rank"] for line in score_lines(tmp_path)}
    assert list(lines) == [0, 2, 4, 6]
    found = logged(tmp_path, "eval_nasca_rank")
    assert found == pytest.approx({max(0, step - 1): score for step, score in lines.items()})
    assert logged(tmp_path, "eval_nasca_rank_eng_Latn-isl_Latn") == found
    assert all(seconds > 0 for seconds in logged(tmp_path, "eval_neuronxa_runtime").values())
    chosen = max((2, 4, 6), key=lambda step: lines[step])
    assert float(best.best_model_score) == pytest.approx(lines[chosen])
    assert f"step={chosen}" in best.best_model_path
    again = Translator()
    again.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
    report = NeuronXAEvaluator(ICELANDIC)(again.model, TOKENIZER)
    assert report.score["nasca_rank"] == pytest.approx(lines[chosen])
    assert float(trainer.callback_metrics["eval_nasca_rank"]) == pytest.approx(lines[6])


def test_validate_returns_scores_and_leaves_the_file_of_the_run(tmp_path: Path) -> None:
    trainer, module = fit(tmp_path, NeuronXALightning(TOKENIZER, ICELANDIC))
    before = (tmp_path / "neuronxa" / "scores.jsonl").read_bytes()
    (found,) = trainer.validate(module, batches(), verbose=False)
    assert found["eval_nasca"] == pytest.approx(score_lines(tmp_path)[-1]["score"]["nasca"])
    assert (tmp_path / "neuronxa" / "scores.jsonl").read_bytes() == before


def test_training_is_bit_identical_with_and_without_it(tmp_path: Path) -> None:
    _, watched = fit(tmp_path / "watched", NeuronXALightning(TOKENIZER, ICELANDIC, on_error="raise"))
    _, bare = fit(tmp_path / "bare")
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), bare.parameters(), strict=True))
    assert logged(tmp_path / "watched", "val_loss") == logged(tmp_path / "bare", "val_loss")
    _, drawn = fit(tmp_path / "drawn", Drawing())  # a run in which this could be seen
    assert not all(torch.equal(a, b) for a, b in zip(drawn.parameters(), bare.parameters(), strict=True))


def test_a_resumed_training_goes_on_with_its_scores(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    fit(whole, NeuronXALightning(TOKENIZER, ICELANDIC))
    keep = ModelCheckpoint(monitor="eval_nasca", save_top_k=-1, filename="{step}")
    fit(part, NeuronXALightning(TOKENIZER, ICELANDIC), keep)
    resumed = Trainer(
        accelerator="cpu",
        max_steps=6,
        val_check_interval=2,
        enable_progress_bar=False,
        logger=CSVLogger(part, name="", version=""),
        callbacks=[NeuronXALightning(TOKENIZER, ICELANDIC)],
    )
    resumed.fit(Translator(), batches(), batches(), ckpt_path=str(next(part.rglob("step=4.ckpt"))))
    assert [line["step"] for line in score_lines(part)] == [0, 2, 4, 6]
    before, now = ([line["score"] for line in score_lines(folder)[:3]] for folder in (whole, part))
    assert now == before
    fit(part, NeuronXALightning(TOKENIZER, ICELANDIC), max_steps=2)
    assert [line["step"] for line in score_lines(part)] == [0, 2]
    assert (part / "neuronxa" / "scores.1.jsonl").exists()


def test_early_stopping_reads_it(tmp_path: Path) -> None:
    stop = EarlyStopping(monitor="eval_nasca", mode="max", patience=1, min_delta=2.0)
    trainer, _ = fit(tmp_path, stop, NeuronXALightning(TOKENIZER, ICELANDIC), max_steps=20)
    assert trainer.global_step == 4
    assert float(stop.best_score) == pytest.approx(score_lines(tmp_path)[1]["score"]["nasca"])
    assert [line["step"] for line in score_lines(tmp_path)] == [0, 2, 4]


def test_a_failed_evaluation_is_nan_and_training_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer, _ = fit(tmp_path, Diverging(TOKENIZER, ICELANDIC))
    assert trainer.global_step == 6
    assert math.isnan(float(trainer.callback_metrics["eval_nasca_eng_Latn-isl_Latn"]))
    assert "an evaluation failed, and training goes on without its scores" in caplog.text
    with pytest.raises(TypeError):
        fit(tmp_path, Diverging(TOKENIZER, ICELANDIC, on_error="raise"))


def test_scores_that_cannot_be_put_aside_are_left_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fit(tmp_path, NeuronXALightning(TOKENIZER, ICELANDIC))
    scores = tmp_path / "neuronxa" / "scores.jsonl"
    before = scores.read_bytes()
    rename = Path.rename

    def refuse(self: Path, target: Any) -> Path:
        if self == scores:
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    fit(tmp_path, NeuronXALightning(TOKENIZER, ICELANDIC, token_pooling="last"))
    assert scores.read_bytes() == before
    assert list(logged(tmp_path, "eval_nasca")) == [0, 1, 3, 5]
    assert "scores.jsonl is left as it is, and this run's scores are in Lightning's loggers alone" in caplog.text
    with pytest.raises(PermissionError):
        fit(tmp_path, NeuronXALightning(TOKENIZER, ICELANDIC, on_error="raise"))


@pytest.mark.parametrize("monitor", ["eval_nasca", "eval_nasca_rank_eng_Latn-isl_Latn"])
def test_early_stopping_that_ends_at_a_nan_is_told(
    monitor: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stop = EarlyStopping(monitor, mode="max")
    trainer, _ = fit(tmp_path, stop, Diverging(TOKENIZER, ICELANDIC))
    assert trainer.global_step == 2
    assert f"EarlyStopping(monitor='{monitor}') ends the training if an evaluation fails" in caplog.text
    assert "give it check_finite=False" in caplog.text


def test_other_early_stopping_is_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    others = EarlyStopping("val_loss"), EarlyStopping("eval_nasca", mode="max", patience=9, check_finite=False)
    trainer, _ = fit(tmp_path, *others, Diverging(TOKENIZER, ICELANDIC))
    assert trainer.global_step == 6
    assert "check_finite" not in caplog.text


def test_faults_are_told_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Translator has no attribute net; name the one that holds"):
        fit(tmp_path, NeuronXALightning(TOKENIZER, ICELANDIC, model="net"))
    with pytest.raises(UnreadableFFNError):
        fit(tmp_path, NeuronXALightning(TOKENIZER, ICELANDIC, model="model.lm_head"))
    with pytest.raises(ValueError, match="on_error='ignore' is unknown"):
        NeuronXALightning(TOKENIZER, on_error="ignore")  # type: ignore[arg-type]
    assert not (tmp_path / "neuronxa").exists()


def test_the_block_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(prepare(tmp_path))
    Path("page.py").write_text(block("Lightning", "python"))
    found = runpy.run_path("page.py")
    (folder,) = tmp_path.glob("out/lightning_logs/version_0")
    lines = {line["step"]: line["score"]["nasca"] for line in score_lines(folder)}
    assert list(lines) == [0, 2, 4, 6, 8]
    assert float(found["best"].best_model_score) == pytest.approx(max(score for step, score in lines.items() if step))
    assert str(found["best"].best_model_path) in capsys.readouterr().out


@pytest.mark.distributed
def test_two_processes_share_an_evaluation(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = run_processes(ROOT / "tests" / "trainers" / "fit_ddp.py", tmp_path, PYTHONPATH=paths)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in (0, 1))
    assert first["metrics"] == second["metrics"]
    assert [line["step"] for line in score_lines(tmp_path)] == [0, 2, 4]
    alone = tiny_llama()
    alone.load_state_dict(first["weights"])
    report = NeuronXAEvaluator(ICELANDIC)(alone, TOKENIZER)
    assert first["metrics"]["eval_nasca_rank"] == pytest.approx(report.score["nasca_rank"], abs=1e-6)
