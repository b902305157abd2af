from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pytest
from pyarrow import parquet

from neuronxa_callback.text.corpora import open_corpus
from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.text.languages import (
    head_languages,
    tatoeba_head_languages,
)
from neuronxa_callback.text.pairs import PairsError

pytestmark = pytest.mark.once

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


def write_data_set(folder: Path, files: Mapping[str, Mapping[str, Sequence[object]]], split: str) -> Path:
    """Write a data set in the hub's layout: a card that names each configuration's file."""
    configurations = ""
    for name, columns in files.items():
        configurations += (
            f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {name}/{split}.parquet\n"
        )
        (folder / name).mkdir(parents=True)
        parquet.write_table(pyarrow.table(columns), folder / name / f"{split}.parquet")
    (folder / "README.md").write_text(
        f"---\nlicense: cc0-1.0\nconfigs:\n{configurations}---\nAbout.\n", encoding="utf-8"
    )
    return folder


def flores_plus(folder: Path, column: str = "text") -> Path:
    """Write FLORES+ (or facebook/flores, with a column "sentence"): one configuration per language, rows with ids."""
    return write_data_set(
        folder, {code: {"id": list(range(100)), column: list(text)} for code, text in TEXT.items()}, "devtest"
    )


@pytest.mark.parametrize("kind", ["embedded", "flores", "plain", "tsv", "flores_plus", "facebook"])
def test_any_two_languages_are_pairs(kind: str, tmp_path: Path) -> None:
    makers: dict[str, Callable[[], str | Path]] = {
        "embedded": lambda: "embedded",
        "flores": lambda: write_folder(tmp_path / "flores200_dataset" / "devtest", "devtest"),
        "plain": lambda: write_folder(tmp_path / "text", "txt"),
        "tsv": lambda: write_tsv(tmp_path / "text.tsv"),
        "flores_plus": lambda: f"{flores_plus(tmp_path / 'flores_plus')}:devtest",
        "facebook": lambda: flores_plus(tmp_path / "flores", "sentence"),
    }
    corpus = open_corpus(makers[kind](), n=30)
    assert set(corpus.languages) == set(TEXT)
    assert corpus.head == head_languages()
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
    with pytest.raises(PairsError, match=r"has the columns source, target; name at least two by FLORES-200 codes"):
        open_corpus(path)


@pytest.mark.parametrize("name", ["text.tsv.gz", "text.csv", "text.json", "text.jsonl.xz"])
def test_a_file_in_other_formats_and_with_other_tags(name: str, tmp_path: Path) -> None:
    tags = {"eng_Latn": "en", "isl_Latn": "is", "deu_Latn": "de-DE", "fra_Latn": "fra", "spa_Latn": "ES"}
    frame = pandas.DataFrame({tags[code]: sentences for code, sentences in TEXT.items()})
    if ".json" in name:
        frame.to_json(tmp_path / name, orient="records", lines="jsonl" in name)
    else:
        frame.to_csv(tmp_path / name, sep="\t" if ".tsv" in name else ";", index=False)
    corpus = open_corpus(tmp_path / name, n=10)
    assert set(corpus.languages) == set(TEXT)
    assert corpus.pairs("deu_Latn", "isl_Latn").target == TEXT["isl_Latn"][:10]


def test_a_folder_of_compressed_files_and_files_by_their_endings(tmp_path: Path) -> None:
    for code, tag in (("eng_Latn", "en"), ("isl_Latn", "is")):
        text = ("\n".join(TEXT[code]) + "\n").encode()
        (tmp_path / f"text.{tag}.gz").write_bytes(gzip.compress(text))
    assert open_corpus(tmp_path).pairs("eng_Latn", "isl_Latn").target == TEXT["isl_Latn"]
    folder = write_folder(tmp_path / "codes", "txt")
    (folder / "script.pl").write_text("print")  # beside codes, "pl" is no Polish
    assert set(open_corpus(folder).languages) == set(TEXT)


def test_endings_that_are_no_languages(tmp_path: Path) -> None:
    for name in ("text.id", "clean.pl", "model.pt", "build.sh", "lib.so.gz"):
        (tmp_path / name).write_text("One.\nTwo.\n")
    with pytest.raises(PairsError, match="holds 0 files named by a language"):
        open_corpus(tmp_path)
    for tag in ("en", "is"):
        (tmp_path / f"dev.{tag}").write_text("\n".join(TEXT[{"en": "eng_Latn", "is": "isl_Latn"}[tag]]))
    assert open_corpus(tmp_path).languages == ("eng_Latn", "isl_Latn")
    (tmp_path / "de.txt").write_text("\n".join(TEXT["deu_Latn"]))  # .txt is the ending, and the tag is the name
    assert {*open_corpus(tmp_path).languages} == {"deu_Latn", "eng_Latn", "isl_Latn"}
    for tag in ("fr", "es"):
        (tmp_path / f"test.{tag}").write_text("One.\nTwo.\n")
    with pytest.raises(PairsError, match=r"has files of two texts, dev\.en and test\.es; move the files of one away"):
        open_corpus(tmp_path)


# ---------------------------------------------------------------------------------------------- parallel Bibles


def test_languages_that_flores_does_not_have(tmp_path: Path) -> None:
    """MEXA reads the parallel Bibles from such a folder: one file per language, and many more languages."""
    folder = write_folder(tmp_path / "bible", "txt")
    for code in ("aai_Latn", "grc_Grek", "kal_Latn"):
        (folder / f"{code}.txt").write_bytes((folder / "isl_Latn.txt").read_bytes())
    (folder / "xxx_Latn.txt").write_text("no language of the registry")
    corpus = open_corpus(folder, n=10)
    assert set(corpus.languages) == {*TEXT, "aai_Latn", "grc_Grek", "kal_Latn"}
    assert corpus.pairs("eng_Latn", "aai_Latn").target == TEXT["isl_Latn"][:10]


# ---------------------------------------------------------------------------------------------- Tatoeba


def tatoeba(folder: Path) -> Path:
    """Write LASER's layout: two files per language, so that each language has its own English sentences."""
    folder.mkdir()
    for name, code, start in (("isl", "isl_Latn", 0), ("cmn", "deu_Latn", 20), ("tzl", "fra_Latn", 40)):
        for side, text in ((name, TEXT[code]), ("eng", TEXT["eng_Latn"])):
            lines = "\n".join(text[start : start + 20]) + "\n"
            (folder / f"tatoeba.{name}-eng.{side}").write_text(lines, encoding="utf-8")
    return folder


def mteb(folder: Path) -> Path:
    """Write Tatoeba in mteb's layout: one configuration per pair of languages, with English second."""
    files = {
        f"{name}-eng": {
            "sentence1": list(TEXT[code][start : start + 20]),
            "sentence2": list(TEXT["eng_Latn"][start : start + 20]),
        }
        for name, code, start in (("isl", "isl_Latn", 0), ("cmn", "deu_Latn", 20), ("tzl", "fra_Latn", 40))
    }
    return write_data_set(folder, files, "test")


@pytest.mark.parametrize("write", [tatoeba, mteb])
def test_tatoeba_pairs_each_language_with_english(write: Callable[[Path], Path], tmp_path: Path) -> None:
    corpus = open_corpus(write(tmp_path / "tatoeba"), n=15)
    assert sorted(corpus.languages) == ["eng_Latn", "isl_Latn", "tzl_Latn", "zho_Hans"]
    assert corpus.head == tatoeba_head_languages()
    chinese = corpus.pairs("eng_Latn", "zho_Hans")
    assert (chinese.source, chinese.target) == (TEXT["eng_Latn"][20:35], TEXT["deu_Latn"][20:35])
    back = corpus.pairs("isl_Latn", "eng_Latn")
    assert (back.source, back.target, back.name) == (TEXT["isl_Latn"][:15], TEXT["eng_Latn"][:15], "isl_Latn-eng_Latn")
    with pytest.raises(PairsError, match=r"pairs every language with eng_Latn alone, and so has no isl_Latn-tzl_Latn"):
        corpus.pairs("isl_Latn", "tzl_Latn")


# ---------------------------------------------------------------------------------------------- data sets


def test_codes_of_flores_plus_are_those_of_the_papers_list(tmp_path: Path) -> None:
    files = {"cmn_Hans": {"text": list(TEXT["deu_Latn"])}, "eng_Latn": {"text": list(TEXT["eng_Latn"])}}
    corpus = open_corpus(f"{write_data_set(tmp_path / 'set', files, 'dev')}:dev", n=5)
    assert corpus.languages == ("eng_Latn", "zho_Hans")
    assert corpus.pairs("eng_Latn", "zho_Hans").target == TEXT["deu_Latn"][:5]


def test_a_data_set_is_read_once_a_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    corpus = open_corpus(flores_plus(tmp_path / "set"), n=5)
    read: list[str] = []
    load = datasets.load_dataset

    def counted(name: str, config: str, **options: Any) -> Any:
        read.append(config)
        return load(name, config, **options)

    monkeypatch.setattr(datasets, "load_dataset", counted)
    for code in ("isl_Latn", "deu_Latn", "fra_Latn"):
        corpus.pairs("eng_Latn", code)
    assert sorted(read) == ["deu_Latn", "eng_Latn", "fra_Latn", "isl_Latn"]


def test_two_folders_of_one_name_are_two_data_sets(tmp_path: Path) -> None:
    """The cache of datasets would return the first folder's text for the second."""
    for parent, start in (("one", 0), ("other", 10)):
        files = {code: {"text": list(text[start : start + 5])} for code, text in TEXT.items()}
        corpus = open_corpus(write_data_set(tmp_path / parent / "set", files, "dev"))
        pairs = corpus.pairs("eng_Latn", "isl_Latn")
        assert (pairs.source, pairs.target) == tuple(TEXT[c][start : start + 5] for c in ("eng_Latn", "isl_Latn"))


def test_rows_that_do_not_correspond(tmp_path: Path) -> None:
    rows: dict[str, dict[str, list[object]]] = {
        code: {"id": [start, start + 1], "text": list(TEXT[code][:2])}
        for start, code in enumerate(("isl_Latn", "eng_Latn"))
    }
    corpus = open_corpus(write_data_set(tmp_path / "set", rows, "dev"))
    with pytest.raises(PairsError, match=r"rows of eng_Latn and isl_Latn in .* have different ids"):
        corpus.pairs("eng_Latn", "isl_Latn")


def test_a_data_set_that_cannot_be_used(tmp_path: Path) -> None:
    folder = flores_plus(tmp_path / "flores_plus")
    with pytest.raises(PairsError, match=r"has no split test; choose one of devtest, as in .*flores_plus:devtest"):
        open_corpus(f"{folder}:test")
    other = write_data_set(tmp_path / "other", {"a": {"text": ["x"]}, "b": {"text": ["y"]}}, "train")
    with pytest.raises(PairsError, match="has the configurations a, b; at least two of them must be languages"):
        open_corpus(other)
    columns = write_data_set(tmp_path / "columns", {c: {"src": ["x", "y"]} for c in ("isl_Latn", "eng_Latn")}, "train")
    with pytest.raises(PairsError, match="has the columns src in eng_Latn, none of which is text or sentence"):
        open_corpus(columns).pairs("eng_Latn", "isl_Latn")


def test_a_row_without_a_sentence(tmp_path: Path) -> None:
    files = {code: {"text": ["One.", None if code == "isl_Latn" else "Two."]} for code in ("isl_Latn", "eng_Latn")}
    corpus = open_corpus(write_data_set(tmp_path / "set", files, "dev"))
    with pytest.raises(PairsError, match=r"row 2 of isl_Latn in .* holds None where a sentence should be"):
        corpus.pairs("eng_Latn", "isl_Latn")


def test_a_data_set_that_cannot_be_had(hub_says: Callable[[str], None]) -> None:
    hub_says("GatedRepo")
    command = ["score", "any", "--pairs", "openlanguagedata/flores_plus:devtest"]
    done = subprocess.run(
        [sys.executable, "-m", "neuronxa_callback", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Error: openlanguagedata/flores_plus is gated: accept its terms on https" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("spec", ["nothing", "text.txt"])
def test_what_is_no_text(spec: str) -> None:
    with pytest.raises(PairsError, match=f"{spec} is not parallel text; give a .tsv"):
        open_corpus(spec)
