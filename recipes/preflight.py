"""What is found out before anything long starts: a wrong setting, a model that cannot be used, too little memory."""

from __future__ import annotations

import difflib
import json
import math
import sys
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

import psutil
import torch
import yaml
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.hf_argparser import string_to_bool
from transformers.pytorch_utils import Conv1D
from trl import ModelConfig, SFTConfig, TrlParser

from neuronxa_callback import ParallelPairs
from neuronxa_callback.model.neurons import DenseFFN, find_ffns
from neuronxa_callback.quality.translation import EXTRA_TOKENS, LENGTH_RATIO

GIB = 2**30

WANTED = {int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "a mapping"}


class PreflightError(ValueError):
    """A run that cannot work; the message says why, and what to do."""


# ---------------------------------------------------------------------------------------------- settings


def parse(types: Sequence[type], arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
    """The settings of a YAML file (--config) and the command line, as one object of each type.

    Raises:
        PreflightError: a file that cannot be read, a key that no type has, or a value that is not of its type.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--config" in arguments:
        place = arguments.index("--config") + 1
        if place == len(arguments):
            raise PreflightError("--config has no file behind it; give one of recipes/configs/.")
        _check_file(Path(arguments[place]), _types_of_settings(types))
    try:
        return tuple(_Parser(types).parse_args_and_config(arguments))
    except PreflightError:
        raise
    except ValueError as error:
        raise PreflightError(f"The settings cannot be used: {' '.join(str(error).split())}") from error


class _Parser(TrlParser):
    """TRL's, which says what is wrong in one sentence instead of after the usage of all settings."""

    def error(self, message: str) -> NoReturn:
        raise PreflightError(f"The settings cannot be used: {' '.join(message.split())}.")


def _types_of_settings(types: Sequence[type]) -> dict[str, Any]:
    found: dict[str, Any] = {"env": dict}
    for kind in types:
        hints = get_type_hints(kind)
        found |= {field.name: hints[field.name] for field in fields(kind)}
    return found


def _check_file(path: Path, known: Mapping[str, Any]) -> None:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PreflightError(f"{path} does not exist; the configurations are in recipes/configs/.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PreflightError(f"{path} cannot be read as YAML ({' '.join(str(error).split())}); mend it.") from None
    if not isinstance(settings, dict):
        raise PreflightError(f"{path} holds no settings; write one `key: value` a line.")
    for key, value in settings.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), sorted(known), n=2)
            hint = f"; the nearest are {', '.join(near)}" if near else "; remove it"
            raise PreflightError(f"{path} has the unknown key {key}{hint}.")
        fault = _fault_of_value(key, value, known[key])
        if fault:
            raise PreflightError(f"{path} has {key}: {json.dumps(value, default=str)}, {fault}.")


def _fault_of_value(key: str, value: Any, hint: Any) -> str | None:
    """What is wrong with a value of a YAML file; the parser would take whatever YAML has made of it."""
    of_union = get_origin(hint) in (Union, UnionType)
    kinds = [get_origin(kind) or kind for kind in (get_args(hint) if of_union else (hint,))]
    if any(_fits(value, kind) for kind in kinds):
        return None
    wanted = dict.fromkeys(WANTED.get(kind, "text") for kind in kinds if kind is not NoneType)
    return f"which must be {' or '.join(wanted)}{_remedy(key, value, wanted)}"


def _fits(value: Any, kind: Any) -> bool:
    if not isinstance(value, str):
        return type(value) in (int, float) if kind is float else type(value) is kind
    # The parser reads text as it does that of the command line.
    read: Any = {int: int, float: float, bool: string_to_bool}.get(kind, str)
    try:
        read(value)
    except (ValueError, ArgumentTypeError):
        return False
    return kind is not NoneType


def _remedy(key: str, value: Any, wanted: Mapping[str, Any]) -> str:
    if "text" in wanted and isinstance(value, bool):
        return f'; put the word in quotes (such as {key}: "no"), since YAML takes no and yes for false and true'
    if "text" in wanted and isinstance(value, int | float):
        return f'; put it in quotes, {key}: "{value}"'
    if "a whole number" in wanted and _fits(value, float) and float(value).is_integer():
        return f"; write {key}: {int(float(value))}"
    return ""


# ---------------------------------------------------------------------------------------------- model


def empty_model(model_args: ModelConfig) -> torch.nn.Module:
    """The model without its weights, from its configuration alone.

    Raises:
        PreflightError: it cannot be had, is no decoder, or has FFNs that cannot be read.
    """
    name = model_args.model_name_or_path
    if not name:
        raise PreflightError("No model is named; give --model_name_or_path, a hub name or a folder.")
    try:
        config = AutoConfig.from_pretrained(name, revision=model_args.model_revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if "gated" in str(error).lower():
            raise PreflightError(
                f"{name} is gated: accept its licence on https://huggingface.co/{name} and run `hf auth login`."
            ) from None
        reason = " ".join(str(error).split())[:160]
        raise PreflightError(
            f"{name} is no model that can be had here ({reason}); give a hub name or a folder."
        ) from None
    if getattr(config, "is_encoder_decoder", False):
        raise PreflightError(f"{name} is an encoder-decoder; the recipes train decoders, such as Llama or Qwen.")
    try:
        with torch.device("meta"):
            model: torch.nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        find_ffns(model)
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise PreflightError(f"{name} is no decoder whose neurons can be read: {reason}") from None
    return model


def tokenizer(model_args: ModelConfig) -> Any:
    """The model's tokenizer.

    Raises:
        PreflightError: it cannot be had.
    """
    name = model_args.model_name_or_path
    try:
        return AutoTokenizer.from_pretrained(name, revision=model_args.model_revision, trust_remote_code=False)
    except Exception as error:  # a broken file is whatever its reader raises, a bare Exception among others
        reason = " ".join(str(error).split())[:160]
        raise PreflightError(
            f"{name} has no tokenizer that can be read ({reason}); put the files of its tokenizer beside the model."
        ) from None


# ---------------------------------------------------------------------------------------------- memory


def memory(model: torch.nn.Module, args: SFTConfig, model_args: ModelConfig) -> int:
    """Bytes that one device needs in training, roughly.

    Arithmetic, not a measurement: weights by their dtype, LoRA with its gradient and Adam's two moments in float32,
    the activations (with gradient checkpointing one hidden state a layer and those of a single layer), and the logits
    of a full batch with a float32 copy and their gradient.

    Args:
        model: without weights.
        args: of the training; `max_length` bounds a sequence.
        model_args: dtype, quantisation and LoRA.
    """
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    width = 4 if model_args.dtype == "float32" else 2
    # A float32 weight with its gradient and Adam's two moments.
    adapter = 16 * _lora_parameters(model, model_args)
    tokens = args.per_device_train_batch_size * args.max_length
    layer = tokens * (8 * config.hidden_size + 3 * _ffn_width(model)) * width
    states = tokens * config.num_hidden_layers * config.hidden_size * width
    activations = states + layer if args.gradient_checkpointing else layer * config.num_hidden_layers
    logits = tokens * config.vocab_size * (width + 4 + width)
    return int(_weights(model, model_args, width) + adapter + activations + logits)


def _ffn_width(model: torch.nn.Module) -> int:
    """Neurons that a token passes in the widest layer; of a mixture those of the experts it is routed to."""
    routed = getattr(model.config.get_text_config(), "num_experts_per_tok", 1)  # type: ignore[operator, union-attr]
    return max(
        sum(ffn.neurons if isinstance(ffn, DenseFFN) else ffn.width * routed for ffn in layer)
        for layer in find_ffns(model)
    )


def _weights(model: torch.nn.Module, model_args: ModelConfig, width: int) -> float:
    """Bytes of the model as it is loaded; bitsandbytes leaves embeddings and the head as they are."""
    # Four bits and a float32 scale for every 64 weights, or eight bits.
    quantised = 0.5 + 4 / 64 if model_args.load_in_4bit else 1.0 if model_args.load_in_8bit else float(width)
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]  # type: ignore[operator]
    outside = {id(parameter) for module in ends if module is not None for parameter in module.parameters()}
    parameters = model.parameters()
    return sum(parameter.numel() * (width if id(parameter) in outside else quantised) for parameter in parameters)


def _lora_parameters(model: torch.nn.Module, model_args: ModelConfig) -> int:
    """Parameters that LoRA adds, at the most: every linear layer but the head counts."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head]
    return sum(int(model_args.lora_r) * sum(module.weight.shape) for module in linear)


def available(args: SFTConfig) -> int:
    """Bytes free on the device that the Trainer will use."""
    if args.device.type == "cuda":
        return int(torch.cuda.mem_get_info(args.device)[0])
    return int(psutil.virtual_memory().available)


def check_memory(needed: int, args: SFTConfig) -> None:
    """Raise PreflightError where the estimate is above what the device has free."""
    free = available(args)
    if needed > free:
        raise PreflightError(
            f"The run needs about {needed / GIB:.1f} GiB and {args.device} has {free / GIB:.1f} GiB free; lower "
            f"--per_device_train_batch_size (now {args.per_device_train_batch_size}) and raise "
            "--gradient_accumulation_steps, or lower --max_length, or take a smaller model."
        )


# ---------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True)
class Plan:
    """What a run will do, as far as arithmetic tells.

    Attributes:
        examples: training examples.
        steps: optimizer steps.
        epochs: how often these go through the training text.
        evaluations: how often the held-out pairs are scored, at the start included.
        alignment_cost: the forward passes of all evaluations as a share of the training, counted in tokens.
        translated: tokens that the translations of one evaluation, both ways, take at the most.
    """

    examples: int
    steps: int
    epochs: float
    evaluations: int
    alignment_cost: float
    translated: int


def steps(args: SFTConfig, rows: int) -> int:
    """Optimizer steps that the Trainer makes from so many rows of training text, packed where they are packed."""
    asked = int(args.max_steps)
    return asked if asked > 0 else math.ceil(_steps_per_epoch(args, rows) * float(args.num_train_epochs))


def _steps_per_epoch(args: SFTConfig, rows: int) -> int:
    batches: float = rows / (args.train_batch_size * args.world_size)
    whole: int = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
    return max(1, math.ceil(whole / int(args.gradient_accumulation_steps)))


def plan(
    tokenizer: Any, args: SFTConfig, texts: Sequence[str], examples: int, held_out: ParallelPairs, score_every: float
) -> Plan:
    """Estimate a run before its weights are loaded.

    Args:
        tokenizer: the model's.
        args: of the training.
        texts: some training examples as plain text, whose mean length is taken.
        examples: number of training examples.
        held_out: the pairs that are watched.
        score_every: steps between two evaluations, or a share of all, where the Trainer never evaluates.
    """
    per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    length = _tokens(tokenizer, texts) / max(1, len(texts))
    # Packed examples fill their rows; others are as long as they are.
    rows = math.ceil(examples * length / args.max_length) if args.packing else examples
    tokens = args.max_length if args.packing else min(length, args.max_length)
    made = steps(args, rows)
    evaluations = _evaluations(args, made, _steps_per_epoch(args, rows), score_every)
    sentences = (*held_out.source, *held_out.target)
    scored = _tokens(tokenizer, sentences)
    # Forward and backward together cost about three forward passes.
    alignment_cost = evaluations * scored / (3 * made * per_step * tokens)
    translated = LENGTH_RATIO * scored + EXTRA_TOKENS * len(sentences)
    return Plan(examples, made, made * per_step / rows, evaluations, alignment_cost, translated)


def _evaluations(args: SFTConfig, made: int, per_epoch: int, score_every: float) -> int:
    """How often the held-out pairs are scored in so many steps: at the start, at each evaluation, and at the end."""
    if args.eval_strategy == "no":
        every = score_every
    else:
        every = per_epoch if args.eval_strategy == "epoch" else (args.eval_steps or args.logging_steps)
    return 1 + math.ceil(made / max(1, math.ceil(every * made) if every < 1 else int(every)))


def _tokens(tokenizer: Any, texts: Sequence[str]) -> int:
    return sum(len(tokenizer(text)["input_ids"]) for text in texts)


def show(
    found: Plan, needed: int, args: SFTConfig, counts: Mapping[str, Mapping[str, int]], notes: Sequence[str]
) -> None:
    """Print the plan, the memory that is needed, and what cleaning removed; of many processes the first does."""
    if args.process_index:
        return
    table = Table(title="Before training (estimates)", title_justify="left", show_header=False)
    table.add_row("training examples", f"{found.examples:,}")
    table.add_row("steps", f"{found.steps:,}, {found.epochs:.2g} times through the text")
    table.add_row("evaluations", f"{found.evaluations}")
    table.add_row("memory", f"about {needed / GIB:.1f} GiB of {available(args) / GIB:.1f} GiB free")
    table.add_row("alignment's forward passes", f"about {found.alignment_cost:.1%} of the training")
    table.add_row("translating, on top", f"at most {found.translated:,} generated tokens an evaluation")
    console = Console()
    console.print(table)
    for text, removed in counts.items():
        told = ", ".join(f"{count:,} {name}" for name, count in removed.items())
        console.print(f"{text}: {told}", soft_wrap=True, markup=False)
    for note in notes:
        console.print(note, soft_wrap=True, markup=False)
