"""Alignment of every pair of languages (paper, Table 2). Each language is encoded once."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.progress import Progress
from safetensors.torch import load_file, save_file

from neuronxa_callback._version import __version__
from neuronxa_callback.alignment.evaluator import Encoded, NeuronXAEvaluator
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.state import TokenBudget
from neuronxa_callback.ranks import Ranks
from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.measure import ModelChoice, measure, scores_of
from neuronxa_callback.survey.records import ScoreLine
from neuronxa_callback.survey.shares import length, share
from neuronxa_callback.survey.tables import SIGNIFICANT, chance_notes, holm, reach_notes
from neuronxa_callback.tables import Cell, Table, rounded
from neuronxa_callback.text.corpora import Corpus
from neuronxa_callback.text.pairs import PairsError, ParallelPairs

STAR = f"* p < {SIGNIFICANT} after Holm's correction over all pairs; --format csv has intervals and p-values."


def every_pair(corpus: Corpus, languages: Sequence[str]) -> tuple[list[ParallelPairs], list[str]]:
    """Return the pairs of any two languages, and a sentence for each two whose text cannot be used.

    Raises:
        PairsError: the corpus lacks a language, there are fewer than two languages, or no text can be used.
    """
    wanted = list(dict.fromkeys(languages or corpus.languages))
    if len(wanted) < 2:
        raise PairsError(f"a matrix needs two languages; {', '.join(wanted)} is one. Name more with --langs.")
    for code in wanted:
        if code not in corpus.languages:
            corpus.pairs(code, code)  # raises with the reason
    pairs, left_out = [], []
    sides: dict[tuple[str, ...], tuple[str, ...]] = {}  # one copy of each text, however many pairs hold it
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
    ranks: Ranks = Ranks(),
) -> list[ScoreLine]:
    """Measure a model on the evaluator's language pairs and write matrix.jsonl; see `survey.measure`.

    The encoded languages stay in folder/encoded until all pairs are done. A language takes layers x sentences x
    features x 4 bytes, which is 183 MB for 100 sentences and the NAS of an 8B Llama.

    Several processes share the languages, and when all of these are encoded, the pairs. The folder must be one that all
    of them see.
    """
    # The first alone names the store: a model's copy on another machine may have files of another time.
    store = _Store(evaluator, ranks.first_does(lambda: _place(choice, evaluator, folder / "encoded")), ranks)
    path, prepare = folder / "matrix.jsonl", store.fill if ranks.size > 1 else None
    records = measure(choice, evaluator, path, ScoreLine, scores_of, notes, progress, store.encode, prepare, ranks)
    if ranks.is_first:
        store.remove()
    return records


def _place(choice: ModelChoice, evaluator: NeuronXAEvaluator, folder: Path) -> Path:
    """Return the folder of the encoded languages. Each model and each choice of what is read has its own."""
    reads = sorted(set(evaluator.representations.values()))
    choices = (str(choice.identity), evaluator.token_pooling, evaluator.layers, reads, __version__)
    return folder / _digest(choices)


class _Store:
    """Encoded languages on disk."""

    def __init__(self, evaluator: NeuronXAEvaluator, folder: Path, ranks: Ranks) -> None:
        self.evaluator = evaluator
        self.budget = TokenBudget(evaluator.token_budget)
        self.folder = folder
        self.ranks = ranks

    def fill(self, decoder: Decoder, pairs: Sequence[ParallelPairs]) -> None:
        """Encode this process's share of the pairs' languages, without those that are on the disk."""
        sides = list(dict.fromkeys(side for pair in pairs for side in (pair.source, pair.target)))
        for sentences in share(sides, length, self.ranks):
            if not self._path(sentences).exists():
                self._encode(decoder, sentences)

    def encode(self, decoder: Decoder, sentences: Sequence[str]) -> Encoded:
        """Return the encoded sentences from the disk. If they are not there, encode and save them first."""
        path = self._path(sentences)
        return load_file(path) if path.exists() else self._encode(decoder, sentences)  # type: ignore[return-value]

    def _path(self, sentences: Sequence[str]) -> Path:
        return self.folder / f"{_digest(tuple(sentences))}.safetensors"

    def _encode(self, decoder: Decoder, sentences: Sequence[str]) -> Encoded:
        encoded = self.evaluator.encode(decoder, sentences, self.budget)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(sentences)
        # A kill leaves either a whole file or no file. Two processes never write one file.
        unfinished = path.with_suffix(f".{self.ranks.rank}.tmp")
        save_file({str(read): values.contiguous() for read, values in encoded.items()}, unfinished)
        unfinished.replace(path)
        return encoded

    def remove(self) -> None:
        """Remove what was encoded, and the parent folder if it is empty then."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # another matrix may be using it
            self.folder.parent.rmdir()


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:32]


def matrix_table(records: Sequence[ScoreLine], notes: Sequence[str]) -> Table:
    """Return a table with one row for each two languages and method.

    A row holds the score, its 95 % interval, chance, its p-value, and the p-value corrected over the pairs (Holm).
    """
    rows: list[list[Cell]] = []
    for method in records[0].score:
        corrected = holm(record.p_value.get(method) for record in records)
        for record, p_value in zip(records, corrected, strict=True):
            ci = record.ci.get(method, (None, None))
            named = [record.pivot, record.lang, method]
            numbers = [record.score[method], *ci, record.chance.get(method), record.p_value.get(method), p_value]
            rows.append([*named, *numbers, record.signature])
    columns = ["language", "other", "method", "score", "low", "high", "chance", "p", "p (Holm)", "signature"]
    return Table(_title(records), columns, rows, [*notes, *chance_notes(records), *reach_notes(records)])


def square_tables(records: Sequence[ScoreLine], notes: Sequence[str]) -> list[Table]:
    """Return a table for each method, with a row and a column for each language.

    A star marks a score whose p-value is below 0.05 after Holm's correction.
    """
    languages = list(dict.fromkeys(code for record in records for code in (record.pivot, record.lang)))
    common = Signature.common(record.signature for record in records)
    signed = [*notes, *chance_notes(records), STAR, *reach_notes(records), f"Signature: {common}"]
    tables = []
    for method in records[0].score:
        corrected = holm(record.p_value.get(method) for record in records)
        scores = {
            frozenset((record.pivot, record.lang)): rounded(record.score[method]) + _star(p_value)
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


def _title(records: Sequence[ScoreLine]) -> str:
    return f"Alignment of any two languages in {records[0].model}"
