"""The settings that identify a run. They are written when it begins and compared when it goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from held_out import HeldOut
from preflight import PreflightError
from pydantic import BaseModel, ConfigDict
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import ModelConfig, SFTConfig

FILE = "settings.json"


class RunSettings(BaseModel):
    """Every setting that changes the weights a run ends with, under its name in the YAML files and in TRL.

    Four kinds of settings are left out:

    * Evaluating, logging, saving and stopping observe the training and do not change its steps.
    * The length may grow. A run that has ended goes on if the user asks for more steps or epochs.
    * Devices, kernels, compilation, sharding, the storage of 4-bit weights, checkpointed activations and workers that
      load data compute the same thing elsewhere or faster. Their results differ by rounding.
    * The names of the columns are the recipes' own.

    A field with the default None is missing in some recipe or in some version of the libraries. It is written and
    compared if it exists.
    """

    # ModelConfig's names begin with model_, and pydantic 2.0 to 2.9 reserves names that begin so.
    model_config = ConfigDict(frozen=True, protected_namespaces=())

    # The text: its source, how it is read, and what it must not contain. A file of another size is another text.
    recipe: str
    source_lang: str
    target_langs: list[str]
    train_text: str
    train_pairs: int | None
    prompt: str | None = None
    target_text: str | None = None
    source_text: str | None = None
    documents: int | None = None
    source_share: float | None = None
    bytes_of_texts: dict[str, int]  # those that are files
    held_out_pairs: int
    held_out: list[str]  # fingerprints of their sentences
    max_length: int
    truncation_mode: str
    packing: bool
    packing_strategy: str
    padding_free: bool
    chat_template_path: str | None
    eos_token: str | None
    pad_token: str | None
    dataset_kwargs: dict[str, Any] | str | None

    # Which examples a step learns from, and in which order.
    seed: int
    data_seed: int | None
    per_device_train_batch_size: int
    train_batch_size: int  # over all GPUs of one process
    gradient_accumulation_steps: int
    world_size: int
    auto_find_batch_size: bool
    dataloader_drop_last: bool
    shuffle_dataset: bool
    train_sampling_strategy: str | None = None
    group_by_length: bool | None = None
    ignore_data_skip: bool
    accelerator_config: str  # whether batches are split or filled up

    # The loss and the optimizer.
    loss_type: str
    completion_only_loss: bool | None
    assistant_only_loss: bool
    label_smoothing_factor: float
    router_aux_loss_coef: float | None
    average_tokens_across_devices: bool
    learning_rate: float
    lr_scheduler_type: str
    lr_scheduler_kwargs: dict[str, Any] | str | None
    warmup_steps: float
    warmup_ratio: float | None = None
    optim: str
    adafactor: bool | None = None
    optim_args: str | None
    optim_target_modules: list[str] | str | None
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    max_grad_norm: float
    neftune_noise_alpha: float | None
    deepspeed: dict[str, Any] | str | None  # its file may name another optimizer

    # The model, its precision, and LoRA. Under some implementations of attention, packed documents see each other.
    model_name_or_path: str
    model_revision: str
    attn_implementation: str | None
    dtype: str | None
    bf16: bool | None
    fp16: bool
    tf32: bool | None
    load_in_4bit: bool
    load_in_8bit: bool
    bnb_4bit_quant_type: str
    use_bnb_nested_quant: bool
    lora_r: int
    lora_alpha: int
    lora_dropout: float
    lora_target_modules: list[str] | str | None
    lora_target_parameters: list[str] | str | None
    lora_modules_to_save: list[str] | str | None
    lora_task_type: str
    use_rslora: bool
    use_dora: bool

    def as_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def keep(self, output_dir: Path) -> None:
        """Write all settings to OUTPUT_DIR/settings.json, or none of them if the run is killed meanwhile."""
        output_dir.mkdir(parents=True, exist_ok=True)
        written = output_dir / f"{FILE}.new"
        written.write_text(json.dumps(self.as_json(), indent=2), encoding="utf-8")
        written.replace(output_dir / FILE)


def of(recipe: Any, args: SFTConfig, model_args: ModelConfig, held: HeldOut, train_texts: Sequence[str]) -> RunSettings:
    """Return the settings of a run that is about to begin or to go on.

    Args:
        recipe: the recipe's own settings.
        args: the settings of the training.
        model_args: the model, its quantisation and LoRA.
        held: the pairs that are not trained on, and the languages.
        train_texts: the training texts, each with its language in its name.

    Raises:
        PreflightError: output_dir holds a checkpoint of a run with other settings.
    """
    return checked(
        (recipe, args, model_args),
        {
            "target_langs": list(held.languages.targets),
            "held_out": [pairs.fingerprint for pairs in held.all_pairs],
            "bytes_of_texts": _sizes(train_texts),
        },
    )


def checked(parts: tuple[Any, SFTConfig, ModelConfig], more: Mapping[str, Any]) -> RunSettings:
    """Return the settings of a run that is about to begin or to go on.

    Args:
        parts: the recipe's own settings, those of the training, and those of the model.
        more: what stands in none of them, or otherwise.

    Raises:
        PreflightError: output_dir holds a checkpoint of a run with other settings.
    """
    _, args, _ = parts
    given = {field.name: getattr(part, field.name) for part in parts for field in fields(part)}
    now = RunSettings.model_validate(
        given
        | {
            "recipe": Path(sys.argv[0]).name,
            "accelerator_config": str(args.accelerator_config),
            "train_batch_size": args.train_batch_size,
            "world_size": args.world_size,
            **more,
        }
    )
    _check_unchanged(now.as_json(), Path(args.output_dir))
    return now


def _sizes(train_texts: Sequence[str]) -> dict[str, int]:
    """Return the size in bytes of each training text that is a file, since a changed file is another text."""
    paths = {text: Path(text.partition(":")[2] or text) for text in train_texts}
    return {text: path.stat().st_size for text, path in paths.items() if path.is_file()}


def _check_unchanged(now: Mapping[str, Any], output_dir: Path) -> None:
    if not last_checkpoint(output_dir) or not (output_dir / FILE).exists():
        return
    before = json.loads((output_dir / FILE).read_text(encoding="utf-8"))
    # Version 0.1 wrote more names. A name that only one side has comes from another version of the recipes,
    # transformers or TRL.
    changed = [name for name in now if name in before and now[name] != before[name]]
    if changed:
        listed = ", ".join(
            f"{name} was {json.dumps(before[name])} and is now {json.dumps(now[name])}" for name in changed
        )
        raise PreflightError(
            f"{output_dir} holds a run with other settings ({listed}); "
            "give another --output_dir, or these as they were."
        )


def last_checkpoint(output_dir: Path) -> Path | None:
    """Return the last checkpoint that is complete, or None.

    The Trainer writes its own state last, so a checkpoint with this state is complete.
    """
    whole = [path.parent for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
