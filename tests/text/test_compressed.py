from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import zstandard

from neuronxa_callback import ParallelPairs
from tests.text.samples import CODES, ENGLISH, EXPECTED, ICELANDIC, ROWS, delimited, refused

pytestmark = pytest.mark.unit

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
}
every = pytest.mark.parametrize("suffix", COMPRESS)
TSV = delimited("\t", CODES, *ROWS).encode()


@every
@pytest.mark.parametrize("kind", ["tsv", "csv", "json", "jsonl"])
def test_what_pandas_compresses_comes_back(suffix: str, kind: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS, columns=list(CODES))
    path = tmp_path / f"p.{kind}.{suffix}"
    if kind in ("tsv", "csv"):
        frame.to_csv(path, sep={"tsv": "\t", "csv": ","}[kind], index=False)
    else:
        frame.to_json(path, orient="records", lines=kind == "jsonl")
    assert ParallelPairs.load(path) == EXPECTED


@every
def test_two_files(suffix: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"o.en-is.{tag}.{suffix}" for tag in ("en", "is")]
    for path, side in zip(paths, (ENGLISH, ICELANDIC), strict=True):
        path.write_bytes(COMPRESS[suffix](("\n".join(side) + "\n").encode()))
    assert ParallelPairs.load(tuple(paths)) == EXPECTED


@every
def test_several_streams_in_a_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"p.tsv.{suffix}"
    path.write_bytes(COMPRESS[suffix](TSV[:40]) + COMPRESS[suffix](TSV[40:]))
    assert ParallelPairs.load(path) == EXPECTED


@every
def test_a_file_cut_short(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"p.tsv.{suffix}"
    for end in (-1, -5, -12):
        path.write_bytes(COMPRESS[suffix](TSV)[:end])
        refused(rf"p\.tsv\.{suffix} is cut short; download or compress it again", path)


@every
def test_a_file_that_is_not_compressed(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"p.tsv.{suffix}"
    path.write_bytes(TSV)
    refused(rf"p\.tsv\.{suffix} is no \.{suffix} file, or a damaged one \(.*\); download or compress", path)


@every
def test_a_damaged_file(suffix: str, tmp_path: Path) -> None:
    content = bytearray(COMPRESS[suffix](TSV * 50))
    content[len(content) // 2] ^= 0xFF
    path = tmp_path / f"p.tsv.{suffix}"
    path.write_bytes(content)
    if suffix != "zst":  # its checksum is optional, and zstandard writes none
        refused(rf"p\.tsv\.{suffix} is no \.{suffix} file, or a damaged one \(.*\); download or compress", path)


@every
def test_lines_are_those_of_the_text(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"p.tsv.{suffix}"
    path.write_bytes(COMPRESS[suffix](TSV + b"One.\n"))
    refused(rf"p\.tsv\.{suffix}, line 5, has 1 columns", path)


def test_zstandard_is_not_needed_for_the_others(tmp_path: Path) -> None:
    """A process without zstandard reads .gz, and says in one sentence what .zst needs."""
    for suffix in ("gz", "zst"):
        (tmp_path / f"p.tsv.{suffix}").write_bytes(COMPRESS[suffix](TSV))
    script = (
        "import sys; sys.modules['zstandard'] = None\n"
        "from neuronxa_callback import ParallelPairs\n"
        f"print(len(ParallelPairs.load({str(tmp_path / 'p.tsv.gz')!r})))\n"
        f"ParallelPairs.load({str(tmp_path / 'p.tsv.zst')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "3\n"
    assert "p.tsv.zst needs zstandard; install it with: pip install 'neuronxa-callback[zst]'." in done.stderr
