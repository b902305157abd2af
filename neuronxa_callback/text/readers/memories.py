"""Rows of translation memories (TMX 1.4) and of files for translators (XLIFF 1.1, 1.2, 2.0 and 2.1).

translate-toolkit reads both, but it is under the GPL and large. It writes the files of the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuronxa_callback.text.languages import PairsError, may_be, with_region
from neuronxa_callback.text.readers.delimited import Codes
from neuronxa_callback.text.readers.rows import Located, Row, say_left_out
from neuronxa_callback.text.readers.xml_files import LANG, child, children, column_names, descendants, text_without

# What these hold is code of the original file (section "Content markup" of TMX 1.4b), and "sub" in them is text apart
# from the sentence, such as a footnote. The text of "hi" (TMX) and of "g", "pc" and "mrk" (XLIFF) is the sentence's.
_CODE = frozenset({"bpt", "ept", "ph", "it", "ut", "sub"})
# States of XLIFF 1.2 in which a target may hold the source's text or another text's translation.
_UNFINISHED = frozenset({"new", "needs-translation", "needs-adaptation", "needs-l10n"})


def tmx_rows(path: Path, root: Any, codes: Codes = (None, None)) -> Located:
    """Yield the units of a TMX file: a column for each language of the file, the source's first.

    A column is None where the unit lacks that language. Its name is the file's tag for the language, or the user's code
    where the unit has one tag that can mean it: the region may change from unit to unit.
    """
    units = list(_tmx_units(path, root))
    tags = {tag for _, sides in units for tag in sides}
    if all(any(may_be(tag, code) for tag in tags) for code in codes if code):
        units = [(place, _named_by(sides, codes)) for place, sides in units]
    names = dict.fromkeys(name for _, sides in units for name in sides)
    in_order = sorted(names, key=lambda name: name.lower() != _source(root).lower())
    for place, sides in units:
        yield place, {name: sides.get(name) for name in in_order}


def _named_by(sides: Row, codes: Codes) -> Row:
    """Return a unit with the columns of the user's languages named by their codes, where one column alone is each."""
    found = {code: [name for name in sides if may_be(name, code)] for code in codes if code}
    code_of_name = {names[0]: code for code, names in found.items() if len(names) == 1}
    return {code_of_name.get(name, name): text for name, text in sides.items()}


def _source(root: Any) -> str:
    header = child(root, "header")
    return header.get("srclang", "") if header is not None else ""


def _tmx_units(path: Path, root: Any) -> Located:
    """Yield the units with the tags that they have. A tag keeps the spelling of its first unit."""
    spelled: dict[str, str] = {}
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
            name = spelled.setdefault(language.lower().replace("_", "-"), with_region(language))
            sides.setdefault(name, text_without(segment, _CODE))
        yield place, sides


def xliff_rows(path: Path, root: Any) -> Located:
    """Yield the units of an XLIFF file: two columns named by its languages, or "source" and "target".

    Units whose target is no translation yet are left out; a log line says how many.
    """
    found = list(_xliff_2(root) if root.get("version", "").startswith("2") else _xliff_1(root))
    unfinished = {unit for unit, _ in found if _is_unfinished(unit)}
    places = [f"{path}, line {unit.sourceline}" for unit, _ in found if unit in unfinished]
    say_left_out(str(path), "units whose state says that they are not yet translated", places)
    for unit, languages in found:
        if unit in unfinished:
            continue
        source, target = (child(unit, side) for side in ("source", "target"))
        if source is None or target is None:
            lacking = "source" if source is None else "target"
            name = unit.get("id") or unit.getparent().get("id")
            raise PairsError(
                f"{path}, line {unit.sourceline}, has no {lacking} in the unit {name}; translate it or remove it."
            )
        sides = (text_without(side, _CODE) for side in (source, target))
        yield f"{path}, line {unit.sourceline},", dict(zip(languages, sides, strict=True))


def _is_unfinished(unit: Any) -> bool:
    target = child(unit, "target")
    # XLIFF 2 has the state at the segment, and 1.2 at the target.
    return unit.get("state") == "initial" or (target is not None and target.get("state") in _UNFINISHED)


def _xliff_1(root: Any) -> Iterator[tuple[Any, tuple[str, str]]]:
    for file in descendants(root, "file"):
        languages = column_names(file.get("source-language"), file.get("target-language"))
        for unit in descendants(file, "trans-unit"):
            yield unit, languages


def _xliff_2(root: Any) -> Iterator[tuple[Any, tuple[str, str]]]:
    languages = column_names(root.get("srcLang"), root.get("trgLang"))
    for segment in descendants(root, "segment"):
        yield segment, languages
