"""The content of a file as text: decompressed, and decoded from UTF-8 or Excel's UTF-16."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path

from neuronxa_callback.text.languages import COMPRESSED, PairsError

# The endings of what `open_rows` reads. The text formats among them may be compressed.
TEXT_FILES = (".tsv", ".csv", ".jsonl", ".json", ".tmx", ".xlf", ".xliff", ".xml")
FILES = (*TEXT_FILES, ".parquet", ".zip")


def kind_of(path: Path) -> str:
    """Return what a file's name says of its format: ".tsv" for "pairs.TSV.gz"."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, decompressed if its name says that it is compressed.

    Raises:
        PairsError: the file cannot be read, or it is damaged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise PairsError(f"{path} does not exist; check the path of the held-out pairs.") from None
    except OSError as error:
        raise PairsError(f"{path} cannot be read ({error.strerror}); check the path of the held-out pairs.") from None
    return decompressed(path, content)


def decompressed(path: Path, content: bytes) -> bytes:
    """Return the content of a .gz, .bz2, .xz or .zst file as it was before compression, and of others as it is."""
    suffix = path.suffix.lower()
    expand = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress, ".zst": _unzstd}.get(suffix)
    if expand is None:
        return content
    return _expanded(path, suffix, expand, content)


def _expanded(path: Path, suffix: str, expand: Callable[[bytes], bytes], content: bytes) -> bytes:
    try:
        return expand(content)
    except ModuleNotFoundError:
        raise PairsError(
            f"reading {path} needs zstandard; install it with: pip install 'neuronxa-callback[zst]'."
        ) from None
    except EOFError:
        fault = "is cut short"
    except (OSError, zlib.error, lzma.LZMAError, ValueError) as error:
        # Of a stream that ends too early, bz2 says ValueError and lzma LZMAError.
        short = "end-of-stream" in str(error)
        fault = "is cut short" if short else f"is no {suffix} file, or a damaged one ({str(error).rstrip('.')})"
    raise PairsError(f"{path} {fault}; download or compress it again.")


def _unzstd(content: bytes) -> bytes:
    import zstandard

    parts: list[bytes] = []
    while content or not parts:
        # The one-call functions of zstandard read a single frame, and take one that is cut short for a whole one.
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            parts.append(frame.decompress(content))
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from None
        if not frame.eof:
            raise EOFError
        content = frame.unused_data
    return b"".join(parts)


def read_text(path: Path) -> str:
    """Return the text of a file, decompressed and decoded; a byte order mark is no part of it.

    Raises:
        PairsError: the file cannot be read, it is damaged, or its text is neither UTF-8 nor UTF-16 with its mark.
    """
    return decode(str(path), read_bytes(path))


def decode(name: str, content: bytes) -> str:
    """Return the text of a file; `name` is what errors call it."""
    # Excel writes "Unicode text" in UTF-16, and always with the mark.
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        encoding = "UTF-16, though it begins as such" if utf16 else "UTF-8"
        raise PairsError(f"{name}, line {line}, is not {encoding}; convert the file to UTF-8.") from None
    if "\0" in text:
        # English in UTF-16 or UTF-32 without its mark is valid UTF-8 with a NUL beside each letter.
        line = text.count("\n", 0, text.index("\0")) + 1
        raise PairsError(
            f"{name}, line {line}, holds a NUL character, as UTF-16 without its byte order mark does; convert the file "
            "to UTF-8 or remove that character."
        )
    return text


def without_blank_end(text: str) -> str:
    """Return a table's text without the line feed and the blank lines at its end. A last cell may be empty."""
    end = text.find("\n", len(text.rstrip()))
    return text if end < 0 else text[:end].removesuffix("\r")


def lines_of(text: str) -> list[str]:
    """Split text into lines as editors do: only line feeds end a line. A sentence may hold other separators.

    Empty lines at the end are no lines. In a text without any line feed, carriage returns end the lines.
    """
    text = text.replace("\r\n", "\n")
    if "\n" not in text:
        text = text.replace("\r", "\n")
    text = text.rstrip("\n")
    return text.split("\n") if text else []
