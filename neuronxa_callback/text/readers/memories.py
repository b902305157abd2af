"""Rows of translation memories (TMX 1.4) and of files for translators (XLIFF 1.1, 1.2, 2.0 and 2.1).

translate-toolkit reads both, but it is under the GPL and large. It writes the files of the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuronxa_callback.text.languages import PairsError, may_be
from neuronxa_callback.text.readers.delimited import Codes
from neuronxa_callback.text.readers.rows import Located, Row
from neuronxa_callback.text.readers.xml_files import LANG, child, children, column_names, descendants, text_without

# What these hold is code of the original file (section "Content markup" of TMX 1.4b), and "sub" in them is text apart
# from the sentence, such as a footnote. The text of "hi" (TMX) and of "g", "pc" and "mrk" (XLIFF) is the sentence's.
_CODE = frozenset({"bpt", "ept", "ph", "it", "ut", "sub"})


def tmx_rows(path: Path, root: Any, codes: Codes = (None, None)) -> Located:
    """Yield the units of a TMX file: a column for each language, named as the file names it, the source's first.

    If the user names both languages, the units that hold both are read, and their columns are named by the codes. Other
    units are left out: a memory of many languages may pair each of them with English in a unit of its own. A file
    without any such unit is read whole.
    """
    units = list(_tmx_units(path, root))
    asked = [(place, named) for place, sides in units if (named := _named_by(sides, codes))]
    yield from asked or units


def _named_by(sides: Row, codes: Codes) -> Row | None:
    """Return a unit with the columns of two languages named by their codes, or None if it lacks one.

    Columns keep their names where several of them are one language.
    """
    found = [[name for name in sides if code and may_be(name, code)] for code in codes]
    if not all(found):
        return None
    codes_of = {names[0]: code for names, code in zip(found, codes, strict=True) if len(names) == 1 and code}
    return {codes_of.get(name, name): text for name, text in sides.items()}


def _tmx_units(path: Path, root: Any) -> Located:
    header = child(root, "header")
    source = header.get("srclang", "") if header is not None else ""
    for unit in descendants(root, "tu"):
        place = f"{path}, line {unit.sourceline},"
        sides: dict[str, str] = {}
        for variant in children(unit, "tuv"):
            language = variant.get(LANG) or variant.get("lang")
            segment = child(variant, "seg")
            if not language or segment is None:
                lacking = "xml:lang" if not language else "seg"
                raise PairsError(
                    f"{path}, line {variant.sourceline}, has a tuv without {lacking}; add it or remove that unit."
                )
            sides.setdefault(language, text_without(segment, _CODE))
        yield place, dict(sorted(sides.items(), key=lambda side: side[0].lower() != source.lower()))


def xliff_rows(path: Path, root: Any) -> Located:
    """Yield the units of an XLIFF file: two columns named by its languages, or "source" and "target"."""
    found = _xliff_2(root) if root.get("version", "").startswith("2") else _xliff_1(root)
    for unit, languages in found:
        source, target = (child(unit, side) for side in ("source", "target"))
        if source is None or target is None:
            lacking = "source" if source is None else "target"
            name = unit.get("id") or unit.getparent().get("id")
            raise PairsError(
                f"{path}, line {unit.sourceline}, has no {lacking} in the unit {name}; translate it or remove it."
            )
        sides = (text_without(side, _CODE) for side in (source, target))
        yield f"{path}, line {unit.sourceline},", dict(zip(languages, sides, strict=True))


def _xliff_1(root: Any) -> Iterator[tuple[Any, tuple[str, str]]]:
    for file in descendants(root, "file"):
        languages = column_names(file.get("source-language"), file.get("target-language"))
        for unit in descendants(file, "trans-unit"):
            yield unit, languages


def _xliff_2(root: Any) -> Iterator[tuple[Any, tuple[str, str]]]:
    languages = column_names(root.get("srcLang"), root.get("trgLang"))
    for segment in descendants(root, "segment"):
        yield segment, languages
