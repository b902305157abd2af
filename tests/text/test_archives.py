"""Zip archives as OPUS has them in Moses' layout."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from neuronxa_callback import ParallelPairs
from neuronxa_callback.text.corpora import open_corpus
from tests.text.samples import ENGLISH, EXPECTED, ICELANDIC, refused

pytestmark = pytest.mark.unit

SIDES = {"Books.en-is.en": "\n".join(ENGLISH) + "\n", "Books.en-is.is": "\n".join(ICELANDIC) + "\n"}
BESIDE = {"README": "About.", "LICENSE": "Free.", "Books.en-is.xml": "<x/>"}


def write_zip(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_two_sides_beside_other_files(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "is-en.txt.zip", {**BESIDE, **SIDES})
    assert ParallelPairs.load(path) == EXPECTED
    assert ParallelPairs.load(path, "isl_Latn", "eng_Latn").source == ICELANDIC
    corpus = open_corpus(path)
    assert corpus.languages == ("eng_Latn", "isl_Latn")
    assert corpus.pairs("isl_Latn", "eng_Latn").target == ENGLISH


def test_the_order_is_that_of_the_name(tmp_path: Path) -> None:
    names = {name.replace("en-is", "is-en"): text for name, text in SIDES.items()}
    assert ParallelPairs.load(write_zip(tmp_path / "o.zip", names)).source_lang == "isl_Latn"


@pytest.mark.parametrize(("tag", "code"), [("pt_br", "por_Latn"), ("zh_cn", "zho_Hans"), ("pt_BR", "por_Latn")])
def test_a_region_in_lower_case(tag: str, code: str, tmp_path: Path) -> None:
    names = {f"o.en-{tag}.en": SIDES["Books.en-is.en"], f"o.en-{tag}.{tag}": SIDES["Books.en-is.is"]}
    pairs = ParallelPairs.load(write_zip(tmp_path / "o.zip", {**names, "o.en-is": "x", "o.is-is": "x"}))
    assert (pairs.source_lang, pairs.target_lang, pairs.target) == ("eng_Latn", code, ICELANDIC)


def test_chinese_with_the_code_that_the_user_gives(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "o.zip", {"o.en-zh.en": SIDES["Books.en-is.en"], "o.en-zh.zh": SIDES["Books.en-is.is"]})
    assert ParallelPairs.load(path, "eng_Latn", "zho_Hant").target_lang == "zho_Hant"
    refused("has the columns en, zh; zh is written in two scripts, so pass source_lang and target_lang", path)


def test_what_it_does_not_hold(tmp_path: Path) -> None:
    refused(r"o\.zip holds README, LICENSE, .*; give an archive with two files", write_zip(tmp_path / "o.zip", BESIDE))
    refused(r"o\.zip holds nothing; give an archive", write_zip(tmp_path / "o.zip", {}))
    both = {**SIDES, "dev.en-is.en": "One.", "dev.en-is.is": "Einn."}
    refused(r"o\.zip holds Books\.en-is\.en, .*; give an archive", write_zip(tmp_path / "o.zip", both))


def test_broken_archives(tmp_path: Path) -> None:
    refused(r"gone\.zip does not exist; check the path", tmp_path / "gone.zip")
    path = write_zip(tmp_path / "o.zip", SIDES)
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    refused(r"o\.zip is no zip archive that can be read \(.*\); download or unpack it", path)
    path.write_bytes(content.replace(content[45:60], b"x" * 15))
    refused(r"o\.zip is no zip archive that can be read", path)


def test_faults_in_the_text(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "o.zip", {**SIDES, "Books.en-is.is": "Einn.\n"})
    refused(r"o\.zip has 3 lines in Books\.en-is\.en and 1 in Books\.en-is\.is; line i of one", path)
    path = write_zip(tmp_path / "o.zip", {**SIDES, "Books.en-is.is": "Einn.\n\nÞrír.\n"})
    refused(r"line 2 of Books\.en-is\.en and Books\.en-is\.is in .*o\.zip has an empty isl_Latn sentence", path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("o.en", "One.\n")
        archive.writestr("o.is", "Þrír.\n".encode("cp1252"))
    refused(r"o\.is in .*o\.zip, line 1, is not UTF-8; convert", path)
