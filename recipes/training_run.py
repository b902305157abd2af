"""The parts that both recipes share: the settings of watching, training that can be resumed, and the model card."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import held_out
import plan
import processes
import run_report
import torch
from held_out import HeldOut
from preflight import PreflightError
from run_settings import RunSettings, last_checkpoint
from transformers import AutoModelForCausalLM, TrainerCallback, TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from trl import ModelConfig, SFTConfig, SFTTrainer, get_quantization_config

from neuronxa_callback import NeuronXACallback, Quality, StoppingRule
from neuronxa_callback.alignment.settings import AlignmentSettings
from neuronxa_callback.quality.prompts import Prompt
from neuronxa_callback.training.history import History
from neuronxa_callback.training.stopping import still_stops
from neuronxa_callback.vocabulary import Direction, Method, help_of


@dataclass
class WatchArguments:
    """The settings of watching a run, and of what it leaves."""

    source_lang: str = field(default="eng_Latn", metadata={"help": "The pivot, one side of every pair."})
    target_lang: str | None = field(default=None, metadata={"help": "The other language, such as isl_Latn."})
    target_langs: list[str] | None = field(default=None, metadata={"help": "Several such languages, in its place."})
    control_langs: list[str] | None = field(
        default=None, metadata={"help": "Languages that are watched beside the source and not trained on."}
    )
    held_out: str = field(
        default="openlanguagedata/flores_plus",
        metadata={"help": "Held-out pairs: a hub name, FLORES-200's release folder, embedded, or parallel text."},
    )
    held_out_pairs: int = field(default=100, metadata={"help": "Pairs to watch, and as many for the end."})
    score_every: float = field(default=0.05, metadata={"help": "Steps, or a share, where eval_strategy is no."})
    methods: list[str] = field(
        default_factory=lambda: list(AlignmentSettings.methods),
        metadata={"help": help_of(AlignmentSettings, "methods")},
    )
    direction: str = field(default="both", metadata={"help": help_of(Quality, "direction", "The test takes both.")})
    early_stopping_patience: int = field(
        default=0, metadata={"help": help_of(StoppingRule, "patience", "0 never stops.")}
    )
    early_stopping_metric: str | None = field(default=None, metadata={"help": help_of(StoppingRule, "metric")})
    comet_device: str = field(default=Quality.comet_device, metadata={"help": help_of(Quality, "comet_device")})
    merge: bool = field(default=False, metadata={"help": "Also save the model with the adapter merged into it."})
    dry_run: bool = field(default=False, metadata={"help": "Check everything, estimate, and stop before training."})


def check(watch: WatchArguments, args: SFTConfig, model_args: ModelConfig) -> None:
    """Raise PreflightError for settings that do not go together."""
    if watch.held_out_pairs < 2:
        raise PreflightError(
            f"--held_out_pairs {watch.held_out_pairs} are too few; give 2 or more, 100 as in the paper."
        )
    check_training(args, model_args)
    processes.check(args)


def check_training(args: SFTConfig, model_args: ModelConfig) -> None:
    """Raise PreflightError for settings that no recipe can train with."""
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


def load_model(model_args: ModelConfig, args: SFTConfig) -> torch.nn.Module:
    """Load the base model, in 4-bit if the settings say so, and set the seed from which LoRA starts.

    Without a `device_map`, which ZeRO 3 refuses, 4-bit weights go to the current GPU. By now that is the process's own.
    """
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
    """Return the callback that scores alignment and translations, and may stop the run early.

    Raises:
        PreflightError: a setting of watching cannot be used.
    """
    quality = Quality(
        held.metrics,
        pairs=[pairs.name for pairs in held.translated],
        direction=direction_of(watch),
        prompt=prompt,
        comet_device=watch.comet_device,
    )
    try:
        callback = NeuronXACallback(
            list(held.watched),
            methods=methods_of(watch),
            eval_steps=watch.score_every,
            quality=quality,
            stopping=StoppingRule(watch.early_stopping_patience or None, watch.early_stopping_metric),
        )
    except ValueError as error:
        # The recipes' names, since eval_steps is the Trainer's here.
        reason = str(error).replace("eval_steps", "score_every").replace("patience=", "early_stopping_patience=")
        raise PreflightError(f"The run cannot be watched: {reason}") from None
    return [callback]


def direction_of(watch: WatchArguments) -> Direction:
    """Return what each evaluation translates. The callback refuses an unknown direction."""
    return cast(Direction, watch.direction)


def methods_of(watch: WatchArguments) -> list[Method]:
    """Return the methods that score alignment. The callback refuses an unknown one."""
    return cast(list[Method], watch.methods)


def train(trainer: SFTTrainer, settings: RunSettings) -> None:
    """Train, from the last checkpoint if an earlier run left one, and save the adapter.

    Args:
        trainer: the trainer, ready to train.
        settings: the settings of the run. A run that begins writes them to OUTPUT_DIR/settings.json.

    Raises:
        PreflightError: the run had ended, and its engine cannot make the model ready without a step.
    """
    args = trainer.args
    last = last_checkpoint(Path(args.output_dir))
    is_first = trainer.is_world_process_zero()
    state = TrainerState.load_from_json(str(last / TRAINER_STATE_NAME)) if last else None
    if is_first and last:
        print(f"Going on from {last}", file=sys.stderr)
    elif is_first:
        settings.keep(Path(args.output_dir))
    if state is not None and _had_ended(state, trainer):
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise PreflightError(
                f"{args.output_dir} holds a run that has ended, and FSDP and DeepSpeed make a model ready in training "
                "alone; raise --max_steps or --num_train_epochs to go on."
            )
        # The Trainer would make one step more.
        trainer.state = state
        weights = state.best_model_checkpoint if args.load_best_model_at_end else last
        trainer.model.load_adapter(str(weights), "default")
    else:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    trainer.save_model()


def _had_ended(state: Any, trainer: SFTTrainer) -> bool:
    """Return whether training had ended, early or by its steps, and no more steps are asked for now."""
    stopped = bool(state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"])
    if stopped and state.global_step < state.max_steps:
        return _stops_early(trainer)
    # A stream has no length; its steps are given.
    rows = 0 if trainer.args.max_steps > 0 else len(trainer.train_dataset)
    return stopped and plan.steps(trainer.args, rows) <= int(state.max_steps)


def _stops_early(trainer: SFTTrainer) -> bool:
    """Return whether the current stopping rule would also have stopped the run at this step."""
    rules = [c.stopping for c in trainer.callback_handler.callbacks if isinstance(c, NeuronXACallback)]
    evaluations = History(trainer.args.output_dir).read()
    judged = [evaluation for evaluation in evaluations if evaluation.stopping]
    return not judged or still_stops(rules[0], judged) is not None


def finish(
    watch: WatchArguments,
    model_args: ModelConfig,
    trainer: SFTTrainer,
    held: HeldOut,
    prompt: Prompt,
    counts: Mapping[str, Mapping[str, int]],
) -> None:
    """Score the test pairs, write the model card, and merge the adapter if the settings say so.

    All processes encode and translate, because each may have only a part of the model. The first one does the rest. The
    others end before that, so that its length is not bounded by `ddp_timeout`.
    """
    with trainer.accelerator.autocast():  # as the callback scores during training
        test_scores = held_out.test_scorer(trainer.model, trainer.processing_class, held, methods_of(watch), prompt)
    processes.leave(trainer)
    if not trainer.is_world_process_zero():
        return
    card = run_report.write(
        Path(trainer.args.output_dir),
        run_report.Run(
            base_model=str(model_args.model_name_or_path),
            recipe=Path(sys.argv[0]).name,
            languages=held.languages,
            command=_command(trainer.args.world_size),
            processes=_processes(trainer),
            step=_step_of_weights(trainer),
            stopped=_why_stopped(trainer),
            watched=held.watched_name,
            tested=held.test_name,
            test_scores=test_scores(),
            counts=counts,
            notes=[held.left_out] if held.left_out else [],
            fingerprints=_fingerprints(held),
        ),
    )
    if watch.merge:
        with processes.whole_models(trainer.args):
            run_report.merge(Path(trainer.args.output_dir), model_args)
    print(f"The model card, with curves and scores, is {card}")


def _command(size: int) -> list[str]:
    """Return the command of the run. What the launcher was told beside the number of processes is not known here."""
    return ["accelerate", "launch", "--num_processes", str(size), *sys.argv] if size > 1 else ["python", *sys.argv]


def _processes(trainer: SFTTrainer) -> str | None:
    """Return how many processes train and by which engine; None if there is one process."""
    size, plugin = trainer.args.world_size, trainer.args.deepspeed_plugin
    stage = f" ZeRO {plugin.zero_stage}" if plugin is not None else ""
    return f"{size}, {trainer.accelerator.distributed_type.value}{stage}" if size > 1 else None


def _step_of_weights(trainer: SFTTrainer) -> int:
    state: Any = trainer.state
    best = state.best_global_step if trainer.args.load_best_model_at_end else None
    return int(best or state.global_step)


def _fingerprints(held: HeldOut) -> dict[str, str]:
    named = ((held.watched_name, held.watched), (held.test_name, held.test))
    return {f"{pair.name}, {name}": pair.fingerprint for name, pairs in named for pair in pairs}


def _why_stopped(trainer: SFTTrainer) -> str | None:
    """Return why the last evaluation stopped the run, or None if the run had reached its last step."""
    state: Any = trainer.state
    if state.global_step >= state.max_steps:
        return None
    evaluations = History(trainer.args.output_dir).read()
    verdict = evaluations[-1].stopping if evaluations else None
    return verdict.reason if verdict else None
