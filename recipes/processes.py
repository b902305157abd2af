"""What several processes need that `accelerate launch` or torchrun starts: a refusal that is said once, and sharding.

The processes are told apart by `neuronxa_callback.ranks`. With one process, nothing here changes anything.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import settings
import torch
from accelerate.utils import parse_flag_from_env
from preflight import PreflightError
from text_rows import TextError
from torch.nn.parallel import DistributedDataParallel
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config
from trl import SFTConfig, SFTTrainer

from neuronxa_callback import launcher
from neuronxa_callback.files import RecordError
from neuronxa_callback.ranks import RankError
from neuronxa_callback.text.pairs import PairsError

GRACE = 10.0  # seconds
REFUSALS = (PreflightError, TextError, PairsError, RecordError, RankError)


def run(main: Callable[..., None], types: Sequence[type]) -> None:
    """Run a recipe with the settings of the command line.

    Args:
        main: takes the settings, an object of each type.
        types: the types of the settings.

    Raises:
        SystemExit: the run is refused. The first process says why at once, and its end ends the others. Another one
            says it after a while, if the first has not ended by then.
    """
    try:
        main(*settings.parse(types))
    except REFUSALS as error:
        # Settings are refused before the processes have met, so the launcher's variables tell them apart.
        if not launcher.is_first():
            time.sleep(GRACE)
        raise SystemExit(str(error)) from None
    leave()


def leave(trainer: SFTTrainer | None = None) -> None:
    """Leave the process group, if there is one. All processes must call it at about the same time, because of NCCL.

    Left to the interpreter's end, gloo's threads at times abort it. DDP's wrapper of the model must be gone before. If
    it is freed later, it frees gloo's group, which waits for a thread that waits for Python's lock, and the process
    never ends (github.com/pytorch/pytorch/issues/56297; seen with torch 2.13).

    Args:
        trainer: the trainer if it is still there. It cannot train any more afterwards.
    """
    if not torch.distributed.is_initialized():
        return
    if trainer is not None and isinstance(trainer.model_wrapped, DistributedDataParallel):
        trainer.model_wrapped = trainer.model
        trainer.accelerator.free_memory()  # which keeps the wrapper, too
    gc.collect()
    torch.distributed.destroy_process_group()


def check(args: SFTConfig) -> None:
    """Check that the processes know of each other. If they do not, each would train and write the same run.

    Raises:
        PreflightError: they do not.
    """
    started = int(os.environ["WORLD_SIZE"]) if launcher.are_several() else 1
    if started != args.world_size:
        raise PreflightError(
            f"{started} processes were started, and each thinks that it is alone, because there is no GPU; give "
            "--use_cpu true."
        )


def is_sharded(args: SFTConfig) -> bool:
    """Return whether each process will have only a part of the parameters, under FSDP or ZeRO 3."""
    if args.deepspeed_plugin is not None:
        return bool(args.deepspeed_plugin.zero_stage == 3)
    # On a CPU the Trainer ignores FSDP.
    return args.device.type != "cpu" and (bool(args.fsdp) or parse_flag_from_env("ACCELERATE_USE_FSDP"))


@contextmanager
def whole_models(args: SFTConfig) -> Iterator[None]:
    """While open, transformers makes a model whole in the process that asks for it.

    Under ZeRO 3 it would split the model while it makes it, for which all processes must make the model together.
    """
    plugin: Any = args.deepspeed_plugin
    if plugin is None:
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(getattr(args, "hf_deepspeed_config", None) or plugin.dschf)
