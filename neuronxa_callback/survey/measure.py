"""A model measured over many languages from the command line, each on the disk as soon as it is done."""

from __future__ import annotations

import gc
import hashlib
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.progress import Progress
from torch import nn

from neuronxa_callback import significance
from neuronxa_callback.alignment.evaluator import Encoded, NeuronXAEvaluator
from neuronxa_callback.alignment.scores import retrieved
from neuronxa_callback.files import append_line, read_lines
from neuronxa_callback.model.loading import Checkpoint, Loader, check_packages, load_tokenizer, read_json
from neuronxa_callback.plots import layer_figure, layer_numbers
from neuronxa_callback.signature import Signature
from neuronxa_callback.tables import Cell, Table
from neuronxa_callback.text.corpora import ENGLISH, Corpus
from neuronxa_callback.text.pairs import PairsError, ParallelPairs
from neuronxa_callback.vocabulary import ALIGNMENT, OVER_PAIRS, Dtype

Record = Mapping[str, Any]

MODEL_REMEDY = "give the folder or the hub name of a causal language model"
ADAPTER_REMEDY = "give the folder of an adapter that was trained on this model"
ADAPTER_CONFIG = "adapter_config.json"
DPI = 150


@dataclass(frozen=True)
class ModelChoice:
    """Which model to measure, and how it is loaded.

    Attributes:
        model: its folder or its name on the hub; the folder of an adapter that names its base.
        adapter: folder of an adapter to put on it.
        dtype: what the weights are loaded in; "auto" takes what its configuration says.
        load_in_4bit: load them in NF4.
        device: "cpu", "cuda" or "cuda:N"; a GPU, where there is one, for None.
    """

    model: str
    adapter: str | None = None
    dtype: Dtype = "auto"
    load_in_4bit: bool = False
    device: str | None = None

    @property
    def name(self) -> str:
        """What tables call it."""
        parts = [Path(self.model).name if Path(self.model).is_dir() else self.model]
        parts += [Path(self.adapter).name] if self.adapter else []
        return " + ".join(parts) + (" (nf4)" if self.load_in_4bit else "")

    @property
    def identity(self) -> str:
        """Changes with the weights on the disk, so that scores of others are not taken for theirs.

        Of a name on the hub it is the name alone.
        """
        files = [path for checkpoint in self.checkpoints() for path in _weights(Path(checkpoint.source))]
        stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        digest = hashlib.sha256(repr(stamps).encode()).hexdigest()[:12] if stamps else "hub"
        parts = (self.model, self.adapter or "", self.dtype, "nf4" if self.load_in_4bit else "", digest)
        return "|".join(parts)

    def checkpoints(self) -> list[Checkpoint]:
        """The model, and behind it its adapter where there is one."""
        folder = Path(self.adapter or self.model)
        if self.adapter is None and not (folder / ADAPTER_CONFIG).exists():
            return [Checkpoint(self.model, MODEL_REMEDY)]
        config = read_json(folder / ADAPTER_CONFIG) if (folder / ADAPTER_CONFIG).exists() else {}
        base = self.model if self.adapter else config.get("base_model_name_or_path") or self.model
        return [Checkpoint(base, MODEL_REMEDY), Checkpoint(str(folder), ADAPTER_REMEDY, step=1, adapter=config)]

    @contextmanager
    def loaded(self) -> Iterator[tuple[nn.Module, Any]]:
        """The model in evaluation mode and its tokenizer, until the block ends.

        Raises:
            ModelError: they cannot be loaded.
        """
        checkpoints = self.checkpoints()
        check_packages(checkpoints, self.load_in_4bit)
        tokenizer = load_tokenizer(checkpoints)
        with Loader(checkpoints, self.dtype, self.load_in_4bit, self.device).model(checkpoints[-1]) as model:
            yield model, tokenizer
        gc.collect()


def _weights(folder: Path) -> list[Path]:
    suffixes = {".safetensors", ".bin", ".json", ".gguf"}
    return [path for path in sorted(folder.iterdir()) if path.suffix in suffixes] if folder.is_dir() else []


# ------------------------------------------------------------------------------------------------------ measuring


def score(
    choice: ModelChoice, evaluator: NeuronXAEvaluator, folder: Path, notes: list[str], progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Measure a model on the evaluator's language pairs with its methods, into scores.jsonl; see `measure`."""
    return measure(choice, evaluator, folder / "scores.jsonl", scores_of, notes, progress)


def retrieve(
    choice: ModelChoice, evaluator: NeuronXAEvaluator, folder: Path, notes: list[str], progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Retrieval accuracy on what the evaluator's methods read, into retrieval.jsonl; see `measure`."""
    return measure(choice, evaluator, folder / "retrieval.jsonl", _retrieval, notes, progress)


def measure(
    choice: ModelChoice,
    evaluator: NeuronXAEvaluator,
    path: Path,
    numbers: Callable[[NeuronXAEvaluator, Encoded, Encoded, str], dict[str, Any]],
    notes: list[str],
    progress: Progress | None = None,
    encode: Callable[[nn.Module, Any, Sequence[str]], Encoded] | None = None,
) -> list[dict[str, Any]]:
    """Measure a model on the evaluator's language pairs, those left out whose line is in the file already.

    Each pair's line is on the disk when it is done: what was stopped goes on where it was. Of the encoded text one
    source and one target side are kept, whatever the number of pairs.

    Args:
        choice: the model; it is loaded only where something is left to measure.
        evaluator: what to read of which pairs; those that the model's context is too short for are dropped from it.
        path: the JSON-lines file.
        numbers: a line's numbers, from the evaluator, the two encoded sides and the signature.
        notes: gets a sentence for each language that is dropped.
        progress: is shown a task that counts the language pairs.
        encode: encodes one side's sentences, the evaluator's own for None.

    Returns:
        the lines of these pairs, in their order.

    Raises:
        ModelError: the model cannot be loaded.
        ValueError: it cannot be measured (see `NeuronXAEvaluator.check`), or the file is something else's.
    """
    keys = {pair.name: _key(choice, evaluator, pair) for pair in evaluator.pairs}
    done = _done(path)
    progress = progress or Progress(disable=True)
    task = progress.add_task(choice.name, total=len(keys), completed=sum(key in done for key in keys.values()))
    if any(key not in done for key in keys.values()):
        with choice.loaded() as (model, tokenizer):
            notes += evaluator.leave_out_too_long(model, tokenizer)
            progress.update(task, total=len(evaluator.pairs))
            evaluator.check(model, tokenizer)
            left = [pair for pair in evaluator.pairs if keys[pair.name] not in done]

            def line(pair: ParallelPairs, source: Encoded, target: Encoded) -> dict[str, Any]:
                signature = evaluator.signature(pair, model, tokenizer)
                return {
                    "model": choice.name,
                    "lang": pair.target_lang,
                    "pivot": pair.source_lang,
                    "corpus": pair.corpus,
                    "signature": signature,
                    **numbers(evaluator, source, target, signature),
                    "key": keys[pair.name],
                }

            for record in evaluator.each(model, tokenizer, left, line, encode):
                append_line(path, record)
                done[record["key"]] = record
                progress.advance(task)
    return [done[keys[pair.name]] for pair in evaluator.pairs]


def _done(path: Path) -> dict[str, dict[str, Any]]:
    """The lines that are there, by their keys.

    Raises:
        ValueError: they are something else's, such as a training run's.
    """
    records = list(read_lines(path))
    if not all("key" in record for record in records):
        raise ValueError(f"{path} holds scores of something else, such as a training run; choose another --output.")
    return {record["key"]: record for record in records}


def _key(choice: ModelChoice, evaluator: NeuronXAEvaluator, pair: ParallelPairs) -> str:
    """What a line is known by: every choice that can be known before the model is loaded."""
    fields = evaluator.choices(pair) | {"version": version("neuronxa-callback")}
    return "|".join([choice.identity, *(f"{name}:{value}" for name, value in fields.items())])


def scores_of(evaluator: NeuronXAEvaluator, source: Encoded, target: Encoded, signature: str) -> dict[str, Any]:
    """A line's scores, per layer and pair, intervals and p-values."""
    report = evaluator.report(source, target, signature)
    return {
        "scores": report.score,
        "ci": report.ci,
        "p_value": report.p_value,
        "per_layer": {method: values.tolist() for method, values in report.per_layer.items()},
        "per_pair": {method: values.tolist() for method, values in report.per_pair.items()},
    }


def _retrieval(evaluator: NeuronXAEvaluator, source: Encoded, target: Encoded, signature: str) -> dict[str, Any]:
    """Representation -> direction -> accuracy over the sentences, pooled over the layers as the evaluator does."""
    found: dict[str, dict[str, Any]] = {}
    n = next(iter(source.values())).shape[1]
    for read in dict.fromkeys(evaluator.representations.values()):
        for direction, hits in retrieved(source[read], target[read]).items():
            per_layer = hits.double().mean(dim=1)
            best = int(per_layer.argmax())
            per_sentence = hits[best].double() if evaluator.layer_pooling == "max" else hits.double().mean(dim=0)
            accuracy = per_sentence.mean().item()
            p_value = significance.chance_p_value(accuracy, n, None if direction == "both" else 1 / n)
            chances = len(per_layer) if evaluator.layer_pooling == "max" else 1
            found.setdefault(read, {})[direction] = {
                "accuracy": accuracy,
                "p_value": min(1.0, chances * p_value),
                "ci": significance.bootstrap_interval(per_sentence.numpy()),
                "per_layer": per_layer.tolist(),
            }
    signed = Signature.parse(signature).with_fields(method=f"retrieval({'+'.join(found)})")
    return {"retrieval": found, "signature": str(signed)}


def pairs_with(corpus: Corpus, pivot: str, languages: Sequence[str]) -> tuple[list[ParallelPairs], list[str]]:
    """The pairs of the pivot with each language, and a sentence for each language whose text cannot be used.

    Raises:
        PairsError: a language that the corpus does not have, or none whose text can be used.
    """
    wanted = [code for code in languages or corpus.languages if code != pivot]
    for code in (pivot, *languages):
        if code not in corpus.languages:
            corpus.pairs(code, pivot)  # raises with the reason
    pairs, left_out = [], []
    for code in wanted:
        try:
            pairs.append(corpus.pairs(pivot, code))
        except PairsError as error:
            left_out.append(f"{code} is left out: {error}")
    if not pairs:
        raise PairsError(left_out[0] if left_out else f"there is no language beside {pivot}; name one with --langs.")
    return pairs, left_out


# ------------------------------------------------------------------------------------------------------ tables


def score_table(records: Sequence[Record], notes: Sequence[str]) -> Table:
    """One row a language and method: score, 95 % interval, p-value, and that corrected over the languages (Holm)."""
    methods = list(records[0]["scores"])
    corrected = {m: holm(record["p_value"].get(m) for record in records) for m in methods}
    rows: list[list[Cell]] = []
    for number, record in enumerate(records):
        for method in methods:
            low, high = record["ci"].get(method, (None, None))
            p_value = record["p_value"].get(method)
            row = [record["lang"], method, record["scores"][method], low, high, p_value, corrected[method][number]]
            rows.append([*row, record["signature"]])
    columns = ["language", "method", "score", "low", "high", "p", "p (Holm)", "signature"]
    title = f"Alignment of {records[0]['model']} with {records[0]['pivot']}"
    return Table(title, columns, rows, [*notes, *chance_notes(records)])


def retrieval_table(records: Sequence[Record], notes: Sequence[str], head: Container[str]) -> Table:
    """One row a language, representation and direction; `head` are the languages that the paper calls so.

    Accuracy with its 95 % interval over the sentences, the probability of it by chance (for the greatest layer
    multiplied by the number of layers), and that corrected over the languages (Holm).
    """
    rows: list[list[Cell]] = []
    for read, by_direction in records[0]["retrieval"].items():
        for direction in by_direction:
            found = [record["retrieval"][read][direction] for record in records]
            corrected = holm(numbers["p_value"] for numbers in found)
            for record, numbers, p_value in zip(records, found, corrected, strict=True):
                named = [record["lang"], _group(record, head), read, direction]
                rows.append([*named, numbers["accuracy"], *numbers["ci"], numbers["p_value"], p_value])
                rows[-1].append(record["signature"])
    columns = ["language", "group", "representation", "direction", "accuracy", "low", "high", "p", "p (Holm)"]
    title = f"Retrieval by {records[0]['model']}, source {records[0]['pivot']}"
    return Table(title, [*columns, "signature"], rows, [*notes, *_retrieval_chance(records)])


def _group(record: Record, head: Container[str]) -> str | None:
    """Head or long-tail; English, which has more data than any, is neither (paper, appendix A.1)."""
    if record["lang"] in head:
        return "head"
    return None if record["lang"] == ENGLISH else "long-tail"


def retrieval_summary(records: Sequence[Record], head: Container[str]) -> Table:
    """Tables 1 and 5 of the paper: accuracy averaged over head, long-tail and all languages."""
    grouped = [(record, _group(record, head)) for record in records]
    groups = {name: [record for record, group in grouped if group == name] for name in ("head", "long-tail")}
    groups["all"] = list(records)
    rows: list[list[Cell]] = []
    for read, by_direction in records[0]["retrieval"].items():
        for direction in by_direction:
            accuracies = [[r["retrieval"][read][direction]["accuracy"] for r in group] for group in groups.values()]
            rows.append([read, direction, *(cell for values in accuracies for cell in _mean_over_languages(values))])
            rows[-1].append(shared([record["signature"] for record in records]))
    columns = ["representation", "direction"]
    columns += [
        column for name, group in groups.items() for column in (f"{name} ({len(group)})", f"{name} low", f"{name} high")
    ]
    title = f"Retrieval by {records[0]['model']}, source {records[0]['pivot']}, averaged over languages"
    return Table(title, [*columns, "signature"], rows, ["Intervals: 95 % bootstrap over the languages."])


def _mean_over_languages(values: Sequence[float]) -> list[Cell]:
    """Mean and interval; none of no language, and no interval of one."""
    if not values:
        return [None] * 3
    return [fmean(values), *(significance.bootstrap_interval(values) if len(values) > 1 else (None, None))]


def layer_table(records: Sequence[Record], notes: Sequence[str]) -> Table:
    """One row a language, method and layer (paper, Fig. 2).

    Where the method is a share of pairs: its 95 % interval over them, Eq. 5's p-value, and that corrected over the
    languages and layers (Holm).
    """
    rows: list[list[Cell]] = []
    for method in records[0]["per_layer"]:
        measured = [(record, layer, value) for record in records for layer, value in _layers_of(record, method)]
        counts = [int(Signature.parse(record["signature"])["n"]) for record, _, _ in measured]
        is_share = method in ALIGNMENT
        p_values = [
            significance.chance_p_value(value, n) if is_share else None
            for (*_, value), n in zip(measured, counts, strict=True)
        ]
        for (record, layer, value), n, *ps in zip(measured, counts, p_values, holm(p_values), strict=True):
            ci = significance.share_interval(value, n) if is_share else (None, None)
            rows.append([record["lang"], method, layer, value, *ci, *ps, record["signature"]])
    columns = ["language", "method", "layer", "score", "low", "high", "p", "p (Holm)", "signature"]
    title = f"Alignment of {records[0]['model']} with {records[0]['pivot']} per layer"
    return Table(title, columns, rows, [*notes, *chance_notes(records)])


def _layers_of(record: Record, method: str) -> list[tuple[int, float]]:
    scores = record["per_layer"][method]
    return list(zip(layer_numbers(method, scores, record["signature"]), scores, strict=True))


def draw_layers(records: Sequence[Record], folder: Path) -> list[Path]:
    """A figure of the score per layer for each method (paper, Fig. 2), in the folder."""
    n = min(int(Signature.parse(record["signature"])["n"]) for record in records)
    paths = []
    for method in records[0]["per_layer"]:
        per_layer = {record["lang"]: record["per_layer"][method] for record in records}
        figure = layer_figure(per_layer, method, n, records[0]["model"], records[0]["signature"])
        paths.append(folder / f"layers-{file_name(records[0]['model'])}-{method}.png")
        figure.savefig(paths[-1], dpi=DPI)
    return paths


def file_name(name: str) -> str:
    """A model's name as part of a file's."""
    return re.sub(r"[^\w.+-]+", "-", name)


def compare_table(first: Sequence[Record], second: Sequence[Record], notes: Sequence[str]) -> Table:
    """One row a language and method of two models on the same pairs.

    Both scores, their difference with its 95 % interval over the sentence pairs, the p-value of the two-sided paired
    permutation test, and that corrected over the languages (Holm).
    """
    rows: list[list[Cell]] = []
    for method in (method for method in first[0]["scores"] if method in OVER_PAIRS):
        compared = [_compare(one, other, method) for one, other in zip(first, second, strict=True)]
        corrected = holm(p_value for *_, p_value in compared)
        for one, cells, p_value in zip(first, compared, corrected, strict=True):
            rows.append([one["lang"], method, *cells, p_value, one["signature"]])
    names = [str(records[0]["model"]) for records in (first, second)]
    if names[0] == names[1]:
        names = ["first", "second"]
    columns = ["language", "method", *names, "difference", "low", "high", "p", "p (Holm)", "signature"]
    other_signature = shared([record["signature"] for record in second])
    return Table(
        f"{names[1]} against {names[0]}, with {first[0]['pivot']}",
        columns,
        rows,
        [*notes, f"Signature of {names[1]}: {other_signature}"],
    )


def _compare(one: Record, other: Record, method: str) -> tuple[float, float, float, float, float, float]:
    """Both scores, the difference, its interval and its p-value."""
    before, now = (record["per_pair"][method] for record in (one, other))
    low, high = significance.bootstrap_interval([b - a for a, b in zip(before, now, strict=True)])
    p_value = significance.paired_p_value(now, before, "two-sided")
    scores = one["scores"][method], other["scores"][method]
    return *scores, scores[1] - scores[0], low, high, p_value


def for_people(table: Table) -> Table:
    """The table without its signatures, which the notes hold once, as far as they agree."""
    at = table.columns.index("signature")
    signatures = [str(row[at]) for row in table.rows]
    rows = [row[:at] + row[at + 1 :] for row in table.rows]
    columns = table.columns[:at] + table.columns[at + 1 :]
    return Table(table.title, columns, rows, [*table.notes, f"Signature: {shared(signatures)}"])


def shared(signatures: Sequence[str]) -> str:
    """What signatures agree in; the names alone of what differs."""
    return str(Signature.common(map(Signature.parse, signatures)))


def holm(p_values: Iterable[float | None]) -> list[float | None]:
    """Corrected over those that are there."""
    given = list(p_values)
    corrected = iter(significance.holm([p for p in given if p is not None]))
    return [None if p is None else next(corrected) for p in given]


def _retrieval_chance(records: Sequence[Record]) -> list[str]:
    counts = sorted({int(Signature.parse(record["signature"])["n"]) for record in records})
    return [
        f"By chance one direction reaches {1 / n:.4f} at a layer, both {significance.chance_level(n):.4f} ({n} pairs)."
        for n in counts
    ]


def chance_notes(records: Sequence[Record]) -> list[str]:
    """What chance gives the shares of weakly aligned pairs (Eq. 5)."""
    counts = sorted({int(Signature.parse(record["signature"])["n"]) for record in records})
    levels = ", ".join(f"{significance.chance_level(n):.4f} for {n} pairs" for n in counts)
    return [f"Chance level of NASCA, NAVCA and MEXA (Eq. 5): {levels}."]
