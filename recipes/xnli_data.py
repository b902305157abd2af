"""XNLI (Conneau et al. 2018) from the hub or from a local copy, checked before anything long starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from preflight import PreflightError

from neuronxa_callback.text.hub import refusal
from neuronxa_callback.text.languages import code_of, harness_languages

HUB = "facebook/xnli"
TAGS = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")
LANGUAGES = {harness_languages().get(tag) or str(code_of(tag)): tag for tag in TAGS}  # FLORES-200 code -> tag
ENGLISH = "eng_Latn"
LABELS = ("entailment", "neutral", "contradiction")  # in the order of the data set's numbers
COLUMNS = ("premise", "hypothesis", "label")
LAYOUT = "a folder with en/train-*.parquet, de/test-*.parquet and so on, as facebook/xnli has them on the hub"


class Example(NamedTuple):
    """A premise, a hypothesis, and the place of the right label in `LABELS`."""

    premise: str
    hypothesis: str
    label: int


def training_examples(xnli: str, count: int | None, seed: int) -> list[Example]:
    """Return the English training examples, in a random order.

    Args:
        xnli: the data set's name on the hub, or a folder in its layout.
        count: how many; None takes all.
        seed: of the order.

    Raises:
        PreflightError: the data cannot be read, or an example cannot be used.
    """
    rows = _rows(xnli, ENGLISH, "train")
    order = rows.shuffle(seed=seed) if count is None else rows.shuffle(seed=seed).select(range(min(count, len(rows))))
    return _checked(order, f"{_place(xnli, ENGLISH)}, split train")


def test_examples(xnli: str, languages: Sequence[str], count: int | None) -> dict[str, list[Example]]:
    """Return the test examples of each language. Example i is the same one in every language.

    Args:
        xnli: as for `training_examples`.
        languages: FLORES-200 codes.
        count: how many, from the first on; None takes all.

    Raises:
        PreflightError: the data cannot be read, an example cannot be used, or the examples do not correspond.
    """
    found = {}
    for code in languages:
        rows = _rows(xnli, code, "test")
        found[code] = _checked(
            rows.select(range(min(count or len(rows), len(rows)))), f"{_place(xnli, code)}, split test"
        )
    _check_same(xnli, found)
    return found


def check_languages(languages: Sequence[str]) -> list[str]:
    """Return these languages, each once, or XNLI's fifteen if none is named.

    Raises:
        PreflightError: XNLI does not have one of them.
    """
    for code in languages:
        if code not in LANGUAGES:
            raise PreflightError(f"XNLI has no {code}; it has {', '.join(LANGUAGES)}.")
    return list(dict.fromkeys(languages)) or list(LANGUAGES)


def _place(xnli: str, code: str) -> str:
    return f"{xnli}/{LANGUAGES[code]}"


def _rows(xnli: str, code: str, split: str) -> datasets.Dataset:
    tag, folder = LANGUAGES[code], Path(xnli).expanduser()
    try:
        if folder.is_dir():
            files = sorted(map(str, (folder / tag).glob(f"{split}*.parquet")))
            if not files:
                raise PreflightError(f"{_place(xnli, code)} has no {split}*.parquet; give --xnli {LAYOUT}.")
            rows = datasets.load_dataset("parquet", data_files=files, split="train")
        else:
            rows = datasets.load_dataset(xnli, tag, split=split)
    except PreflightError:
        raise
    except Exception as error:  # datasets and the hub raise many kinds
        raise PreflightError(
            refusal(_place(xnli, code), xnli, error, "cannot be read", f"give --xnli {LAYOUT}")
        ) from None
    lacking = [name for name in COLUMNS if name not in rows.column_names]
    if lacking:
        raise PreflightError(
            f"{_place(xnli, code)}, split {split}, has no column {lacking[0]} among {', '.join(rows.column_names)}; "
            f"it needs {', '.join(COLUMNS)}."
        )
    # The row's number in the split stands in a message, also after a shuffle.
    return rows.select_columns(list(COLUMNS)).add_column("row", range(1, len(rows) + 1))


def _checked(rows: datasets.Dataset, place: str) -> list[Example]:
    if len(rows) == 0:
        raise PreflightError(f"{place}, has no rows; give a whole copy of the data set.")
    return [_example(row, f"{place}, row {row['row']},") for row in rows]


def _example(row: Mapping[str, Any], where: str) -> Example:
    for name in COLUMNS[:2]:
        if not isinstance(row[name], str) or not row[name].strip():
            raise PreflightError(f"{where} has no text in {name}; write it, or take the row out of every language.")
    label = row["label"]
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(LABELS):
        numbered = ", ".join(f"{number} ({name})" for number, name in enumerate(LABELS))
        raise PreflightError(f"{where} has the label {label!r}, which is none of {numbered}; correct it.")
    return Example(row["premise"].strip(), row["hypothesis"].strip(), label)


def _check_same(xnli: str, found: Mapping[str, Sequence[Example]]) -> None:
    first, *others = found
    for code in others:
        if len(found[code]) != len(found[first]):
            raise PreflightError(
                f"{_place(xnli, first)} has {len(found[first])} test rows and {_place(xnli, code)} has "
                f"{len(found[code])}; the rows must correspond, so give a whole copy, or fewer --test_examples."
            )
        for number, (one, other) in enumerate(zip(found[first], found[code], strict=True), start=1):
            if one.label != other.label:
                raise PreflightError(
                    f"test row {number} has the label {one.label} in {_place(xnli, first)} and {other.label} in "
                    f"{_place(xnli, code)}; the rows must correspond, so give a whole copy."
                )
