"""XML, parsed safely: no entities, no network, no document type, no huge trees."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lxml import etree

from neuronxa_callback.text.languages import PairsError, with_region

# An external document type is not loaded, and an entity is left as a node of its own, which is then refused.
_SAFE = {
    "resolve_entities": False,
    "no_network": True,
    "load_dtd": False,
    "huge_tree": False,
    "remove_comments": True,
    "remove_pis": True,
}

_BREAK = "\0"  # no XML holds this character
_BREAK_CODE = re.compile(r"[ \t]*(<br\s*/?>|\\n|\r?\n)\s*", re.IGNORECASE)

LANG = "{http://www.w3.org/XML/1998/namespace}lang"


def parse(path: Path, content: bytes) -> Any:
    """Return the root element of an XML file.

    Raises:
        PairsError: the file is not well-formed, or it uses an entity that XML does not define itself.
    """
    try:
        root = etree.fromstring(content, etree.XMLParser(**_SAFE))
    except etree.XMLSyntaxError as error:
        reason = re.sub(r", line \d+, column \d+.*", "", str(error.msg)).rstrip(".") or "no element found"
        raise PairsError(f"{path}, line {error.lineno or 1}, is not well-formed XML ({reason}); correct it.") from None
    entity = next(root.iter(etree.Entity), None)
    if entity is not None:
        raise PairsError(
            f"{path}, line {entity.getparent().sourceline}, uses the entity {entity.text}, which is not read; write "
            "the character itself."
        )
    return root


def name_of(element: Any) -> str:
    """Return an element's name without its namespace."""
    return str(etree.QName(element).localname)


def children(element: Any, name: str) -> Iterator[Any]:
    """Yield an element's direct children of a name, in any namespace."""
    return (child for child in element if name_of(child) == name)


def child(element: Any, name: str) -> Any:
    """Return an element's first direct child of a name, in any namespace, or None."""
    return next(children(element, name), None)


def descendants(element: Any, name: str) -> Iterator[Any]:
    """Yield the elements of a name below an element, in any namespace, in the document's order."""
    return (below for below in element.iter(f"{{*}}{name}"))


def column_names(source: str | None, target: str | None) -> tuple[str, str]:
    """Return the languages as names of two columns, or "source" and "target" where the file does not say both."""
    return (with_region(source), with_region(target)) if source and target else ("source", "target")


def text_without(element: Any, dropped: frozenset[str]) -> str:
    """Return the text of an element and of those in it, but not the text inside elements of the dropped names.

    Code that breaks the line is a space, lest it join two words.
    """
    return re.sub(rf"\s*{_BREAK}\s*", " ", _parts_without(element, dropped))


def _parts_without(element: Any, dropped: frozenset[str]) -> str:
    parts = [element.text or ""]
    for inner in element:
        is_code = name_of(inner) in dropped
        if (is_code or not "".join(inner.itertext())) and _breaks_the_line(inner):
            parts.append(_BREAK)
        elif not is_code:
            parts.append(_parts_without(inner, dropped))
        parts.append(inner.tail or "")
    return "".join(parts)


def _breaks_the_line(code: Any) -> bool:
    """Return whether inline code is a line break, by its type (TMX, XLIFF 1.2, XLIFF 2) or by what it stands for."""
    types = (code.get("type"), code.get("ctype"), code.get("subType"))
    return "lb" in types or "xlf:lb" in types or _BREAK_CODE.fullmatch(_original(code)) is not None


def _original(code: Any) -> str:
    """Return what inline code stands for. XLIFF 2 keeps it apart, in the unit's originalData."""
    unit = next(code.iterancestors("{*}unit"), None) if code.get("dataRef") else None
    if unit is None:
        return "".join(code.itertext())
    return next((data.text or "" for data in descendants(unit, "data") if data.get("id") == code.get("dataRef")), "")
