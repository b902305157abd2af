"""Training text is streamed from each corpus in its own schema, and a text that cannot be used is refused."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import text_rows
import training_text
from pyarrow import parquet
from text_rows import TextError, pair_rows

from neuronxa_callback.text.embedded import embedded

pytestmark = pytest.mark.recipe

TRAIN = embedded("demo_train.tsv")
CODES = ("eng_Latn", "isl_Latn")
PAIRS = list(zip(TRAIN["eng_Latn"], TRAIN["isl_Latn"], strict=True))[:30]
NLLB_REST = "\t1.2537\t0.9951\t0.9999\tcrawl-data/CC-MAIN\thttps://a.is\tcrawl-data/CC-MAIN\t_"


def written(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which a server on this machine gives its files."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def nllb(path: Path, pairs: list[tuple[str, str]] = PAIRS) -> Path:
    path.write_bytes(gzip.compress("".join(f"{e}\t{i}{NLLB_REST}\n" for e, i in pairs).encode()))
    return path


def paracrawl(path: Path) -> Path:
    path.write_bytes(gzip.compress("".join(f"{e}\t{i}\n" for e, i in PAIRS).encode()))
    return path


def opus100(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({"translation": [{"en": e, "is": i} for e, i in PAIRS]}), path)
    return path


# ---------------------------------------------------------------------------------------------- each corpus


@pytest.mark.parametrize(("name", "write"), [("nllb", nllb), ("paracrawl", paracrawl)])
def test_a_corpus_is_streamed_over_http(
    name: str, write: Callable[[Path], Path], served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    pair = {"nllb": "eng_Latn-isl_Latn", "paracrawl": "en-is"}[name]
    write(folder / f"{pair}.gz")
    monkeypatch.setitem(text_rows.TAB_SEPARATED, name, f"{address}/{{pair}}.gz")
    assert list(pair_rows(name, CODES)) == PAIRS


@pytest.mark.parametrize(("name", "write"), [("nllb", nllb), ("paracrawl", paracrawl)])
def test_a_local_copy_of_a_corpus(name: str, write: Callable[[Path], Path], tmp_path: Path) -> None:
    assert list(pair_rows(f"{name}:{write(tmp_path / 'corpus.gz')}", CODES)) == PAIRS


def test_opus_100_as_the_hub_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = opus100(tmp_path / "opus-100" / "en-is" / "train-00000-of-00001.parquet")
    card = "---\nconfigs:\n- config_name: en-is\n  data_files:\n  - split: train\n    path: en-is/train-*\n---\n"
    (tmp_path / "opus-100" / "README.md").write_text(card)
    monkeypatch.setattr(text_rows, "OPUS_100", str(tmp_path / "opus-100"))
    assert list(pair_rows("opus100", CODES)) == PAIRS
    assert list(pair_rows(f"opus100:{path}", CODES)) == PAIRS


@pytest.mark.parametrize(
    ("corpus", "codes", "file"),
    [
        ("nllb", ("eng_Latn", "deu_Latn"), "deu_Latn-eng_Latn"),
        ("nllb", ("isl_Latn", "fao_Latn"), "fao_Latn-isl_Latn"),
        ("paracrawl", ("deu_Latn", "eng_Latn"), "en-de"),
    ],
)
def test_a_corpus_has_its_languages_in_its_own_order(
    corpus: str, codes: tuple[str, str], file: str, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    paracrawl(folder / f"{file}.gz")
    monkeypatch.setitem(text_rows.TAB_SEPARATED, corpus, f"{address}/{{pair}}.gz")
    assert list(pair_rows(corpus, codes)) == [(second, first) for first, second in PAIRS]


def test_opus_100_has_its_languages_in_alphabetical_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "opus-100" / "de-en" / "train.parquet"
    path.parent.mkdir(parents=True)
    parquet.write_table(pyarrow.table({"translation": [{"de": "Eins.", "en": "One."}]}), path)
    card = "---\nconfigs:\n- config_name: de-en\n  data_files:\n  - split: train\n    path: de-en/train*\n---\n"
    (tmp_path / "opus-100" / "README.md").write_text(card)
    monkeypatch.setattr(text_rows, "OPUS_100", str(tmp_path / "opus-100"))
    assert list(pair_rows("opus100", ("eng_Latn", "deu_Latn"))) == [("One.", "Eins.")]


def test_a_file_of_many_languages_gives_any_two(tmp_path: Path) -> None:
    text = written(tmp_path / "a.tsv", "eng_Latn\tfra_Latn\tdeu_Latn\nOne.\tUn.\tEins.\n")
    assert list(pair_rows(text, ("deu_Latn", "fra_Latn"))) == [("Eins.", "Un.")]


def write_tsv(path: Path, pairs: list[tuple[str, str]] = PAIRS) -> None:
    path.write_text("id\teng_Latn\tisl_Latn\n" + "".join(f"7\t{e}\t{i}\n" for e, i in pairs), encoding="utf-8")


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps({"en": e, "is": i}) + "\n" for e, i in PAIRS), encoding="utf-8")


def write_jsonl_gz(path: Path) -> None:
    lines = "".join(json.dumps({"translation": {"en": e, "is": i}}) + "\n" for e, i in PAIRS)
    path.write_bytes(gzip.compress(lines.encode()))


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.tsv", write_tsv), ("a.jsonl", write_jsonl), ("a.jsonl.gz", write_jsonl_gz), ("a.parquet", opus100)],
)
def test_local_files(name: str, write: Callable[[Path], Any], tmp_path: Path) -> None:
    write(tmp_path / name)
    assert list(pair_rows(str(tmp_path / name), CODES)) == PAIRS


def test_what_csv_readers_change_is_read_as_it_is(tmp_path: Path) -> None:
    pairs = [('He said "no', "Hann sagði „nei"), ("NA", "null"), ("1,000", "1.000"), ("a\u2028b", "c\x85d"), ("x", "")]
    pairs.append(("long" * 40_000, '"langt"'))  # csv takes cells of 131,072 characters only, unless it is asked
    write_tsv(tmp_path / "a.tsv", pairs)
    assert list(pair_rows(str(tmp_path / "a.tsv"), CODES)) == pairs
    assert list(pair_rows(f"nllb:{nllb(tmp_path / 'a.gz', pairs)}", CODES)) == pairs


def test_a_row_of_a_tsv_file_without_all_cells_is_none(tmp_path: Path) -> None:
    lines = ["eng_Latn\tisl_Latn", "One.\tEinn.", "Two.", "", "Three.\tÞrír.\t3", "Four.\tFjórir."]
    text = written(tmp_path / "a.tsv", "\n".join(lines) + "\n")
    assert list(pair_rows(text, CODES)) == [("One.", "Einn."), None, None, None, ("Four.", "Fjórir.")]


# ---------------------------------------------------------------------------------------------- bad text


def test_text_that_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path) -> None:
    cases = {
        "wikipedia": "wikipedia is no training text; give nllb, paracrawl, opus100, embedded, or a",
        str(tmp_path / "none.tsv"): "none.tsv does not exist; check the path",
        f"nllb:{tmp_path / 'none.gz'}": "none.gz cannot be read .*; check the path",
        written(
            tmp_path / "a.tsv", "English\tisl_Latn\nOne.\tEinn.\n"
        ): "a.tsv has the columns English, isl_Latn; name",
        written(tmp_path / "a.jsonl", '{"en": "One."}\n'): "a.jsonl has the columns en; name two of them",
        written(tmp_path / "b.jsonl", "no json\n"): "b.jsonl cannot be read .*; correct it",
        written(tmp_path / "a.parquet", "no parquet"): "a.parquet cannot be read .*; correct it",
        written(
            tmp_path / "latin.tsv", b"eng_Latn\tisl_Latn\nOne.\t\xe1\xe1n.\n"
        ): "latin.tsv is not UTF-8 .*; convert",
        written(tmp_path / "empty.tsv", ""): "empty.tsv has the columns .*empty",
    }
    with pytest.raises(TextError, match="paracrawl has pairs with eng_Latn alone, and none of isl_Latn and fao_Latn"):
        training_text.check_pairs("paracrawl", ("isl_Latn", "fao_Latn"))
    with pytest.raises(TextError, match="the embedded training text has no deu_Latn; it has eng_Latn, isl_Latn, fra"):
        training_text.check_pairs("embedded", ("eng_Latn", "deu_Latn"))
    for text, sentence in cases.items():
        with pytest.raises(TextError, match=sentence) as raised:
            training_text.check_pairs(text, CODES)
        assert "\n" not in str(raised.value)


def test_documents_that_cannot_be_used_are_refused_in_a_sentence(tmp_path: Path) -> None:
    cases = {
        "wikipedia": "wikipedia is no training text; give a .txt",
        str(tmp_path / "none.txt"): "none.txt does not exist",
        written(tmp_path / "a.jsonl", '{"body": "Einn."}\n'): "a.jsonl has the columns body; name the one",
    }
    for text, sentence in cases.items():
        with pytest.raises(TextError, match=sentence):
            training_text.check_documents(text, "isl_Latn")


@pytest.mark.parametrize("text", ["nllb", "paracrawl", "opus100"])
def test_a_corpus_out_of_reach_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(TextError, match=f"{text} cannot be read .*; check the connection"):
        training_text.check_pairs(text, CODES)
