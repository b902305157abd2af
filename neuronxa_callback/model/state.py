"""A model's modes, the random states and the memory: left as they were, or found out about."""

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
    """Evaluation mode without gradients; each module's mode and the random state are put back at the end.

    The mode is set module by module, since a module may give `train()` side effects of its own (merging adapters)
    and a user may keep some modules in evaluation mode while training.

    Args:
        model: the model, with the PEFT wrapper where there is one.
        device: where its input goes, whose random state is put back beside the CPU's.
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
    """Whether a forward pass in evaluation mode would change the weights for good.

    On CPUs with AVX512-BF16, bitsandbytes' Linear4bit repacks its weights at the first such pass: scales are rounded
    to bfloat16, and no gradient goes through it any more (seen in 0.50.2). It has no other use for its mode.
    """
    return bool(getattr(module, "support_avx512bf16_for_cpu", False))


@contextmanager
def same_random_state() -> Iterator[None]:
    """Put back what a user's code draws from the random states that training draws from."""
    python, numpy = random.getstate(), np.random.get_state()
    # The GPU in use alone: to ask another for its state would take memory there.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class TokenBudget:
    """How many padded tokens a batch may have: halved where memory runs out, and kept so by whoever holds it.

    Args:
        tokens: to begin with; None for the default of the model that it is first used with.
    """

    def __init__(self, tokens: int | None = None) -> None:
        self.tokens = tokens

    def fit(self, run: Callable[[int], T], longest: Callable[[], int], default: int) -> T:
        """Run with as many tokens in a batch as fit.

        Args:
            run: is given the number of tokens.
            longest: says the tokens of the longest sentence: at a budget of no more it stands alone, and less would
                not help.
            default: the number of tokens where no other was asked for.

        Returns:
            what `run` returned.

        Raises:
            Exception: whatever `run` raised, out of memory at the smallest budget included.
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
            # Not in the handler: there the traceback still holds what filled the memory.
            tokens //= 2
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            logger.warning("NeuronXA: out of memory; going on with batches of %d tokens (token_budget).", tokens)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory, an accelerator's or the CPU's, for a tensor."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in said or "DefaultCPUAllocator" in said)
    )
