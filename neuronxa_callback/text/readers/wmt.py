"""WMT's own formats: .sgm, of which a file holds one side, and the XML of 2021 and later with several references."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import unescape

from neuronxa_callback.text.languages import PairsError
from neuronxa_callback.text.readers.rows import Located, say_left_out
from neuronxa_callback.text.readers.xml_files import child, children, column_names, descendants

# It only looks like SGML ("&" stands as it is), so sacrebleu and others read it by such expressions, too.
_TAG = re.compile(r"<(srcset|refset|tstset|doc|seg)\b([^>]*)>", re.IGNORECASE)
_SEGMENT_END = re.compile(r"</seg>", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"""([\w-]+)\s*=\s*["']([^"']*)["']""")


@dataclass(frozen=True)
class Segment:
    """One sentence of a .sgm file.

    Attributes:
        name: its document and its number, which the other side's segment shares.
        line: the line where it begins.
        text: the sentence.
    """

    name: str
    line: int
    text: str


@dataclass(frozen=True)
class Side:
    """One side of a test set: its segments, and its language where the file says it."""

    segments: list[Segment]
    language: str | None


@dataclass(frozen=True)
class Reference:
    """A translator's sentences of one document, by the number of their segment."""

    language: str | None
    sentences: dict[str, str]


def is_sgm(text: str) -> bool:
    """Return whether a text is one side of a test set in WMT's .sgm."""
    return re.search(r"<(srcset|refset|tstset)\b", text[:10_000], re.IGNORECASE) is not None


def read_sgm(path: Path, text: str, reference: str | None) -> Side:
    """Read one side.

    Args:
        path: the file's path, for errors.
        text: the file's text.
        reference: which of several references (`sysid` or `refid`) to read; None takes the first.
    """
    language, document, version = None, "", ""
    found: dict[str, list[Segment]] = {}
    counted, line = 0, 1
    for tag in _TAG.finditer(text):
        attributes = {name.lower(): value for name, value in _ATTRIBUTE.findall(tag[2])}
        line, counted = line + text.count("\n", counted, tag.start()), tag.start()
        kind = tag[1].lower()
        if kind.endswith("set"):
            language = attributes.get("srclang" if kind == "srcset" else "trglang") or language
            version = attributes.get("refid", "")
        elif kind == "doc":
            document = attributes.get("docid", "")
            version = attributes.get("sysid", version)
        else:
            end = _SEGMENT_END.search(text, tag.end())
            if end is None:
                raise PairsError(f"{path}, line {line}, begins a segment that does not end; add its </seg>.")
            sentence = " ".join(unescape(text[tag.end() : end.start()], {"&quot;": '"', "&apos;": "'"}).split())
            name = f"segment {attributes.get('id', '')} of document {document}"
            found.setdefault(version, []).append(Segment(name, line, sentence))
    if not found:
        raise PairsError(f"{path} holds no <seg>; check that it is one side of a test set in WMT's .sgm format.")
    return Side(found[_chosen(path, list(found), reference)], language)


def check_same_segments(source: Path, first: Side, target: Path, second: Side) -> None:
    """Raise PairsError if two sides have different segments; the message names the first one."""
    names = [[segment.name for segment in side.segments] for side in (first, second)]
    if names[0] == names[1]:
        return
    for path, other, side, there in ((source, target, first, names[1]), (target, source, second, names[0])):
        lonely = next((segment for segment in side.segments if segment.name not in set(there)), None)
        if lonely:
            raise PairsError(
                f"{path}, line {lonely.line}, has {lonely.name}, which {other} lacks; give the two sides of one set."
            )
    raise PairsError(f"{source} and {target} have their segments in different orders; give the two sides of one set.")


def wmt_rows(path: Path, root: Any, reference: str | None) -> Located:
    """Yield the segments of WMT's XML that have a reference, as sacrebleu does. Documents of test suites are left out.

    Args:
        path: the file's path, for errors.
        root: its root element.
        reference: the translator of the reference, such as "B"; None takes the first in the file.
    """
    documents = [document for document in descendants(root, "doc") if "testsuite" not in document.attrib]
    names = dict.fromkeys(ref.get("translator", "") for document in documents for ref in children(document, "ref"))
    if not names:
        raise PairsError(f"{path} holds no reference; give a test set with <src> and <ref>.")
    chosen = _chosen(path, list(names), reference)
    texts = [_references(document) for document in documents]
    lonely = [
        _place(path, document, segment)
        for document, references in zip(documents, texts, strict=True)
        for segment in _sources(path, document)
        if not _has_any(references, segment)
    ]
    say_left_out(str(path), "segments without a reference", lonely)
    for document, references in zip(documents, texts, strict=True):
        yield from _document_rows(path, document, references, chosen)


def _document_rows(path: Path, document: Any, references: dict[str, Reference], chosen: str) -> Located:
    for segment in _sources(path, document):
        if not _has_any(references, segment):
            continue
        number, place = _number(segment), _place(path, document, segment)
        target = references[chosen].sentences.get(number) if chosen in references else None
        if target is None:
            has = next(name for name, reference in references.items() if reference.sentences.get(number))
            raise PairsError(
                f"{place} has no reference {chosen or '(the unnamed one)'}, only {has or 'an unnamed one'}; add it or "
                "choose the other one with reference=."
            )
        languages = column_names(child(document, "src").get("lang"), references[chosen].language)
        yield place, dict(zip(languages, (_sentence(segment), target), strict=True))


def _references(document: Any) -> dict[str, Reference]:
    return {
        ref.get("translator", ""): Reference(
            ref.get("lang"), {_number(segment): _sentence(segment) for segment in descendants(ref, "seg")}
        )
        for ref in children(document, "ref")
    }


def _sources(path: Path, document: Any) -> Iterator[Any]:
    source = child(document, "src")
    if source is None:
        raise PairsError(f"{path}, line {document.sourceline}, has a document without <src>; add it or remove it.")
    return descendants(source, "seg")


def _has_any(references: dict[str, Reference], segment: Any) -> bool:
    return any(reference.sentences.get(_number(segment)) for reference in references.values())


def _place(path: Path, document: Any, segment: Any) -> str:
    return f"{path}, line {segment.sourceline} (segment {_number(segment)} of document {document.get('id')}),"


def _number(segment: Any) -> str:
    return str(segment.get("id", ""))


def _sentence(segment: Any) -> str:
    return " ".join("".join(segment.itertext()).split())


def _chosen(path: Path, names: list[str], reference: str | None) -> str:
    if reference is not None and reference not in names:
        there = ", ".join(name or "an unnamed one" for name in names)
        raise PairsError(f"{path} has no reference {reference}; it has {there}.")
    return names[0] if reference is None else reference
