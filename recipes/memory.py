"""Memory that a run needs, by arithmetic, against what the device has free."""

from __future__ import annotations

import psutil
import torch
from preflight import PreflightError
from transformers.pytorch_utils import Conv1D
from trl import ModelConfig, SFTConfig

from neuronxa_callback.model.neurons import DenseFFN, find_ffns

GIB = 2**30


def estimate(model: torch.nn.Module, args: SFTConfig, model_args: ModelConfig) -> int:
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


def check(needed: int, args: SFTConfig) -> None:
    """Raise PreflightError where the estimate is above what the device has free."""
    free = available(args)
    if needed > free:
        raise PreflightError(
            f"The run needs about {needed / GIB:.1f} GiB and {args.device} has {free / GIB:.1f} GiB free; lower "
            f"--per_device_train_batch_size (now {args.per_device_train_batch_size}) and raise "
            "--gradient_accumulation_steps, or lower --max_length, or take a smaller model."
        )
