"""Alignment of every pair of languages (paper, Table 2), each language encoded once."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.progress import Progress
from safetensors.torch import load_file, save_file
from torch import nn

from neuronxa_callback.alignment.evaluator import Encoded, NeuronXAEvaluator
from neuronxa_callback.survey.measure import ModelChoice, Record, chance_notes, holm, measure, scores_of, shared
from neuronxa_callback.tables import Cell, Table, rounded
from neuronxa_callback.text.corpora import Corpus
from neuronxa_callback.text.pairs import PairsError, ParallelPairs

SIGNIFICANT = 0.05
STAR = f"* p < {SIGNIFICANT} after Holm's correction over all pairs; --format csv has intervals and p-values."


def every_pair(corpus: Corpus, languages: Sequence[str]) -> tuple[list[ParallelPairs], list[str]]:
    """The pairs of any two languages, and a sentence for each two whose text cannot be used.

    Raises:
        PairsError: a language that the corpus does not have, fewer than two, or no text that can be used.
    """
    wanted = list(dict.fromkeys(languages or corpus.languages))
    if len(wanted) < 2:
        raise PairsError(f"a matrix needs two languages; {', '.join(wanted)} is one. Name more with --langs.")
    for code in wanted:
        if code not in corpus.languages:
            corpus.pairs(code, code)  # raises with the reason
    pairs, left_out = [], []
    sides: dict[tuple[str, ...], tuple[str, ...]] = {}  # each text once, however many pairs it is in
    for first, second in combinations(wanted, 2):
        try:
            pair = corpus.pairs(first, second)
            source, target = (sides.setdefault(side, side) for side in (pair.source, pair.target))
            pairs.append(replace(pair, source=source, target=target))
        except PairsError as error:
            left_out.append(f"{first}-{second} is left out: {error}")
    if not pairs:
        raise PairsError(left_out[0])
    return pairs, left_out


def measure_matrix(
    choice: ModelChoice,
    evaluator: NeuronXAEvaluator,
    folder: Path,
    notes: list[str],
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Measure a model on the evaluator's language pairs, into matrix.jsonl; see `survey.measure`.

    What is encoded of a language stays in folder/encoded until all pairs are done: layers x sentences x features x 4
    bytes, for 100 sentences and NAS of an 8B Llama 183 MB a language.
    """
    store = _Store(choice, evaluator, folder / "encoded")
    records = measure(choice, evaluator, folder / "matrix.jsonl", scores_of, notes, progress, store.encode)
    store.remove()
    return records


class _Store:
    """Encoded languages on the disk, in a folder of their own for each model and choice of what is read."""

    def __init__(self, choice: ModelChoice, evaluator: NeuronXAEvaluator, folder: Path) -> None:
        self.evaluator = evaluator
        reads = sorted(set(evaluator.representations.values()))
        said = (choice.identity, evaluator.token_pooling, evaluator.layers, reads, version("neuronxa-callback"))
        self.folder = folder / _digest(said)

    def encode(self, model: nn.Module, tokenizer: Any, sentences: Sequence[str]) -> Encoded:
        """From the disk, else by the evaluator, and then to the disk."""
        path = self.folder / f"{_digest(tuple(sentences))}.safetensors"
        if path.exists():
            return load_file(path)  # type: ignore[return-value]
        encoded = self.evaluator.encode(model, tokenizer, sentences)
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        save_file({str(read): values.contiguous() for read, values in encoded.items()}, unfinished)
        unfinished.replace(path)  # a kill leaves a whole file or none
        return encoded

    def remove(self) -> None:
        """What was encoded, and the folder of all such where it is empty."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # another matrix may be at work in it
            self.folder.parent.rmdir()


def _digest(said: Any) -> str:
    return hashlib.sha256(repr(said).encode()).hexdigest()[:32]


def matrix_table(records: Sequence[Record], notes: Sequence[str]) -> Table:
    """One row two languages and method: score, 95 % interval, p-value, and that corrected over the pairs (Holm)."""
    rows: list[list[Cell]] = []
    for method in records[0]["scores"]:
        corrected = holm(record["p_value"].get(method) for record in records)
        for record, p_value in zip(records, corrected, strict=True):
            ci = record["ci"].get(method, (None, None))
            named = [record["pivot"], record["lang"], method]
            numbers = [record["scores"][method], *ci, record["p_value"].get(method), p_value]
            rows.append([*named, *numbers, record["signature"]])
    columns = ["language", "other", "method", "score", "low", "high", "p", "p (Holm)", "signature"]
    return Table(_title(records), columns, rows, [*notes, *chance_notes(records)])


def square_tables(records: Sequence[Record], notes: Sequence[str]) -> list[Table]:
    """A table a method with a row and a column a language; a star where Holm's correction leaves p below 0.05."""
    languages = list(dict.fromkeys(code for record in records for code in (record["pivot"], record["lang"])))
    signed = [*notes, *chance_notes(records), STAR, f"Signature: {shared([record['signature'] for record in records])}"]
    tables = []
    for method in records[0]["scores"]:
        corrected = holm(record["p_value"].get(method) for record in records)
        scores = {
            frozenset((record["pivot"], record["lang"])): rounded(record["scores"][method]) + _star(p_value)
            for record, p_value in zip(records, corrected, strict=True)
        }
        rows: list[list[Cell]] = [
            [code, *(scores.get(frozenset((code, other))) if code != other else None for other in languages)]
            for code in languages
        ]
        tables.append(Table(f"{_title(records)}, {method}", ["language", *languages], rows, signed))
    return tables


def _star(p_value: float | None) -> str:
    return "*" if p_value is not None and p_value < SIGNIFICANT else ""


def _title(records: Sequence[Record]) -> str:
    return f"Alignment of any two languages in {records[0]['model']}"
