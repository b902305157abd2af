"""The processes that share an evaluation, as torchrun or accelerate started them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class RankError(RuntimeError):
    """Another process failed, so that this one has no result either. The message names the process and its error."""


class RankValueError(RankError, ValueError):
    """Another process raised a ValueError."""


class RankMemoryError(RankError, MemoryError):
    """Another process had no memory left."""


class OutOfStepError(RuntimeError):
    """A process failed within a forward pass that all processes make together.

    The others wait for it in the pass. Nothing can bring them back in step, so the run must end.
    """


@dataclass(frozen=True)
class _Failure:
    """What the other processes learn of an error. An exception itself may not survive the way."""

    kind: type[RankError]
    message: str


@dataclass(frozen=True)
class Ranks:
    """The processes that share an evaluation. All of them must make the same calls of these methods.

    A process that never comes is waited for as long as the process group's own time limit says (`ddp_timeout` of
    TrainingArguments).

    Attributes:
        rank: the place of this process among them, from 0. The first one scores and writes.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of_group(cls) -> Ranks:
        """Return the processes of torch's default process group; this process alone if there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process scores and writes for all."""
        return self.rank == 0

    def first_value(self, value: T) -> T:
        """Return the first process's value on every process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def values(self, value: T) -> list[T]:
        """Return the values of all processes, in their order, on every process."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block that fails on every process if it fails on any.

        Raises:
            RankError: another process failed. It is a ValueError or a MemoryError if the other's error is one.
        """
        error: Exception | None = None
        try:
            yield
        except OutOfStepError:
            raise  # the others do not come to the exchange below
        except Exception as raised:
            error = raised
        failures = self.values(None if error is None else self._failure(error))
        if error is not None:
            raise error
        _raise_first(failures)

    def first_does(self, work: Callable[[], T]) -> T:
        """Return what a function returns on the first process, which alone runs it, on every process.

        Raises:
            Exception: any error of the function on the first process, and a RankError on the others.
        """
        result: T | None = None
        error: Exception | None = None
        if self.is_first:
            try:
                result = work()
            except Exception as raised:
                error = raised
        result, failure = self.first_value((result, None if error is None else self._failure(error)))
        if error is not None:
            raise error
        _raise_first([failure])
        return result  # type: ignore[return-value]

    def gathered(self, values: Tensor, places: Sequence[Sequence[int]], total: int) -> Tensor | None:
        """Bring the processes' parts together on the first one.

        Args:
            values: this process's part (layers, its sentences, features).
            places: for each process, the places of its sentences among all sentences.
            total: the number of all sentences.

        Returns:
            float32 tensor (layers, sentences, features) on the CPU on the first process, None on the others.
        """
        longest = max(map(len, places))
        missing = longest - values.shape[1]
        part = (torch.nn.functional.pad(values, (0, 0, 0, missing)) if missing else values).contiguous()
        if dist.get_backend() == "gloo":
            part = part.cpu()
        parts = [torch.empty_like(part) for _ in places] if self.is_first else None
        dist.gather(part, parts, dst=0)
        if parts is None:
            return None
        whole = torch.zeros(values.shape[0], total, values.shape[2])
        for its, rows in zip(parts, places, strict=True):
            whole[:, list(rows)] = its[:, : len(rows)].cpu()
        return whole

    def _failure(self, error: Exception) -> _Failure:
        kinds = {ValueError: RankValueError, MemoryError: RankMemoryError}
        kind = next((other for own, other in kinds.items() if isinstance(error, own)), RankError)
        return _Failure(kind, f"process {self.rank} failed: {type(error).__name__}: {error}")


def _raise_first(failures: Sequence[_Failure | None]) -> None:
    for failure in failures:
        if failure is not None:
            raise failure.kind(failure.message)


def warn_on_first_alone(is_first: bool) -> None:
    """Keep this package's warnings off the processes behind the first one, which would all say the same."""
    if not is_first:
        logging.getLogger("neuronxa_callback").setLevel(logging.ERROR)
