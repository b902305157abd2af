"""What each of several processes measures of a survey, and the file that it writes.

Two processes that append to one file can write over each other, above all on a network file system. Locks would prevent
that, but some of these file systems have none. So each process has a file of its own until all of them are done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from neuronxa_callback.files import OtherRecordError, append_line, line_of, read_records
from neuronxa_callback.ranks import Ranks
from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.records import Line, MeasuredLine

T = TypeVar("T")

BEHIND = ".process-"  # ends the file's name, followed by the process's number


def share(things: Sequence[T], cost: Callable[[T], int], ranks: Ranks) -> list[T]:
    """Return this process's share of the things, in their order. The shares of all processes cost about the same.

    The dearest comes first. Each goes to the process with the least work until then. All processes reckon alike.
    """
    mine = []
    work = [0] * ranks.size
    for place in sorted(range(len(things)), key=lambda place: cost(things[place]), reverse=True):
        least = work.index(min(work))
        work[least] += cost(things[place])
        if least == ranks.rank:
            mine.append(place)
    return [things[place] for place in sorted(mine)]


def length(sentences: Iterable[str]) -> int:
    """Return the bytes of a text, which say about how long its encoding takes."""
    return sum(len(sentence.encode("utf-8")) for sentence in sentences)


def own_file(path: Path, ranks: Ranks) -> Path:
    """Return the file that this process alone writes. The first process writes the file itself."""
    return path if ranks.is_first else path.with_name(f"{path.name}{BEHIND}{ranks.rank}")


def collected(path: Path, kind: type[Line]) -> dict[Signature, Line]:
    """Return the lines of the file by their keys.

    Lines that processes of a killed run left in their own files are put into it first.

    Raises:
        ValueError: the lines belong to something else, such as a training run, or a newer version wrote them.
    """
    try:
        lines = {record.key: record for record in read_records(path, kind)}
        for file in sorted(path.parent.glob(f"{path.name}{BEHIND}*")):
            new = {record.key: record for record in read_records(file, kind) if record.key not in lines}
            _append(path, new.values())
            lines |= new
            file.unlink()
    except OtherRecordError:
        raise ValueError(
            f"{path} holds scores of something else, such as a training run; choose another --output."
        ) from None
    return lines


def put_together(path: Path, new: Sequence[Line], ranks: Ranks) -> dict[Signature, Line]:
    """Put what every process measured into the file, and return all of it by its keys.

    The lines are exchanged and not read from the others' files, which a network file system may show late.

    Args:
        path: the file.
        new: the lines that this process has written into its own file.
        ranks: the processes.

    Raises:
        OSError: the file cannot be written. The processes' own files stay.
    """
    of_all = ranks.values(new)
    ranks.first_does(lambda: _append(path, [record for its in of_all[1:] for record in its]))
    with ranks.together():  # none goes on to a file that another one is about to remove
        if not ranks.is_first:
            own_file(path, ranks).unlink(missing_ok=True)
    return {record.key: record for its in of_all for record in its}


def _append(path: Path, records: Iterable[MeasuredLine]) -> None:
    if lines := b"".join(map(line_of, records)):
        append_line(path, lines)
