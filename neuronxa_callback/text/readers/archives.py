"""Rows of a zip archive with two aligned files, as OPUS has them in Moses' layout."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from neuronxa_callback.text.languages import PairsError, code_of, with_region
from neuronxa_callback.text.readers.content import decode, lines_of
from neuronxa_callback.text.readers.rows import Located


def zip_rows(path: Path) -> Located:
    """Yield the lines of the two files of an archive that are named alike but for their languages, "X.en" and "X.is".

    The columns are named by the languages, in the order of the name ("X.en-is.en"). Other files (README, LICENSE, ids)
    do not matter.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = _two_sides(path, archive.namelist())
            sides = {name: archive.read(name) for name in names}
    except FileNotFoundError:
        raise PairsError(f"{path} does not exist; check the path of the held-out pairs.") from None
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, EOFError) as error:
        raise PairsError(f"{path} is no zip archive that can be read ({error}); download or unpack it.") from None
    lines = [lines_of(decode(f"{name} in {path}", content)) for name, content in sides.items()]
    if len(lines[0]) != len(lines[1]):
        raise PairsError(
            f"{path} has {len(lines[0])} lines in {names[0]} and {len(lines[1])} in {names[1]}; line i of one must "
            "translate line i of the other."
        )
    tags = [_language(name) for name in names]
    for number, pair in enumerate(zip(*lines, strict=True), start=1):
        yield f"line {number} of {names[0]} and {names[1]} in {path}", dict(zip(tags, pair, strict=True))


def _tag(name: str) -> str:
    return Path(name).suffix[1:]


def _language(name: str) -> str:
    """Return the language of a file's ending as a tag. "pt_br" is Portuguese of Brazil, but "en-is" two languages."""
    return with_region(_tag(name)) if "_" in _tag(name) else _tag(name)


def _two_sides(path: Path, names: list[str]) -> tuple[str, str]:
    by_stem: dict[str, list[str]] = {}
    for name in names:
        # "zh" alone names no code, but its file is one side all the same.
        if code_of(_language(name)) or _tag(name) == "zh":
            by_stem.setdefault(name.rpartition(".")[0], []).append(name)
    sides = [(stem, found) for stem, found in by_stem.items() if len(found) == 2]
    if len(sides) != 1:
        raise PairsError(
            f"{path} holds {', '.join(names[:5]) or 'nothing'}; give an archive with two files that are named alike "
            "but for their languages, such as X.en and X.is, or unpack it."
        )
    stem, (first, second) = sides[0]
    in_order = not stem.endswith(f"{_tag(second)}-{_tag(first)}")
    return (first, second) if in_order else (second, first)
