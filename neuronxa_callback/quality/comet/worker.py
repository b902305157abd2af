"""Score translations with COMET in a separate process, with JSON lines on stdin and stdout.

This script needs the standard library and unbabel-comet, and nothing else from this package, because it runs in any
interpreter that has COMET. COMET checkpoints are pickles, which can run any code when they are read. They are read
only here.

A request is one line:
    {"model": NAME_OR_PATH, "local_only": false, "samples": [{"src": ..., "mt": ..., "ref": ...}, ...]}
The answer is one of:
    {"scores": [...], "system": ..., "version": ..., "python": ..., "references": 0 or 1, "batch_size": ...}
    {"refused": WHY_AND_WHAT_TO_DO}  if the model cannot be found or used
    {"out_of_memory": WHAT}          if one segment at a time is too much, and then the process ends
    {"error": WHAT}                  and then the process ends
A model is loaded at its first request and stays loaded in the CPU's memory. On a GPU it is only while it scores. The
process ends when its input ends, when its parent ends, and after `--idle` seconds without work.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import queue
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any, TextIO

PARENT_CHECK_SECONDS = 1.0


class RefusedError(Exception):
    """A model cannot be found or used. The message says why and what to do."""


class Scorer:
    """Scores samples with the models that it has loaded.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        batch_size: segments scored at once. It is halved when memory runs out, and a smaller number that worked is kept
            for later requests.
        dtype: "float32" or "bfloat16": the precision of the models' encoders.
    """

    def __init__(self, device: str, batch_size: int, dtype: str = "float32") -> None:
        self.device = device
        self.batch_size = batch_size
        self.dtype = dtype
        self.models: dict[str, Any] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the scores that a request asks for, or the reason why its model is refused."""
        name = request["model"]
        try:
            if name not in self.models:
                self.models[name] = in_precision(load(name, request["local_only"]), self.dtype)
            return self.score(name, request["samples"])
        except RefusedError as refused:
            return {"refused": str(refused)}

    def score(self, name: str, samples: list[dict[str, str]]) -> dict[str, Any]:
        """Return the segment scores in the order of the samples, the system score and what a signature names.

        Raises:
            RefusedError: the model needs references, and the samples have none.
            Exception: any error of COMET, including out of memory with one segment at a time.
        """
        from importlib.metadata import version

        model = self.models[name]
        if model.requires_references() and any("ref" not in sample for sample in samples):
            raise RefusedError(f"{name} needs references, but CometKiwi gets none; choose a reference-free model.")
        prediction = self.predict(model, samples)
        return {
            "scores": [float(score) for score in prediction["scores"]],
            "system": float(prediction["system_score"]),
            "version": version("unbabel-comet"),
            "python": ".".join(map(str, sys.version_info[:3])),
            "references": int(reads_references(model) and all("ref" in sample for sample in samples)),
            "batch_size": self.batch_size,
        }

    def predict(self, model: Any, samples: list[dict[str, str]]) -> Any:
        """Return COMET's prediction, made with as many segments at once as fit into memory, `batch_size` at most."""
        size = self.batch_size
        while True:
            try:
                prediction = self.predict_at_once(model, samples, size)
            except Exception as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
            else:
                self.batch_size = size
                self.give_memory_back()
                return prediction
            # Outside the handler, because there the traceback still holds tensors. Cycles hold them as well.
            gc.collect()
            self.give_memory_back()
            # More segments at once than there are would be tried in vain.
            size = max(1, min(size, len(samples)) // 2)

    def predict_at_once(self, model: Any, samples: list[dict[str, str]], size: int) -> Any:
        """Return COMET's prediction with `size` segments at once. Lightning moves the model to the GPU and back."""
        on_gpu = self.device != "cpu"
        return model.predict(
            samples,
            batch_size=size,
            gpus=int(on_gpu),
            devices=[int(self.device.partition(":")[2] or 0)] if on_gpu else None,
            num_workers=0,
            progress_bar=False,
        )

    def give_memory_back(self) -> None:
        """Give back the GPU memory that no tensor needs any more."""
        if self.device != "cpu":
            import torch

            torch.cuda.empty_cache()  # training may need it


def load(name: str, local_only: bool) -> Any:
    """Load a model from a local checkpoint, or from the hub through its local cache."""
    from comet import load_from_checkpoint

    path = Path(name) if Path(name).exists() else download(name, local_only)
    if path.is_dir():  # a model's folder with the hub's layout
        path = path / "checkpoints" / "model.ckpt"
    if not path.is_file() or not (path.parent.parent / "hparams.yaml").is_file():
        raise RefusedError(
            f"{name} is no COMET model: it needs a checkpoint, such as checkpoints/model.ckpt, and hparams.yaml in the "
            "folder above that; check the name or path."
        )
    try:
        return load_from_checkpoint(str(path), local_files_only=local_only).eval()
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "").rstrip(".:")
        if is_out_of_memory(error) or "memory" in reason:  # nothing is wrong with the files
            raise
        raise RefusedError(
            f"{name} cannot be loaded ({type(error).__name__}: {reason}); if {path} or hparams.yaml was cut short on "
            "its way, delete it and fetch it again."
        ) from None


def in_precision(model: Any, dtype: str) -> Any:
    """Return the model with its encoder in a precision. What comes out of the encoder, and goes on from it, is float32.

    A whole model in bfloat16 fails where COMET 2.2.7 averages over tokens or normalises layers, because both yield
    float32, which its bfloat16 estimator refuses.

    Args:
        model: a COMET model in float32.
        dtype: "float32" or "bfloat16".
    """
    if dtype == "bfloat16":
        import torch

        model.encoder.model.to(torch.bfloat16)
        model.encoder.register_forward_hook(lambda _module, _inputs, outputs: in_float32(outputs))
    return model


def in_float32(outputs: Any) -> Any:
    """Return what an encoder returns with its floating-point tensors in float32."""
    if isinstance(outputs, dict):
        return {name: in_float32(value) for name, value in outputs.items()}
    if isinstance(outputs, tuple):
        return tuple(map(in_float32, outputs))
    return outputs.float() if outputs.is_floating_point() else outputs


def reads_references(model: Any) -> bool:
    """Return whether a model reads references if it is given some. UniTE and XCOMET also score without them."""
    return bool(model.requires_references()) or "ref" in model.hparams.get("input_segments", ())


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the GPU or the CPU had no memory left; see `model.state.is_out_of_memory`."""
    message = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in message or "DefaultCPUAllocator" in message)
    )


def download(name: str, local_only: bool) -> Path:
    """Return a model's folder in the hub's cache, and download it if it is not there."""
    from huggingface_hub import errors, snapshot_download

    log_in = "`hf auth login` (or the variable HF_TOKEN)"
    try:
        return Path(snapshot_download(repo_id=name, local_files_only=local_only))
    except errors.GatedRepoError:
        raise RefusedError(
            f"{name} is gated: accept its licence at https://huggingface.co/{name}, then log in with {log_in}."
        ) from None
    except errors.HFValidationError:
        raise RefusedError(f"{name} is neither the path of a COMET checkpoint nor a model's name.") from None
    except errors.RepositoryNotFoundError:
        raise RefusedError(
            f"the hub has no model {name}; check its spelling, and if it is private log in with {log_in}."
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise RefusedError(
            f"{name} is no local path, not in the local cache, and the hub was not asked or not reached; fetch it "
            f"online with `neuronxa comet check {name}`."
        ) from None


def serve(requests: queue.Queue[str], answers: TextIO, scorer: Scorer, idle_seconds: float) -> None:
    """Answer requests until none comes for `idle_seconds` or an answer fails with an error."""
    broken = False
    while not broken:
        try:
            line = requests.get(timeout=idle_seconds)
        except queue.Empty:
            return
        try:
            answer = scorer.answer(json.loads(line))
        except BaseException as error:
            # After such an error (out of memory, a broken CUDA context) nobody knows the state of this process.
            kind = "out_of_memory" if is_out_of_memory(error) else "error"
            answer, broken = {kind: f"{type(error).__name__}: {error}"}, True
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def read_requests(requests: queue.Queue[str]) -> None:
    """Hand over lines until the input ends. Then end the process at once, whatever it is doing."""
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def end_with_parent(parent: int) -> None:
    """End the process when its parent is gone, however and however early the parent ended.

    The end of the input says so too, unless another child of the parent (a DataLoader worker) holds the input open.

    Args:
        parent: process number of the process that asks. That process may be gone before this one runs its first line.
            If this process leads its session, the asking process started it directly, and any other parent means that
            it is an orphan. Otherwise a script runs this process as its child, and that script is the parent.
    """
    first = os.getppid()
    started_directly = hasattr(os, "getsid") and os.getsid(0) == os.getpid()
    while os.getppid() == (parent if started_directly else first):
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(0)


def main() -> None:
    """Run the worker."""
    parser = argparse.ArgumentParser(description="Score translations with COMET: JSON lines on stdin and stdout.")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--batch-size", type=int, default=8, help="segments scored at once")
    parser.add_argument("--dtype", default="float32", help="precision of the encoder: float32 or bfloat16")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process number of the process that asks")
    parser.add_argument("--idle", type=float, default=600, help="seconds without work after which to end")
    arguments = parser.parse_args()

    # Answers go to the real stdout. What libraries print there goes to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.filterwarnings("ignore")
    # Checkpoints of older Lightning versions hold objects beside tensors. torch reads these only with this setting.
    os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    # Lightning starts MPI where mpi4py is installed, and this lone process may not take part in the job's MPI.
    sys.modules["mpi4py"] = None  # type: ignore[assignment]
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=end_with_parent, args=(arguments.parent,), daemon=True).start()
    threading.Thread(target=read_requests, args=(requests,), daemon=True).start()
    serve(requests, answers, Scorer(arguments.device, arguments.batch_size, arguments.dtype), arguments.idle)
    os._exit(0)  # at once, because a thread is still reading stdin


if __name__ == "__main__":
    main()
