from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from neuronxa_callback.corpora import open_corpus
from neuronxa_callback.pairs import PairsError, embedded

TEXT = embedded("heldout.tsv")


def write_folder(folder: Path, ending: str) -> Path:
    folder.mkdir(parents=True)
    for code, sentences in TEXT.items():
        (folder / f"{code}.{ending}").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    return folder


def write_tsv(path: Path) -> Path:
    rows = ["\t".join(TEXT), *("\t".join(row) for row in zip(*TEXT.values(), strict=True))]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["embedded", "flores", "plain", "tsv"])
def test_any_two_languages_are_pairs(kind: str, tmp_path: Path) -> None:
    makers: dict[str, Callable[[], str | Path]] = {
        "embedded": lambda: "embedded",
        "flores": lambda: write_folder(tmp_path / "flores200_dataset" / "devtest", "devtest"),
        "plain": lambda: write_folder(tmp_path / "text", "txt"),
        "tsv": lambda: write_tsv(tmp_path / "text.tsv"),
    }
    corpus = open_corpus(makers[kind](), n=30)
    assert set(corpus.languages) == set(TEXT)
    pairs = corpus.pairs("deu_Latn", "isl_Latn")
    assert (pairs.source, pairs.target) == (TEXT["deu_Latn"][:30], TEXT["isl_Latn"][:30])
    assert pairs.name == "deu_Latn-isl_Latn"
    assert corpus.pairs("deu_Latn", "fra_Latn").source == pairs.source
    with pytest.raises(PairsError, match=r"has no fao_Latn; it has .*isl_Latn"):
        corpus.pairs("eng_Latn", "fao_Latn")
    with pytest.raises(PairsError, match="'is' is not a FLORES-200 language code"):
        corpus.pairs("eng_Latn", "is")


def test_other_files_in_the_folder_do_not_matter(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "text", "txt")
    (folder / "README.md").write_text("about")
    (folder / "isl_Latn.old").mkdir()
    assert set(open_corpus(folder).languages) == set(TEXT)


def test_the_release_folder_names_the_split(tmp_path: Path) -> None:
    inner = write_folder(tmp_path / "flores200_dataset" / "devtest", "devtest")
    with pytest.raises(PairsError, match=f"holds 0 files named by a language; did you mean {inner}"):
        open_corpus(inner.parent)


def test_two_files_of_one_language(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "text", "txt")
    (folder / "isl_Latn.dev").write_text("x\n")
    with pytest.raises(PairsError, match=r"two files of isl_Latn, isl_Latn\.dev and isl_Latn\.txt; move one away"):
        open_corpus(folder)


def test_a_file_without_languages(tmp_path: Path) -> None:
    path = tmp_path / "text.tsv"
    path.write_text("source\ttarget\na\tb\n")
    with pytest.raises(PairsError, match=r"has the columns source, target; name two at least by FLORES-200 codes"):
        open_corpus(path)
