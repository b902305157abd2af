from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch

from neuronxa_callback.model.state import TokenBudget


def with_room_for(room: int, tried: list[int]) -> Callable[[int], int]:
    """Return a function that notes each budget and runs out of memory above `room`."""

    def run(tokens: int) -> int:
        tried.append(tokens)
        if tokens > room:
            raise torch.OutOfMemoryError("out of memory")
        return tokens

    return run


class TestTokenBudget:
    def test_it_is_halved_once_for_all_that_share_it(self, caplog: pytest.LogCaptureFixture) -> None:
        budget = TokenBudget()
        tried: list[int] = []
        with caplog.at_level(logging.WARNING):
            assert budget.fit(with_room_for(130, tried), lambda: 10, default=512) == 128
            assert budget.fit(with_room_for(130, tried), lambda: 10, default=512) == 128
        assert tried == [512, 256, 128, 128]
        assert caplog.text.count("out of memory; going on with batches of") == 2

    def test_what_was_asked_for_goes_before_the_default(self) -> None:
        assert TokenBudget(60).fit(lambda tokens: tokens, lambda: 10, default=512) == 60

    def test_a_sentence_that_does_not_fit_alone_is_an_error_that_changes_nothing(self) -> None:
        budget = TokenBudget(256)
        tried: list[int] = []
        with pytest.raises(torch.OutOfMemoryError):
            budget.fit(with_room_for(20, tried), lambda: 100, default=512)
        assert tried == [256, 128, 64]
        assert budget.tokens == 256

    def test_another_error_is_passed_on_at_once(self) -> None:
        with pytest.raises(ZeroDivisionError):
            TokenBudget().fit(lambda tokens: 1 // 0, lambda: 1, default=512)
