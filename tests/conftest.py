"""Real parts, made small on the spot: a tokenizer trained on the embedded text, tiny models of each architecture."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from neuronxa_callback.quality.comet import environment as comet_environment
from neuronxa_callback.text.pairs import embedded

os.environ["HF_HUB_OFFLINE"] = "1"
# Tiny models are several times faster without a second thread to wait for, here and in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
THREADS = torch.get_num_threads()
torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent
SMOLLM = ROOT / ".models" / "smollm2-135m-instruct"
COMET = ROOT / ".comet"
VOCABULARY = 600


def make_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; with `bos` it puts a BOS token in front, as Llama's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    sentences = [sentence for column in embedded("heldout.tsv").values() for sentence in column]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left"
    )


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


def tiny_llama(seed: int = 0, **settings: Any) -> LlamaForCausalLM:
    """A Llama of three layers with random weights large enough for sentences to differ."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.2,
            "pad_token_id": 2,
            "bos_token_id": 0,
            "eos_token_id": 1,
        }
        | settings
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def llama() -> LlamaForCausalLM:
    return tiny_llama().eval()


@pytest.fixture(scope="session")
def smollm_path() -> Path:
    if not (SMOLLM / "config.json").exists():
        pytest.fail("the real model is missing: run `make model`")
    return SMOLLM


@pytest.fixture(scope="session")
def smollm_tokenizer(smollm_path: Path) -> Any:
    return AutoTokenizer.from_pretrained(smollm_path)


@pytest.fixture(scope="session")
def smollm(smollm_path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(smollm_path, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def comet_python() -> Path:
    """The interpreter with the real unbabel-comet: this one, or that of `neuronxa comet setup --path .comet`."""
    if comet_environment.comet_works_here():
        return Path(sys.executable)
    if not (COMET / comet_environment.READY).exists():
        pytest.fail("the COMET environment is missing: run `make comet`")
    return comet_environment.python_in(COMET)


@pytest.fixture(scope="session")
def comet_models(comet_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny checkpoints "comet" and "cometkiwi" in COMET's format, and "expected.json"; see make_comet."""
    folder: Path = tmp_path_factory.mktemp("comet")
    command = [str(comet_python), str(ROOT / "tests" / "make_comet.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture
def with_comet(comet_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(comet_environment.VARIABLE, str(comet_python))


@pytest.fixture(autouse=True)
def all_threads_for_the_real_model(request: pytest.FixtureRequest) -> Iterator[None]:
    if "smollm" in request.fixturenames:
        torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_mixed_precision_left_behind() -> Iterator[None]:
    """A Trainer of transformers 4.57 in bf16 leaves a variable behind that makes the next one run in bf16 too."""
    before = os.environ.get("ACCELERATE_MIXED_PRECISION")
    yield
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
    if before is not None:
        os.environ["ACCELERATE_MIXED_PRECISION"] = before


@pytest.fixture(autouse=True)
def no_environment_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user's own COMET environment must not change what the tests see."""
    monkeypatch.delenv(comet_environment.VARIABLE, raising=False)
    monkeypatch.setattr(comet_environment, "default_path", lambda: tmp_path / "no comet here")


@pytest.fixture
def hub_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Puts a server on this machine in the hub's place that answers every request with one of the hub's error codes."""
    with ExitStack() as stack:

        def say(code: str) -> None:
            class Hub(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    self.send_response(403 if code == "GatedRepo" else 401)
                    self.send_header("X-Error-Code", code)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

                do_HEAD = do_GET  # noqa: N815

                def log_message(self, *arguments: Any) -> None:
                    pass

            server = stack.enter_context(HTTPServer(("127.0.0.1", 0), Hub))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            for name, value in {
                "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
                "HF_HUB_OFFLINE": "0",
                "HF_HOME": str(tmp_path / "hub"),
            }.items():
                monkeypatch.setenv(name, value)

        yield say
