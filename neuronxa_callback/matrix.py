"""Alignment of every pair of languages (paper, Table 2), each language encoded once."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.progress import Progress
from safetensors.torch import load_file, save_file
from torch import nn

from neuronxa_callback.corpora import Corpus
from neuronxa_callback.evaluator import Encoded, NeuronXAEvaluator
from neuronxa_callback.pairs import PairsError, ParallelPairs
from neuronxa_callback.survey import ModelChoice, Record, chance_notes, holm, measure, scores_of, shared
from neuronxa_callback.tables import Cell, Table


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
    for first, second in combinations(wanted, 2):
        try:
            pairs.append(corpus.pairs(first, second))
        except PairsError as error:
            left_out.append(f"{first}-{second} is left out: {error}")
    if not pairs:
        raise PairsError(left_out[0])
    return pairs, left_out


def measure_matrix(
    choice: ModelChoice, evaluator: NeuronXAEvaluator, folder: Path, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Measure a model on the evaluator's language pairs, into matrix.jsonl; see `survey.measure`.

    What is encoded of a language stays in folder/encoded until all pairs are done: layers x sentences x features x 4
    bytes, for 100 sentences and NAS of an 8B Llama 183 MB a language.
    """
    store = folder / "encoded"
    encode = _encoded_once(choice, evaluator, store)
    records = measure(choice, evaluator, folder / "matrix.jsonl", scores_of, progress, encode)
    shutil.rmtree(store, ignore_errors=True)
    return records


def _encoded_once(
    choice: ModelChoice, evaluator: NeuronXAEvaluator, store: Path
) -> Callable[[nn.Module, Any, Sequence[str]], Encoded]:
    def encode(model: nn.Module, tokenizer: Any, sentences: Sequence[str]) -> Encoded:
        reads = sorted(set(evaluator.representations.values()))
        said = (choice.identity, evaluator.token_pooling, evaluator.layers, reads, tuple(sentences))
        path = store / f"{hashlib.sha256(repr(said).encode()).hexdigest()[:32]}.safetensors"
        if path.exists():
            return load_file(path)  # type: ignore[return-value]
        encoded = evaluator.encode(model, tokenizer, sentences)
        store.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        save_file({str(read): values.contiguous() for read, values in encoded.items()}, unfinished)
        unfinished.replace(path)  # a kill leaves a whole file or none
        return encoded

    return encode


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
    """A table a method with a row and a column a language."""
    languages = list(dict.fromkeys(code for record in records for code in (record["pivot"], record["lang"])))
    signed = [*notes, *chance_notes(records), f"Signature: {shared([record['signature'] for record in records])}"]
    tables = []
    for method in records[0]["scores"]:
        scores = {frozenset((record["pivot"], record["lang"])): record["scores"][method] for record in records}
        rows: list[list[Cell]] = [
            [code, *(scores.get(frozenset((code, other))) if code != other else None for other in languages)]
            for code in languages
        ]
        tables.append(Table(f"{_title(records)}, {method}", ["language", *languages], rows, signed))
    return tables


def _title(records: Sequence[Record]) -> str:
    return f"Alignment of any two languages in {records[0]['model']}"
