"""The Python on the pages and in the docstrings of the public names runs.

The blocks of a page run in their order and in one namespace, in a folder of their own. What a block leaves to the
reader (`model`, `dataset`, a file) is prepared by the function of its page in READERS: real parts, made small.
"""

from __future__ import annotations

import csv
import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoTokenizer

import neuronxa_callback
from neuronxa_callback.text.embedded import embedded
from tests.docs.pages import Block, blocks_of, pages_with
from tests.support import ROOT, make_tokenizer, tiny_llama, training_set
from tests.text import test_wmt

pytestmark = pytest.mark.trainer

Names = dict[str, Any]
DOCSTRING_BLOCK = re.compile(r"^ *```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
HELD_OUT = embedded("heldout.tsv")
DEMO = embedded("demo_train.tsv")
WMT_XML = """<dataset id="newstest2021.en-de">
<doc id="d1" origlang="en">
<src lang="en"><p><seg id="1">The sea is calm.</seg>
<seg id="2">Nobody laughed.</seg></p></src>
<ref lang="de" translator="A"><p><seg id="1">Das Meer ist ruhig.</seg>
<seg id="2">Niemand lachte.</seg></p></ref>
<ref lang="de" translator="C"><p><seg id="1">Die See ist still.</seg>
<seg id="2">Keiner hat gelacht.</seg></p></ref>
</doc>
</dataset>
"""
TMX = """<tmx version="1.4"><header srclang="en"/><body>
<tu><tuv xml:lang="en"><seg>The sea is calm.</seg></tuv><tuv xml:lang="is"><seg>Sjórinn er lygn.</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>Nobody laughed.</seg></tuv><tuv xml:lang="is"><seg>Enginn hló.</seg></tuv></tu>
</body></tmx>
"""


def nothing(folder: Path) -> Names:
    return {}


def held_out_file(folder: Path) -> Names:
    """The file heldout.tsv, with columns named by languages."""
    rows = zip(HELD_OUT["eng_Latn"], HELD_OUT["isl_Latn"], strict=True)
    lines = ["eng_Latn\tisl_Latn", *("\t".join(row) for row in rows)]
    (folder / "heldout.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {}


def a_model(folder: Path) -> Names:
    """A model and its tokenizer, loaded from a folder, as SFTTrainer asks for them."""
    tiny_llama().save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    return {"model": model, "tokenizer": AutoTokenizer.from_pretrained(folder / "model")}


def a_training(folder: Path) -> Names:
    """What an SFTTrainer takes besides the callback: two steps of it."""
    from trl import SFTConfig, SFTTrainer

    args = SFTConfig(output_dir=str(folder / "run"), max_steps=2, bf16=False, report_to="none", save_strategy="no")
    dataset = training_set()
    return {
        **a_model(folder),
        "SFTTrainer": SFTTrainer,
        "args": args,
        "dataset": dataset,
        "dev": dataset.select(range(8)),
    }


def a_short_training(folder: Path) -> Names:
    """The page gives the arguments, and the text is so short that they make three steps."""
    dataset = training_set().select(range(8))
    return {**a_model(folder), "dataset": dataset, "dev": dataset}


def own_text(folder: Path) -> Names:
    """The files that the page names, and a data set with the columns "a" and "b"."""
    from datasets import Dataset

    held_out_file(folder)
    (folder / "dev").mkdir()
    for code, column in (("eng_Latn", "eng_Latn"), ("fao_Latn", "isl_Latn")):
        (folder / "dev" / f"{code}.dev").write_text("\n".join(HELD_OUT[column]) + "\n", encoding="utf-8")
    (folder / "memory.tmx").write_text(TMX, encoding="utf-8")
    (folder / "newstest2021.en-de.xml").write_text(WMT_XML, encoding="utf-8")
    with (folder / "corpus.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [("English", "Icelandic"), *zip(HELD_OUT["eng_Latn"], HELD_OUT["isl_Latn"], strict=True)]
        )
    rows = zip(DEMO["eng_Latn"], DEMO["isl_Latn"], strict=True)
    return {"dataset": Dataset.from_list([{"a": english, "b": icelandic} for english, icelandic in rows])}


def a_recorded_run(folder: Path) -> Names:
    shutil.copytree(ROOT / "tests" / "golden" / "run", folder / "OUTPUT_DIR")
    return {}


def several_processes(folder: Path) -> Names:
    """A group of one process; tests/distributed has groups of several."""
    dist.init_process_group("gloo", init_method=(folder / "meeting").as_uri(), rank=0, world_size=1)
    return a_model(folder)


# What each page leaves to its reader.
READERS: dict[str, Callable[[Path], Names]] = {
    "README.md": a_training,
    "docs/how-to/choose-a-checkpoint.md": a_short_training,
    "docs/how-to/stop.md": nothing,
    "docs/how-to/several-languages.md": held_out_file,
    "docs/how-to/own-data.md": own_text,
    "docs/how-to/comet.md": nothing,
    "docs/how-to/score-a-model.md": a_model,
    "docs/how-to/many-gpus.md": several_processes,
    "docs/reference/scores-jsonl.md": a_recorded_run,
}


def run(blocks: list[Block], names: Names) -> Names:
    """Run blocks in one namespace. A block that is the file of a page is run by the page's commands."""
    for block in blocks:
        if not block.title:
            lines = "\n" * (block.line - 1)  # so that a traceback names the line of the page
            exec(compile(lines + block.code, str(block), "exec"), names)
    return names


@contextmanager
def reader(page: str, folder: Path) -> Iterator[Names]:
    with chdir(folder):
        try:
            yield READERS[page](folder)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


@pytest.fixture
def wmt21_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What sacrebleu has on the disk after a download. It reads the place of its cache when it is imported."""
    from sacrebleu.dataset import DATASETS

    cache = test_wmt.TestSacrebleu().cache(tmp_path / "sacrebleu")
    monkeypatch.setattr("sacrebleu.utils.SACREBLEU_DIR", str(cache))
    monkeypatch.setattr(DATASETS["wmt21"], "_outdir", str(cache / "wmt21"))
    monkeypatch.setattr(DATASETS["wmt21"], "_rawdir", str(cache / "wmt21" / "raw"))


def test_the_readers_are_those_of_the_pages() -> None:
    """A page whose only blocks are files is run by its commands."""
    pages = [page for page in pages_with("python") if not all(b.title for b in blocks_of(ROOT / page, "python"))]
    assert sorted(pages) == sorted(READERS)


def has_a_best_checkpoint(names: Names) -> None:
    assert Path(names["trainer"].state.best_model_checkpoint).is_dir()


def scores_translations(names: Names) -> None:
    assert names["ExactMatch"]().score(["One.", "Two."], ["Einn.", "Tveir?"], ["Einn.", "Tveir."]) == [1.0, 0.0]


# What else must be so when a page's blocks have run.
THEN: dict[str, Callable[[Names], None]] = {
    "docs/how-to/choose-a-checkpoint.md": has_a_best_checkpoint,
    "docs/how-to/comet.md": scores_translations,
}


@pytest.mark.parametrize("page", sorted(READERS))
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("with_comet" if page == "docs/how-to/comet.md" else "wmt21_on_the_disk")
    with reader(page, tmp_path) as names:
        run(blocks_of(ROOT / page, "python"), names)
        THEN.get(page, lambda names: None)(names)


def usages() -> list[tuple[str, str]]:
    """The public names whose docstring shows their use, each with the code."""
    found = []
    for name in neuronxa_callback.__all__:
        text = textwrap.dedent(inspect.getdoc(getattr(neuronxa_callback, name)) or "")
        found += [(name, textwrap.dedent(code)) for code in DOCSTRING_BLOCK.findall(text)]
    return found


@pytest.mark.parametrize(("name", "code"), usages(), ids=[name for name, _ in usages()])
def test_the_usage_in_a_docstring_runs(name: str, code: str, tmp_path: Path, with_comet: None) -> None:
    with chdir(tmp_path):
        names = a_training(tmp_path)
        names |= {public: getattr(neuronxa_callback, public) for public in neuronxa_callback.__all__}
        exec(compile(code, name, "exec"), names)
