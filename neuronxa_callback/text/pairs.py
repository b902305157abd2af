"""Held-out parallel pairs: load, check, fingerprint."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import langcodes

from neuronxa_callback.text.overlap import Overlap, Sentences

DEFAULT_SIZE = 100

Row = Mapping[str, Any]

_CODE = re.compile("[a-z]{3}_[A-Z][a-z]{3}")  # ISO 639-3 and ISO 15924, as FLORES-200 writes them


class PairsError(ValueError):
    """Held-out pairs that cannot be used; the message names the place and the remedy in one sentence."""


@dataclass(frozen=True)
class ParallelPairs:
    """Parallel sentences in two languages: `target[i]` translates `source[i]`.

    Attributes:
        source: sentences in the pivot language.
        target: the same sentences in the other language.
        source_lang: code of the source as FLORES-200 has them, such as "eng_Latn".
        target_lang: code of the target.
        corpus: what they are from, for tables; not part of what they are.

    Raises:
        PairsError: unequal lengths, fewer than two pairs, an empty or repeated sentence, or an unknown code.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    source_lang: str
    target_lang: str
    corpus: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.source, str) or isinstance(self.target, str):
            raise PairsError("source and target must be sequences of sentences, not one string each.")
        object.__setattr__(self, "source", tuple(self.source))
        object.__setattr__(self, "target", tuple(self.target))
        _check_languages(self.source_lang, self.target_lang)
        if len(self.source) != len(self.target):
            raise PairsError(
                f"{self.name} has {len(self.source)} source and {len(self.target)} target sentences; "
                "parallel text needs one target for each source."
            )
        for code, side in ((self.source_lang, self.source), (self.target_lang, self.target)):
            _check_sentences(code, side, lambda pair: f"pair {pair + 1} of {self.name}")

    def __len__(self) -> int:
        return len(self.source)

    @property
    def name(self) -> str:
        """The suffix of this pair's metrics: "eng_Latn-isl_Latn"."""
        return f"{self.source_lang}-{self.target_lang}"

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change with any language code, any sentence and their order."""
        content = json.dumps([self.source_lang, self.target_lang, self.source, self.target], ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8")).hexdigest()[:12]

    @classmethod
    def load(
        cls,
        spec: Any,
        source_lang: str | None = None,
        target_lang: str | None = None,
        *,
        columns: tuple[str, str] | None = None,
        n: int | None = DEFAULT_SIZE,
    ) -> ParallelPairs:
        """Load the first `n` pairs from the embedded set, a file, two aligned files or a dataset.

        Args:
            spec: one of
                * two codes, "eng_Latn-isl_Latn": the embedded held-out set (English, Icelandic, German, French and
                  Spanish);
                * the path of a .tsv, .csv, .jsonl or .parquet file;
                * a tuple of two paths: text files whose lines correspond;
                * a `datasets.Dataset` (also streamed) or a list of dicts.
            source_lang: FLORES-200 code. Without it, codes are taken from the column or file names.
            target_lang: FLORES-200 code.
            columns: names of the source and target column (or keys of a "translation" column, as the datasets of
                the hub have them). Without it, columns named by the codes, or "source" and "target".
            n: how many pairs to keep, 100 as in the paper; None for all. Pairs that are loaded already
                stay as they are.

        Raises:
            PairsError: what is wrong, the file and line where it is, and what to do.
        """
        if n is not None and (not isinstance(n, int) or n < 2):
            raise PairsError(f"n={n!r} is no number of pairs to tell apart; use two at least, or None for all.")
        if isinstance(spec, ParallelPairs) or is_language_pair(spec):
            if source_lang or target_lang or columns:
                raise PairsError(
                    f"{spec!s:.60} names its languages itself; leave out source_lang, target_lang and columns."
                )
            return spec if isinstance(spec, ParallelPairs) else cls._embedded(spec, n)
        if isinstance(spec, tuple):
            if len(spec) != 2 or not all(isinstance(path, str | Path) for path in spec):
                raise PairsError(f"{spec!r} is not a tuple of two paths; give the source file and the target file.")
            source_lang = source_lang or code_in_name(spec[0])
            target_lang = target_lang or code_in_name(spec[1])
            located = _read_two_files(Path(spec[0]).expanduser(), Path(spec[1]).expanduser(), n)
            return located.checked(source_lang, target_lang, f"{spec[0]} and {spec[1]}")
        rows, place, origin = _open_rows(spec, n)
        first = next(rows, None)
        if first is None:
            raise PairsError(f"{origin} holds no pairs; give at least two, 100 as in the paper.")
        chosen = _choose_columns(first, columns, source_lang, target_lang, origin)
        _check_columns(chosen, source_lang, target_lang, origin)
        kept = [_cells(row, chosen) for row in islice(_chain_first(first, rows), n)]
        located = _Located([s for s, _ in kept], [t for _, t in kept], place)
        source_lang, target_lang = _languages_of(chosen, source_lang, target_lang)
        return located.checked(source_lang, target_lang, origin)

    @classmethod
    def _embedded(cls, name: str, n: int | None) -> ParallelPairs:
        source_lang, target_lang = name.split("-")
        columns = embedded("heldout.tsv")
        _check_languages(source_lang, target_lang)
        for code in (source_lang, target_lang):
            if code not in columns:
                raise PairsError(
                    f"the embedded set has no {code}; it has {', '.join(columns)}. Load your own file or dataset."
                )
        return cls(columns[source_lang][:n], columns[target_lang][:n], source_lang, target_lang)

    def overlap(self, texts: Iterable[str]) -> list[Overlap]:
        """Held-out sentences that occur in training text, whole or nearly; see `overlap.Sentences`.

        Args:
            texts: the training texts; read once, one at a time.

        Returns:
            one entry for each held-out sentence and text that holds it, in the order of the texts.
        """
        sentences = Sentences([self])
        return [Overlap(position, *found) for position, text in enumerate(texts) for found in sentences.find(text)]


@cache
def language_codes() -> frozenset[str]:
    """The language codes of FLORES-200."""
    return frozenset(_language_names())


def is_language(name: str) -> bool:
    """Whether this is a language code: FLORES-200's, or one made alike of a known language and script ("kal_Latn")."""
    # Columns and files have all kinds of names; those of this form alone are worth a look into the registry.
    return name in language_codes() or bool(_CODE.fullmatch(name) and langcodes.tag_is_valid(name))


@cache
def head_languages() -> frozenset[str]:
    """The 68 codes that the paper calls head languages in FLORES-200 (appendix A.1); the others are long-tail."""
    return frozenset(_data_file("head_languages.txt").split())


@cache
def tatoeba_languages() -> dict[str, str]:
    """The names of Tatoeba's 112 languages in LASER's test sets -> our codes: "isl" -> "isl_Latn"."""
    return {name: code for name, code, _ in _tatoeba()}


@cache
def tatoeba_head_languages() -> frozenset[str]:
    """The codes that the paper lists as head languages in Tatoeba (appendix A.1).

    It calls them 36 and lists 42, English among them: these are the other 41.
    """
    return frozenset(code for _, code, group in _tatoeba() if group == "head")


def _tatoeba() -> Iterator[list[str]]:
    return (line.split("\t") for line in _data_file("tatoeba_languages.tsv").splitlines())


@cache
def harness_languages() -> dict[str, str]:
    """Two-letter codes in the names of lm-evaluation-harness's tasks -> FLORES-200 codes."""
    return dict(line.split("\t") for line in _data_file("harness_languages.tsv").splitlines())


def language_name(code: str) -> str:
    """The English name of a FLORES-200 code's language, as a prompt calls it: "Icelandic" for "isl_Latn".

    Of a language that FLORES-200 does not have, the code itself.
    """
    return _language_names().get(code, code)


@cache
def _language_names() -> dict[str, str]:
    return dict(line.split("\t") for line in _data_file("flores200.txt").splitlines())


def check_language(code: str) -> None:
    """Raise PairsError for what is no language code, with the nearest ones of FLORES-200; see `is_language`."""
    if not isinstance(code, str):
        raise PairsError(f"{code!r} is not a FLORES-200 language code such as isl_Latn.")
    if is_language(code):
        return
    near = difflib.get_close_matches(code, sorted(language_codes()), n=3, cutoff=0.5)
    near = near or sorted(known for known in language_codes() if code and known.startswith(code[:2].lower()))[:3]
    hint = f"; the nearest are {', '.join(near)}" if near else ""
    raise PairsError(f"{code!r} is not a FLORES-200 language code such as isl_Latn{hint}.")


@cache
def embedded(name: str) -> dict[str, tuple[str, ...]]:
    """An embedded multi-way parallel set ("heldout.tsv" or "demo_train.tsv"): language code -> sentences."""
    header, *rows = (line.split("\t") for line in _data_file(name).splitlines())
    return {code: tuple(row[i] for row in rows) for i, code in enumerate(header)}


def _data_file(name: str) -> str:
    return (resources.files("neuronxa_callback") / "data" / name).read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------------- checking


class _Located(NamedTuple):
    """Rows read from somewhere, with how to name the place of each in an error."""

    source: Sequence[Any]
    target: Sequence[Any]
    place: Callable[[int], str]

    def checked(self, source_lang: str | None, target_lang: str | None, origin: str) -> ParallelPairs:
        if source_lang is None or target_lang is None:
            raise PairsError(
                f"the languages of {origin} are not known; name columns or files by FLORES-200 codes, "
                "or pass source_lang and target_lang."
            )
        _check_languages(source_lang, target_lang)
        for code, side in ((source_lang, self.source), (target_lang, self.target)):
            _check_sentences(code, side, self.place)
        source, target = ([sentence.strip() for sentence in side] for side in (self.source, self.target))
        return ParallelPairs(tuple(source), tuple(target), source_lang, target_lang)


def _check_languages(source_lang: str, target_lang: str) -> None:
    check_language(source_lang)
    check_language(target_lang)
    if source_lang == target_lang:
        raise PairsError(f"both sides of the pairs are {source_lang}; a pair needs two languages.")


def _check_sentences(code: str, sentences: Sequence[Any], place: Callable[[int], str]) -> None:
    if len(sentences) < 2:
        raise PairsError(
            f"{place(0)} is the only pair, with nothing to tell it apart from; give at least two, 100 as in the paper."
        )
    first_seen: dict[str, int] = {}
    for pair, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise PairsError(f"{place(pair)} holds {sentence!r} where the {code} sentence should be; mend it.")
        sentence = sentence.strip()
        if not sentence.isprintable() and any("\ud800" <= character <= "\udfff" for character in sentence):
            raise PairsError(
                f"{place(pair)} has half a surrogate pair in its {code} sentence; write that character anew."
            )
        if not sentence:
            raise PairsError(f"{place(pair)} has an empty {code} sentence; fill it in or remove the pair.")
        if sentence in first_seen:
            raise PairsError(
                f"{place(pair)} repeats the {code} sentence of {place(first_seen[sentence])} ({sentence[:60]!r}); "
                "equal sentences cannot be told apart, so remove one of the pairs."
            )
        first_seen[sentence] = pair


# ---------------------------------------------------------------------------------------------------- reading


def is_language_pair(spec: Any) -> bool:
    """Whether this is two language codes, such as "eng_Latn-isl_Latn", known or not."""
    codes = spec.split("-") if isinstance(spec, str) else []
    return len(codes) == 2 and all(len(code) == 8 and code[3] == "_" for code in codes)


def code_in_name(path: str | Path) -> str | None:
    """The language code that a file is named by, as in FLORES' "devtest/isl_Latn.devtest"."""
    return next((part for part in Path(path).name.split(".") if is_language(part)), None)


def languages_in(path: Path) -> list[str]:
    """The language codes among the columns of a file that `ParallelPairs.load` takes.

    Raises:
        PairsError: the file cannot be read, or has no two of them.
    """
    rows, _, origin = _open_rows(path, 1)
    names = list(_flat(next(rows, {})))
    codes = [name for name in names if is_language(name)]
    if len(codes) < 2:
        raise PairsError(f"{origin} has the columns {', '.join(names)}; name two at least by FLORES-200 codes.")
    return codes


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise PairsError(f"{path} does not exist; check the path of the held-out pairs.") from None
    except OSError as error:
        raise PairsError(f"{path} cannot be read ({error.strerror}); check the path of the held-out pairs.") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PairsError(f"{path}, line {line}, is not UTF-8; convert the file to UTF-8.") from None


def _read_two_files(source: Path, target: Path, n: int | None) -> _Located:
    lines = [_lines(_read_text(path)) for path in (source, target)]
    if len(lines[0]) != len(lines[1]):
        raise PairsError(
            f"{source} has {len(lines[0])} lines and {target} has {len(lines[1])}; "
            "line i of one must translate line i of the other."
        )
    return _Located(lines[0][:n], lines[1][:n], lambda pair: f"line {pair + 1} of {source} and {target}")


def _lines(text: str) -> list[str]:
    """Lines as editors count them: only line feeds end one, other Unicode separators may stand in a sentence."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _open_rows(spec: Any, n: int | None) -> tuple[Iterator[Row], Callable[[int], str], str]:
    """Rows as dicts, how to name the place of the i-th, and how to name the whole."""
    if not isinstance(spec, str | Path):
        return _dataset_rows(spec)
    path = Path(spec).expanduser()
    suffix = path.suffix.lower()
    readers = {".tsv": _tsv_rows, ".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if suffix == ".parquet":
        return _parquet_rows(path, n)
    if suffix not in readers:
        raise PairsError(
            f"{spec!s} is neither a pair of FLORES-200 codes (eng_Latn-isl_Latn) nor a .tsv, .csv, .jsonl or .parquet "
            "file; for two aligned text files pass a tuple of two paths."
        )
    numbered = list(islice(readers[suffix](path, _read_text(path)), n))
    rows = iter([row for _, row in numbered])
    return rows, lambda pair: f"{path}, line {numbered[pair][0]},", str(path)


def _tsv_rows(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    header, *lines = _lines(text.rstrip()) or [""]
    names = header.split("\t")
    for number, line in enumerate(lines, start=2):
        yield number, _row(path, number, names, line.split("\t") if line.strip() else [])


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    reader = csv.reader(io.StringIO(text.rstrip(), newline=""), strict=True)
    names = next(reader, [])
    number = reader.line_num + 1
    try:
        for cells in reader:
            yield number, _row(path, number, names, cells)
            number = reader.line_num + 1
    except csv.Error as error:
        raise PairsError(f"{path}, line {number}, is not valid CSV ({error}); mend that line.") from None


def _row(path: Path, number: int, names: list[str], cells: list[str]) -> Row:
    if not cells:
        raise PairsError(f"{path}, line {number}, is empty; fill it in or remove it.")
    if len(cells) != len(names):
        raise PairsError(
            f"{path}, line {number}, has {len(cells)} columns where the header has {len(names)}; mend that line."
        )
    return dict(zip((name.strip() for name in names), cells, strict=True))


def _jsonl_rows(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(_lines(text.rstrip()), start=1):
        if not line.strip():
            raise PairsError(f"{path}, line {number}, is empty; fill it in or remove it.")
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise PairsError(f"{path}, line {number}, is not JSON ({error.msg}); mend or remove that line.") from None
        if not isinstance(row, dict):
            raise PairsError(f"{path}, line {number}, is not a JSON object; write one object a line.")
        yield number, row


def _parquet_rows(path: Path, n: int | None) -> tuple[Iterator[Row], Callable[[int], str], str]:
    if not path.is_file():
        raise PairsError(f"{path} does not exist; check the path of the held-out pairs.")
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise PairsError(
            f"reading {path} needs pyarrow; install it with: pip install 'neuronxa-callback[train]'."
        ) from None
    try:
        batches = parquet.ParquetFile(path).iter_batches(batch_size=n or 65_536)
        rows = list(islice((row for batch in batches for row in batch.to_pylist()), n))
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise PairsError(f"{path} is not a Parquet file ({reason}); write it anew.") from None
    return iter(rows), lambda pair: f"{path}, row {pair + 1},", str(path)


def _dataset_rows(dataset: Any) -> tuple[Iterator[Row], Callable[[int], str], str]:
    origin = f"the {type(dataset).__name__}"
    if not isinstance(dataset, Iterable):
        raise PairsError(f"{dataset!r} holds no pairs; give two language codes, a path, two paths or a dataset.")
    rows = iter(dataset)
    first = next(rows, None)
    if first is not None and not isinstance(first, Mapping):
        raise PairsError(
            f"{origin} gives {type(first).__name__} where a row is needed; "
            "pass one split of a dataset (dataset['train']), a list of dicts, a path or a pair of codes."
        )
    chained = _chain_first(first, rows) if first is not None else rows
    return chained, lambda pair: f"row {pair + 1} of {origin}", origin


def _chain_first(first: Row, rest: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rest


def _choose_columns(
    row: Row, columns: tuple[str, str] | None, source_lang: str | None, target_lang: str | None, origin: str
) -> tuple[str, str]:
    names = list(_flat(row))
    codes = [name for name in names if is_language(name)]
    if columns is None and source_lang in codes and target_lang in codes:
        columns = (str(source_lang), str(target_lang))
    if columns is None and len(codes) == 2 and not (source_lang and target_lang):
        first, second = codes if source_lang != codes[1] and target_lang != codes[0] else reversed(codes)
        columns = (first, second)
    if columns is None and {"source", "target"} <= set(names):
        columns = ("source", "target")
    if columns is None and len(codes) > 2:
        raise PairsError(f"{origin} holds {len(codes)} languages; choose two with source_lang and target_lang.")
    if columns is None or not set(columns) <= set(names):
        raise PairsError(
            f"{origin} has the columns {', '.join(names)}; name two of them by FLORES-200 codes "
            "(in the first line of a TSV or CSV file), or pass columns=(source, target)."
        )
    return columns


def _check_columns(columns: tuple[str, str], source_lang: str | None, target_lang: str | None, origin: str) -> None:
    """Refuse columns that would compare a text with itself or call it by another language's name."""
    if columns[0] == columns[1]:
        raise PairsError(f"columns={columns} of {origin} is one column twice; a pair needs two.")
    for column, code in zip(columns, (source_lang, target_lang), strict=True):
        if is_language(column) and code is not None and code != column:
            raise PairsError(f"the column {column} of {origin} would be called {code}; give it its own code.")


def _languages_of(
    columns: tuple[str, str], source_lang: str | None, target_lang: str | None
) -> tuple[str | None, str | None]:
    named = [column if is_language(column) else None for column in columns]
    return source_lang or named[0], target_lang or named[1]


def _flat(row: Row) -> Row:
    """The row with the languages of a "translation" column (the hub's layout) among its columns."""
    translation = row.get("translation")
    return {**row, **translation} if isinstance(translation, Mapping) else row


def _cells(row: Row, columns: tuple[str, str]) -> tuple[Any, Any]:
    flat = _flat(row)
    return flat.get(columns[0]), flat.get(columns[1])
