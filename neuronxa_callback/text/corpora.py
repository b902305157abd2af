"""Parallel text in many languages. Any two of them make a `ParallelPairs`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.text.hub import refusal
from neuronxa_callback.text.languages import (
    FLORES_PLUS,
    check_language,
    code_in_name,
    flores_code_in_name,
    head_languages,
    is_language,
    is_variant,
    stem_of_tag,
    tatoeba_head_languages,
    tatoeba_languages,
)
from neuronxa_callback.text.pairs import DEFAULT_SIZE, PairsError, ParallelPairs
from neuronxa_callback.text.readers import FILES, is_readable, languages_in

EMBEDDED = "embedded"

# The text column of a data set with one configuration per language: its name in FLORES+, then in FLORES-200.
TEXT_COLUMNS = ("text", "sentence")
# mteb's Tatoeba has one configuration per language pair. Its columns are in the order of the configuration's name.
PAIR_COLUMNS = ("sentence1", "sentence2")

_TATOEBA_FILE = re.compile(r"tatoeba\.([a-z]{3})-eng\.\1")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
ENGLISH = "eng_Latn"


@dataclass(frozen=True)
class Corpus:
    """Sentences that correspond line by line in several languages.

    Attributes:
        name: the corpus's name in tables.
        languages: the FLORES-200 codes of its languages.
        load: returns the pairs of two languages. It reads the text when it is called.
        head: the languages that the paper counts as head languages in this text. The others are long-tail.
    """

    name: str
    languages: tuple[str, ...]
    load: Callable[[str, str], ParallelPairs]
    head: frozenset[str] = field(default_factory=head_languages)

    def pairs(self, pivot: str, lang: str) -> ParallelPairs:
        """Return the pairs of two languages.

        Raises:
            PairsError: the corpus does not have a language, or its text cannot be used.
        """
        for code in (pivot, lang):
            check_language(code)
            if code not in self.languages:
                raise PairsError(f"{self.name} has no {code}; it has {', '.join(self.languages)}.")
        return replace(self.load(pivot, lang), corpus=self.name)


def open_corpus(spec: str | Path, n: int | None = DEFAULT_SIZE) -> Corpus:
    """Open parallel text from the embedded set, a file, a folder or a data set of the hub.

    Args:
        spec: one of
            * "embedded": the package's held-out set in five languages;
            * the path of a file that `ParallelPairs.load` reads, with one column per language (.tsv, .csv, .jsonl,
              .json, .parquet) or with several languages (.tmx) or two (.xlf, .xliff, WMT's .xml, .zip), or a test set
              of sacrebleu ("wmt21:en-is"). The columns are named by FLORES-200 codes or by other tags ("is", "en-US");
            * a folder with one file per language, named by its code. Line i of every file is the same sentence.
              FLORES-200's release has this layout ("flores200_dataset/devtest" with "isl_Latn.devtest"), and so have
              the parallel Bibles as MEXA reads them ("isl_Latn.txt" and the like) and NTREX-128
              ("newstest2019-ref.isl.txt"). Where a tag is the ending ("text.is"), the names must be alike but for it;
            * a folder of Tatoeba's test sets in LASER's layout ("tatoeba.isl-eng.isl" and "tatoeba.isl-eng.eng").
              English is in every pair;
            * a data set of the hub, or a folder with a copy of one, and its split after a colon. The data set has one
              configuration per language ("openlanguagedata/flores_plus:devtest") or one per language pair
              ("mteb/tatoeba-bitext-mining:test").
        n: how many sentences to keep from the beginning, 100 as in the paper; None keeps all.

    Raises:
        PairsError: the text cannot be used; the message says what is wrong and what to do.
    """
    if spec == EMBEDDED:
        return Corpus(EMBEDDED, tuple(embedded("heldout.tsv")), lambda a, b: ParallelPairs.load(f"{a}-{b}", n=n))
    path = Path(spec).expanduser()
    if is_readable(spec):
        return Corpus(path.name, tuple(languages_in(spec, n)), lambda a, b: ParallelPairs.load(spec, a, b, n=n))
    name, _, split = str(spec).partition(":")
    place = Path(name).expanduser()
    if (place / "README.md").is_file() and _has_configurations(place / "README.md"):
        return _dataset(str(place), split, n)
    if path.is_dir():
        return _tatoeba_folder(path, n) if any(path.glob("tatoeba.*-eng.eng")) else _folder(path, n)
    if HUB_NAME.fullmatch(name):
        return _dataset(name, split, n)
    raise PairsError(
        f"{spec} is not parallel text; give a {', '.join(FILES)} file, a folder with one file per language, or a data "
        "set of the hub such as openlanguagedata/flores_plus:devtest."
    )


# ---------------------------------------------------------------------------------------------------- folders


def _folder(path: Path, n: int | None) -> Corpus:
    files = files_by_language(path)
    name = f"{path.resolve().parent.name}/{path.resolve().name}"
    return Corpus(name, tuple(files), lambda a, b: ParallelPairs.load((files[a], files[b]), a, b, n=n))


def files_by_language(folder: Path) -> dict[str, Path]:
    """Return the file of each language in a folder of parallel text; see `open_corpus`.

    Raises:
        PairsError: fewer than two files are named by a language, or two by one language.
    """
    there = [path for path in sorted(folder.iterdir()) if path.is_file()]
    files = _one_a_language(folder, there, flores_code_in_name)
    if len(files) < 2:  # a short tag such as "is" may be an ending of another kind, so it counts only without codes
        files = _one_a_language(folder, _named_alike(folder, there), code_in_name)
    if len(files) < 2:
        inner = next((path for path in sorted(folder.iterdir()) if path.is_dir() and _has_language(path)), None)
        hint = f"; did you mean {inner}?" if inner else "; name at least two by FLORES-200 codes, such as isl_Latn.txt."
        raise PairsError(f"{folder} holds {len(files)} files named by a language{hint}")
    return files


def _named_alike(folder: Path, paths: list[Path]) -> list[Path]:
    """Return the files without those whose ending looks like a tag, but that no other file shares its stem with."""
    of_stem: dict[str, list[Path]] = {}
    for path in paths:
        if (stem := stem_of_tag(path)) is not None:
            of_stem.setdefault(stem, []).append(path)
    stems = [stem for stem, found in of_stem.items() if len(found) > 1]
    if len(stems) > 1:
        raise PairsError(
            f"{folder} has files of two texts, {of_stem[stems[0]][0].name} and {of_stem[stems[1]][0].name}; move the "
            "files of one away."
        )
    return [path for path in paths if (stem := stem_of_tag(path)) is None or stem in stems]


def _one_a_language(folder: Path, paths: list[Path], code_of_name: Callable[[Path], str | None]) -> dict[str, Path]:
    """Return the file of each language. A variant ("fra-CA", "ref-2.fra") yields to the file without ("fra")."""
    by_code: dict[str, list[Path]] = {}
    for path in paths:
        if code := code_of_name(path):
            by_code.setdefault(code, []).append(path)
    files = {}
    for code, found in by_code.items():
        chosen = [path for path in found if not is_variant(path)] or found
        if len(chosen) > 1:
            raise PairsError(f"{folder} has two files of {code}, {chosen[0].name} and {chosen[1].name}; move one away.")
        files[code] = chosen[0]
    return files


def _has_language(folder: Path) -> bool:
    return any(code_in_name(path) for path in folder.iterdir())


def _tatoeba_folder(folder: Path, n: int | None) -> Corpus:
    found = [match for path in sorted(folder.iterdir()) if (match := _TATOEBA_FILE.fullmatch(path.name))]
    files = {tatoeba_languages()[match[1]]: folder / match[0] for match in found if match[1] in tatoeba_languages()}

    def load(pivot: str, lang: str) -> ParallelPairs:
        other = _beside_english(folder.name, pivot, lang)
        sides = {other: files[other], ENGLISH: files[other].with_suffix(".eng")}
        return ParallelPairs.load((sides[pivot], sides[lang]), pivot, lang, n=n)

    return Corpus(folder.name, (ENGLISH, *files), load, tatoeba_head_languages())


def _beside_english(name: str, pivot: str, lang: str) -> str:
    """Return the language of the two that is not English."""
    if ENGLISH not in (pivot, lang):
        raise PairsError(f"{name} pairs every language with {ENGLISH} alone, and so has no {pivot}-{lang}.")
    return lang if pivot == ENGLISH else pivot


# ---------------------------------------------------------------------------------------------------- data sets


def _has_configurations(card: Path) -> bool:
    return "configs:" in card.read_text(encoding="utf-8", errors="replace").partition("\n---")[0]


def _dataset(name: str, split: str, n: int | None) -> Corpus:
    """Open a data set whose configurations are languages, or pairs of a language and English."""
    configurations = _asked(name, lambda datasets: datasets.get_dataset_config_names(name))
    languages = {FLORES_PLUS.get(config, config): config for config in configurations if is_language(config)}
    with_english = {code: config for config in configurations if (code := _paired_with_english(config))}
    if max(len(languages), len(with_english)) < 2:
        raise PairsError(
            f"{name} has the configurations {', '.join(configurations[:5])}; at least two of them must be languages "
            "such as isl_Latn, or pairs with English such as isl-eng."
        )
    of_languages = len(languages) > len(with_english)
    found = languages if of_languages else with_english
    split = _checked_split(name, next(iter(found.values())), split)
    read = cache(lambda config, columns: _rows(name, config, split, columns, n))

    def load_languages(pivot: str, lang: str) -> ParallelPairs:
        (ids, source), (other_ids, target) = (read(languages[code], TEXT_COLUMNS) for code in (pivot, lang))
        if ids != other_ids:
            raise PairsError(f"the rows of {pivot} and {lang} in {name} have different ids, and so do not correspond.")
        return ParallelPairs(source, target, pivot, lang)

    def load_with_english(pivot: str, lang: str) -> ParallelPairs:
        config = with_english[_beside_english(name, pivot, lang)]
        first, second = (read(config, (column,))[1] for column in PAIR_COLUMNS)
        if config.startswith("eng-") != (pivot == ENGLISH):
            first, second = second, first
        return ParallelPairs(first, second, pivot, lang)

    if of_languages:
        return Corpus(f"{name}:{split}", tuple(sorted(languages)), load_languages)
    return Corpus(f"{name}:{split}", (ENGLISH, *with_english), load_with_english, tatoeba_head_languages())


def _paired_with_english(config: str) -> str | None:
    """Return the code of the language that a configuration such as "isl-eng" pairs with English, or None."""
    names = config.split("-")
    return tatoeba_languages().get(next(iter({*names} - {"eng"}), "")) if len(names) == 2 and "eng" in names else None


def _checked_split(name: str, config: str, split: str) -> str:
    splits = _asked(name, lambda datasets: datasets.get_dataset_split_names(name, config))
    if not split and len(splits) == 1:
        return str(splits[0])
    if split not in splits:
        what = f"no split {split}" if split else "several splits"
        raise PairsError(f"{name} has {what}; choose one of {', '.join(splits)}, as in {name}:{splits[-1]}.")
    return split


def _rows(
    name: str, config: str, split: str, columns: tuple[str, ...], n: int | None
) -> tuple[list[Any] | None, tuple[str, ...]]:
    """Return the ids (None if there are none) and the sentences of the first `n` rows.

    The sentences are in the first of the columns that the data set has.
    """
    # A folder is streamed, because the cache of datasets confuses two folders of the same name (seen in 5.2).
    streaming = Path(name).is_dir()
    dataset = _asked(name, lambda datasets: datasets.load_dataset(name, config, split=split, streaming=streaming))
    rows: list[dict[str, Any]] = _asked(name, lambda datasets: list(islice(dataset, n)))
    there = list(rows[0]) if rows else []
    column = next((column for column in columns if column in there), None)
    if column is None:
        raise PairsError(
            f"{name} has the columns {', '.join(there)} in {config}, none of which is {' or '.join(columns)}; save it "
            "as a .tsv or .parquet file with one column per language."
        )
    for number, row in enumerate(rows, start=1):
        if not isinstance(row[column], str):
            raise PairsError(f"row {number} of {config} in {name} holds {row[column]!r} where a sentence should be.")
    return [row["id"] for row in rows] if "id" in there else None, tuple(row[column].strip() for row in rows)


def _asked(name: str, ask: Callable[[Any], Any]) -> Any:
    """Return the answer of the package datasets, and turn its many errors into one sentence."""
    try:
        import datasets
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise PairsError(
            f"reading {name} needs datasets; install it with: pip install 'neuronxa-callback[train]'."
        ) from None
    try:
        return ask(datasets)
    except (datasets.exceptions.DatasetsError, HfHubHTTPError, OSError, ValueError) as error:
        fault = "could not be read as a data set"
        raise PairsError(refusal(name, name, error, fault, "check the name, or give the folder of a copy")) from None
