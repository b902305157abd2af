"""Training text is streamed from each corpus in its own schema, cleaned with exact counts, and kept."""

from __future__ import annotations

import gzip
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import training_text
from pyarrow import parquet
from training_text import TextError, clean_documents, clean_pairs, pair_rows, training_documents, training_pairs

from neuronxa_callback import ParallelPairs
from neuronxa_callback.text.pairs import embedded

HELD_OUT = ParallelPairs.load("eng_Latn-isl_Latn")
TRAIN = embedded("demo_train.tsv")
PAIRS = list(zip(TRAIN["eng_Latn"], TRAIN["isl_Latn"], strict=True))[:30]
NLLB_REST = "\t1.2537\t0.9951\t0.9999\tcrawl-data/CC-MAIN\thttps://a.is\tcrawl-data/CC-MAIN\t_"


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
    monkeypatch.setitem(training_text.TAB_SEPARATED, name, f"{address}/{write(folder / 'corpus.gz').name}")
    assert list(pair_rows(name)) == PAIRS


@pytest.mark.parametrize(("name", "write"), [("nllb", nllb), ("paracrawl", paracrawl)])
def test_a_local_copy_of_a_corpus(name: str, write: Callable[[Path], Path], tmp_path: Path) -> None:
    assert list(pair_rows(f"{name}:{write(tmp_path / 'corpus.gz')}")) == PAIRS


def test_opus_100_as_the_hub_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = opus100(tmp_path / "opus-100" / "en-is" / "train-00000-of-00001.parquet")
    card = "---\nconfigs:\n- config_name: en-is\n  data_files:\n  - split: train\n    path: en-is/train-*\n---\n"
    (tmp_path / "opus-100" / "README.md").write_text(card)
    monkeypatch.setattr(training_text, "OPUS_100", (str(tmp_path / "opus-100"), "en-is"))
    assert list(pair_rows("opus100")) == PAIRS
    assert list(pair_rows(f"opus100:{path}")) == PAIRS


def write_tsv(path: Path) -> None:
    path.write_text("id\teng_Latn\tisl_Latn\n" + "".join(f"7\t{e}\t{i}\n" for e, i in PAIRS), encoding="utf-8")


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
    assert list(pair_rows(str(tmp_path / name))) == PAIRS


def test_what_csv_readers_change_is_read_as_it_is(tmp_path: Path) -> None:
    pairs = [('He said "no', "Hann sagði „nei"), ("NA", "null"), ("1,000", "1.000"), ("a\u2028b", "c\x85d"), ("x", "")]
    assert list(pair_rows(f"nllb:{nllb(tmp_path / 'a.gz', pairs)}")) == pairs


# ---------------------------------------------------------------------------------------------- cleaning


def test_each_filter_counts_what_it_removes() -> None:
    english, icelandic = PAIRS[0]
    rows = [
        PAIRS[0],
        None,
        ("", icelandic),
        (english, " "),
        (english, icelandic * 3),
        (f"  {english.upper()} ", icelandic),
        (icelandic + " Já.", icelandic),
        (english, "The kitchen tap has been dripping for weeks."),
        (HELD_OUT.source[3], "Þetta er einhver önnur þýðing en hin."),
        ("Somebody else's translation of it, which differs.", HELD_OUT.target[5]),
        ("Yes.", "Já."),
        PAIRS[1],
    ]
    counts: Counter[str] = Counter()
    kept = list(clean_pairs(rows, [HELD_OUT], counts))
    assert kept == [PAIRS[0], ("Yes.", "Já."), PAIRS[1]]
    assert counts == {
        "read": 12,
        "malformed": 1,
        "empty": 2,
        "length ratio": 1,
        "duplicate": 1,
        "wrong language": 2,
        "held-out": 2,
        "kept": 3,
    }


def test_documents_are_cleaned_likewise() -> None:
    documents = [
        "Það var einu sinni karl og kerling í koti sínu. Þau áttu þrjár dætur.",
        "",
        "Það var einu sinni  karl og kerling í koti sínu. Þau áttu þrjár dætur.",
        "Once upon a time there lived an old man and his wife in a cottage.",
        f"Hann skrifaði þetta niður: {HELD_OUT.target[0].lower()} Síðan fór hann heim.",
    ]
    counts: Counter[str] = Counter()
    assert list(clean_documents(documents, "isl_Latn", [HELD_OUT], counts)) == documents[:1]
    assert counts == {"read": 5, "kept": 1, "empty": 1, "duplicate": 1, "wrong language": 1, "held-out": 1}


def test_the_limit_stops_the_reading(tmp_path: Path) -> None:
    data, counts = training_pairs("embedded", [HELD_OUT], 10, tmp_path)
    assert len(data) == 10
    assert counts["kept"] == 10
    assert counts["read"] < 20


# ---------------------------------------------------------------------------------------------- keeping


def test_cleaned_text_is_kept_and_made_anew_when_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tsv"
    write_tsv(path)
    first, counts = training_pairs(str(path), [HELD_OUT], None, tmp_path / "kept")
    assert first[:] == {"eng_Latn": [e for e, _ in PAIRS], "isl_Latn": [i for _, i in PAIRS]}
    with monkeypatch.context() as patch:
        patch.setattr(training_text, "pair_rows", lambda text: pytest.fail("it was read again"))
        again, same = training_pairs(str(path), [HELD_OUT], None, tmp_path / "kept")
        assert again[:] == first[:]
        assert same == counts
    changed = path.stat().st_mtime_ns + 1_000_000
    os.utime(path, ns=(changed, changed))
    monkeypatch.setattr(training_text, "pair_rows", lambda text: iter(PAIRS[:3]))
    assert len(training_pairs(str(path), [HELD_OUT], None, tmp_path / "kept")[0]) == 3
    assert len(training_pairs(str(path), [HELD_OUT], 2, tmp_path / "kept")[0]) == 2


def test_text_that_was_not_written_to_the_end_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(text: str) -> Iterator[tuple[str, str]]:
        yield from PAIRS
        raise TextError("the line went dead.")

    with monkeypatch.context() as patch:
        patch.setattr(training_text, "pair_rows", breaks)
        with pytest.raises(TextError, match="the line went dead"):
            training_pairs("embedded", [HELD_OUT], None, tmp_path)
    assert len(training_pairs("embedded", [HELD_OUT], None, tmp_path)[0]) > len(PAIRS)


# ---------------------------------------------------------------------------------------------- bad text


def written(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_text_that_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path) -> None:
    cases = {
        "wikipedia": "wikipedia is no training text; give nllb, paracrawl, opus100, embedded, or a",
        str(tmp_path / "none.tsv"): "none.tsv does not exist; check the path",
        f"nllb:{tmp_path / 'none.gz'}": "none.gz cannot be read .*; check the path",
        written(
            tmp_path / "a.tsv", "English\tisl_Latn\nOne.\tEinn.\n"
        ): "a.tsv has the columns English, isl_Latn; name",
        written(tmp_path / "a.jsonl", '{"en": "One."}\n'): "a.jsonl has the columns en; name two of them",
        written(tmp_path / "b.jsonl", "no json\n"): "b.jsonl cannot be read .*; mend it",
        written(tmp_path / "a.parquet", "no parquet"): "a.parquet cannot be read .*; mend it",
        written(
            tmp_path / "latin.tsv", b"eng_Latn\tisl_Latn\nOne.\t\xe1\xe1n.\n"
        ): "latin.tsv is not UTF-8 .*; convert",
        written(tmp_path / "empty.tsv", ""): "empty.tsv has the columns .*empty",
    }
    for text, sentence in cases.items():
        with pytest.raises(TextError, match=sentence) as raised:
            training_text.check_pairs(text)
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
        training_text.check_pairs(text)


def test_nothing_left_says_what_was_removed(tmp_path: Path) -> None:
    swapped = written(tmp_path / "a.tsv", "isl_Latn\teng_Latn\n" + "".join(f"{e}\t{i}\n" for e, i in PAIRS))
    with pytest.raises(TextError, match=r"nothing of .*a\.tsv is left .*30 read, 30 wrong language"):
        training_pairs(swapped, [HELD_OUT], None, tmp_path / "kept")


def test_documents_of_each_format(tmp_path: Path) -> None:
    texts = list(TRAIN["isl_Latn"][:20])
    written(tmp_path / "a.txt", "\n".join(texts) + "\n")
    written(tmp_path / "a.jsonl", "".join(json.dumps({"text": text, "url": "_"}) + "\n" for text in texts))
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    for name in ("a.txt", "a.jsonl", "a.parquet"):
        data, counts = training_documents(str(tmp_path / name), "isl_Latn", [HELD_OUT], None, tmp_path / f"{name} kept")
        assert data["text"][:] == texts
        assert counts == {"read": 20, "kept": 20}
