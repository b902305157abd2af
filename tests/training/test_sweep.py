from __future__ import annotations

import json
import logging
import shutil
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from typer.testing import CliRunner

from neuronxa_callback import NeuronXACallback, NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.cli import app
from neuronxa_callback.model import loading as models
from neuronxa_callback.model.loading import Checkpoint, Loader, ModelError
from neuronxa_callback.quality.comet import environment as comet_environment
from neuronxa_callback.quality.comet.process import CometWorker, QualityError, QualityScore
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.signature import Signature
from neuronxa_callback.training import sweep
from neuronxa_callback.training.history import History
from tests.support import as_lines, change_line, make_tokenizer, score_lines, sft, tiny_llama

pytestmark = pytest.mark.trainer

# Short, so that translating them takes little time, and with words in common, so that random weights align some.
ENGLISH = (
    "Anna has 3 cats.",
    "Paris is big.",
    "Where is Jón?",
    "12 ships sank.",
    "I read a book.",
    "Rome, 1945.",
    "Yes, Peter!",
    "We sold 70 cars.",
    "The harbour is frozen.",
    "Coffee or tea?",
)
ICELANDIC = ParallelPairs(
    ENGLISH,
    (
        "Anna á 3 ketti.",
        "París er stór.",
        "Hvar er Jón?",
        "12 skip sukku.",
        "Ég las bók.",
        "Róm, 1945.",
        "Já, Peter!",
        "Við seldum 70 bíla.",
        "Höfnin er frosin.",
        "Kaffi eða te?",
    ),
    "eng_Latn",
    "isl_Latn",
)
FRENCH = ParallelPairs(
    ENGLISH,
    (
        "Anna a 3 chats.",
        "Paris est grand.",
        "Où est Jón ?",
        "12 navires ont coulé.",
        "Je lis un livre.",
        "Rome, 1945.",
        "Oui, Peter !",
        "On a vendu 70 voitures.",
        "Le port est gelé.",
        "Café ou thé ?",
    ),
    "eng_Latn",
    "fra_Latn",
)
SAVING = {"save_strategy": "steps", "save_steps": 2}
FLOAT32 = torch.float32


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("base")
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps of LoRA in NF4, with a checkpoint and the callback's scores at every second."""
    output_dir: Path = tmp_path_factory.mktemp("adapters")
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=FLOAT32)
    sft(
        output_dir,
        [NeuronXACallback([ICELANDIC, FRENCH], eval_steps=2, quality=(), on_error="raise")],
        AutoModelForCausalLM.from_pretrained(base, quantization_config=nf4, dtype=FLOAT32),
        peft_config=LoraConfig(r=4, lora_dropout=0.3, target_modules="all-linear"),
        report_to="tensorboard",
        learning_rate=0.1,
        **SAVING,
    ).train()
    return output_dir


@pytest.fixture(scope="module")
def full_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir: Path = tmp_path_factory.mktemp("full")
    sft(
        output_dir,
        [NeuronXACallback(ICELANDIC, eval_steps=2, quality="chrf", on_error="raise")],
        AutoModelForCausalLM.from_pretrained(base, dtype=FLOAT32),
        **SAVING,
    ).train()
    return output_dir


@pytest.fixture
def adapters(adapter_run: Path, tmp_path: Path) -> Path:
    """The adapter run as if it had been made without the callback."""
    return copy_of(adapter_run, tmp_path / "run")


@pytest.fixture
def full(full_run: Path, tmp_path: Path) -> Path:
    return copy_of(full_run, tmp_path / "run")


def copy_of(run: Path, place: Path) -> Path:
    shutil.copytree(run, place)
    shutil.rmtree(place / "neuronxa")
    return place


def evaluator(*pairs: ParallelPairs, **options: Any) -> NeuronXAEvaluator:
    return NeuronXAEvaluator(list(pairs) or ICELANDIC, **options)


def without_runtime(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines without how long they took and, which a sweep has no use for, whether to stop the run."""
    left_out = ("runtime", "stopping")
    return [{name: value for name, value in record.items() if name not in left_out} for record in records]


def swept(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
    """What `sweep.run` returns, with the keys of scores.jsonl."""
    return as_lines(sweep.run(*arguments, **options))


def steps(output_dir: Path) -> list[int]:
    return [record["step"] for record in score_lines(output_dir)]


class TestTheScoresAreTheCallbacks:
    def test_of_adapters_in_4bit(self, adapters: Path, adapter_run: Path) -> None:
        made = swept(adapters, evaluator(ICELANDIC, FRENCH), load_in_4bit=True)
        logged = score_lines(adapter_run)
        assert [record["step"] for record in logged] == [0, 2, 4, 6]
        assert without_runtime(made) == without_runtime(logged)
        assert made == score_lines(adapters)
        assert len({record["score"]["nasca"] for record in made}) >= 3  # or equal scores would show nothing

    def test_trained_copies_of_modules_keep_the_dtype_of_the_base(self, base: Path, tmp_path: Path) -> None:
        """They were saved in float32, and the base computes in bfloat16."""
        random_adapter(base, tmp_path / "checkpoint-2", 2, modules_to_save=["lm_head", "gate_proj"])
        made = swept(tmp_path, evaluator(), QualityEvaluator("chrf", [ICELANDIC]), dtype="bfloat16")
        assert [record["step"] for record in made] == [0, 2]
        assert all(record["quality_score"] for record in made)

    def test_an_adapter_is_loaded_in_the_dtype_that_it_was_trained_in(self, adapters: Path) -> None:
        """TRL 1.16 trains adapters of 4-bit models in bfloat16; in float32 the same weights give other activations."""
        checkpoints = sweep.find_checkpoints(adapters)
        last = checkpoints[-1]
        stored = load_file(Path(last.source) / "adapter_model.safetensors")
        (trained_in,) = {weight.dtype for weight in stored.values()}
        loader = Loader(checkpoints, "float32", load_in_4bit=True, device="cpu")
        with loader.model(last) as model:
            dtypes = {name.split(".")[-3]: weight.dtype for name, weight in model.named_parameters() if "lora" in name}
            norm = next(weight for name, weight in model.named_parameters() if "layernorm" in name)
        assert dtypes == {"lora_A": trained_in, "lora_B": trained_in}
        assert norm.dtype == FLOAT32

    def test_of_full_models_with_their_base_and_translations(self, full: Path, full_run: Path, base: Path) -> None:
        made = swept(full, evaluator(), QualityEvaluator("chrf", [ICELANDIC]), base=base)
        logged = score_lines(full_run)
        assert [record["step"] for record in made] == [0, 2, 4, 6]
        assert without_runtime(made) == without_runtime(logged)
        assert len({record["score"]["nasca"] for record in made}) > 1
        assert len({record["quality_score"]["chrf"] for record in made}) == 4
        assert made[-1]["pearson"].keys() == {"nasca_chrf", "nasca_rank_chrf"}

    def test_of_full_models_without_a_base(self, full: Path, full_run: Path) -> None:
        made = swept(full, evaluator())
        assert [record["step"] for record in made] == [2, 4, 6]
        for record, logged in zip(made, score_lines(full_run)[1:], strict=True):
            assert record["languages"] == logged["languages"]

    def test_the_epoch_is_unknown_without_a_trainer_state(self, full: Path) -> None:
        (full / "checkpoint-4" / "trainer_state.json").unlink()
        epochs = [record["epoch"] for record in swept(full, evaluator())]
        assert epochs[1] is None
        assert None not in (epochs[0], epochs[2])


def random_adapter(base: Path, folder: Path, seed: int, **settings: Any) -> None:
    """An adapter with random weights, as a training run of that configuration would save it."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=FLOAT32)
    adapted = get_peft_model(model, LoraConfig(**{"r": 4, "target_modules": ["up_proj", "o_proj"]} | settings))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) / 4
    adapted.save_pretrained(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"modules_to_save": ["gate_proj"]},
        {"rank_pattern": {"o_proj": 2, "layers.1.mlp.up_proj": 7}, "alpha_pattern": {"o_proj": 9}},
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"target_modules": ["embed_tokens", "gate_proj"]},
        {"trainable_token_indices": [5, 6, 7]},
    ],
    ids=lambda settings: "-".join(map(str, settings)) or "plain",
)
def test_an_adapter_leaves_nothing_behind(settings: dict[str, Any], base: Path, tmp_path: Path) -> None:
    random_adapter(base, tmp_path / "checkpoint-2", 2, **settings)
    random_adapter(base, tmp_path / "checkpoint-4", 4)
    random_adapter(base, tmp_path / "checkpoint-10", 10, **settings)
    made = {record["step"]: record for record in swept(tmp_path, evaluator())}
    assert list(made) == [0, 2, 4, 10]
    for step, record in made.items():
        fresh = AutoModelForCausalLM.from_pretrained(base, dtype=FLOAT32)
        if step:
            fresh = PeftModel.from_pretrained(fresh, tmp_path / f"checkpoint-{step}")
        report = evaluator()(fresh, make_tokenizer())
        assert record["score"] == report.score
        shares = record["languages"]["eng_Latn-isl_Latn"]["per_pair"]["nasca"]
        assert shares == pytest.approx(report.per_pair["nasca"].tolist(), abs=1e-7)
    assert len({record["score"]["nasca"] for record in made.values()}) >= 3


def test_trained_biases_are_not_handed_on(tmp_path: Path) -> None:
    """They are the base's own parameters, which loading an adapter overwrites."""
    base = tmp_path / "base"
    tiny_llama(mlp_bias=True).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    random_adapter(base, tmp_path / "run" / "checkpoint-2", 2, bias="all")
    random_adapter(base, tmp_path / "run" / "checkpoint-4", 4)
    last = swept(tmp_path / "run", evaluator())[-1]
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=FLOAT32)
    report = evaluator()(PeftModel.from_pretrained(fresh, tmp_path / "run" / "checkpoint-4"), make_tokenizer())
    assert last["score"] == report.score


def test_the_base_is_loaded_once_and_is_as_it_was(base: Path, tmp_path: Path) -> None:
    for step in (2, 4):
        random_adapter(base, tmp_path / f"checkpoint-{step}", step, modules_to_save=["gate_proj"])
    checkpoints = sweep.find_checkpoints(tmp_path)
    loader = Loader(checkpoints)
    with loader.model(checkpoints[0]) as model:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for checkpoint in checkpoints[1:]:
        with loader.model(checkpoint) as adapted:
            assert adapted.get_base_model() is model  # type: ignore[operator]
    with loader.model(checkpoints[0]) as again:
        assert again is model
    after = again.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not hasattr(again, "peft_config")


class InterruptedAt:
    """Scores as an evaluator does, and is interrupted at the given call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, target: type, method: str, call: int) -> None:
        self.calls = 0
        original = getattr(target, method)

        def interrupted(*args: Any) -> Any:
            self.calls += 1
            if self.calls == call:
                raise KeyboardInterrupt
            return original(*args)

        monkeypatch.setattr(target, method, interrupted)


@pytest.fixture(scope="module")
def unbroken(adapter_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    place = copy_of(adapter_run, tmp_path_factory.mktemp("unbroken") / "run")
    return swept(place, evaluator(), QualityEvaluator("chrf", [ICELANDIC]))


class TestGoingOn:
    @staticmethod
    def run(output_dir: Path, *metrics: Any) -> list[dict[str, Any]]:
        quality = QualityEvaluator(metrics or ("chrf",), [ICELANDIC])
        return swept(output_dir, evaluator(), quality)

    @pytest.mark.parametrize(
        ("target", "method"),
        [(NeuronXAEvaluator, "score"), (QualityEvaluator, "translate"), (History, "add_quality")],
        ids=["while scoring", "while translating", "while judging"],
    )
    def test_only_the_rest_is_scored(
        self,
        target: type,
        method: str,
        adapters: Path,
        unbroken: list[dict[str, Any]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with monkeypatch.context() as patched:
            InterruptedAt(patched, target, method, call=2)
            with pytest.raises(KeyboardInterrupt):
                self.run(adapters)
        done = score_lines(adapters)
        assert len(done) == (1 if method == "score" else 2)
        with monkeypatch.context() as patched:
            scored = InterruptedAt(patched, NeuronXAEvaluator, "score", call=99)
            translated = InterruptedAt(patched, QualityEvaluator, "translate", call=99)
            made = self.run(adapters)
        assert scored.calls == 4 - len(done)
        assert translated.calls == 3
        assert made[: len(done)] == [record | made[i] for i, record in enumerate(done)]  # nothing was scored anew
        assert without_runtime(made) == without_runtime(unbroken)
        assert len((adapters / "neuronxa" / "scores.jsonl").read_text().splitlines()) == 4

    def test_a_whole_sweep_is_not_repeated(self, adapters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run(adapters)
        path = adapters / "neuronxa" / "scores.jsonl"
        before = path.read_bytes(), path.stat().st_mtime_ns
        scored = InterruptedAt(monkeypatch, NeuronXAEvaluator, "score", call=99)
        self.run(adapters)
        assert scored.calls == 0
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before

    def test_a_checkpoint_in_between_brings_later_correlations_up_to_date(
        self, adapters: Path, unbroken: list[dict[str, Any]]
    ) -> None:
        aside = (adapters / "checkpoint-2").rename(adapters / "aside")
        assert len(self.run(adapters)) == 3
        aside.rename(adapters / "checkpoint-2")
        made = self.run(adapters)
        assert without_runtime(made) == without_runtime(unbroken)
        assert [record["pearson"] != {} for record in made] == [False, False, True, True]

    def test_translations_come_to_lines_without(self, adapters: Path, unbroken: list[dict[str, Any]]) -> None:
        swept(adapters, evaluator())
        assert all("quality" not in record for record in score_lines(adapters))
        assert without_runtime(self.run(adapters)) == without_runtime(unbroken)

    def test_metrics_join_those_that_are_there_without_translating_anew(
        self, adapters: Path, unbroken: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.run(adapters)
        translated = InterruptedAt(monkeypatch, QualityEvaluator, "translate", call=1)
        made = self.run(adapters, "bleu", "chrf")
        assert translated.calls == 0
        for record, before in zip(made, unbroken, strict=True):
            entry, old = (r["quality"]["eng_Latn-isl_Latn"] for r in (record, before))
            assert record["quality_score"].keys() == {"bleu", "chrf"}
            assert entry["metrics"]["chrf"] == old["metrics"]["chrf"]
            assert entry["translations"] == old["translations"]
        assert made[-1]["pearson"]["nasca_chrf"] == unbroken[-1]["pearson"]["nasca_chrf"]

    def test_what_an_early_version_did_not_measure_comes_from_the_translations_on_the_line(
        self, adapters: Path, unbroken: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.run(adapters)
        for record in score_lines(adapters):
            for made in record["quality"].values():
                for name in ("copied", "off_target", "length"):
                    del made[name]
            change_line(adapters, record["step"], quality=record["quality"])
        assert "copied" not in (adapters / "neuronxa" / "scores.jsonl").read_text()
        translated = InterruptedAt(monkeypatch, QualityEvaluator, "translate", call=1)
        assert without_runtime(self.run(adapters)) == without_runtime(unbroken)
        assert translated.calls == 0

    def test_a_failure_to_measure_costs_no_score_and_is_told_once(
        self, adapters: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("neuronxa_callback.quality.evaluator.faithfulness", lambda *_: 1 / 0)
        made = self.run(adapters)
        assert all(record["quality_score"].keys() == {"chrf"} for record in made)
        assert all("copied" not in record["quality"]["eng_Latn-isl_Latn"] for record in made)
        said = "the copying, the language and the length of translations could not be measured at step 0: ZeroDivision"
        assert caplog.text.count("could not be measured") == caplog.text.count(said) == 1

    def test_what_was_not_scored_yet_is_scored(self, adapters: Path, unbroken: list[dict[str, Any]]) -> None:
        self.run(adapters)
        entry = score_lines(adapters)[1]["quality"]
        entry["eng_Latn-isl_Latn"]["metrics"]["chrf"] = {"missing": "not scored yet"}
        change_line(adapters, 2, quality=entry, quality_score={})
        assert without_runtime(self.run(adapters)) == without_runtime(unbroken)

    def test_a_metric_that_fails_is_reported_missing_and_tried_again_by_the_next_sweep(
        self, adapters: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Failing:
            calls = 0

            def score(self, sources: Any, translations: Any, references: Any) -> float:
                Failing.calls += 1
                raise RuntimeError("no oracle today")

        for _ in range(2):
            made = self.run(adapters, "chrf", Failing())
            assert [record["step"] for record in made] == [0, 2, 4, 6]
            for record in made:
                entry = record["quality"]["eng_Latn-isl_Latn"]["metrics"]["failing"]
                assert entry == {"missing": "RuntimeError: no oracle today"}
                assert record["quality_score"].keys() == {"chrf"}
        assert Failing.calls == 8
        assert caplog.text.count("no failing at step 0: RuntimeError: no oracle today") == 2
        assert caplog.text.count("no oracle today") == 2  # not once a checkpoint


class SlowComet:
    """Stands in for COMET's process: each request is answered when the next one comes, the last at the wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[tuple[Future[QualityScore], int]] = []
        self.closed = False
        monkeypatch.setattr(comet_environment, "find_python", lambda: Path("python"))
        monkeypatch.setattr(CometWorker, "submit", self.submit)
        monkeypatch.setattr(CometWorker, "close", self.close)
        monkeypatch.setattr("neuronxa_callback.quality.evaluator.wait", lambda futures: self.answer())

    def submit(self, model: str, samples: Any, local_only: bool = False) -> Future[QualityScore]:
        self.answer()
        future: Future[QualityScore] = Future()
        self.requests.append((future, len(samples)))
        return future

    def answer(self) -> None:
        for number, (future, n) in enumerate(self.requests):
            if not future.done():
                signature = "model:Unbabel/wmt22-comet-da|comet:2.2.7"
                future.set_result(QualityScore(0.5 + number / 10, (0.5,) * n, Signature.parse(signature)))

    def close(self) -> None:
        self.closed = True
        for future, _ in self.requests:
            if not future.done():
                future.set_exception(QualityError("COMET was ended before it came to this."))


class TestComet:
    @staticmethod
    def run(output_dir: Path, **options: Any) -> list[dict[str, Any]]:
        return swept(output_dir, evaluator(), QualityEvaluator("comet", [ICELANDIC], **options))

    def test_scores_while_the_next_checkpoint_is_at_work(self, adapters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        comet = SlowComet(monkeypatch)
        on_disk: list[list[bool]] = []
        encode = NeuronXAEvaluator.score

        def watched(self: NeuronXAEvaluator, *args: Any) -> Any:
            on_disk.append(["comet" in record.get("quality_score", {}) for record in score_lines(adapters)])
            return encode(self, *args)

        monkeypatch.setattr(NeuronXAEvaluator, "score", watched)
        made = self.run(adapters)
        assert on_disk == [[], [False], [True, False], [True, True, False]]
        assert [record["quality_score"]["comet"] for record in made] == pytest.approx([0.5, 0.6, 0.7, 0.8])
        assert comet.closed

    def test_an_interrupted_sweep_asks_for_what_it_did_not_get(
        self, adapters: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            comet = SlowComet(patched)
            InterruptedAt(patched, NeuronXAEvaluator, "score", call=3)
            with pytest.raises(KeyboardInterrupt):
                self.run(adapters)
            assert comet.closed
        metrics = [r["quality"]["eng_Latn-isl_Latn"]["metrics"]["comet"] for r in score_lines(adapters)]
        assert ["missing" in metric for metric in metrics] == [False, True]
        comet = SlowComet(monkeypatch)
        translated = InterruptedAt(monkeypatch, QualityEvaluator, "translate", call=99)
        made = self.run(adapters)
        assert len(comet.requests) == 3
        assert translated.calls == 2
        assert all("comet" in record["quality_score"] for record in made)

    def test_without_its_environment_nothing_is_begun(self, adapters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(comet_environment.VARIABLE, str(adapters / "none"))
        with pytest.raises(comet_environment.CometEnvironmentError, match="is no program"):
            self.run(adapters)
        assert not (adapters / "neuronxa").exists()

    def test_another_model_is_another_series(self, adapters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        SlowComet(monkeypatch)
        self.run(adapters)
        with pytest.raises(ModelError, match=r"comet Unbabel/wmt22-comet-da there, mine here.*--comet-model"):
            self.run(adapters, comet_model="mine")


class TestSeriesAreNotMixed:
    @pytest.mark.parametrize(
        ("pairs", "options", "message"),
        [
            ([ICELANDIC], {"load_in_4bit": False}, r"dtype float32/nf4 there, float32 here.*--load-in-4bit"),
            ([ICELANDIC], {"dtype": "bfloat16"}, r"dtype float32/nf4 there, bfloat16/nf4 here.*--dtype"),
            ([FRENCH], {}, r"languages eng_Latn-isl_Latn there, eng_Latn-fra_Latn here.*--pairs"),
            ([ICELANDIC, FRENCH], {}, r"languages eng_Latn-isl_Latn there, eng_Latn-isl_Latn eng_Latn-fra_Latn here"),
            ([ParallelPairs.load("eng_Latn-isl_Latn", n=9)], {}, r"n 10 there, 9 here; data \w+ there"),
            (
                [ICELANDIC],
                {"methods": ("nasca", "navca")},
                r"method nasca\+nasca_rank there, nasca\+navca here.*--methods",
            ),
            ([ICELANDIC], {"token_pooling": "last"}, r"tokens weighted there, last here\).*; move it away\.$"),
        ],
    )
    def test_of_alignment(
        self, pairs: list[ParallelPairs], options: dict[str, Any], message: str, adapters: Path
    ) -> None:
        swept(adapters, evaluator(), load_in_4bit=True)
        path = adapters / "neuronxa" / "scores.jsonl"
        before = path.read_bytes().splitlines(keepends=True)[:2]  # two steps are still to be scored
        path.write_bytes(b"".join(before))
        ours = {name: options.pop(name) for name in ("methods", "token_pooling") if name in options}
        with pytest.raises(ModelError, match=message) as refused:
            swept(adapters, evaluator(*pairs, **ours), **{"load_in_4bit": True} | options)
        assert str(path) in str(refused.value)
        assert path.read_bytes() == b"".join(before)
        assert sorted(path.parent.iterdir()) == [path]

    def test_not_when_every_line_is_there_either(self, adapters: Path) -> None:
        swept(adapters, evaluator(), load_in_4bit=True)
        with pytest.raises(ModelError, match="dtype"):
            swept(adapters, evaluator())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"prompt": "{source} ="}, r"prompt plain-\w{8} there, own-\w{8} here.*--prompt"),
            ({"direction": "both"}, r"directions eng_Latn-isl_Latn there, eng_Latn-isl_Latn isl_Latn-eng_Latn here"),
        ],
    )
    def test_of_translations(self, options: dict[str, Any], message: str, adapters: Path) -> None:
        swept(adapters, evaluator(), QualityEvaluator("chrf", [ICELANDIC]))
        before = (adapters / "neuronxa" / "scores.jsonl").read_bytes()
        with pytest.raises(ModelError, match=message):
            swept(adapters, evaluator(), QualityEvaluator("bleu", [ICELANDIC], **options))
        assert (adapters / "neuronxa" / "scores.jsonl").read_bytes() == before

    def test_autocast_has_no_option(self, adapters: Path) -> None:
        record = swept(adapters, evaluator(), load_in_4bit=True)[-1]
        signature = record["languages"]["eng_Latn-isl_Latn"]["signature"]
        record["languages"]["eng_Latn-isl_Latn"]["signature"] = signature.replace("nf4", "nf4/autocast-bfloat16")
        change_line(adapters, 6, languages=record["languages"])
        with pytest.raises(ModelError, match=r"dtype float32/nf4/autocast-bfloat16 there.*; move it away\.$"):
            swept(adapters, evaluator(), load_in_4bit=True)


def float32(value: float) -> float:
    """As TensorBoard keeps it."""
    return torch.tensor(value, dtype=FLOAT32).item()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def found_over_sentences(made: list[dict[str, Any]]) -> set[str]:
    """The methods whose parts varied over the sentences at some step."""
    by_pair = [record["over_sentences"].get("eng_Latn-isl_Latn", {}) for record in made if record["over_sentences"]]
    return {name.removesuffix("_chrf") for found in by_pair for name in found}


def measured(made: list[dict[str, Any]]) -> set[str]:
    """What was measured of the translations at some step."""
    directions = [record["quality"]["eng_Latn-isl_Latn"] for record in made]
    return {name for name in ("copied", "off_target", "length") for found in directions if found[name] is not None}


class TestTensorBoard:
    def test_without_events_of_the_run(self, full: Path) -> None:
        quality = QualityEvaluator("chrf", [ICELANDIC])
        made = swept(full, evaluator(), quality)
        curves = scalars(full / "runs" / "neuronxa")
        assert curves.keys() == {
            *(f"eval/{method}{suffix}" for method in ("nasca", "nasca_rank") for suffix in ("", "_eng_Latn-isl_Latn")),
            "eval/neuronxa_runtime",
            "eval/translation_runtime",
            "eval/translation_empty",
            "eval/translation_truncated",
            *(f"eval/translation_{name}{suffix}" for name in measured(made) for suffix in ("", "_eng_Latn-isl_Latn")),
            "eval/chrf",
            "eval/chrf_eng_Latn-isl_Latn",
            *(f"eval/pearson_{method}_chrf" for method in ("nasca", "nasca_rank")),
            *(f"eval/over_sentences_{method}_chrf_eng_Latn-isl_Latn" for method in found_over_sentences(made)),
        }
        for part, name in (("score", "nasca"), ("quality_score", "chrf")):
            assert curves[f"eval/{name}"] == [(record["step"], float32(record[part][name])) for record in made]
        assert curves["eval/pearson_nasca_chrf"] == [(6, float32(made[-1]["pearson"]["nasca_chrf"]["r"]))]
        found = {
            record["step"]: record["over_sentences"]["eng_Latn-isl_Latn"]["nasca_chrf"]["r"]
            for record in made
            if record["over_sentences"]
        }
        logged = curves["eval/over_sentences_nasca_chrf_eng_Latn-isl_Latn"]
        assert logged == [(step, float32(rho)) for step, rho in found.items()]
        assert curves["eval/translation_copied"] == [
            (record["step"], float32(record["quality"]["eng_Latn-isl_Latn"]["copied"])) for record in made
        ]
        assert curves["eval/translation_empty"] == [
            (record["step"], record["quality"]["eng_Latn-isl_Latn"]["empty"]) for record in made
        ]

    def test_in_the_runs_own_folder_and_only_what_was_scored_now(self, adapters: Path) -> None:
        (own,) = {path.parent for path in adapters.rglob("events.out.tfevents.*")}
        logged = scalars(own)["eval/nasca"]
        assert [step for step, _ in logged] == [0, 2, 4, 6]
        aside = (adapters / "checkpoint-4").rename(adapters / "aside")
        pairs = [ICELANDIC, FRENCH]
        swept(adapters, evaluator(*pairs), load_in_4bit=True)
        aside.rename(adapters / "checkpoint-4")
        before = len(list(own.iterdir()))
        swept(adapters, evaluator(*pairs), load_in_4bit=True)
        assert {path.parent for path in adapters.rglob("events.out.tfevents.*")} == {own}
        assert len(list(own.iterdir())) == before + 1
        newest = max(own.iterdir(), key=lambda path: path.stat().st_mtime)
        assert scalars(newest)["eval/nasca"] == [logged[2]]
        swept(adapters, evaluator(*pairs), load_in_4bit=True)
        assert len(list(own.iterdir())) == before + 1  # nothing scored, no file

    def test_is_left_out_where_it_is_not_installed(self, full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sweep, "find_spec", lambda name: None if name == "tensorboard" else object())
        swept(full, evaluator())
        assert steps(full) == [2, 4, 6]
        assert not list(full.rglob("events.out.tfevents.*"))


def test_a_language_whose_score_few_pairs_carry_is_told_once(full: Path, caplog: pytest.LogCaptureFixture) -> None:
    swept(full, evaluator())
    assert caplog.text.count("the score of eng_Latn-isl_Latn (NASCA) comes from") == 1


def test_a_diverged_checkpoint_is_left_out_with_a_warning(full: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = full / "checkpoint-4" / "model.safetensors"
    save_file({name: tensor * torch.nan for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    with caplog.at_level(logging.WARNING):
        swept(full, evaluator(), QualityEvaluator("chrf", [ICELANDIC]))
    assert steps(full) == [2, 6]
    assert "checkpoint-4 gets no scores: the model's activations are NaN" in caplog.text


def test_one_full_model_is_in_memory_at_a_time(full: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[weakref.ref[Any]] = []
    load = Loader._from_pretrained

    def watched(self: Loader, checkpoint: Checkpoint) -> Any:
        assert all(earlier() is None for earlier in loaded)
        model = load(self, checkpoint)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(Loader, "_from_pretrained", watched)
    swept(full, evaluator(), base=base)
    assert len(loaded) == 5  # the check before step 0 needs one of them too


def test_the_bar_counts_what_is_left(full: Path) -> None:
    (full / "checkpoint-4").rename(full / "aside")
    swept(full, evaluator())
    (full / "aside").rename(full / "checkpoint-4")
    with Progress(disable=True) as progress:
        swept(full, evaluator(), progress=progress)
    (task,) = progress.tasks
    assert (task.description, task.completed, task.total) == ("checkpoint-4", 1, 1)


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["sweep", *map(str, arguments)], env={"COLUMNS": "200"})


class TestTheCommand:
    def test_scores_and_sums_up(self, adapters: Path, tmp_path: Path) -> None:
        rows = zip(ICELANDIC.source, ICELANDIC.target, strict=True)
        table = tmp_path / "pairs.tsv"
        table.write_text("eng_Latn\tisl_Latn\n" + "".join(f"{source}\t{target}\n" for source, target in rows))
        options = ["--pairs", table, "--methods", "nasca,mexa", "--methods", "navca", "--quality", "chrf", "--device"]
        result = command(adapters, *options, "cpu", "--load-in-4bit", "--dtype", "float32", "--prompt", "{source} =")
        assert result.exit_code == 0, result.output
        records = score_lines(adapters)
        assert [record["step"] for record in records] == [0, 2, 4, 6]
        assert all(record["score"].keys() == {"nasca", "mexa", "navca"} for record in records)
        assert all(record["quality_score"].keys() == {"chrf"} for record in records)
        assert "|dtype:float32/nf4|" in records[0]["languages"]["eng_Latn-isl_Latn"]["signature"]
        assert "Alignment and translation quality" in result.output
        assert f"Scores: {adapters / 'neuronxa' / 'scores.jsonl'}" in result.output

    def test_some_pairs_alone_are_translated(self, full: Path) -> None:
        shutil.rmtree(full / "checkpoint-2")
        shutil.rmtree(full / "checkpoint-4")
        tables = []
        for pairs in (ICELANDIC, FRENCH):
            rows = zip(pairs.source, pairs.target, strict=True)
            tables.append(full / f"{pairs.target_lang}.tsv")
            header = f"{pairs.source_lang}\t{pairs.target_lang}\n"
            tables[-1].write_text(header + "".join(f"{source}\t{target}\n" for source, target in rows))
        options = ["--pairs", tables[0], "--pairs", tables[1], "--quality", "chrf", "--device", "cpu"]
        result = command(full, *options, "--quality-pairs", "eng_Latn-fra_Latn")
        assert result.exit_code == 0, result.output
        (record,) = score_lines(full)
        assert record["languages"].keys() == {"eng_Latn-isl_Latn", "eng_Latn-fra_Latn"}
        assert record["quality"].keys() == {"eng_Latn-fra_Latn"}
        self.refused(full, "(--direction and --quality-pairs)", *options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--dtype", "float8"], "dtype 'float8' is unknown; choose from auto, float32"),
            (["--methods", "nasca,nope"], "method 'nope' is unknown"),
            (["--quality", "rouge"], "quality metric 'rouge' is unknown"),
            (["--direction", "up"], "direction 'up' is unknown"),
            (["--quality-pairs", "eng_Latn-fra_Latn"], "'eng_Latn-fra_Latn', which is not watched; choose from eng_"),
            (["--pairs", "eng_Latn-xxx_Latn"], "'xxx_Latn' is not a FLORES-200"),
            (["--pairs", "gone.tsv"], "gone.tsv does not exist"),
            (["--prompt", "{sauce}"], "unknown field {sauce}"),
            (["--device", "abacus"], "device 'abacus' is unknown"),
            (["--comet-device", "abacus"], "comet_device='abacus' is unknown"),
            (["--base", "/no/such/model"], "/no/such/model could not be loaded"),
        ],
    )
    def test_bad_options(self, options: list[str], message: str, adapters: Path) -> None:
        self.refused(adapters, message, *options)
        assert not (adapters / "neuronxa").exists()

    @staticmethod
    def refused(output_dir: Path, message: str, *options: object) -> None:
        result = command(output_dir, *options)
        assert result.exit_code == 1, result.output
        assert message in result.output
        assert "Traceback" not in result.output
        assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)

    def test_no_folder(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "none", f"{tmp_path / 'none'} does not exist; give the output_dir")

    def test_no_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoint-best").mkdir()
        self.refused(tmp_path, f"{tmp_path} has no checkpoint-N folder; give the output_dir")

    def test_no_model_in_a_checkpoint(self, full: Path) -> None:
        (full / "checkpoint-4" / "config.json").unlink()
        self.refused(full, f"{full}/checkpoint-4 holds no model (neither adapter_config.json nor config.json)")

    def test_a_checkpoint_without_weights(self, full: Path) -> None:
        (full / "checkpoint-2" / "model.safetensors").unlink()
        self.refused(full, f"{full}/checkpoint-2 could not be loaded (Error no file named")

    def test_a_checkpoint_that_lacks_a_weight(self, full: Path) -> None:
        """It would be scored with random numbers in its place."""
        path = full / "checkpoint-2" / "model.safetensors"
        weights = load_file(path)
        del weights["model.layers.1.mlp.gate_proj.weight"]
        save_file(weights, path, {"format": "pt"})
        self.refused(full, "checkpoint-2 lacks 1 weights, such as model.layers.1.mlp.gate_proj.weight; if the run")
        assert not (full / "neuronxa").exists()

    def test_an_adapter_that_lacks_a_weight(self, adapters: Path) -> None:
        path = adapters / "checkpoint-2" / "adapter_model.safetensors"
        weights = load_file(path)
        del weights[next(iter(weights))]
        save_file(weights, path, {"format": "pt"})
        self.refused(adapters, "checkpoint-2 could not be loaded (Found missing adapter keys")

    def test_an_adapter_of_another_base(self, adapters: Path, tmp_path: Path) -> None:
        tiny_llama().save_pretrained(tmp_path / "narrow")
        self.refused(adapters, "name the base model that it was trained on with --base", "--base", tmp_path / "narrow")
        assert not (adapters / "neuronxa").exists()

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (None, "checkpoint-2/adapter_config.json names no base model; name it with --base."),
            ("/gone/base", "/gone/base could not be loaded"),
        ],
    )
    def test_an_adapter_whose_base_is_gone(self, name: str | None, message: str, adapters: Path, base: Path) -> None:
        for path in adapters.glob("checkpoint-*/adapter_config.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": name}))
        self.refused(adapters, message)
        self.refused(adapters, "with --base")
        assert command(adapters, "--base", base).exit_code == 0
        assert steps(adapters) == [0, 2, 4, 6]

    def test_adapters_of_two_bases(self, adapters: Path) -> None:
        path = adapters / "checkpoint-4" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "other"}))
        self.refused(adapters, "name 2 base models")

    def test_adapters_and_full_models(self, adapters: Path, full_run: Path) -> None:
        shutil.copytree(full_run / "checkpoint-4", adapters / "checkpoint-8")
        self.refused(adapters, "checkpoint-2 is an adapter and")

    def test_a_torn_trainer_state(self, full: Path) -> None:
        (full / "checkpoint-4" / "trainer_state.json").write_text('{"epoch": 0')
        self.refused(full, "checkpoint-4/trainer_state.json is not JSON; if the run ended")

    def test_no_tokenizer(self, full: Path, base: Path) -> None:
        for path in full.glob("checkpoint-*/tokenizer*"):
            path.unlink()
        self.refused(full, "checkpoint-6 holds no tokenizer; name the model that it was trained from with --base.")
        assert command(full, "--base", base).exit_code == 0

    @pytest.mark.parametrize("package", ["peft", "bitsandbytes"])
    def test_a_missing_package(self, package: str, adapters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(models, "find_spec", lambda name: None if name == package else object())
        self.refused(adapters, f"cannot be loaded without {package}; install the training extra", "--load-in-4bit")

    def test_a_history_made_with_other_choices(self, adapters: Path) -> None:
        swept(adapters, evaluator(), load_in_4bit=True)
        self.refused(adapters, "scores.jsonl was made with other choices than this sweep (n 10 there, 100 here")

    def test_an_unreadable_model(self, full: Path) -> None:
        tiny = tiny_llama(max_position_embeddings=16)
        tiny.save_pretrained(full / "checkpoint-2")
        self.refused(full, "more than the model's context of 16")
