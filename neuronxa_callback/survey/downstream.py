"""Correlate alignment with task results over languages (paper, Tables 3, 4 and 6 to 11)."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from statistics import fmean
from typing import Any, cast

from neuronxa_callback import significance
from neuronxa_callback.files import OtherRecordError, read_records
from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.records import ScoreLine
from neuronxa_callback.tables import Cell, Table
from neuronxa_callback.text.corpora import HUB_NAME
from neuronxa_callback.text.languages import harness_languages, is_language

logger = logging.getLogger(__name__)

CSV_COLUMNS = ("model", "task", "lang", "value")
COLUMNS = ["model", "method", "pivot", "task", "n", "Pearson r", "low", "high", "p"]
COLUMNS += ["Spearman rho", "rho low", "rho high", "rho p", "signature"]
# The correlations of different models are averaged only if their signatures agree in these fields.
SHARED_CHOICES = ("n", "tokens", "layers")
ALL_TASKS = "all tasks"


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
    records = _lines(file)
    _check_names(file, records)
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


def _lines(file: Path) -> list[ScoreLine]:
    try:
        records = list(read_records(file, ScoreLine))
    except OtherRecordError:
        records = []
    if not records:
        raise ResultsError(f"{file} holds no scores of languages; neuronxa score --output {file.parent} writes them.")
    return records


def _check_names(file: Path, records: Iterable[ScoreLine]) -> None:
    """Raise ResultsError if two models have the same name, such as two folders called "final"."""
    places: dict[str, str] = {}
    for record in records:
        model, adapter = record.key["model"], record.key["adapter"]
        place = f"{model} with {adapter}" if adapter else model
        if places.setdefault(record.model, place) != place:
            raise ResultsError(
                f"{file} holds two models named {record.model} ({places[record.model]}, {place}); score them "
                "into separate --output folders."
            )


def _common(record: ScoreLine, method: str) -> Signature:
    """Return the signature of one of the line's methods, without the fields that differ from language to language."""
    named = [name for name in record.signature["method"].split("+") if name.partition("(")[0] == method]
    shared = record.signature.without(["method", "pair", "data", "permutations"])
    return Signature.of(method=named[0]).joined(shared).with_fields(corpus=record.corpus)


def read_results(path: Path, metric: str = "acc") -> list[TaskResult]:
    """Read task results by language.

    Args:
        path: a results JSON of lm-evaluation-harness, or a CSV with the columns task, lang and value. The CSV also
            needs the column model if there are several models.
        metric: one of the harness's metrics, such as "acc" or "acc_norm".

    Returns:
        one result for each task and language. A harness task is left out if its name does not end with a language.

    Raises:
        ResultsError: the file does not exist, is neither of the two, holds no language, or lacks the metric.
    """
    if not path.is_file():
        raise ResultsError(f"{path} does not exist; name a results JSON of lm-evaluation-harness, or a CSV.")
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


def correlate(scores: Iterable[AlignmentScore], results: Iterable[TaskResult]) -> Table:
    """Correlate alignment with task results over languages, by Pearson and by Spearman.

    Returns:
        a table with one row for each model, method, pivot and task. A row holds the number n of languages, and both
        correlations with their 95 % bootstrap intervals over the languages and their two-sided p-values.

    Raises:
        ResultsError: no model is in both, or a language is there twice with different numbers.
    """
    wanted: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for result in results:
        _put(wanted[result.model, result.task], result.lang, result.value, f"task {result.task}")
    aligned: dict[tuple[str, str, str, Signature], dict[str, float]] = defaultdict(dict)
    for score in scores:
        key = score.model, score.method, score.pivot, score.signature
        _put(aligned[key], score.lang, score.score, f"{score.method} of {score.model} ({score.signature})")
    rows: list[list[Cell]] = []
    left_out: list[str] = []
    for (model, method, pivot, signature), by_language in aligned.items():
        for (theirs, task), values in wanted.items():
            if not _same_model(model, theirs):
                continue
            shared = [lang for lang in by_language if lang in values]
            rows.append([model, method, pivot, task, len(shared), *_numbers(shared, by_language, values), signature])
            if len(shared) < significance.FEWEST_POINTS:
                left_out.append(f"{model}, {method}, {task}: {len(shared)} languages in both, but three are needed.")
    if not rows:
        raise ResultsError(
            f"no model is in both the scores ({_names(key[0] for key in aligned)}) and the results "
            f"({_names(key[0] for key in wanted)}). Score the model that was evaluated, or remove the column model."
        )
    note = (
        "n is the number of languages. They are not independent (families, scripts), so the p-values and intervals "
        "are too optimistic."
    )
    return Table("Alignment against task results over languages", COLUMNS, rows, [note, *left_out])


def averages(table: Table) -> Table:
    """Average correlations over models, for each task and over all tasks (paper, Tables 6 to 11).

    Args:
        table: the table that `correlate` returned.

    Returns:
        a table with one row for each method, pivot and task. A row holds the number of correlations and their means.
        Measurements on different numbers of pairs or with different pooling have separate rows.
    """
    found: dict[tuple[str, str, str, Signature], list[tuple[float, float]]] = defaultdict(list)
    for row in table.rows:
        named = dict(zip(table.columns, row, strict=True))
        if named["Pearson r"] is None:
            continue
        choices = cast("Signature", named["signature"]).only(SHARED_CHOICES)
        for task in (named["task"], ALL_TASKS):
            key = str(named["method"]), str(named["pivot"]), str(task), choices
            found[key].append((named["Pearson r"], named["Spearman rho"]))  # type: ignore[arg-type]
    rows: list[list[Cell]] = [
        [method, pivot, task, len(pairs), *(fmean(values) for values in zip(*pairs, strict=True)), choices]
        for (method, pivot, task, choices), pairs in sorted(found.items(), key=lambda item: item[0][2] == ALL_TASKS)
    ]
    columns = ["method", "pivot", "task", "correlations", "mean Pearson r", "mean Spearman rho", "signature"]
    return Table("Correlations averaged over models", columns, rows)


def _put(values: dict[str, float], lang: str, value: float, what: str) -> None:
    if values.setdefault(lang, value) != value:
        raise ResultsError(f"{what}: {lang} is there twice, with {values[lang]:g} and {value:g}; keep one.")


def _same_model(ours: str, theirs: str) -> bool:
    """Return whether two names mean the same model.

    A folder goes by its last part, as in `neuronxa score`. Results that name no model fit any model.
    """
    (base, *rest), (their_base, *their_rest) = (name.split(" + ") for name in (ours, theirs or ours))
    if rest != their_rest:
        return False
    on_the_hub = all(HUB_NAME.fullmatch(name.removesuffix(" (nf4)")) for name in (base, their_base))
    return base == their_base or (not on_the_hub and PurePath(base).name == PurePath(their_base).name)


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))


def _numbers(languages: Sequence[str], scores: Mapping[str, float], values: Mapping[str, float]) -> list[Cell]:
    x, y = [scores[lang] for lang in languages], [values[lang] for lang in languages]
    cells: list[Cell] = []
    for correlation in (significance.pearson(x, y), significance.spearman(x, y)):
        cells += [None] * 4 if correlation is None else [correlation.r, *correlation.ci, correlation.p_value]
    return cells
