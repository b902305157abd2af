"""COMET in a process of its own, asked from a thread of its own, so that training goes on while it scores."""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuronxa_callback.quality.comet import environment as comet_environment
from neuronxa_callback.quality.comet.environment import CometEnvironmentError

# Set by launchers for the training processes; the worker is none of them, and Lightning would believe them.
LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR")
LAUNCHER_PREFIXES = ("TORCHELASTIC_", "SLURM_", "PMI_", "PMIX_", "OMPI_", "ACCELERATE_", "JSM_", "LSB_")


CLOSING_SECONDS = 10

WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class QualityScore:
    """A metric's judgement of one direction's translations.

    Attributes:
        system: the score of all; 0 to 100 for chrF and BLEU, mostly 0 to 1 for COMET and CometKiwi.
        segments: the score of each translation, where the metric gives one.
        signature: the choices behind the numbers.
    """

    system: float
    segments: tuple[float, ...] | None
    signature: str


class QualityError(RuntimeError):
    """A metric gave no score; the message says why, and what to do."""


class _LateError(QualityError):
    """COMET did not answer in time."""


def checked(score: QualityScore, expected: int) -> QualityScore:
    """The score, if it is finite and has one segment for each translation.

    Raises:
        QualityError: it is not, or has not.
    """
    if score.segments is not None and len(score.segments) != expected:
        raise QualityError(f"{len(score.segments)} scores came back for {expected} translations.")
    if not all(math.isfinite(value) for value in (score.system, *(score.segments or ()))):
        raise QualityError("the scores are NaN or infinite.")
    return score


class CometWorker:
    """A process that scores with COMET, started when needed.

    The process starts at the first request. It is ended and started anew at the next request after a failure:
    a crash, a missed time limit, anything on its output that is no answer.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        batch_size: segments judged at once.
        timeout: seconds that one request may take, its model's loading included.
        idle: seconds without a request after which the process ends by itself.
    """

    def __init__(self, device: str = "cpu", batch_size: int = 8, timeout: float = 1200, idle: float = 600) -> None:
        if device != "cpu" and device.partition(":")[0] != "cuda":
            raise ValueError(f"comet_device={device!r} is unknown; use cpu, cuda or cuda:N.")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"comet_batch_size={batch_size!r} must be a number of segments, such as 8.")
        if not timeout > 0:
            raise ValueError(f"comet_timeout={timeout!r} must be a number of seconds.")
        self.device, self.batch_size, self.timeout, self.idle = device, batch_size, timeout, idle
        self.process: subprocess.Popen[str] | None = None
        self._stderr: Any = None
        self._requests: queue.Queue[Any] | None = None
        self._thread: threading.Thread | None = None
        self._closing: threading.Thread | None = None

    def submit(
        self, model: str, samples: Sequence[Mapping[str, str]], local_only: bool = False
    ) -> Future[QualityScore]:
        """Have samples judged by a model, after those that were handed in before.

        Args:
            model: hub name, or path of a checkpoint.
            samples: one dict a segment, with "src", "mt" and, for models that use it, "ref".
            local_only: whether to look for the model in the local cache alone.

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
        """End the process and the thread; requests that are not done fail."""
        thread, requests = self._thread, self._requests
        self._thread = self._requests = None  # at once: an interruption here must not leave them half ended
        if thread is None or requests is None:
            return
        self._closing = thread
        _fail_all(requests, "COMET was ended before it came to this.")
        requests.put(None)
        self._await_end(thread, CLOSING_SECONDS)

    def _await_end(self, thread: threading.Thread, seconds: float) -> None:
        """Wait for a thread that was told to end, and kill the process that it may be waiting for."""
        deadline = time.monotonic() + seconds
        while thread.is_alive() and time.monotonic() < deadline:
            process = self.process  # the thread may be done with it by the next line
            if process is not None:
                _kill(process)
            thread.join(0.05)

    def _work(self, requests: queue.Queue[Any], before: threading.Thread | None) -> None:
        if before is not None:  # of an interrupted close: it would end this thread's process as its own
            self._await_end(before, math.inf)
        while (item := requests.get()) is not None:
            request, future = item
            try:
                future.set_result(self._ask(request))
            except _LateError as error:
                # What hung once may hang again, and training may be waiting for all that is left.
                _fail_all(requests, f"COMET was not asked, after this happened: {error}")
                future.set_exception(QualityError(str(error)))
            except Exception as error:
                future.set_exception(error)
        self._end()

    def _ask(self, request: Mapping[str, Any]) -> QualityScore:
        line, late = self._exchange(json.dumps(request) + "\n")
        if not late and not line and self._exit_code() == 0:  # it went idle at this very moment
            line, late = self._exchange(json.dumps(request) + "\n")
        if late:
            self._end()
            raise _LateError(
                f"COMET gave no answer within {self.timeout:g} s and was stopped; raise comet_timeout, give it a GPU "
                "with comet_device, score fewer pairs, or, if its model was still on the way from the hub, fetch it "
                "beforehand with `neuronxa comet check`."
            )
        if not line:
            raise self._failed(f"the COMET process ended with exit code {self._exit_code()} ({self._last_words()}).")
        try:
            answer = json.loads(line)
            if "refused" in answer:  # the process is well, and may serve another model
                raise QualityError(answer["refused"])
            if "error" in answer:
                raise self._failed(f"COMET failed ({answer['error']}).")
            signature = f"model:{request['model']}|comet:{answer['version']}"
            score = QualityScore(float(answer["system"]), tuple(map(float, answer["scores"])), signature)
        except (ValueError, TypeError, KeyError):
            raise self._failed(f"the COMET process wrote {line[:60]!r} where an answer was due.") from None
        return checked(score, len(request["samples"]))

    def _exchange(self, request: str) -> tuple[str, bool]:
        """The answering line ("" if the process ended), and whether it was late."""
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
        except OSError:  # it ended before it took the request
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
                env=_environment(python, self.device),
                start_new_session=True,  # Ctrl-C is the training's alone; and the whole session can be killed
            )
        except OSError as error:
            self._stderr.close()
            raise QualityError(
                f"{python} does not run ({error.strerror}); {comet_environment.VARIABLE} must name a Python."
            ) from None
        weakref.finalize(self, _kill, self.process)  # at the interpreter's end
        return self.process

    def _failed(self, message: str) -> QualityError:
        """The error to raise, with the process ended: the next request gets a new one."""
        self._end()
        return QualityError(message)

    def _end(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        _kill(process)
        process.wait()
        for pipe in (process.stdin, process.stdout, self._stderr):
            with suppress(OSError):  # what is still in the buffer has nowhere to go
                pipe.close()  # type: ignore[union-attr]

    def _exit_code(self) -> int:
        """Of a process that has closed its output."""
        try:
            return self.process.wait(5)  # type: ignore[union-attr]
        except subprocess.TimeoutExpired:
            _kill(self.process)  # type: ignore[arg-type]
            return self.process.wait()  # type: ignore[union-attr]

    def _last_words(self) -> str:
        """The last line that the process wrote on stderr."""
        self._stderr.seek(0)
        lines = self._stderr.read()[-4000:].decode("utf-8", "replace").splitlines()
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it said nothing")


def _fail_all(requests: queue.Queue[Any], reason: str) -> None:
    """Fail the requests that are waiting; the sign to end, if it is among them, stays."""
    with suppress(queue.Empty):
        while (item := requests.get_nowait()) is not None:
            item[1].set_exception(QualityError(reason))
        requests.put(None)


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill the process and what it has started: the Python may hide behind a script that does not give way to it."""
    if process.poll() is not None:
        return
    if os.name == "nt":
        process.kill()
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _environment(python: Path, device: str) -> dict[str, str]:
    """The environment variables for the worker: those of the training, less what is meant for the training alone."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in LAUNCHER_VARIABLES and not name.startswith(LAUNCHER_PREFIXES)
    }
    if "WORLD_SIZE" in os.environ:  # torchrun's one thread a process is meant for processes that share the machine
        kept.pop("OMP_NUM_THREADS", None)
    if python != Path(sys.executable):
        for name in ("PYTHONPATH", "PYTHONHOME"):  # they point at packages for another interpreter
            kept.pop(name, None)
    if device == "cpu":
        kept["CUDA_VISIBLE_DEVICES"] = ""  # or it would take memory on the GPU that trains
    return kept
