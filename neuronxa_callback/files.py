"""JSON lines that survive a crash: appended one at a time, each on the disk when the call returns."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

logger = logging.getLogger(__name__)

BLOCK = 65_536  # bytes


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as the file's last line and see it onto the disk; a last line that was cut short is mended."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n"
    with path.open("ab+") as file:
        _mend_end(file, path)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, none where there is no file; a line cut short is left out with a warning."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line:
            continue
        if _is_whole(line):
            yield json.loads(line)
        else:
            logger.warning("NeuronXA: %s, line %d, is cut short and left out.", path, number)


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _mend_end(file: BinaryIO, path: Path) -> None:
    """End the last line where a crash left it without an end, or take away what is there of it."""
    size = file.seek(0, os.SEEK_END)
    last, start = b"", size
    while start > 0 and b"\n" not in last:  # the last line alone: a file of many is long
        start = max(0, start - BLOCK)
        file.seek(start)
        last = file.read(size - start)
    last = last.rpartition(b"\n")[2]
    if not last:
        return
    if _is_whole(last):
        file.write(b"\n")
        return
    logger.warning("NeuronXA: the last line of %s was cut short and is taken away.", path)
    file.truncate(size - len(last))
