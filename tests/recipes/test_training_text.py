"""Training text is read, cleaned and kept, and made anew when something changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
import training_text
from pyarrow import parquet
from text_rows import TextError
from training_text import training_documents, training_pairs

from neuronxa_callback import ParallelPairs
from neuronxa_callback.text.embedded import embedded

pytestmark = pytest.mark.recipe

HELD_OUT = ParallelPairs.load("eng_Latn-isl_Latn")
TRAIN = embedded("demo_train.tsv")
CODES = ("eng_Latn", "isl_Latn")
PAIRS = list(zip(TRAIN["eng_Latn"], TRAIN["isl_Latn"], strict=True))[:30]


def written(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


def test_the_limit_stops_the_reading(tmp_path: Path) -> None:
    data, counts = training_pairs("embedded", CODES, [HELD_OUT], 10, tmp_path)
    assert len(data) == 10
    assert counts["kept"] == 10
    assert counts["read"] < 20


def test_cleaned_text_is_kept_and_made_anew_when_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tsv"
    written(path, "id\teng_Latn\tisl_Latn\n" + "".join(f"7\t{e}\t{i}\n" for e, i in PAIRS))
    first, counts = training_pairs(str(path), CODES, [HELD_OUT], None, tmp_path / "kept")
    assert first[:] == {"eng_Latn": [e for e, _ in PAIRS], "isl_Latn": [i for _, i in PAIRS]}
    with monkeypatch.context() as patch:
        patch.setattr(training_text, "pair_rows", lambda text, codes: pytest.fail("it was read again"))
        again, same = training_pairs(str(path), CODES, [HELD_OUT], None, tmp_path / "kept")
        assert again[:] == first[:]
        assert same == counts
    changed = path.stat().st_mtime_ns + 1_000_000
    os.utime(path, ns=(changed, changed))
    monkeypatch.setattr(training_text, "pair_rows", lambda text, codes: iter(PAIRS[:3]))
    assert len(training_pairs(str(path), CODES, [HELD_OUT], None, tmp_path / "kept")[0]) == 3
    assert len(training_pairs(str(path), CODES, [HELD_OUT], 2, tmp_path / "kept")[0]) == 2


def test_text_that_was_not_written_to_the_end_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(text: str, codes: tuple[str, str]) -> Iterator[tuple[str, str]]:
        yield from PAIRS
        raise TextError("the line went dead.")

    with monkeypatch.context() as patch:
        patch.setattr(training_text, "pair_rows", breaks)
        with pytest.raises(TextError, match="the line went dead"):
            training_pairs("embedded", CODES, [HELD_OUT], None, tmp_path)
    assert len(training_pairs("embedded", CODES, [HELD_OUT], None, tmp_path)[0]) > len(PAIRS)


def test_text_of_another_language_is_made_anew(tmp_path: Path) -> None:
    french, _ = training_pairs("embedded", ("eng_Latn", "fra_Latn"), [HELD_OUT], 3, tmp_path)
    assert french.column_names == ["eng_Latn", "fra_Latn"]
    assert training_pairs("embedded", CODES, [HELD_OUT], 3, tmp_path)[0].column_names == list(CODES)


def test_nothing_left_says_what_was_removed(tmp_path: Path) -> None:
    swapped = written(tmp_path / "a.tsv", "isl_Latn\teng_Latn\n" + "".join(f"{e}\t{i}\n" for e, i in PAIRS))
    with pytest.raises(TextError, match=r"nothing of .*a\.tsv is left .*30 read, 30 wrong language"):
        training_pairs(swapped, CODES, [HELD_OUT], None, tmp_path / "kept")


def test_documents_of_each_format(tmp_path: Path) -> None:
    texts = list(TRAIN["isl_Latn"][:20])
    written(tmp_path / "a.txt", "\n".join(texts) + "\n")
    written(tmp_path / "a.jsonl", "".join(json.dumps({"text": text, "url": "_"}) + "\n" for text in texts))
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    for name in ("a.txt", "a.jsonl", "a.parquet"):
        data, counts = training_documents(str(tmp_path / name), "isl_Latn", [HELD_OUT], None, tmp_path / f"{name} kept")
        assert data["text"][:] == texts
        assert counts == {"read": 20, "kept": 20}
