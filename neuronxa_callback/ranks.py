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
    """Another process failed, so that this one has no result either. The message names the process and its error.

    Attributes:
        error: the name of the error's class.
    """

    error = ""


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
    name: str
    text: str

    def seen_from(self, rank: int) -> RankError:
        """Return what another process raises if the error is that of this rank."""
        error = self.kind(f"process {rank} failed: {self.name}: {self.text}")
        error.error = self.name
        return error


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

        If it fails on several, the failure of the first of them counts, so that all processes decide alike.

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
        self._raise_first(error)

    def first_does(self, work: Callable[[], T]) -> T:
        """Return what a function returns on the first process, which alone runs it, on every process.

        Raises:
            Exception: any error of the function on the first process, and a RankError on the others.
        """
        result: T | None = None
        with self.together():
            if self.is_first:
                result = work()
        return self.first_value(result)  # type: ignore[return-value]

    def gathered(self, values: Tensor, places: Sequence[Sequence[int]], total: int) -> Tensor | None:
        """Bring the processes' parts together on the first one.

        Args:
            values: this process's part (layers, its sentences, features).
            places: for each process, the places of its sentences among all sentences.
            total: the number of all sentences.

        Returns:
            float32 tensor (layers, sentences, features) on the CPU on the first process, None on the others.

        Raises:
            RankError: another process failed, as by lack of memory.
        """
        longest, features = max(map(len, places)), values.shape[2]
        if dist.get_backend() == "gloo":
            values = values.cpu()
        whole = torch.zeros(0)
        with self.together():
            part = values.new_zeros(longest, features)
            parts = [torch.empty_like(part) for _ in places] if self.is_first else None
            if self.is_first:
                whole = torch.zeros(len(values), total, features)
        for layer, its in enumerate(values):  # one after the other, because a side may not fit twice into the memory
            part[: len(its)] = its
            dist.gather(part, parts, dst=0)
            for rows, other in zip(places, parts or (), strict=False):
                whole[layer, list(rows)] = other[: len(rows)].cpu()
        return whole if self.is_first else None

    def _raise_first(self, error: Exception | None) -> None:
        """Raise the first of the processes' errors on all of them; its own where a process has the same one."""
        kinds = {ValueError: RankValueError, MemoryError: RankMemoryError, torch.OutOfMemoryError: RankMemoryError}
        kind = next((other for own, other in kinds.items() if isinstance(error, own)), RankError)
        mine = None if error is None else _Failure(kind, type(error).__name__, str(error))
        failures = self.values(mine)
        for rank, first in enumerate(failures):
            if first is not None:
                if error is not None and first == mine:
                    raise error
                raise first.seen_from(rank) from error


def warn_on_first_alone(is_first: bool) -> None:
    """Keep this package's warnings off the processes behind the first one, which would all say the same.

    A level that the user has given the package's logger stays.
    """
    logger = logging.getLogger("neuronxa_callback")
    if not is_first and logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)
