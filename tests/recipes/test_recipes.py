"""Both recipes from their smoke configs, on a model small enough for a test: trained, interrupted, refused."""

from __future__ import annotations

import json
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import translation_sft
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MambaConfig, T5Config
from trl import SFTConfig, SFTTrainer

from neuronxa_callback import ParallelPairs
from neuronxa_callback.text.embedded import embedded
from tests.support import change_line, make_tokenizer, score_lines, tiny_llama

pytestmark = pytest.mark.recipe

RECIPES = Path(__file__).parents[2] / "recipes"
SFT = ("translation_sft.py", "icelandic-sft-smoke.yaml")
CPT = ("translation_cpt.py", "icelandic-cpt-smoke.yaml")
HELD_OUT = embedded("heldout.tsv")
TRAINED = {code: embedded("demo_train.tsv")[code] for code in ("eng_Latn", "isl_Latn")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("tiny")
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def command(recipe: tuple[str, str], model: Path, output_dir: Path, *arguments: str) -> list[str]:
    script, config = recipe
    given = ["--model_name_or_path", str(model), "--output_dir", str(output_dir), *arguments]
    return [str(RECIPES / script), "--config", str(RECIPES / "configs" / config), *given]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a recipe as its command line would, in this process."""

    def run(recipe: tuple[str, str], model: Path, output_dir: Path, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", command(recipe, model, output_dir, *arguments))
        runpy.run_path(sys.argv[0], run_name="__main__")

    return run


def refusal(run: Callable[..., Any], *arguments: Any) -> str:
    """The sentence that a recipe ends with instead of training."""
    with pytest.raises(SystemExit) as raised:
        run(*arguments)
    message = str(raised.value)
    assert "\n" not in message
    return message


def flores(folder: Path) -> Path:
    """FLORES-200's release layout, with embedded sentences."""
    for split, rows in (("dev", slice(0, 12)), ("devtest", slice(12, 22))):
        (folder / split).mkdir(parents=True)
        for code in ("eng_Latn", "isl_Latn"):
            text = "\n".join(HELD_OUT[code][rows]) + "\n"
            (folder / split / f"{code}.{split}").write_text(text, encoding="utf-8")
    return folder


# ---------------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("recipe", [SFT, CPT])
def test_a_run_ends_with_a_model_card_curves_and_an_adapter(
    recipe: tuple[str, str], model: Path, tmp_path: Path, run: Callable[..., None]
) -> None:
    run(recipe, model, tmp_path / "a-run")
    records = score_lines(tmp_path / "a-run")
    assert [record["step"] for record in records] == [0, 3, 6]
    card = ModelCard.load(tmp_path / "a-run" / "README.md")
    results = {(result.dataset_name, result.metric_type): result.metric_value for result in card.data.eval_results}
    last = records[-1]
    assert results == {
        ("5 embedded pairs", "nasca"): round(last["score"]["nasca"], 4),
        ("5 embedded pairs", "nasca_rank"): round(last["score"]["nasca_rank"], 4),
        ("5 embedded pairs", "chrf"): round(last["quality_score"]["chrf"], 4),
        ("5 embedded pairs", "bleu"): round(last["quality_score"]["bleu"], 4),
    }
    assert card.data.base_model == str(model)
    # Of equal scores that of the saved weights.
    best = max(records, key=lambda record: (record["score"]["nasca"], record["step"]))
    for part in (
        "weights are those of step 6",
        f"eng_Latn-isl_Latn, 5 embedded pairs (`{ParallelPairs.load('eng_Latn-isl_Latn', n=5).fingerprint}`)",
        f"## Best step: {best['step']}",
        f"{best['score']['nasca']:.4f}",
        "COMET and CometKiwi will not be logged",
        "There was no test set",
        f"{recipe[0]} --config",
        "max_steps: 6",
        f"| torch | {torch.__version__}",
    ):
        assert part in card.text
    figures = [line.partition("](")[2].rstrip(")") for line in card.text.splitlines() if line.startswith("![")]
    assert len(figures) >= 3
    for figure in figures:
        assert Image.open(tmp_path / "a-run" / figure).width > 500
    assert load_file(tmp_path / "a-run" / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("recipe", "texts"),
    [
        ((SFT[0], "icelandic-sft-llama-3.1-8b.yaml"), ("--train_text",)),
        ((CPT[0], "icelandic-cpt-llama-3.1-8b.yaml"), ("--train_text", "--target_text", "--source_text")),
    ],
)
def test_the_configuration_of_a_large_model_works_on_a_tiny_one(
    recipe: tuple[str, str], texts: tuple[str, ...], model: Path, tmp_path: Path, run: Callable[..., None]
) -> None:
    """With what only it has: the Trainer's own evaluations, the best model by NASCA, early stopping.

    Not in 4-bit: on some CPUs bitsandbytes breaks its gradients in the Trainer's evaluations.
    """
    local = [word for text in texts for word in (text, "embedded")]
    fitted = ["--load_in_4bit", "false", "--dtype", "float32", "--bf16", "false", "--max_length", "64"]
    smaller = ["--max_steps", "4", "--eval_steps", "2", "--save_steps", "2", "--gradient_accumulation_steps", "1"]
    held = ["--held_out", str(flores(tmp_path / "flores")), "--held_out_pairs", "8"]
    run(recipe, model, tmp_path / "a-run", *local, *fitted, *smaller, *held)
    assert [record["step"] for record in score_lines(tmp_path / "a-run")] == [0, 2, 4]
    state = json.loads((tmp_path / "a-run" / "checkpoint-4" / "trainer_state.json").read_text())
    scores = {r["step"]: r["score"]["nasca"] for r in score_lines(tmp_path / "a-run")}
    assert state["best_metric"] == max(scores[2], scores[4])
    card = ModelCard.load(tmp_path / "a-run" / "README.md")
    assert f"weights are those of step {state['best_global_step']}" in card.text
    assert "8 pairs of FLORES devtest" in card.text


@pytest.mark.parametrize("recipe", [SFT, CPT])
@pytest.mark.once
def test_a_killed_run_goes_on_by_the_same_command_to_the_same_weights(
    recipe: tuple[str, str], model: Path, tmp_path: Path, run: Callable[..., None]
) -> None:
    # One run that is killed after its first checkpoint, beside one that is not. Not in 4-bit: there TRL trains bfloat16
    # adapters, of which a resumed run can differ in the last bit, with the callback and without it.
    unquantised = ("--load_in_4bit", "false")
    killed = [sys.executable, *command(recipe, model, tmp_path / "killed", *unquantised)]
    with subprocess.Popen(killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 240
        while not (tmp_path / "killed" / "checkpoint-3" / "trainer_state.json").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed" / "adapter_model.safetensors").exists()
    (tmp_path / "killed" / "checkpoint-4").mkdir()  # one more, of which little was written
    done = subprocess.run(killed, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Going on from" in done.stderr
    assert "Cleaning" not in done.stderr  # the text of the first run is there
    run(recipe, model, tmp_path / "whole", *unquantised)
    weights = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("killed", "whole")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [record["step"] for record in score_lines(tmp_path / "killed")] == [0, 3, 6]


@pytest.mark.once
def test_a_run_that_had_come_to_its_end_makes_no_step_more(
    model: Path, tmp_path: Path, run: Callable[..., None]
) -> None:
    run(SFT, model, tmp_path / "run")
    left = {name: (tmp_path / "run" / name).read_bytes() for name in ("neuronxa/scores.jsonl", "README.md")}
    weights = load_file(tmp_path / "run" / "adapter_model.safetensors")
    (tmp_path / "run" / "adapter_model.safetensors").unlink()  # as if it had been interrupted before it was saved
    run(SFT, model, tmp_path / "run")
    assert {name: (tmp_path / "run" / name).read_bytes() for name in left} == left
    again = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.once
def test_a_run_that_had_ended_goes_on_when_more_epochs_are_asked_for(
    model: Path, tmp_path: Path, run: Callable[..., None]
) -> None:
    def steps(epochs: float) -> list[int]:
        epochs_alone = ("--load_in_4bit", "false", "--max_steps", "-1", "--num_train_epochs", str(epochs))
        run(SFT, model, tmp_path / "run", *epochs_alone)
        return [record["step"] for record in score_lines(tmp_path / "run")]

    # 400 examples are 100 steps.
    assert steps(0.03) == [0, 3]
    assert steps(0.03) == [0, 3]
    assert steps(0.06) == [0, 3, 6]
    assert "weights are those of step 6" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("recipe", [SFT, CPT])
@pytest.mark.once
def test_a_run_goes_on_with_the_settings_it_began_with(
    recipe: tuple[str, str], model: Path, tmp_path: Path, run: Callable[..., None]
) -> None:
    out, text = tmp_path / "run", tmp_path / "pairs.tsv"
    rows = [f"{english}\t{icelandic}" for english, icelandic in zip(*TRAINED.values(), strict=True)]
    text.write_text("\n".join(["eng_Latn\tisl_Latn", *rows]) + "\n", encoding="utf-8")
    given = ("--load_in_4bit", "false", "--train_text", str(text), "--train_pairs", "30", "--held_out_pairs", "3")
    run(recipe, model, out, *given, "--max_steps", "1", "--save_steps", "1")
    kept = json.loads((out / "settings.json").read_text())
    assert (kept["learning_rate"], kept["train_pairs"], kept["lora_r"], kept["seed"]) == (1e-3, 30, 8, 42)
    assert "hub_token" not in kept
    left = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    cases = {
        ("--learning_rate", "0.5"): "(learning_rate was 0.001 and is now 0.5)",
        ("--lora_r", "4", "--seed", "7"): "(seed was 42 and is now 7, lora_r was 8 and is now 4)",
        ("--train_pairs", "31"): "(train_pairs was 30 and is now 31)",
        ("--held_out_pairs", "4"): "held_out_pairs was 3 and is now 4, held_out was",
        ("--learning_rate", "0.5", "--dry-run"): "give another --output_dir, or these as they were.",
    }
    for arguments, sentence in cases.items():
        assert sentence in refusal(run, recipe, model, out, *given, *arguments)
    text.write_text(text.read_text(encoding="utf-8") + "Another.\tAnnað.\n", encoding="utf-8")
    assert f'bytes_of_texts was {{"{text}": ' in refusal(run, recipe, model, out, *given)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == left


@pytest.mark.once
def test_what_changes_no_result_may_change(model: Path, tmp_path: Path, run: Callable[..., None]) -> None:
    out, given = tmp_path / "run", ("--load_in_4bit", "false", "--held_out_pairs", "2", "--save_steps", "1")
    run(SFT, model, out, *given, "--max_steps", "1", "--learning_rate", "0.1")
    left = (out / "settings.json").read_bytes()
    longer = ("--max_steps", "2", "--score_every", "1", "--logging_steps", "2", "--run_name", "again")
    run(SFT, model, out, *given, *longer, "--learning_rate", "0.1", "--comet_device", "cuda")
    assert [record["step"] for record in score_lines(out)] == [0, 1, 2]
    assert (out / "settings.json").read_bytes() == left
    # What left no checkpoint has nothing to go on from, and is begun anew.
    for checkpoint in out.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    run(SFT, model, out, *given, "--max_steps", "1", "--learning_rate", "0.2")
    assert json.loads((out / "settings.json").read_text())["learning_rate"] == 0.2


@pytest.mark.once
def test_flores_is_watched_and_devtest_scored_at_the_end(model: Path, tmp_path: Path, run: Callable[..., None]) -> None:
    folder = flores(tmp_path / "flores200_dataset")
    run(SFT, model, tmp_path / "run", "--held_out", str(folder), "--merge", "--direction", "target->source")
    assert {way for record in score_lines(tmp_path / "run") for way in record["quality"]} == {"isl_Latn-eng_Latn"}
    card = ModelCard.load(tmp_path / "run" / "README.md")
    results = {(result.dataset_name, result.metric_type) for result in card.data.eval_results}
    names = ("5 pairs of FLORES dev", "5 pairs of FLORES devtest")
    assert results == {(name, metric) for name in names for metric in ("nasca", "nasca_rank", "chrf", "bleu")}
    assert "## Test" in card.text
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "merged", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "merged")
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, tmp_path / "run")
    batch = tokenizer(["English: Where is it?\nIcelandic:"], return_tensors="pt")
    torch.testing.assert_close(merged(**batch).logits, adapted(**batch).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recipe", [SFT, CPT])
@pytest.mark.once
def test_several_targets_are_trained_and_a_control_is_watched_alone(
    recipe: tuple[str, str], model: Path, tmp_path: Path, run: Callable[..., None]
) -> None:
    languages = ("--target_langs", "isl_Latn", "fra_Latn", "--control_langs", "deu_Latn")
    run(recipe, model, tmp_path / "run", "--load_in_4bit", "false", "--methods", "nasca", *languages)
    last = score_lines(tmp_path / "run")[-1]
    assert list(last["languages"]) == ["eng_Latn-isl_Latn", "eng_Latn-fra_Latn", "eng_Latn-deu_Latn"]
    assert sorted(last["quality"]) == [
        *("eng_Latn-fra_Latn", "eng_Latn-isl_Latn", "fra_Latn-eng_Latn", "isl_Latn-eng_Latn")
    ]
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert card.data.language == ["en", "is", "fr"]
    for name in ("eng_Latn-isl_Latn", "eng_Latn-fra_Latn"):
        assert f"{name}, embedded" in card.text  # what cleaning removed
    assert "eng_Latn-deu_Latn, 5 embedded pairs (`" in card.text
    kept = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert (kept["source_lang"], kept["target_langs"]) == ("eng_Latn", ["isl_Latn", "fra_Latn"])


def test_it_stops_when_alignment_does_not_rise(model: Path, tmp_path: Path, run: Callable[..., None]) -> None:
    settings = [
        *("--load_in_4bit", "false", "--learning_rate", "0", "--early_stopping_patience", "2"),
        *("--eval_strategy", "steps", "--eval_steps", "1", "--save_steps", "1", "--load_best_model_at_end", "true"),
        *("--metric_for_best_model", "eval_nasca", "--greater_is_better", "true"),
    ]
    run(SFT, model, tmp_path / "run", *settings)
    card = ModelCard.load(tmp_path / "run" / "README.md").text
    reason = "nasca did not rise over 2 evaluations (its line moves by +0.0000, with a jitter of 0.0000)"
    assert f"The run ended before its last step: {reason}." in card
    assert "The weights are those of step 1." in card
    assert [record["step"] for record in score_lines(tmp_path / "run")] == [0, 1, 2]
    before = load_file(tmp_path / "run" / "adapter_model.safetensors")
    run(SFT, model, tmp_path / "run", *settings)
    assert ModelCard.load(tmp_path / "run" / "README.md").text == card
    assert all(
        torch.equal(before[name], tensor)
        for name, tensor in load_file(tmp_path / "run" / "adapter_model.safetensors").items()
    )


@pytest.mark.once
def test_a_patience_met_at_the_last_step_has_cut_nothing_short(
    model: Path, tmp_path: Path, run: Callable[..., None]
) -> None:
    given = ("--load_in_4bit", "false", "--learning_rate", "0", "--early_stopping_patience", "2")
    last = ("--max_steps", "2", "--score_every", "1", "--save_steps", "1")
    run(SFT, model, tmp_path / "run", *given, *last)
    verdict = score_lines(tmp_path / "run")[-1]["stopping"]
    assert verdict["rise"] == pytest.approx(0)
    # Whatever the verdict says of it.
    change_line(tmp_path / "run", 2, stopping=verdict | {"reason": "nasca did not rise"})
    run(SFT, model, tmp_path / "run", *given, *last)
    card = ModelCard.load(tmp_path / "run" / "README.md").text
    assert "The weights are those of step 2." in card
    assert "ended before its last step" not in card


def test_a_dry_run_checks_and_counts_and_trains_nothing(
    model: Path, tmp_path: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run(SFT, model, tmp_path / "run", "--dry-run")
    output = capsys.readouterr().out
    for part in (
        "training examples",
        "400",
        "6, 0.06 times through the text",
        "evaluations",
        "GiB",
        "generated tokens an evaluation",
        "201 read, 200 kept",
    ):
        assert part in output
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["training_text"]


# ---------------------------------------------------------------------------------------------- what is trained on


def test_each_pair_is_trained_both_ways_with_the_prompt_that_is_scored() -> None:
    rows = {"eng_Latn": ["Hello."], "isl_Latn": ["Halló."]}
    assert translation_sft.both_ways(rows, chat=False) == {
        "prompt": ["English: Hello.\nIcelandic:", "Icelandic: Halló.\nEnglish:"],
        "completion": [" Halló.", " Hello."],
    }
    chat = translation_sft.both_ways(rows, chat=True)
    assert [message["role"] for message in chat["prompt"][0]] == ["user"]
    assert "Hello." in chat["prompt"][0][0]["content"]
    assert chat["completion"][0] == [{"role": "assistant", "content": "Halló."}]
    assert translation_sft.prompt_of("Hello.", "eng_Latn", "isl_Latn", chat=True) == chat["prompt"][0]


@pytest.mark.parametrize("chat", [False, True])
def test_the_loss_is_on_the_translation_alone(chat: bool, smollm_tokenizer: Any, tmp_path: Path) -> None:
    rows = {"eng_Latn": ["Where is the key?"], "isl_Latn": ["Hvar er lykillinn?"]}
    args = SFTConfig(str(tmp_path), report_to=[], per_device_train_batch_size=1, bf16=False)
    model = tiny_llama(vocab_size=len(smollm_tokenizer))
    dataset = Dataset.from_dict(translation_sft.both_ways(rows, chat)).select([0])
    trainer = SFTTrainer(model, args=args, train_dataset=dataset, processing_class=smollm_tokenizer)
    (batch,) = trainer.get_train_dataloader()
    learned = batch["labels"][batch["labels"] != -100]
    text = smollm_tokenizer.decode(learned)
    assert text.startswith("Hvar er lykillinn?" if chat else " Hvar er lykillinn?")
    assert "key" not in text
    assert int(smollm_tokenizer.eos_token_id) in learned.tolist()


def test_packed_text_is_read_in_its_order(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    documents = Dataset.from_dict({"text": list(embedded("demo_train.tsv")["isl_Latn"][:40])})
    args = SFTConfig(
        str(tmp_path),
        report_to=[],
        max_steps=5,
        per_device_train_batch_size=2,
        max_length=32,
        packing=True,
        packing_strategy="wrapped",
        bf16=False,
    )
    trainer = SFTTrainer(
        tiny_llama(), args=args, train_dataset=documents.to_iterable_dataset(), processing_class=tokenizer
    )
    read = [row for batch in trainer.get_train_dataloader() for row in batch["input_ids"]]
    whole = [token for text in documents["text"] for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    assert torch.cat(read).tolist()[: len(whole) - 64] == whole[: len(whole) - 64]


# ---------------------------------------------------------------------------------------------- what is refused


def test_settings_that_cannot_work_are_refused_in_a_sentence(
    model: Path, tmp_path: Path, run: Callable[..., None]
) -> None:
    out = tmp_path / "run"
    cases: list[tuple[tuple[str, str], list[str], str]] = [
        (SFT, ["--lerning_rate", "1"], "--lerning_rate"),
        (SFT, ["--train_text", str(tmp_path / "none.tsv")], "none.tsv does not exist"),
        (SFT, ["--prompt", "chat"], "--prompt chat cannot be used"),
        (SFT, ["--held_out_pairs", "1"], "--held_out_pairs 1 are too few"),
        (SFT, ["--train_pairs", "0"], "--train_pairs 0 are too few"),
        (SFT, ["--per_device_train_batch_size", "0"], "--per_device_train_batch_size 0 must be 1 or more"),
        (SFT, ["--score_every", "0"], "score_every=0.0 must be a whole number of steps"),
        (SFT, ["--early_stopping_patience", "-1"], "early_stopping_patience=-1 must be 2 evaluations"),
        (CPT, ["--early_stopping_patience", "-1", "--dry-run"], "early_stopping_patience=-1 must be 2"),
        (CPT, ["--comet_device", "tpu"], "comet_device='tpu' is unknown"),
        (SFT, ["--max_steps", "abc"], "argument --max_steps/--max-steps: invalid int value: 'abc'."),
        (SFT, ["--max_steps"], "argument --max_steps/--max-steps: expected one argument."),
        (SFT, ["--use_peft", "false"], "--use_peft must be given"),
        (SFT, ["--trust_remote_code", "true"], "--trust_remote_code is not used by the recipes"),
        (CPT, ["--resume_from_checkpoint", "true"], "--resume_from_checkpoint is not used by the recipes"),
        (SFT, ["--held_out", str(tmp_path)], "holds 0 files named by a language"),
        (SFT, ["--target_lang", "isl"], "'isl' is not a FLORES-200 language code"),
        (CPT, ["--target_langs", "fra_Latn", "--target_lang", "isl_Latn"], "; both were given."),
        (SFT, ["--target_lang", "deu_Latn"], "the embedded training text has no deu_Latn"),
        (SFT, ["--control_langs", "fao_Latn"], "embedded has no fao_Latn"),
        (SFT, ["--direction", "back"], "direction 'back' is unknown"),
        (SFT, ["--methods", "nasca", "masca"], "method 'masca' is unknown"),
        (CPT, ["--max_steps", "-1"], "--max_steps must be given"),
        (CPT, ["--source_share", "1"], "--source_share 1.0 must lie between"),
        (CPT, ["--target_text", "wikipedia"], "wikipedia is no training text"),
    ]
    for recipe, arguments, sentence in cases:
        assert sentence in refusal(run, recipe, model, out, *arguments)
    assert not out.exists()


def test_a_model_that_cannot_be_used_is_refused(tmp_path: Path, run: Callable[..., None]) -> None:
    out = tmp_path / "run"
    make_tokenizer().save_pretrained(tmp_path / "t5")
    T5Config(d_model=16, num_layers=1).save_pretrained(tmp_path / "t5")
    assert "is an encoder-decoder" in refusal(run, SFT, tmp_path / "t5", out)
    huge = LlamaConfig(hidden_size=65536, intermediate_size=262144, num_hidden_layers=4, vocab_size=600)
    huge.save_pretrained(tmp_path / "huge")
    assert "lower --per_device_train_batch_size" in refusal(run, SFT, tmp_path / "huge", out)
    assert "cannot be loaded as a model" in refusal(run, SFT, tmp_path / "none", out)
    tiny_llama().save_pretrained(tmp_path / "dumb")
    for recipe in (SFT, CPT):
        assert "dumb has no tokenizer that can be read (" in refusal(run, recipe, tmp_path / "dumb", out)
    MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=600).save_pretrained(tmp_path / "mamba")
    assert "is no decoder whose neurons can be read" in refusal(run, SFT, tmp_path / "mamba", out)
    assert not out.exists()


@pytest.mark.once
def test_what_is_gated_is_said_with_the_remedy(model: Path, tmp_path: Path, hub_says: Callable[[str], None]) -> None:
    hub_says("GatedRepo")

    def ends(recipe: tuple[str, str], *arguments: Any) -> str:
        done = subprocess.run(
            [sys.executable, *command(recipe, *arguments)], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr.strip().splitlines()[-1]

    message = ends(SFT, Path("meta-llama/Llama-3.1-8B"), tmp_path / "run")
    assert message.startswith("meta-llama/Llama-3.1-8B is gated: accept its licence")
    message = ends(CPT, model, tmp_path / "run", "--target_text", "somebody/closed:isl")
    assert message.startswith("somebody/closed:isl is gated: accept its terms")
