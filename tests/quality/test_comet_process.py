"""The real unbabel-comet through the worker, and everything that can go wrong with a process."""

from __future__ import annotations

import copy
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from neuronxa_callback.quality.comet import environment as comet_environment
from neuronxa_callback.quality.comet.process import CometWorker, QualityError
from neuronxa_callback.quality.comet.signature import sacrecomet

SAMPLES = [{"src": "No.", "mt": "Nei.", "ref": "Nei."}, {"src": "Yes, you may.", "mt": "Já.", "ref": "Já, þú mátt."}]
FACTS = '"version": "2", "python": "3.11.7", "references": 1, "batch_size": 8'
Interpreter = Callable[[str], None]


@pytest.fixture
def worker(with_comet: None) -> Iterator[CometWorker]:
    worker = CometWorker(batch_size=2)
    yield worker
    worker.close()


@pytest.fixture
def interpreter(comet_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Interpreter:
    """Puts a shell script in the place of the Python that has COMET; $PYTHON in it is the real one."""

    def use(script: str) -> None:
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\nPYTHON='{comet_python}'\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv(comet_environment.VARIABLE, str(program))

    return use


def alive(pid: int) -> bool:
    """Whether a process is running; one that has ended but was not waited for is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone_within(seconds: float, pid: int) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


def limit_memory(worker: CometWorker, more: int) -> None:
    """Let the worker's process take only so many MiB more than it has now."""
    assert worker.process is not None
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    now = int(next(line for line in status.splitlines() if line.startswith("VmSize:")).split()[1]) // 1024
    resource.prlimit(worker.process.pid, resource.RLIMIT_AS, ((now + more) << 20, resource.RLIM_INFINITY))


class TestScores:
    @pytest.mark.parametrize("name", ["comet", "cometkiwi"])
    def test_they_are_the_ones_that_comet_gives_directly(
        self, name: str, comet_models: Path, worker: CometWorker
    ) -> None:
        expected = json.loads((comet_models / "expected.json").read_text())
        score = worker.submit(str(comet_models / name / "checkpoints" / "model.ckpt"), expected["samples"]).result()
        assert score.segments == tuple(expected[name])
        assert len(set(expected[name])) == 3
        assert score.system == pytest.approx(sum(expected[name]) / 3)
        python = subprocess.run([os.environ[comet_environment.VARIABLE], "-V"], capture_output=True, text=True)
        references = int(name == "comet")  # the samples have some, and CometKiwi does not read them
        assert str(score.signature).endswith(
            f"model.ckpt|comet:2.2.7|python:{python.stdout.split()[1]}|references:{references}"
        )

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
    @pytest.mark.parametrize("name", ["comet", "cometkiwi"])
    def test_on_a_gpu_they_are_those_of_the_cpu(self, name: str, comet_models: Path, with_comet: None) -> None:
        expected = json.loads((comet_models / "expected.json").read_text())
        worker = CometWorker("cuda:0", batch_size=2)
        try:
            score = worker.submit(str(comet_models / name), expected["samples"]).result()
        finally:
            worker.close()
        assert score.segments == pytest.approx(expected[name], rel=1e-4)

    def test_mpi_is_not_started(self, comet_models: Path, interpreter: Interpreter, tmp_path: Path) -> None:
        """An MPI that cannot start ends the process, as Open MPI does, when Lightning asks mpi4py for its size."""
        installed = tmp_path / "packages"
        (installed / "mpi4py").mkdir(parents=True)
        (installed / "mpi4py" / "__init__.py").write_text("")
        (installed / "mpi4py" / "MPI.py").write_text("import os\nos._exit(1)\n")
        (installed / "mpi4py-4.0.0.dist-info").mkdir()
        (installed / "mpi4py-4.0.0.dist-info" / "METADATA").write_text("Name: mpi4py\nVersion: 4.0.0\n")
        interpreter(f'PYTHONPATH={installed} exec $PYTHON "$@"')
        worker = CometWorker()
        try:
            segments = worker.submit(str(comet_models / "comet"), SAMPLES).result().segments
            assert segments is not None
            assert len(segments) == len(SAMPLES)
        finally:
            worker.close()

    def test_in_bfloat16(self, comet_models: Path, with_comet: None) -> None:
        """The encoder runs in bfloat16, whose rounding the scores show. A whole model in bfloat16 would fail."""
        expected = json.loads((comet_models / "expected.json").read_text())
        worker = CometWorker(batch_size=2, dtype="bfloat16")
        try:
            for name in ("comet", "cometkiwi"):
                score = worker.submit(str(comet_models / name), expected["samples"]).result()
                assert score.segments == pytest.approx(expected[name], abs=0.01)
                assert score.segments != pytest.approx(expected[name], abs=1e-6)
                assert score.signature["dtype"] == "bfloat16"
                assert "|Comet2.2.7|bf16|" in (sacrecomet(score.signature) or "")
        finally:
            worker.close()

    def test_cometkiwi_sees_no_reference(self, comet_models: Path, worker: CometWorker) -> None:
        expected = json.loads((comet_models / "expected.json").read_text())
        samples = [{"src": sample["src"], "mt": sample["mt"]} for sample in expected["samples"]]
        assert worker.submit(str(comet_models / "cometkiwi"), samples).result().segments == tuple(expected["cometkiwi"])

    def test_one_process_keeps_both_models(self, comet_models: Path, worker: CometWorker) -> None:
        first = worker.submit(str(comet_models / "comet"), SAMPLES).result()
        process = worker.process
        worker.submit(str(comet_models / "cometkiwi"), SAMPLES).result()
        (comet_models / "comet").rename(comet_models / "moved")  # it is in the process's memory
        try:
            assert worker.submit(str(comet_models / "comet"), SAMPLES).result() == first
        finally:
            (comet_models / "moved").rename(comet_models / "comet")
        assert worker.process is process

    def test_the_caller_goes_on_meanwhile(self, comet_models: Path, worker: CometWorker) -> None:
        future = worker.submit(str(comet_models / "comet"), SAMPLES)
        assert not future.done()
        assert len(future.result().segments or ()) == 2


@pytest.mark.once
class TestModelsThatCannotBeHad:
    @pytest.mark.parametrize(
        ("model", "message"),
        [
            ("Unbabel/no-such-model", "Unbabel/no-such-model is no local path, not in the local cache"),
            ("no model/at all/", "is neither the path of a COMET checkpoint nor a model's name"),
        ],
    )
    def test_wrong_names(self, model: str, message: str, worker: CometWorker, comet_models: Path) -> None:
        with pytest.raises(QualityError, match=message):
            worker.submit(model, SAMPLES).result()
        process = worker.process
        assert worker.submit(str(comet_models / "comet"), SAMPLES).result()
        assert worker.process is process  # a refusal costs no restart

    def test_a_folder_that_is_no_model(self, worker: CometWorker, tmp_path: Path) -> None:
        with pytest.raises(QualityError, match="is no COMET model: it needs a checkpoint"):
            worker.submit(str(tmp_path), SAMPLES).result()

    @pytest.mark.parametrize(
        ("damaged", "kept"), [("checkpoints/model.ckpt", 0.5), ("checkpoints/model.ckpt", 0), ("hparams.yaml", 0)]
    )
    def test_files_that_were_cut_short(
        self, damaged: str, kept: float, worker: CometWorker, comet_models: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(comet_models / "comet", tmp_path / "cut")
        file = tmp_path / "cut" / damaged
        file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
        with pytest.raises(
            QualityError, match=r"cut cannot be loaded \(.+\); if .*model\.ckpt or hparams\.yaml was cut"
        ):
            worker.submit(str(tmp_path / "cut"), SAMPLES).result()
        process = worker.process
        assert worker.submit(str(comet_models / "comet"), SAMPLES).result()
        assert worker.process is process

    def test_a_model_that_needs_references_in_cometkiwis_place(self, worker: CometWorker, comet_models: Path) -> None:
        with pytest.raises(QualityError, match="needs references, but CometKiwi gets none"):
            worker.submit(str(comet_models / "comet"), [{"src": "No.", "mt": "Nei."}]).result()

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("GatedRepo", "Some/model is gated: accept its licence at https://huggingface.co/Some/model, then log in"),
            ("RepoNotFound", "the hub has no model Some/model; check its spelling"),
        ],
    )
    def test_gated_and_unknown_to_the_hub(
        self, code: str, message: str, hub_says: Callable[[str], None], worker: CometWorker
    ) -> None:
        hub_says(code)
        with pytest.raises(QualityError, match=message):
            worker.submit("Some/model", SAMPLES).result()


@pytest.mark.once
class TestFailures:
    def test_no_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(comet_environment, "comet_works_here", lambda: False)
        worker = CometWorker()
        with pytest.raises(QualityError, match="`neuronxa comet setup` makes one"):
            worker.submit("x", SAMPLES).result()
        worker.close()

    def test_killed_while_scoring_and_started_anew(
        self, interpreter: Interpreter, comet_models: Path, tmp_path: Path
    ) -> None:
        interpreter(f'echo $$ > {tmp_path}/pid\nexec $PYTHON "$@"')
        worker = CometWorker()
        future = worker.submit(str(comet_models / "comet"), SAMPLES)
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        first = int((tmp_path / "pid").read_text())
        os.kill(first, signal.SIGKILL)
        with pytest.raises(QualityError, match="ended with exit code -9"):
            future.result()
        assert worker.submit(str(comet_models / "comet"), SAMPLES).result()
        assert int((tmp_path / "pid").read_text()) != first
        worker.close()

    def test_a_crash_tells_its_last_words(self, interpreter: Interpreter) -> None:
        interpreter("echo 'all is lost' >&2\nexit 3")
        worker = CometWorker()
        with pytest.raises(QualityError, match=r"ended with exit code 3 \(all is lost\)"):
            worker.submit("x", SAMPLES).result()
        worker.close()

    def test_a_python_that_does_not_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program = tmp_path / "python"
        program.write_text("no program")
        program.chmod(0o755)
        monkeypatch.setenv(comet_environment.VARIABLE, str(program))
        worker = CometWorker()
        with pytest.raises(QualityError, match=r"does not run \(Exec format error\); NEURONXA_COMET_PYTHON must name"):
            worker.submit("x", SAMPLES).result()
        worker.close()

    def test_hung_behind_a_script_that_stays(self, interpreter: Interpreter, tmp_path: Path) -> None:
        """As `conda run` does: the script's child is the one that hangs, and holds the output open."""
        interpreter(f"sleep 600 &\necho $! > {tmp_path}/pid\nwait")
        worker = CometWorker(timeout=0.5)
        with pytest.raises(QualityError, match=r"no answer within 0.5 s"):
            worker.submit("x", SAMPLES).result(timeout=10)
        assert gone_within(30, int((tmp_path / "pid").read_text()))
        worker.close()

    def test_what_waits_behind_a_hung_request_fails_with_it(self, interpreter: Interpreter) -> None:
        """Training may wait for all of them, and each would take the whole limit."""
        interpreter("exec sleep 600")
        worker = CometWorker(timeout=1)
        futures = [worker.submit("x", SAMPLES) for _ in range(20)]
        errors = [str(future.exception(timeout=10)) for future in futures]
        assert errors[0].startswith("COMET gave no answer within 1 s")
        assert all(error.startswith("COMET was not asked because an earlier request failed") for error in errors[1:])
        worker.close()

    def test_hung(self, interpreter: Interpreter, tmp_path: Path) -> None:
        interpreter(f"echo $$ > {tmp_path}/pid\nexec sleep 600")
        worker = CometWorker(timeout=0.5)
        with pytest.raises(QualityError, match=r"no answer within 0.5 s and was stopped; raise comet_timeout"):
            worker.submit("x", SAMPLES).result()
        assert not alive(int((tmp_path / "pid").read_text()))
        worker.close()

    @pytest.mark.parametrize("rubbish", ["Loading...", '{"scores": "many"}', "[1, 2]", '{"scores": [1], "system": 1}'])
    def test_rubbish_on_stdout(self, rubbish: str, interpreter: Interpreter) -> None:
        interpreter(f"echo '{rubbish}'\nexec sleep 600")
        worker = CometWorker()
        with pytest.raises(QualityError, match=r"wrote .* instead of an answer"):
            worker.submit("x", SAMPLES).result()
        assert worker.process is None
        worker.close()

    @pytest.mark.parametrize(
        ("scores", "message"), [("[0.5]", "1 scores came back for 2"), ("[NaN, 0.5]", "the scores are NaN")]
    )
    def test_scores_that_cannot_be(self, scores: str, message: str, interpreter: Interpreter) -> None:
        interpreter(f"""echo '{{"scores": {scores}, "system": 0.5, {FACTS}}}'\nexec sleep 600""")
        worker = CometWorker()
        with pytest.raises(QualityError, match=message):
            worker.submit("x", SAMPLES).result()
        worker.close()

    def test_a_batch_that_needs_too_much_memory_is_halved(
        self, comet_models: Path, worker: CometWorker, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Real: the running process gets a limit. A segment takes 13 MiB in each tensor of "wide"'s FFN, so 8 do not
        fit into what the limit leaves, and a few do. In the end a single one, of 36 MiB, does not."""
        model, text = str(comet_models / "wide"), "Átta skip fóru út í gær. " * 5
        worker.batch_size = 8
        alone = worker.submit(model, [{"src": "No.", "mt": text, "ref": text}]).result().segments
        assert alone is not None
        limit_memory(worker, 350)
        samples = [{"src": "No.", "mt": text, "ref": text}] * 8
        assert worker.submit(model, samples).result().segments == pytest.approx(list(alone) * 8, rel=1e-5)
        kept = worker.batch_size
        assert kept in (1, 2, 4)
        assert [record.message for record in caplog.records] == [
            f"NeuronXA: COMET ran out of memory on cpu with 8 segments at once; it goes on with {kept} "
            "(comet_batch_size)."
        ]
        limit_memory(worker, 8)
        with pytest.raises(QualityError, match="COMET has too little memory on cpu, even for one segment at a") as e:
            worker.submit(model, [{"src": "No.", "mt": text * 10, "ref": "No."}]).result()
        assert str(e.value).endswith("free memory there or name another comet_device, or give comet_dtype=bfloat16.")
        assert worker.batch_size == kept

    def test_out_of_memory(self, interpreter: Interpreter, comet_models: Path) -> None:
        """Real: the process may have no more memory than Python itself needs, then enough."""
        interpreter('ulimit -v 300000\nexec $PYTHON "$@"')
        worker = CometWorker()
        with pytest.raises(QualityError, match=r"COMET has too little memory|COMET failed|ended with exit"):
            worker.submit(str(comet_models / "comet"), SAMPLES).result()
        interpreter('exec $PYTHON "$@"')
        assert worker.submit(str(comet_models / "comet"), SAMPLES).result()
        worker.close()

    def test_what_libraries_print_is_no_answer(self, worker: CometWorker, comet_models: Path, tmp_path: Path) -> None:
        """A checkpoint is a pickle, which may run code; this one prints, in the worker alone."""
        script = (
            "import sys, torch\nclass Chatty:\n def __reduce__(self): return print, ('rubbish',)\n"
            "c = torch.load(sys.argv[1], weights_only=False)\nc['extra'] = Chatty()\ntorch.save(c, sys.argv[2])\n"
        )
        folder = tmp_path / "chatty"
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "hparams.yaml").write_bytes((comet_models / "comet" / "hparams.yaml").read_bytes())
        paths = [str(root / "checkpoints" / "model.ckpt") for root in (comet_models / "comet", folder)]
        subprocess.run([os.environ[comet_environment.VARIABLE], "-c", script, *paths], check=True)
        plain = worker.submit(str(comet_models / "comet"), SAMPLES).result()
        assert worker.submit(str(folder), SAMPLES).result().segments == plain.segments


@pytest.mark.once
class TestEnds:
    def test_when_closed_also_in_the_middle(self, interpreter: Interpreter, tmp_path: Path) -> None:
        interpreter(f"echo $$ > {tmp_path}/pid\nexec sleep 600")
        worker = CometWorker()
        futures = [worker.submit("x", SAMPLES) for _ in range(3)]
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        worker.close()
        assert not alive(int((tmp_path / "pid").read_text()))
        for future in futures:
            assert isinstance(future.exception(timeout=0), QualityError)
        assert not [thread for thread in threading.enumerate() if thread.name == "neuronxa-comet"]

    def test_interrupted_while_it_is_closed(self, with_comet: None, comet_models: Path, monkeypatch: Any) -> None:
        """Ctrl-C in the middle of close: what is asked afterwards is still answered."""
        worker = CometWorker()
        score = worker.submit(str(comet_models / "comet"), SAMPLES).result()
        thread, end = worker._thread, worker._end
        assert thread is not None

        def interrupted(timeout: float | None = None) -> None:
            raise KeyboardInterrupt

        def late_end() -> None:
            if threading.current_thread() is thread:
                time.sleep(2)  # by then the next request's process would be there
            end()

        monkeypatch.setattr(worker, "_end", late_end)
        with monkeypatch.context() as interruption:
            interruption.setattr(thread, "join", interrupted)
            with pytest.raises(KeyboardInterrupt):
                worker.close()
        worker.close()
        assert worker.submit(str(comet_models / "comet"), SAMPLES).result(timeout=300) == score
        worker.close()

    def test_it_can_be_copied_before_it_is_used(self) -> None:
        assert copy.deepcopy(CometWorker(batch_size=3)).batch_size == 3

    def test_when_idle_and_starts_again(self, with_comet: None, comet_models: Path) -> None:
        worker = CometWorker(idle=0.2)
        score = worker.submit(str(comet_models / "comet"), SAMPLES).result()
        assert worker.process is not None
        pid = worker.process.pid
        assert gone_within(30, pid)
        assert worker.submit(str(comet_models / "comet"), SAMPLES).result() == score
        worker.close()

    @pytest.mark.parametrize("when", ["starting", "working", "idle"])
    def test_when_the_parent_is_killed(
        self,
        when: str,
        comet_models: Path,
        comet_python: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Even though a child of the parent's, as a DataLoader worker is one, holds its input open."""
        python = tmp_path / "python"
        pause = "sleep 2\n" if when == "starting" else ""  # the parent is gone before the worker's first line
        python.write_text(f'#!/bin/sh\n{pause}exec {comet_python} "$@"\n')
        python.chmod(0o755)
        monkeypatch.setenv(comet_environment.VARIABLE, str(python))
        script = (
            "import os, sys, time\nfrom neuronxa_callback.quality.comet.process import CometWorker\n"
            f"worker = CometWorker()\nfuture = worker.submit({str(comet_models / 'comet')!r}, {SAMPLES!r})\n"
            f"if {when == 'idle'}: future.result()\n"
            "while worker.process is None: time.sleep(0.01)\n"
            "child = os.fork()\n"
            "if child == 0: time.sleep(90); os._exit(0)\n"
            f"if {when == 'working'}: time.sleep(3)\n"
            "print(worker.process.pid, child, flush=True)\ntime.sleep(90)\n"
        )
        parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        pid, child = map(int, parent.stdout.readline().split())
        assert alive(pid)
        parent.kill()
        parent.wait()
        parent.stdout.close()
        try:
            assert gone_within(60, pid)  # it may be importing, which a slow machine takes long for
            assert alive(child)
        finally:
            os.kill(child, signal.SIGKILL)

    def test_with_the_interpreter(self, with_comet: None, comet_models: Path) -> None:
        script = (
            "from neuronxa_callback.quality.comet.process import CometWorker\n"
            f"worker = CometWorker()\nworker.submit({str(comet_models / 'comet')!r}, {SAMPLES!r}).result()\n"
            "print(worker.process.pid)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert gone_within(5, int(done.stdout))


@pytest.mark.once
class TestItsEnvironment:
    def test_launchers_are_not_passed_on(
        self, comet_models: Path, worker: CometWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Lightning would take the worker for one of two training processes, and wait for the other."""
        for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "7"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SLURM_NTASKS", "2")
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
        assert worker.submit(str(comet_models / "comet"), SAMPLES).result()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"device": "tpu"}, "comet_device='tpu' is unknown"),
            ({"batch_size": 0}, "comet_batch_size=0 must be"),
            ({"timeout": 0}, "comet_timeout=0 must be"),
            ({"dtype": "float16"}, "comet_dtype 'float16' is unknown; choose from float32, bfloat16"),
        ],
    )
    def test_bad_arguments(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            CometWorker(**options)
