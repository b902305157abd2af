"""Three processes that agree, and fail together; run by torchrun."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from neuronxa_callback.ranks import RankError, Ranks, RankValueError
from tests.distributed.train import leave


def fail_on(rank: int, error: Exception) -> None:
    """Raise an error on one process alone."""
    if ranks.rank == rank:
        raise error


def raise_one_of(errors: dict[int, Exception]) -> None:
    """Raise this process's error, if it has one."""
    if ranks.rank in errors:
        raise errors[ranks.rank]


dist.init_process_group("gloo")
ranks = Ranks.of_group()
assert ranks == Ranks(dist.get_rank(), 3)
assert ranks.first_value(ranks.rank + 5) == 5
assert ranks.values(ranks.rank) == [0, 1, 2]
assert ranks.first_does(lambda: ranks.rank) == 0

# An error of any process is one of all, and of a kind with it.
with pytest.raises(ValueError) as raised, ranks.together():
    fail_on(1, ValueError("no such layer"))
assert str(raised.value) == ("no such layer" if ranks.rank == 1 else "process 1 failed: ValueError: no such layer")
assert isinstance(raised.value, RankValueError) == (ranks.rank != 1)
with pytest.raises(MemoryError), ranks.together():
    fail_on(2, MemoryError())
with pytest.raises((RankError, KeyError)):
    ranks.first_does(lambda: fail_on(0, KeyError("missing")))

# Where several fail, the first of them decides for all.
with pytest.raises(MemoryError), ranks.together():
    raise_one_of({1: MemoryError(), 2: ValueError("too late")})
with pytest.raises(KeyError), ranks.together():
    raise KeyError("the same on all")

# Sentences that were dealt unevenly, and to one process none, come back in their places.
places = [[0, 3], [1], []]
every = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
whole = ranks.gathered(every[:, places[ranks.rank]], places, total=4)
if whole is not None:
    assert torch.equal(every[:, [0, 1, 3]], whole[:, [0, 1, 3]])
    assert not whole[:, 2].any()
assert (whole is None) == (ranks.rank > 0)
leave()
