"""COMET in its own process, which its own thread talks to, so that training continues while COMET scores."""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import signal
import subprocess
import tempfile
import textwrap
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuronxa_callback.quality.comet import device as comet_device
from neuronxa_callback.quality.comet import environment as comet_environment
from neuronxa_callback.quality.comet import signature as comet_signature
from neuronxa_callback.quality.comet.environment import CometEnvironmentError
from neuronxa_callback.signature import Signature
from neuronxa_callback.vocabulary import CometDtype, check_choice

logger = logging.getLogger(__name__)

CLOSING_SECONDS = 10

WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class QualityScore:
    """A metric's score of one direction's translations.

    Attributes:
        system: the score of all translations; 0 to 100 for chrF and BLEU, mostly 0 to 1 for COMET and CometKiwi.
        segments: the score of each translation, or None if the metric gives none.
        signature: the choices behind the numbers.
    """

    system: float
    segments: tuple[float, ...] | None
    signature: Signature


class QualityError(RuntimeError):
    """A metric gave no score. The message says why and what to do."""


class _LateError(QualityError):
    """COMET did not answer in time."""


def checked(score: QualityScore, expected: int) -> QualityScore:
    """Return the score after a check of its numbers.

    Raises:
        QualityError: a number is not finite, or the number of segment scores is not the number of translations.
    """
    if score.segments is not None and len(score.segments) != expected:
        raise QualityError(f"{len(score.segments)} scores came back for {expected} translations.")
    if not all(math.isfinite(value) for value in (score.system, *(score.segments or ()))):
        raise QualityError("the scores are NaN or infinite.")
    return score


class CometWorker:
    """A process that scores with COMET and starts when it is needed.

    The process starts at the first request. A failure ends it, and the next request starts a new one. A crash, a
    missed time limit and output that is not an answer are failures.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        batch_size: segments scored at once. It is halved when memory runs out, and stays so.
        timeout: seconds that one request may take, including loading its model.
        idle: seconds without a request after which the process ends itself.
        dtype: the precision of the models' encoders.
    """

    def __init__(
        self,
        device: str = "cpu",
        batch_size: int = 8,
        timeout: float = 1200,
        idle: float = 600,
        dtype: CometDtype = comet_signature.DEFAULT_DTYPE,
    ) -> None:
        comet_device.check_name(device)
        check_choice("comet_dtype", dtype, CometDtype)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"comet_batch_size={batch_size!r} must be a number of segments, such as 8.")
        if not timeout > 0:
            raise ValueError(f"comet_timeout={timeout!r} must be a number of seconds.")
        self.device, self.batch_size, self.timeout, self.idle, self.dtype = device, batch_size, timeout, idle, dtype
        self.process: subprocess.Popen[str] | None = None
        self._stderr: Any = None
        self._requests: queue.Queue[Any] | None = None
        self._thread: threading.Thread | None = None
        self._closing: threading.Thread | None = None

    def submit(
        self, model: str, samples: Sequence[Mapping[str, str]], local_only: bool = False
    ) -> Future[QualityScore]:
        """Queue samples for a model to score, after the samples of earlier requests.

        Args:
            model: the hub name or the path of a checkpoint.
            samples: one dict for each segment, with "src", "mt" and, for models that use it, "ref".
            local_only: whether to look for the model only in the local cache.

        Returns:
            a future of the score, or of a QualityError.
        """
        if self._thread is None or self._requests is None:
            self._requests = queue.Queue()
            self._thread = threading.Thread(
                target=self._work, args=(self._requests, self._closing), name="neuronxa-comet", daemon=True
            )
            self._thread.start()
        future: Future[QualityScore] = Future()
        self._requests.put(({"model": model, "samples": list(samples), "local_only": local_only}, future))
        return future

    def close(self) -> None:
        """End the process and the thread. Requests that are not done fail."""
        thread, requests = self._thread, self._requests
        self._thread = self._requests = None  # first, so that an interruption leaves nothing half ended
        if thread is None or requests is None:
            return
        self._closing = thread
        _fail_all(requests, "COMET was ended before it scored this.")
        requests.put(None)
        self._await_end(thread, CLOSING_SECONDS)

    def _await_end(self, thread: threading.Thread, seconds: float) -> None:
        """Wait for a thread that was asked to end, and kill the process that it may be waiting for."""
        deadline = time.monotonic() + seconds
        while thread.is_alive() and time.monotonic() < deadline:
            process = self.process  # read once: the thread may clear it before the next line
            if process is not None:
                _kill(process)
            thread.join(0.05)

    def _work(self, requests: queue.Queue[Any], before: threading.Thread | None) -> None:
        if before is not None:  # left over from an interrupted close: it would end this thread's process
            self._await_end(before, math.inf)
        while (item := requests.get()) is not None:
            request, future = item
            try:
                future.set_result(self._ask(request))
            except _LateError as error:
                # The next request may hang too, and training may be waiting for all the requests that are left.
                _fail_all(requests, f"COMET was not asked because an earlier request failed: {error}")
                future.set_exception(QualityError(str(error)))
            except Exception as error:
                future.set_exception(error)
        self._end()

    def _ask(self, request: Mapping[str, Any]) -> QualityScore:
        line, late = self._exchange(json.dumps(request) + "\n")
        if not late and not line and self._exit_code() == 0:  # it ended just now because it was idle
            line, late = self._exchange(json.dumps(request) + "\n")
        if late:
            self._end()
            raise _LateError(
                f"COMET gave no answer within {self.timeout:g} s and was stopped; raise comet_timeout, give it a GPU "
                "with comet_device, score fewer pairs, or, if its model was still being downloaded, download it "
                "beforehand with `neuronxa comet check`."
            )
        if not line:
            raise self._failed(f"the COMET process ended with exit code {self._exit_code()} ({self._last_words()}).")
        try:
            answer = json.loads(line)
            if "refused" in answer:  # the process still works and may serve another model
                raise QualityError(answer["refused"])
            if "out_of_memory" in answer:
                reason = textwrap.shorten(answer["out_of_memory"], 160, placeholder=" ...")
                raise self._failed(
                    f"COMET has too little memory on {self.device}, even for one segment at a time ({reason}); "
                    "free memory there or name another comet_device"
                    f"{', or give comet_dtype=bfloat16' if self.dtype == 'float32' else ''}."
                )
            if "error" in answer:
                raise self._failed(f"COMET failed ({answer['error']}).")
            signature = comet_signature.of_answer(comet_signature.wanted(request["model"], self.dtype), answer)
            self._keep_batch_size(int(answer["batch_size"]))
            score = QualityScore(float(answer["system"]), tuple(map(float, answer["scores"])), signature)
        except (ValueError, TypeError, KeyError):
            raise self._failed(f"the COMET process wrote {line[:60]!r} instead of an answer.") from None
        return checked(score, len(request["samples"]))

    def _keep_batch_size(self, size: int) -> None:
        """Keep the number of segments that fitted into memory, for the processes to come, and say so."""
        if size < self.batch_size:
            logger.warning(
                "NeuronXA: COMET ran out of memory on %s with %d segments at once; it goes on with %d "
                "(comet_batch_size).",
                self.device,
                self.batch_size,
                size,
            )
            self.batch_size = size

    def _exchange(self, request: str) -> tuple[str, bool]:
        """Send a request. Return the answer's line ("" if the process ended), and whether the time limit passed."""
        process = self._running()
        late = threading.Event()

        def stop() -> None:
            late.set()
            _kill(process)

        timer = threading.Timer(self.timeout, stop)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(request)  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            line = process.stdout.readline()  # type: ignore[union-attr]
        except OSError:  # the process ended before it read the request
            line = ""
        finally:
            timer.cancel()
        return line, late.is_set()

    def _running(self) -> subprocess.Popen[str]:
        if self.process is not None and self.process.poll() is None:
            return self.process
        self._end()
        try:
            python = comet_environment.find_python()
        except CometEnvironmentError as error:
            raise QualityError(str(error)) from None
        options = {
            "--device": self.device,
            "--batch-size": self.batch_size,
            "--dtype": self.dtype,
            "--idle": self.idle,
            "--parent": os.getpid(),
        }
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _end
        try:
            self.process = subprocess.Popen(
                [str(python), str(WORKER), *(str(part) for option in options.items() for part in option)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                encoding="utf-8",
                errors="replace",
                env=comet_device.variables(python, self.device),
                start_new_session=True,  # Ctrl-C reaches only the training, and the whole session can be killed
            )
        except OSError as error:
            self._stderr.close()
            raise QualityError(
                f"{python} does not run ({error.strerror}); {comet_environment.VARIABLE} must name a Python."
            ) from None
        weakref.finalize(self, _kill, self.process)  # at the latest when this interpreter ends
        return self.process

    def _failed(self, message: str) -> QualityError:
        """End the process and return the error to raise. The next request starts a new process."""
        self._end()
        return QualityError(message)

    def _end(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        _kill(process)
        process.wait()
        for pipe in (process.stdin, process.stdout, self._stderr):
            with suppress(OSError):  # nobody reads what is still in the buffer
                pipe.close()  # type: ignore[union-attr]

    def _exit_code(self) -> int:
        """Return the exit code of the process, which has closed its output."""
        try:
            return self.process.wait(5)  # type: ignore[union-attr]
        except subprocess.TimeoutExpired:
            _kill(self.process)  # type: ignore[arg-type]
            return self.process.wait()  # type: ignore[union-attr]

    def _last_words(self) -> str:
        """Return the last line that the process wrote to stderr."""
        self._stderr.seek(0)
        lines = self._stderr.read()[-4000:].decode("utf-8", "replace").splitlines()
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it wrote nothing to stderr")


def _fail_all(requests: queue.Queue[Any], reason: str) -> None:
    """Fail the requests that are waiting. The None that ends the thread stays in the queue if it is there."""
    with suppress(queue.Empty):
        while (item := requests.get_nowait()) is not None:
            item[1].set_exception(QualityError(reason))
        requests.put(None)


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill the process and everything that it started. The process may be a script that runs Python as its child."""
    if process.poll() is not None:
        return
    if os.name == "nt":
        process.kill()
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
