"""Read what alignment is compared with: the scores of a survey, and task results by language."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from neuronxa_callback.files import OtherRecordError, read_records
from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.knowledge.consistency import consistency
from neuronxa_callback.survey.knowledge.records import FILE, KnowledgeLine
from neuronxa_callback.survey.records import Line, MeasuredLine, ScoreLine
from neuronxa_callback.text.corpora import ENGLISH
from neuronxa_callback.text.languages import harness_languages, is_language

logger = logging.getLogger(__name__)

CSV_COLUMNS = ("model", "task", "lang", "value")


class ResultsError(ValueError):
    """Scores or task results cannot be read or joined. The message names the file and says what to do."""


@dataclass(frozen=True)
class TaskResult:
    """A model's result at a task in a language.

    Attributes:
        model: its name or folder. An empty name, from a file that names no model, fits any model.
        task: the task's name without the language, such as "belebele".
        lang: FLORES-200 code.
        value: the value of the metric.
    """

    model: str
    task: str
    lang: str
    value: float


@dataclass(frozen=True)
class AlignmentScore:
    """One method's score in a line that `neuronxa score` wrote.

    Attributes:
        model: the name that `ModelChoice.name` gives.
        method: the method's name, such as "nasca".
        pivot: FLORES-200 code.
        lang: FLORES-200 code.
        score: the score.
        signature: the choices in which the scores of all languages must agree to be correlated.
    """

    model: str
    method: str
    pivot: str
    lang: str
    score: float
    signature: Signature


def read_scores(path: Path) -> list[AlignmentScore]:
    """Read the scores that `neuronxa score` wrote.

    Args:
        path: its output folder, or the scores.jsonl in it.

    Returns:
        one score for each language and method. Its signature holds the corpus and the fields that all languages share.
        If a model was scored again with other weights, only the scores of the newest weights are returned.

    Raises:
        ResultsError: the file does not exist, holds no scores of a survey, or holds two models with the same name.
        ValueError: a newer version wrote the file.
    """
    file = path / "scores.jsonl" if path.is_dir() else path
    records = _lines(file, ScoreLine, f"scores of languages; neuronxa score --output {file.parent} writes them")
    _check_names(file, records)
    return scores_of(records)


def scores_of(records: Iterable[ScoreLine]) -> list[AlignmentScore]:
    """Return the scores of these lines, as `read_scores` does."""
    found: dict[tuple[str, str, str, Signature], dict[str, AlignmentScore]] = {}
    weights: dict[tuple[str, str, str, Signature], Signature] = {}
    for record in records:
        for method, value in record.score.items():
            known_by = record.model, method, record.pivot, _common(record, method)
            if weights.get(known_by) != record.identity:
                found[known_by] = {}
            weights[known_by] = record.identity
            model, _, pivot, signature = known_by
            found[known_by][record.lang] = AlignmentScore(model, method, pivot, record.lang, value, signature)
    return [score for by_language in found.values() for score in by_language.values()]


def _lines(file: Path, kind: type[Line], what: str) -> list[Line]:
    try:
        records = list(read_records(file, kind))
    except OtherRecordError:
        records = []
    if not records:
        raise ResultsError(f"{file} holds no {what}.")
    return records


def _check_names(file: Path, records: Iterable[MeasuredLine]) -> None:
    """Raise ResultsError if two models have the same name, such as two folders called "final"."""
    places: dict[str, str] = {}
    for record in records:
        model, adapter = record.key["model"], record.key["adapter"]
        place = f"{model} with {adapter}" if adapter else model
        if places.setdefault(record.model, place) != place:
            raise ResultsError(
                f"{file} holds two models named {record.model} ({places[record.model]}, {place}); measure "
                "them into separate --output folders."
            )


def _common(record: ScoreLine, method: str) -> Signature:
    """Return the signature of one of the line's methods, without the fields that differ from language to language."""
    named = [name for name in record.signature["method"].split("+") if name.partition("(")[0] == method]
    shared = record.signature.without(["method", "pair", "data", "permutations"])
    return Signature.of(method=named[0]).joined(shared).with_fields(corpus=record.corpus)


def read_results(path: Path, metric: str = "acc") -> list[TaskResult]:
    """Read task results by language.

    Args:
        path: a results JSON of lm-evaluation-harness, a CSV with the columns task, lang and value, or the folder or the
            knowledge.jsonl that `neuronxa knowledge` wrote. The CSV also needs the column model if there are several
            models.
        metric: one of the harness's metrics, such as "acc" or "acc_norm".

    Returns:
        one result for each task and language. A harness task is left out if its name does not end with a language.
            `neuronxa knowledge` gives two tasks: the accuracy, and RankC with English.

    Raises:
        ResultsError: the file does not exist, is none of these, holds no language, or lacks the metric.
    """
    if path.is_dir() or path.suffix.lower() == ".jsonl":
        return _read_knowledge(path / FILE if path.is_dir() else path)
    if not path.is_file():
        raise ResultsError(
            f"{path} does not exist; name a results JSON of lm-evaluation-harness, a CSV, or the folder of neuronxa "
            "knowledge."
        )
    return _read_csv(path) if path.suffix.lower() == ".csv" else _read_harness(path, metric)


def _read_csv(path: Path) -> list[TaskResult]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        lacking = [name for name in CSV_COLUMNS[1:] if name not in (reader.fieldnames or [])]
        if lacking:
            raise ResultsError(f"{path} has no column {lacking[0]}; its first line must be {','.join(CSV_COLUMNS)}.")
        return [_csv_row(path, reader.line_num, row) for row in reader]


def _csv_row(path: Path, number: int, row: Mapping[str, str]) -> TaskResult:
    lang = _language(row["lang"] or "")
    if lang is None:
        raise ResultsError(f"{path}, line {number}: {row['lang']!r} is no language; write a code such as isl_Latn.")
    try:
        value = float(row["value"])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ResultsError(f"{path}, line {number}: {row['value']!r} is no number; correct it.")
    return TaskResult(row.get("model") or "", row["task"], lang, value)


def _read_knowledge(file: Path) -> list[TaskResult]:
    lines = _lines(file, KnowledgeLine, "answers by language; neuronxa knowledge writes them")
    _check_names(file, lines)
    return results_of(lines)


def results_of(lines: Sequence[KnowledgeLine], pivot: str = ENGLISH) -> list[TaskResult]:
    """Return each model's accuracy and RankC with the pivot by language, for the newest weights.

    Other prompts, or another number of them, are another task.
    """
    weights = {(line.model, _task(line)): line.identity for line in lines}
    of_newest = [line for line in lines if weights[line.model, _task(line)] == line.identity]
    newest = {(line.model, _task(line), line.lang): line for line in of_newest}
    found = []
    for (model, task, lang), line in newest.items():
        found.append(TaskResult(model, task, lang, line.accuracy))
        of_pivot = newest.get((model, task, pivot))
        if of_pivot is not None and line is not of_pivot:
            found.append(TaskResult(model, f"RankC with {pivot}, {task}", lang, consistency(line, of_pivot)))
    return found


def _task(line: KnowledgeLine) -> str:
    return f"{line.data}, {len(line.facts)} facts"


def _read_harness(path: Path, metric: str) -> list[TaskResult]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        results, model = content["results"], _model_of(content)
    except (ValueError, KeyError, TypeError):
        raise ResultsError(
            f"{path} is no results file of lm-evaluation-harness; name the results_*.json that its --output_path made."
        ) from None
    found, without = [], []
    for name, values in results.items():
        task, lang = _task_and_language(name)
        if lang is None:
            continue
        value = values.get(f"{metric},none", values.get(metric))
        if isinstance(value, int | float) and math.isfinite(value):
            found.append(TaskResult(model, task, lang, float(value)))
        else:
            without.append((name, values))
    if not found and without:
        name, values = without[0]
        there = ", ".join(sorted({key.split(",")[0] for key in values if "," in key and "stderr" not in key}))
        raise ResultsError(f"{path}: {name} has no metric {metric!r}; it has {there}. Choose one with --metric.")
    if not found:
        raise ResultsError(f"{path} holds no task that ends with a language, such as belebele_isl_Latn or arc_is.")
    if without:
        logger.warning("NeuronXA: %s: %s left out (no %s).", path, ", ".join(name for name, _ in without), metric)
    return found


def _model_of(content: Mapping[str, Any]) -> str:
    """Return the model's name as `ModelChoice.name` writes it: the model, its adapter, its quantisation."""
    arguments = content.get("config", {}).get("model_args") or {}
    if isinstance(arguments, str):
        arguments = dict(part.partition("=")[::2] for part in arguments.split(","))
    name = str(arguments.get("pretrained") or content.get("model_name") or "")
    name += f" + {PurePath(str(arguments['peft'])).name}" if arguments.get("peft") else ""
    return name + (" (nf4)" if str(arguments.get("load_in_4bit")) == "True" else "")


def _task_and_language(name: str) -> tuple[str, str | None]:
    """Split a name such as belebele_isl_Latn, m_mmlu_is or xnli_de into the task and the language.

    The language is None if the name does not end with one.
    """
    parts = name.split("_")
    for count in (2, 1):
        if len(parts) > count and (lang := _language("_".join(parts[-count:]))):
            return "_".join(parts[:-count]), lang
    return name, None


def _language(code: str) -> str | None:
    """Return the FLORES-200 code for a code in a task's name, or None if the code is not a language."""
    return code if is_language(code) else harness_languages().get(code)
