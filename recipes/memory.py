"""An estimate of the memory that a run needs, compared with the memory that the device has free."""

from __future__ import annotations

import os

import processes
import psutil
import torch
from preflight import PreflightError
from transformers.pytorch_utils import Conv1D
from trl import ModelConfig, SFTConfig

from neuronxa_callback import launcher
from neuronxa_callback.model.dense import DenseFFN
from neuronxa_callback.model.neurons import find_ffns

GIB = 2**30


def estimate(model: torch.nn.Module, args: SFTConfig, model_args: ModelConfig) -> int:
    """Return roughly the number of bytes that one device needs in training.

    The number is arithmetic and not a measurement. It adds up

    * the weights in their dtype; where FSDP or ZeRO 3 splits them over the processes, its own part of the layers, two
      layers that it has gathered, and the embeddings and the head whole, which FSDP gathers together;
      4-bit weights are split after each process has loaded them whole,
    * LoRA's weights with their gradient and Adam's two moments in float32,
    * the activations; with gradient checkpointing these are one hidden state a layer and all those of a single layer,
    * the logits of a full batch with a float32 copy and their gradient.

    Args:
        model: the model without its weights.
        args: the settings of the training; `max_length` bounds a sequence.
        model_args: dtype, quantisation and LoRA.
    """
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    width = 4 if model_args.dtype == "float32" else 2
    # Four float32 numbers a parameter: the weight, its gradient and Adam's two moments.
    adapter = 16 * _lora_parameters(model, model_args)
    tokens = args.per_device_train_batch_size * args.max_length
    layer = tokens * (8 * config.hidden_size + 3 * _ffn_width(model)) * width
    states = tokens * config.num_hidden_layers * config.hidden_size * width
    activations = states + layer if args.gradient_checkpointing else layer * config.num_hidden_layers
    logits = tokens * config.vocab_size * (width + 4 + width)
    ends, layers = _weights(model, model_args, width)
    if processes.is_sharded(args) and not (model_args.load_in_4bit or model_args.load_in_8bit):
        layers *= min(1.0, 1 / args.world_size + 2 / config.num_hidden_layers)
    return int(ends + layers + adapter + activations + logits)


def _ffn_width(model: torch.nn.Module) -> int:
    """Return the number of neurons that a token passes in the widest layer.

    In a mixture of experts, only the neurons of the experts that the token is routed to count.
    """
    routed = getattr(model.config.get_text_config(), "num_experts_per_tok", 1)  # type: ignore[operator, union-attr]
    return max(
        sum(ffn.neurons if isinstance(ffn, DenseFFN) else ffn.width * routed for ffn in layer)
        for layer in find_ffns(model)
    )


def _weights(model: torch.nn.Module, model_args: ModelConfig, width: int) -> tuple[float, float]:
    """Return the bytes of the loaded embeddings and head, which bitsandbytes does not quantise, and of all the rest."""
    # A weight takes four bits and a 64th of a float32 scale, or eight bits, or the bytes of its dtype.
    quantised = 0.5 + 4 / 64 if model_args.load_in_4bit else 1.0 if model_args.load_in_8bit else float(width)
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]  # type: ignore[operator]
    # Tied ones count once.
    outside = {id(p): p.numel() for module in ends if module is not None for p in module.parameters()}
    at_ends = sum(outside.values())
    inside = sum(parameter.numel() for parameter in model.parameters()) - at_ends
    return float(at_ends * width), inside * quantised


def _lora_parameters(model: torch.nn.Module, model_args: ModelConfig) -> int:
    """Return the most parameters that LoRA can add. Every linear layer counts except the head."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head]
    return sum(int(model_args.lora_r) * sum(module.weight.shape) for module in linear)


def available(args: SFTConfig) -> int:
    """Return the bytes that are free for this process on the device that the Trainer will use.

    A process has a GPU of its own. It shares the memory of a CPU with the others on its machine.
    """
    if args.device.type == "cuda":
        return int(torch.cuda.mem_get_info(args.device)[0])
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if launcher.are_several() else 1
    return int(psutil.virtual_memory().available) // sharing


def check(needed: int, args: SFTConfig) -> None:
    """Raise PreflightError if the process needs more memory than the device has free for it."""
    free = available(args)
    if needed > free:
        raise PreflightError(
            f"The run needs about {needed / GIB:.1f} GiB and {args.device} has {free / GIB:.1f} GiB free; lower "
            f"--per_device_train_batch_size (now {args.per_device_train_batch_size}) and raise "
            "--gradient_accumulation_steps, or lower --max_length, or take a smaller model."
        )
