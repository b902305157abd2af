"""Leave a model's modes and the random states as they were, and fit batches into memory."""

from __future__ import annotations

import gc
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import nn

logger = logging.getLogger(__name__)

T = TypeVar("T")


@contextmanager
def evaluation_mode(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Switch to evaluation mode without gradients, and restore the modules' modes and the random state at the end.

    The mode is set module by module for two reasons: `train()` may have side effects (merging adapters), and a user
    may keep some modules in evaluation mode while training.

    Args:
        model: the model, with its PEFT wrapper if it has one.
        device: the device for the model's input. Its random state and the CPU's are restored.
    """
    modes = [(module, module.training) for module in model.modules()]
    devices = [device] if device.type not in ("cpu", "mps", "meta") else []
    with torch.no_grad(), torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        try:
            for module, _ in modes:
                module.training = _rewrites_its_weights(module)
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def _rewrites_its_weights(module: nn.Module) -> bool:
    """Return whether a forward pass in evaluation mode would change the module's weights for good.

    On CPUs with AVX512-BF16, bitsandbytes' Linear4bit repacks its weights at the first such pass. Its scales are then
    rounded to bfloat16, and no gradient passes through it any more (seen in 0.50.2). The mode has no other effect on
    this module.
    """
    return bool(getattr(module, "support_avx512bf16_for_cpu", False))


@contextmanager
def same_random_state() -> Iterator[None]:
    """Restore the random states of training at the end, so that a user's code in the block does not change them."""
    python, numpy = random.getstate(), np.random.get_state()
    # Only the GPU in use: reading another GPU's state would take memory on it.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class TokenBudget:
    """The number of padded tokens that a batch may have. It is halved when memory runs out.

    A smaller budget that worked is kept for later runs.

    Args:
        tokens: the budget at the start; None takes the default of the model that it is first used with.
    """

    def __init__(self, tokens: int | None = None) -> None:
        self.tokens = tokens

    def fit(self, run: Callable[[int], T], longest: Callable[[], int], default: int) -> T:
        """Run with as many tokens in a batch as fit into memory.

        Args:
            run: takes the number of tokens.
            longest: returns the number of tokens of the longest sentence. At a budget of this size or less, that
                sentence is alone in its batch, and a smaller budget would not help.
            default: the number of tokens if the budget has none yet.

        Returns:
            the result of `run`.

        Raises:
            Exception: any error of `run`, including out of memory at the smallest budget.
        """
        tokens = asked = self.tokens or default
        while True:
            try:
                result = run(tokens)
            except Exception as error:
                if not is_out_of_memory(error) or tokens <= longest():
                    raise
            else:
                if tokens != asked:
                    self.tokens = tokens
                return result
            # Outside the handler, because there the traceback still holds the tensors that filled the memory.
            tokens //= 2
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            logger.warning("NeuronXA: out of memory; going on with batches of %d tokens (token_budget).", tokens)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the accelerator or the CPU had no memory left for a tensor."""
    message = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in message or "DefaultCPUAllocator" in message)
    )
