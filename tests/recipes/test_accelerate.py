"""The files of recipes/accelerate/, and a recipe that `accelerate launch` starts with one of them."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import memory
import preflight
import processes
import pytest
import torch
import transformers
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.integrations.deepspeed import (
    is_deepspeed_zero3_enabled,
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)
from trl import ModelConfig, SFTConfig, get_quantization_config

from neuronxa_callback.text.embedded import embedded
from tests.support import ROOT, make_tokenizer, score_lines, tiny_llama

pytestmark = pytest.mark.recipe

RECIPES = ROOT / "recipes"
FILES = sorted((RECIPES / "accelerate").glob("*.yaml"))
SFT = str(RECIPES / "translation_sft.py")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    # bitsandbytes packs 64 weights of a row together on some CPUs.
    tiny_llama(hidden_size=64, intermediate_size=64).save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def no_engine_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment as it was, and no DeepSpeed in transformers."""
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.delenv(name)
    yield
    unset_hf_deepspeed_config()


# ---------------------------------------------------------------------------------------------- the files


def accepted(file: Path) -> Any:
    """What `accelerate launch --config_file FILE` makes of a file."""
    given = launch_command_parser().parse_args(["--config_file", str(file), SFT])
    args, config, _ = _validate_launch_command(given)
    args.deepspeed_fields_from_accelerate_config = ",".join(config.deepspeed_config)
    return args


def environment(args: Any) -> dict[str, str]:
    """The variables that the launcher gives to each process."""
    if args.use_deepspeed:
        return dict(prepare_deepspeed_cmd_env(args)[1])
    if args.use_fsdp or args.multi_gpu:
        return dict(prepare_multi_gpu_env(args))
    return dict(prepare_simple_launcher_cmd_env(args)[1])


@pytest.fixture
def launched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The launcher's own settings of the file that the test names, in the environment of a process that it starts."""
    args = accepted(RECIPES / "accelerate" / request.param)
    for name, value in environment(args).items():
        monkeypatch.setenv(name, value)
    return args


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_launcher_knows_every_option(file: Path) -> None:
    """Its loader refuses unknown keys at the top; those of an engine it takes without a word, known or not."""
    config = load_config_from_file(str(file))
    options = {action.dest for action in launch_command_parser()._actions}
    assert [key for part in (config.fsdp_config, config.deepspeed_config) for key in part if key not in options] == []
    assert accepted(file).num_processes == config.num_processes


@pytest.mark.parametrize(
    ("launched", "engines", "count"),
    [
        ("one-gpu.yaml", (False, False, False), 1),
        ("ddp.yaml", (True, False, False), 8),
        ("ddp-cpu.yaml", (True, False, False), 2),
        ("fsdp2.yaml", (False, True, False), 8),
        ("zero2.yaml", (False, False, True), 8),
        ("zero3.yaml", (False, False, True), 8),
    ],
    indirect=["launched"],
)
def test_a_file_starts_the_engine_that_it_is_named_for(launched: Any, engines: tuple[bool, ...], count: int) -> None:
    assert (launched.multi_gpu, launched.use_fsdp, launched.use_deepspeed) == engines
    assert launched.num_processes == count


@pytest.mark.skipif(
    transformers.__version__.startswith("4."), reason="transformers 4 keeps the precision in the environment alone"
)
@pytest.mark.parametrize("launched", ["one-gpu.yaml", "ddp.yaml", "fsdp2.yaml"], indirect=True)
@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16"), (False, "no")])
def test_the_recipe_and_not_the_file_says_bf16(launched: Any, bf16: bool, precision: str, tmp_path: Path) -> None:
    assert SFTConfig(str(tmp_path), report_to=[], use_cpu=True, bf16=bf16).mixed_precision == precision


@pytest.mark.parametrize("launched", ["one-gpu.yaml"], indirect=True)
def test_one_process_sees_one_gpu(launched: Any) -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


@pytest.mark.parametrize("launched", ["fsdp2.yaml"], indirect=True)
def test_the_plugin_of_fsdp_is_that_of_version_2(launched: Any) -> None:
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.cpu_ram_efficient_loading is True
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
    # The Trainer saves the adapter at the end from whole state dicts alone, and refuses a second checkpointing.
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert plugin.activation_checkpointing is False


@pytest.mark.parametrize(("launched", "stage"), [("zero2.yaml", 2), ("zero3.yaml", 3)], indirect=["launched"])
def test_the_plugin_of_deepspeed_is_that_of_the_stage(launched: Any, stage: int) -> None:
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == plugin.deepspeed_config["zero_optimization"]["stage"] == stage
    assert plugin.zero3_init_flag is (stage == 3)
    # The Trainer fills in what the recipe says.
    assert plugin.deepspeed_config["gradient_accumulation_steps"] == "auto"
    assert plugin.deepspeed_config["gradient_clipping"] == "auto"
    # As the Trainer does by the recipe's bf16, which the file does not name.
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "no"
    plugin.set_mixed_precision("bf16")
    assert plugin.deepspeed_config["bf16"]["enabled"] is True


def test_the_page_has_every_file() -> None:
    page = (RECIPES / "accelerate" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(([\w-]+\.yaml)\)", page)) == {file.name for file in FILES}


# ---------------------------------------------------------------------------------------------- sharded models


def sft_config(folder: Path, **given: Any) -> SFTConfig:
    return SFTConfig(str(folder), report_to=[], bf16=False, max_length=64, **given)


@pytest.fixture
def on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SFTConfig, "device", property(lambda args: torch.device("cuda", 0)))
    monkeypatch.setattr(SFTConfig, "world_size", property(lambda args: 8))


@pytest.mark.usefixtures("on_gpus")
def test_parameters_are_split_under_fsdp_and_zero_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = sft_config(tmp_path)
    assert not processes.is_sharded(args)
    for stage in (1, 2, 3):
        args.deepspeed_plugin = DeepSpeedPlugin(zero_stage=stage)
        assert processes.is_sharded(args) == (stage == 3)
    args.deepspeed_plugin = None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert processes.is_sharded(args)
    monkeypatch.setattr(SFTConfig, "device", property(lambda args: torch.device("cpu")))
    assert not processes.is_sharded(args)


@pytest.mark.usefixtures("on_gpus")
def test_memory_counts_the_part_that_a_process_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_llama(num_hidden_layers=16).save_pretrained(tmp_path / "model")
    args = sft_config(tmp_path)

    def needed(**given: Any) -> int:
        asked = ModelConfig(
            str(tmp_path / "model"), dtype="bfloat16", use_peft=True, lora_target_modules=["all-linear"], **given
        )
        return memory.estimate(preflight.empty_model(asked), args, asked)

    whole, whole_4_bit = needed(), needed(load_in_4bit=True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    # Hidden 32, FFN 48, keys and values 16: queries and output, keys and values, FFN, two norms. Behind them a norm.
    layers = 16 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32) + 32
    # A process has an eighth, and two of 16 layers, so it saves three quarters, at two bytes a weight. The embeddings
    # and the head are gathered whole. In 4-bit each process loads all weights before they are split.
    assert layers == 123_936
    assert whole - needed() == 185_904
    assert needed(load_in_4bit=True) == whole_4_bit


def test_the_storage_of_4_bit_weights_changes_no_number(model: Path) -> None:
    def logits(storage: str | None) -> torch.Tensor:
        asked = ModelConfig(str(model), load_in_4bit=True, bnb_4bit_quant_storage=storage)
        quantised = get_quantization_config(asked)
        assert isinstance(quantised, BitsAndBytesConfig)
        loaded = AutoModelForCausalLM.from_pretrained(model, quantization_config=quantised, dtype=torch.float32)
        assert loaded.model.layers[0].mlp.gate_proj.weight.dtype == getattr(torch, storage or "uint8")
        with torch.no_grad():
            return torch.as_tensor(loaded(torch.arange(3, 40)[None]).logits)

    assert torch.equal(logits(None), logits("bfloat16"))


def test_a_model_is_made_whole_where_zero_3_would_split_it(model: Path, tmp_path: Path) -> None:
    class Split:
        """Stands for DeepSpeed's configuration, which cannot be made without DeepSpeed."""

        def is_zero3(self) -> bool:
            return True

    split, asked = Split(), ModelConfig(str(model))
    args = sft_config(tmp_path)
    args.deepspeed_plugin = SimpleNamespace(dschf=split, zero_stage=3)
    set_hf_deepspeed_config(split)
    assert is_deepspeed_zero3_enabled()
    with processes.whole_models(args):
        assert {parameter.device.type for parameter in preflight.empty_model(asked).parameters()} == {"meta"}
        assert not is_deepspeed_zero3_enabled()
    assert is_deepspeed_zero3_enabled()


# ---------------------------------------------------------------------------------------------- runs


def test_what_a_cluster_says_of_its_machines_is_no_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    args = sft_config(tmp_path)
    assert args.world_size == 1
    processes.check(args)


# The recipe, with a look at what of DDP is still there when the process group is left: it could then keep the process
# from ending, in about one run of some hundred.
LOOKING = f"""
import runpy, sys, weakref
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

wrappers, init, destroy = [], DistributedDataParallel.__init__, dist.destroy_process_group

def made(self, *args, **given):
    init(self, *args, **given)
    wrappers.append(weakref.ref(self))

def left():
    print("wrappers at the end:", [wrapper() is not None for wrapper in wrappers], flush=True)
    destroy()

DistributedDataParallel.__init__, dist.destroy_process_group = made, left
sys.path.insert(0, {str(RECIPES)!r})
sys.argv[0] = {SFT!r}
runpy.run_path({SFT!r}, run_name="__main__")
"""


def launch(*arguments: str, script: str = SFT) -> subprocess.CompletedProcess[str]:
    """Runs the recipe in two processes without a GPU."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    config = ["--config_file", str(RECIPES / "accelerate" / "ddp-cpu.yaml")]
    return subprocess.run(
        [*launcher, *config, script, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.distributed
def test_processes_that_think_they_are_alone_are_refused(model: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("with a GPU they find each other")
    config = str(RECIPES / "configs" / "icelandic-sft-smoke.yaml")
    done = launch("--config", config, "--model_name_or_path", str(model), "--output_dir", str(tmp_path / "run"))
    assert done.returncode == 1
    assert done.stderr.count("2 processes were started, and each thinks that it is alone") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.distributed
def test_a_refused_run_says_why_once(model: Path, tmp_path: Path) -> None:
    config = str(RECIPES / "configs" / "icelandic-sft-smoke.yaml")
    given = ("--model_name_or_path", str(model), "--output_dir", str(tmp_path / "run"))
    done = launch("--config", config, *given, "--held_out", str(tmp_path / "none.tsv"), "--use_cpu", "true")
    assert done.returncode == 1
    assert done.stderr.count("none.tsv does not exist") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.distributed
def test_two_processes_train_and_score_as_one_does(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = tmp_path / "held-out.tsv"
    columns = [embedded("heldout.tsv")[code][:6] for code in ("eng_Latn", "isl_Latn")]
    rows = [("eng_Latn", "isl_Latn"), *zip(*columns, strict=True)]
    held_out.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")

    def arguments(name: str, batch: int) -> list[str]:
        config = str(RECIPES / "configs" / "icelandic-sft-smoke.yaml")
        given = ["--config", config, "--model_name_or_path", str(model), "--output_dir", str(tmp_path / name)]
        # Dropout would draw other numbers in each process.
        given += ["--load_in_4bit", "false", "--lora_dropout", "0", "--disable_tqdm", "true", "--merge"]
        given += [
            "--direction",
            "source->target",
            "--max_steps",
            "2",
            "--score_every",
            "2",
            "--save_steps",
            "2",
            "--train_pairs",
            "40",
        ]
        given += ["--held_out", str(held_out), "--held_out_pairs", "3"]
        return [*given, "--per_device_train_batch_size", str(batch)]

    monkeypatch.setattr(sys, "argv", [SFT, *arguments("one", 4)])
    runpy.run_path(SFT, run_name="__main__")
    (tmp_path / "looking.py").write_text(LOOKING, encoding="utf-8")
    done = launch(*arguments("two", 2), "--use_cpu", "true", script=str(tmp_path / "looking.py"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("wrappers at the end: [False]") == 2
    for once in ("Before training (estimates)", "40 read, 40 kept", "The model card, with curves"):
        assert done.stdout.count(once) == 1
    one, two = (score_lines(tmp_path / name) for name in ("one", "two"))
    assert [line["step"] for line in two] == [0, 2]
    for part in ("score", "quality_score"):
        assert [line[part] for line in two] == [line[part] for line in one]
    files = [
        {
            re.sub(r"runs/.*", "runs", str(path.relative_to(tmp_path / name)))
            for path in (tmp_path / name).rglob("*")
            if path.is_file() and not path.name.startswith("rng_state")  # of which each process has one
        }
        for name in ("one", "two")
    ]
    assert files[0] == files[1]
    assert len(list((tmp_path / "two").rglob("events.out.tfevents.*"))) == 1
    weights = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor)
    losses = [
        [log["loss"] for log in raw_state["log_history"] if "loss" in log]
        for raw_state in (
            json.loads((tmp_path / name / "checkpoint-2" / "trainer_state.json").read_text(encoding="utf-8"))
            for name in ("one", "two")
        )
    ]
    assert len(losses[0]) == 2
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    cards = [(tmp_path / name / "README.md").read_text(encoding="utf-8") for name in ("one", "two")]
    tests = [re.search(r"^## Test$.*?(?=^## )", card, re.DOTALL | re.MULTILINE) for card in cards]
    assert tests[0] is not None
    assert tests[1] is not None
    assert "the next 3 pairs of held-out.tsv" in tests[0][0]
    assert len(re.findall(r"^\| (?:NASCA|chrF|BLEU)\b.* \d", tests[0][0], re.MULTILINE)) >= 3
    assert tests[1][0] == tests[0][0]
    assert "| processes | 2, MULTI_CPU |" in cards[1]
    assert f"accelerate launch --num_processes 2 {SFT} --config" in cards[1]
    assert "| processes |" not in cards[0]
    assert f"python {SFT} --config" in cards[0]
