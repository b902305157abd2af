"""What both recipes do alike: settings of watching, training from the last checkpoint on, what is left at the end."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import held_out
import run_report
import torch
from held_out import HeldOut
from preflight import PreflightError
from transformers import AutoModelForCausalLM, TrainerCallback, TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import ModelConfig, SFTConfig, SFTTrainer, get_quantization_config

from neuronxa_callback import NeuronXACallback
from neuronxa_callback.history import History
from neuronxa_callback.translation import Prompt


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
    merge: bool = field(default=False, metadata={"help": "Also save the model with the adapter merged into it."})
    dry_run: bool = field(default=False, metadata={"help": "Check everything, estimate, and stop before training."})


def check(watch: WatchArguments, args: SFTConfig, model_args: ModelConfig) -> None:
    """Raise PreflightError for settings that do not go together."""
    if watch.held_out_pairs < 2:
        raise PreflightError(
            f"--held_out_pairs {watch.held_out_pairs} are too few; give 2 or more, 100 as in the paper."
        )
    if args.max_length is None:
        raise PreflightError("--max_length must be given, 512 for example: it bounds the memory that a batch takes.")
    if not model_args.use_peft:
        raise PreflightError("--use_peft must be given: the recipes train LoRA adapters.")


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
    """Alignment and quality at every evaluation, both ways, and early stopping where it is asked for."""
    return [
        NeuronXACallback(
            held.watched,
            eval_steps=watch.score_every,
            quality=held.metrics,
            direction="both",
            prompt=prompt,
            early_stopping_patience=watch.early_stopping_patience or None,
        )
    ]


def train(trainer: SFTTrainer) -> None:
    """Train, from the last checkpoint where an earlier run left one, and save the adapter."""
    args = trainer.args
    last = _last_checkpoint(Path(args.output_dir))
    state = TrainerState.load_from_json(str(last / TRAINER_STATE_NAME)) if last else None
    if last:
        print(f"Going on from {last}", file=sys.stderr)
    if state is not None and _had_ended(state, args):
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


def _had_ended(state: Any, args: SFTConfig) -> bool:
    """Whether training had come to its end, by its steps or early, and no more steps are asked for now."""
    stopped = bool(state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"])
    return stopped and args.max_steps <= int(state.max_steps)


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
        ),
    )
    if watch.merge:
        run_report.merge(Path(trainer.args.output_dir), model_args)
    print(f"The model card, with curves and scores, is {card}")


def _step_of_weights(trainer: SFTTrainer) -> int:
    state: Any = trainer.state
    best = state.best_global_step if trainer.args.load_best_model_at_end else None
    return int(best or state.global_step)


def _why_stopped(trainer: SFTTrainer) -> str | None:
    records = History(trainer.args.output_dir).read()
    verdict = records[-1].get("stopping") if records else None
    return verdict["reason"] if verdict else None
