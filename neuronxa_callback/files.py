"""JSON lines that survive a crash, and the typed records in them.

Lines are appended one at a time or replaced together, and are on the disk when the call returns.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

logger = logging.getLogger(__name__)

BLOCK = 65_536  # bytes
FORMAT = 2  # of the lines that are written; version 0.1 wrote no number


class Record(BaseModel):
    """What a line holds, or a part of it.

    A key that this version does not know is kept and written again.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    @classmethod
    def of_version_0_1(cls, line: dict[str, Any]) -> dict[str, Any]:
        """A line that version 0.1 wrote, with the keys and values of today.

        Raises:
            ValueError: the line is no such record.
        """
        return line


R = TypeVar("R", bound=Record)


class OtherRecordError(ValueError):
    """A line that holds another kind of record than the one that was asked for."""


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as the file's last line and see it onto the disk; a last line that was cut short is mended."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        _mend_end(file, path)
        file.write(_line(record))
        file.flush()
        os.fsync(file.fileno())


def replace_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Make these records the file's lines at once: a crash leaves the file as it was before or as it is after."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f"{path.name}.new")
    with written.open("wb") as file:
        file.writelines(_line(record) for record in records)
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n"


def append_record(path: Path, record: Record) -> None:
    """Write a typed record as the file's last line; see `append_line`."""
    append_line(path, as_line(record))


def as_line(record: Record) -> dict[str, Any]:
    """What a typed record looks like on the disk, its format number first."""
    return {"format": FORMAT, **record.model_dump()}


def read_records(path: Path, kind: type[R]) -> Iterator[R]:
    """The typed records of a file, none where there is no file; a line cut short is left out with a warning.

    Args:
        path: the JSON-lines file.
        kind: what the lines hold. Lines of version 0.1 are turned into it.

    Raises:
        OtherRecordError: a line holds something else.
        ValueError: a newer version wrote a line.
    """
    for number, line in _numbered_lines(path):
        yield _record_of(line, kind, f"{path}, line {number},")


def _record_of(line: Any, kind: type[R], place: str) -> R:
    fields = dict(line) if isinstance(line, dict) else {}
    written = fields.pop("format", None)
    if isinstance(written, int) and written > FORMAT:
        raise ValueError(
            f"{place} has format {written}, but this version of neuronxa-callback reads formats up to {FORMAT}; "
            "install the newer version that wrote it."
        )
    try:
        return kind.model_validate(kind.of_version_0_1(fields) if written is None else fields)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise OtherRecordError(f"{place} is no {kind.__name__} ({reason}); name another file.") from None
    except ValueError as error:
        raise OtherRecordError(f"{place} is no {kind.__name__} ({error}); name another file.") from None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, none where there is no file; a line cut short is left out with a warning."""
    for _, line in _numbered_lines(path):
        yield line


def _numbered_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each whole line's number, from 1, and what it holds."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line:
            continue
        if _is_whole(line):
            yield number, json.loads(line)
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
