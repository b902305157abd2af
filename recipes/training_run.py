"""What both recipes do alike: settings of watching, training from the last checkpoint on, what is left at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import held_out
import preflight
import run_report
import torch
from held_out import HeldOut
from preflight import PreflightError
from transformers import AutoModelForCausalLM, TrainerCallback, TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import ModelConfig, SFTConfig, SFTTrainer, get_quantization_config

from neuronxa_callback import NeuronXACallback
from neuronxa_callback.quality.translation import Prompt
from neuronxa_callback.training.history import History
from neuronxa_callback.training.stopping import still_stops

SETTINGS = "settings.json"

# What a later call may change without making a run another one: its length, how often it is scored, saved and logged,
# where that goes, and how the machine does it.
MAY_CHANGE = {
    *("max_steps", "num_train_epochs", "merge", "dry_run"),
    *("flores", "score_every", "significance", "load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    *("output_dir", "overwrite_output_dir", "run_name", "project", "report_to", "resume_from_checkpoint"),
    *("comet_device", "local_rank", "per_device_eval_batch_size", "dataset_num_proc", "torch_empty_cache_steps"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("disable_tqdm", "debug", "skip_memory_metrics", "include_num_input_tokens_seen"),
}
# Also whatever begins so, which leaves the hub's tokens out of the file.
MAY_CHANGE_FROM = (
    *("eval_", "early_stopping_", "save_", "logging_", "log_"),
    *("hub_", "push_to_hub", "trackio_", "ddp_", "do_", "_"),
)


@dataclass
class WatchArguments:
    """What is watched, and what is left behind."""

    flores: str = field(
        default="openlanguagedata/flores_plus",
        metadata={"help": "Held-out pairs: a hub name, FLORES-200's release folder, or embedded."},
    )
    held_out_pairs: int = field(default=100, metadata={"help": "Pairs to watch, and as many for the end."})
    score_every: float = field(default=0.05, metadata={"help": "Steps, or a share, where eval_strategy is no."})
    early_stopping_patience: int = field(default=0, metadata={"help": "Evaluations without a clear rise; 0: never."})
    significance: float = field(default=0.2, metadata={"help": "Level of the test that a rise counts by."})
    comet_device: str = field(default="cpu", metadata={"help": "Where COMET judges while training: cpu, cuda, cuda:1."})
    merge: bool = field(default=False, metadata={"help": "Also save the model with the adapter merged into it."})
    dry_run: bool = field(default=False, metadata={"help": "Check everything, estimate, and stop before training."})


def check(watch: WatchArguments, args: SFTConfig, model_args: ModelConfig) -> None:
    """Raise PreflightError for settings that do not go together."""
    if watch.held_out_pairs < 2:
        raise PreflightError(
            f"--held_out_pairs {watch.held_out_pairs} are too few; give 2 or more, 100 as in the paper."
        )
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        if getattr(args, name) < 1:
            raise PreflightError(f"--{name} {getattr(args, name)} must be 1 or more.")
    for name in ("trust_remote_code", "resume_from_checkpoint", "model_init_kwargs"):
        if getattr(args, name, None) or getattr(model_args, name, None):
            raise PreflightError(f"--{name} is not used by the recipes; leave it out.")
    if args.max_length is None:
        raise PreflightError("--max_length must be given, 512 for example: it bounds the memory that a batch takes.")
    if not model_args.use_peft:
        raise PreflightError("--use_peft must be given: the recipes train LoRA adapters.")


def settings(recipe: WatchArguments, args: SFTConfig, model_args: ModelConfig, held: HeldOut) -> dict[str, Any]:
    """Every setting that changes the result, and what the held-out pairs are, as JSON knows them.

    Raises:
        PreflightError: the run of this output_dir, which would go on or end, was given others.
    """
    given = {field.name: getattr(part, field.name) for part in (recipe, args, model_args) for field in fields(part)}
    found = {
        name: value for name, value in given.items() if name not in MAY_CHANGE and not name.startswith(MAY_CHANGE_FROM)
    }
    found |= {
        "world_size": args.world_size,
        "train_batch_size": args.train_batch_size,  # of all GPUs of one process
        "held_out": [pairs.fingerprint for pairs in held.all_pairs],
        **_sizes(recipe),
    }
    as_json: dict[str, Any] = json.loads(json.dumps(found, default=str))
    _check_unchanged(as_json, Path(args.output_dir))
    return as_json


def _sizes(recipe: WatchArguments) -> dict[str, int]:
    """Bytes of each training text that is a file: one that has changed is another text."""
    texts = {name: str(value) for name, value in vars(recipe).items() if name.endswith("_text")}
    paths = {name: Path(text.partition(":")[2] or text) for name, text in texts.items()}
    return {f"{name} in bytes": path.stat().st_size for name, path in paths.items() if path.is_file()}


def _check_unchanged(now: Mapping[str, Any], output_dir: Path) -> None:
    if not _last_checkpoint(output_dir) or not (output_dir / SETTINGS).exists():
        return
    before = json.loads((output_dir / SETTINGS).read_text(encoding="utf-8"))
    # What only one of them has is of another version of transformers or TRL.
    changed = [name for name in now if name in before and now[name] != before[name]]
    if changed:
        told = ", ".join(
            f"{name} was {json.dumps(before[name])} and is now {json.dumps(now[name])}" for name in changed
        )
        raise PreflightError(
            f"{output_dir} holds a run with other settings ({told}); give another --output_dir, or these as they were."
        )


def _keep(found: Mapping[str, Any], output_dir: Path) -> None:
    """Write the settings at once, so that a run that is killed leaves all of them or none."""
    output_dir.mkdir(parents=True, exist_ok=True)
    written = output_dir / f"{SETTINGS}.new"
    written.write_text(json.dumps(found, indent=2), encoding="utf-8")
    written.replace(output_dir / SETTINGS)


def load_model(model_args: ModelConfig, args: SFTConfig) -> torch.nn.Module:
    """The base model, in 4-bit where that is asked for, and the random numbers from which LoRA starts."""
    set_seed(args.seed)  # SFTTrainer adds LoRA before it sets the seed itself
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
        model_args.model_name_or_path,
        revision=model_args.model_revision,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=get_quantization_config(model_args),
        trust_remote_code=False,
    )
    return model


def callbacks(watch: WatchArguments, held: HeldOut, prompt: Prompt) -> list[TrainerCallback]:
    """Alignment and quality at every evaluation, both ways, and early stopping where it is asked for.

    Raises:
        PreflightError: a setting of watching that cannot be used.
    """
    try:
        callback = NeuronXACallback(
            held.watched,
            eval_steps=watch.score_every,
            quality=held.metrics,
            direction="both",
            prompt=prompt,
            comet_device=watch.comet_device,
            early_stopping_patience=watch.early_stopping_patience or None,
            significance=watch.significance,
        )
    except ValueError as error:
        # The recipes' name for it, since eval_steps is the Trainer's here.
        reason = str(error).replace("eval_steps", "score_every")
        raise PreflightError(f"The run cannot be watched: {reason}") from None
    return [callback]


def train(trainer: SFTTrainer, settings: Mapping[str, Any]) -> None:
    """Train, from the last checkpoint where an earlier run left one, and save the adapter.

    Args:
        trainer: ready to train.
        settings: what `settings` found; a run that begins leaves them in OUTPUT_DIR/settings.json.
    """
    args = trainer.args
    last = _last_checkpoint(Path(args.output_dir))
    state = TrainerState.load_from_json(str(last / TRAINER_STATE_NAME)) if last else None
    if last:
        print(f"Going on from {last}", file=sys.stderr)
    elif trainer.is_world_process_zero():
        _keep(settings, Path(args.output_dir))
    if state is not None and _had_ended(state, trainer):
        # The Trainer would make one step more.
        trainer.state = state
        weights = state.best_model_checkpoint if args.load_best_model_at_end else last
        trainer.model.load_adapter(str(weights), "default")
    else:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    trainer.save_model()


def _last_checkpoint(output_dir: Path) -> Path | None:
    """The last checkpoint that was written to its end: the Trainer writes its own state last."""
    whole = [path.parent for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _had_ended(state: Any, trainer: SFTTrainer) -> bool:
    """Whether training had come to its end, by its steps or early, and no more steps are asked for now."""
    stopped = bool(state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"])
    if stopped and state.global_step < state.max_steps:
        return _stops_early(trainer)
    # A stream has no length; its steps are given.
    rows = 0 if trainer.args.max_steps > 0 else len(trainer.train_dataset)
    return stopped and preflight.steps(trainer.args, rows) <= int(state.max_steps)


def _stops_early(trainer: SFTTrainer) -> bool:
    """Whether the rule that is given now would have stopped the run where it stands, too."""
    rules = [c.stopping for c in trainer.callback_handler.callbacks if isinstance(c, NeuronXACallback)]
    verdicts = [record["stopping"] for record in History(trainer.args.output_dir).read() if record.get("stopping")]
    return not verdicts or still_stops(rules[0], verdicts[-1]) is not None


def finish(
    watch: WatchArguments,
    model_args: ModelConfig,
    trainer: SFTTrainer,
    held: HeldOut,
    prompt: Prompt,
    counts: Mapping[str, Mapping[str, int]],
) -> None:
    """Test on what nothing was chosen by, write the model card, and merge the adapter where that is asked for."""
    if not trainer.is_world_process_zero():
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    with trainer.accelerator.autocast():  # as the callback scores during training
        test_scores = held_out.test_scores(model, trainer.processing_class, held, prompt)
    card = run_report.write(
        Path(trainer.args.output_dir),
        run_report.Run(
            base_model=str(model_args.model_name_or_path),
            recipe=Path(sys.argv[0]).name,
            command=["python", *sys.argv],
            step=_step_of_weights(trainer),
            stopped=_why_stopped(trainer),
            watched=held.watched_name,
            tested=held.test_name,
            test_scores=test_scores,
            counts=counts,
            notes=[held.left_out] if held.left_out else [],
            fingerprints=_fingerprints(held),
        ),
    )
    if watch.merge:
        run_report.merge(Path(trainer.args.output_dir), model_args)
    print(f"The model card, with curves and scores, is {card}")


def _step_of_weights(trainer: SFTTrainer) -> int:
    state: Any = trainer.state
    best = state.best_global_step if trainer.args.load_best_model_at_end else None
    return int(best or state.global_step)


def _fingerprints(held: HeldOut) -> dict[str, str]:
    named = ((held.watched_name, held.watched), (held.test_name, held.test))
    return {name: pairs.fingerprint for name, pairs in named if name is not None and pairs is not None}


def _why_stopped(trainer: SFTTrainer) -> str | None:
    """The reason of the last evaluation to stop; None where that was the last step anyway."""
    state: Any = trainer.state
    if state.global_step >= state.max_steps:
        return None
    records = History(trainer.args.output_dir).read()
    verdict = records[-1].get("stopping") if records else None
    return verdict["reason"] if verdict else None
