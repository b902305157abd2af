"""What goes wrong in an evaluation: a warning, unless the user wants it raised."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from neuronxa_callback.quality.comet.process import QualityError

logger = logging.getLogger(__name__)


class Faults:
    """How a run takes what fails in it.

    Args:
        raises: whether a failure ends the run (`on_error="raise"`).
        close: ends what the run holds before an error leaves it.
    """

    def __init__(self, raises: bool, close: Callable[[], None]) -> None:
        self.raises = raises
        self.close = close
        self._warned: set[str] = set()

    @contextmanager
    def guarded(self, what: str, let_through: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        """Make a failure a warning that says what did not work, unless the user wants it raised."""
        try:
            yield
        except Exception as error:
            if self.raises or isinstance(error, let_through):
                self.close()
                raise
            logger.warning(
                "NeuronXA: %s. %s: %s",
                what,
                type(error).__name__,
                error,
                exc_info=logger.isEnabledFor(logging.DEBUG),
            )

    def no_score(self, message: str, what: str) -> None:
        """Raise where the user wants it, else warn, once for what may come at every evaluation."""
        if self.raises:
            self.close()
            raise QualityError(message)
        self.warn_once(message, what)

    def warn_once(self, message: str, what: str) -> None:
        """Warn, unless a warning about the same was given in this run."""
        if what not in self._warned:
            logger.warning("NeuronXA: %s", message)
        self._warned.add(what)
