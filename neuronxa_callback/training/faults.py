"""Failures in an evaluation: each becomes a warning unless the user wants it raised."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from neuronxa_callback.quality.comet.process import QualityError
from neuronxa_callback.ranks import OutOfStepError

logger = logging.getLogger(__name__)


class Faults:
    """The way a run handles its failures.

    Args:
        raises: whether a failure ends the run (`on_error="raise"`).
        close: a function that closes the run's resources. It is called before an error leaves the run.
    """

    def __init__(self, raises: bool, close: Callable[[], None]) -> None:
        self.raises = raises
        self.close = close
        self._warned: set[str] = set()

    @contextmanager
    def guarded(self, what: str, *let_through: type[Exception], once: bool = False) -> Iterator[None]:
        """Turn a failure into a warning, unless the user wants it raised or the processes are out of step.

        Args:
            what: the first words of the warning. They say what did not work.
            let_through: exceptions that are raised in any case.
            once: whether to warn only the first time that this does not work.
        """
        try:
            yield
        except Exception as error:
            if self.raises or isinstance(error, (OutOfStepError, *let_through)):
                self.close()
                raise
            if once and what in self._warned:
                return
            self._warned.add(what)
            logger.warning(
                "NeuronXA: %s. %s: %s",
                what,
                type(error).__name__,
                error,
                exc_info=logger.isEnabledFor(logging.DEBUG),
            )

    def no_score(self, message: str, what: str) -> None:
        """Raise QualityError if the user wants failures raised, and otherwise warn.

        The warning comes only once, because the same failure may come at every evaluation.
        """
        if self.raises:
            self.close()
            raise QualityError(message)
        self.warn_once(message, what)

    def warn_once(self, message: str, what: str) -> None:
        """Warn, unless this run has already warned about the same thing."""
        if what not in self._warned:
            logger.warning("NeuronXA: %s", message)
        self._warned.add(what)
