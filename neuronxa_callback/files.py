"""JSON lines that survive a crash, and the typed records in them.

Lines are appended one at a time or replaced together, and are on the disk when the call returns.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

logger = logging.getLogger(__name__)

BLOCK = 65_536  # bytes
# The format of the lines that are written; version 0.1 wrote no number. A new method needs a new format.
FORMAT = 3


class Record(BaseModel):
    """A line of a file, or a part of a line.

    A record keeps the fields that this version does not know, and they are written again. The names of methods are
    another matter: a line with a method that this version does not know cannot be read.

    Attributes:
        CALLED: what a user calls such a line, for messages.
    """

    CALLED: ClassVar[str] = "a record"

    model_config = ConfigDict(frozen=True, extra="allow")

    @classmethod
    def of_version_0_1(cls, line: dict[str, Any]) -> dict[str, Any]:
        """Return a line that version 0.1 wrote with today's keys and values.

        Raises:
            ValueError: the line holds something else.
        """
        return line


R = TypeVar("R", bound=Record)


class RecordError(ValueError):
    """A line cannot be read as the record that it should hold. The message names the file, the line and the remedy."""


class OtherRecordError(RecordError):
    """A line holds another kind of record than the expected one."""


class NewerRecordError(RecordError):
    """A newer version of this package wrote a line."""


def append_record(path: Path, record: Record) -> None:
    """Write a record as the file's last line; see `append_line`."""
    append_line(path, line_of(record))


def line_of(record: Record) -> bytes:
    """Return a record's line, with the format number first."""
    return json.dumps({"format": FORMAT, **record.model_dump()}, ensure_ascii=False).encode("utf-8") + b"\n"


def append_line(path: Path, line: bytes) -> None:
    """Write the file's last line and wait until it is on the disk. A line that was cut short is mended."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        _mend_end(file, path)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def replace_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Make these the file's lines at once. A crash leaves the file as it was before, or as it is after."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f"{path.name}.new")
    with written.open("wb") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)


def read_records(path: Path, kind: type[R]) -> Iterator[R]:
    """Return the records of a file, one after another. There are none if there is no file.

    A line that was cut short is left out with a warning. Lines of version 0.1 are turned into today's records.

    Args:
        path: the JSON-lines file.
        kind: what the lines hold.

    Raises:
        OtherRecordError: a line holds something else.
        NewerRecordError: a newer version wrote a line.
    """
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line:
            continue
        if _is_whole(line):
            yield _record_of(json.loads(line), kind, path, number)
        else:
            logger.warning("NeuronXA: %s, line %d, is cut short and left out.", path, number)


def _record_of(line: Any, kind: type[R], path: Path, number: int) -> R:
    fields = dict(line) if isinstance(line, dict) else {}
    written = fields.pop("format", None)
    if isinstance(written, int) and written > FORMAT:
        raise NewerRecordError(
            f"{path}, line {number}, has format {written}, but this version of neuronxa-callback reads formats up to "
            f"{FORMAT}; install the newer version that wrote it."
        )
    try:
        return kind.model_validate(kind.of_version_0_1(fields) if written is None else fields)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except ValueError as error:
        reason = str(error)
    raise OtherRecordError(
        f"{path}, line {number}, is not {kind.CALLED} ({reason}); move this file away or name another."
    )


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
