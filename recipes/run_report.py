"""What a run leaves beside its adapter: a model card with its scores and figures, and the merged model."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from languages import Languages, short
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig

from neuronxa_callback import __version__
from neuronxa_callback.tables import markdown_table
from neuronxa_callback.text.languages import language_name
from neuronxa_callback.training import page as run_page
from neuronxa_callback.training.certainty import HEADER, READING, certainty_rows
from neuronxa_callback.training.history import History
from neuronxa_callback.training.page_correlations import correlations_of, points_of, run_part, sentences_part
from neuronxa_callback.training.records import Evaluation, methods_of
from neuronxa_callback.vocabulary import Method, score_name

PACKAGES = (
    *("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets"),
    *("sacrebleu", "py3langid"),  # by which quality is scored and training text is cleaned
)
FIGURES = {  # of the Markdown page; a run may lack some, and one of several methods has one a method, layers-nasca.png
    "alignment": "Alignment over training steps",
    "quality_over_steps": "Translation quality over training steps",
    "quality": "Translation quality against alignment",
    "layers": "Alignment per layer",
}


@dataclass(frozen=True)
class Run:
    """What the card says about a run beside its scores.

    Attributes:
        base_model: hub name or folder.
        recipe: the script's name.
        languages: the languages of the run.
        command: the command that made the run, as a list of arguments.
        processes: how many processes trained and by which engine. None if there was one process.
        step: the step of the saved weights.
        stopped: why the run ended before its last step. None if it did not.
        watched: name of the pairs that were scored during training.
        tested: name of the pairs by which nothing was chosen. None if there were none.
        test_scores: metric -> score on the tested pairs.
        counts: training text -> how many rows each filter removed.
        notes: sentences on what is missing.
        fingerprints: name of held-out pairs -> the fingerprint of their sentences.
    """

    base_model: str
    recipe: str
    languages: Languages
    command: Sequence[str]
    processes: str | None
    step: int
    stopped: str | None
    watched: str
    tested: str | None
    test_scores: Mapping[str, float]
    counts: Mapping[str, Mapping[str, int]]
    notes: Sequence[str]
    fingerprints: Mapping[str, str]


def write(output_dir: Path, run: Run) -> Path:
    """Draw the run's figures and write its model card.

    Args:
        output_dir: the Trainer's `output_dir`, with the run's scores.
        run: what the card says beside the scores.

    Returns:
        the card, OUTPUT_DIR/README.md.

    Raises:
        RunPageError: there are no scores.
    """
    page = run_page.write(output_dir)
    evaluations = History(output_dir).read()
    data = ModelCardData(
        model_name=output_dir.resolve().name,
        base_model=run.base_model,
        language=[short(code) for code in run.languages.trained],
        library_name="peft",
        pipeline_tag="translation",
        tags=["neuronxa", "translation"],
        eval_results=_results(evaluations, run),
    )
    parts = [
        f"# {output_dir.resolve().name}",
        _beginning(run),
        *_test_part(run),
        *_best_part(evaluations, run),
        *_correlation_part(evaluations),
        *_figure_part(page, output_dir),
        *_text_part(run),
        *_how_part(run),
    ]
    card = output_dir / "README.md"
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n").save(card)
    return card


def merge(output_dir: Path, model_args: ModelConfig) -> Path:
    """Merge the adapter into the base model's own weights, not into those in 4-bit, and save the result.

    Args:
        output_dir: the folder with the adapter and the tokenizer.
        model_args: the base model, and the dtype of the merged weights.

    Returns:
        the folder of the merged model, OUTPUT_DIR/merged.
    """
    name, revision, dtype = model_args.model_name_or_path, model_args.model_revision, model_args.dtype
    base = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=dtype, trust_remote_code=False)
    merged = PeftModel.from_pretrained(base, output_dir).merge_and_unload()
    merged.save_pretrained(output_dir / "merged")
    AutoTokenizer.from_pretrained(output_dir).save_pretrained(output_dir / "merged")
    return output_dir / "merged"


# ---------------------------------------------------------------------------------------------- what the scores say


def _best(evaluations: Sequence[Evaluation], run: Run) -> Evaluation:
    """Return the evaluation with the highest NASCA.

    If several are equal, the one of the saved weights counts first, then one of the training.
    """
    scored = [evaluation for evaluation in evaluations if "nasca" in evaluation.score]
    return max(scored, key=lambda e: (e.score["nasca"], e.step == run.step, e.step > 0))


def _results(evaluations: Sequence[Evaluation], run: Run) -> list[EvalResult]:
    """Return the model index: the scores of the saved weights on the watched pairs and on the test."""
    of_step = [evaluation for evaluation in evaluations if evaluation.step == run.step]
    found = [("validation", run.watched, evaluation.all_scores) for evaluation in of_step]
    if run.tested:
        found.append(("test", run.tested, dict(run.test_scores)))
    return [
        EvalResult(
            task_type="translation",
            dataset_type="parallel-pairs",
            dataset_name=name,
            dataset_config=", ".join(run.languages.trained_pairs),
            dataset_split=split,
            metric_type=metric,
            metric_name=score_name(metric),
            metric_value=round(score, 4),
        )
        for split, name, scores in found
        for metric, score in scores.items()
    ]


# ---------------------------------------------------------------------------------------------- its text


def _beginning(run: Run) -> str:
    ended = f" The run ended before its last step: {run.stopped}." if run.stopped else ""
    return (
        f"This is a LoRA adapter for `{run.base_model}`, for {run.languages.described}. `{run.recipe}` of "
        f"neuronxa-callback made it. The weights are those of step {run.step}.{ended} Alignment is NASCA, the share of "
        "held-out sentence pairs that find each other by the neurons they activate "
        "([paper](https://aclanthology.org/2025.acl-long.1406/))."
    )


def _test_part(run: Run) -> list[str]:
    if run.tested is None:
        return ["There was no test set. Every score below is on the pairs that were watched during training."]
    rows = [(score_name(metric), f"{score:.4f}") for metric, score in run.test_scores.items()]
    source, *targets = map(language_name, run.languages.trained)
    setting = (
        f"These are the scores of the saved weights on {run.tested}, {source} to {' and to '.join(targets)} and back. "
        "Nothing was chosen by these pairs."
    )
    return ["## Test", setting, markdown_table(("score", "value"), rows)]


def _best_part(evaluations: Sequence[Evaluation], run: Run) -> list[str]:
    best = _best(evaluations, run)
    empty = [""] * len(HEADER[2:])
    rows = certainty_rows(best, methods_of([best]))
    rows += [(score_name(metric), f"{score:.4f}", *empty) for metric, score in best.quality_score.items()]
    chosen = (
        f"This step has the highest NASCA of {len(evaluations)} evaluations on {run.watched}. It was chosen because it "
        "is the highest, so it is above what the same weights would score on other pairs."
    )
    title = f"## Best step: {best.step}" + ("" if best.step else ", before training")
    return [title, chosen, *_start_part(evaluations, best), markdown_table(HEADER, rows), READING, *run.notes]


def _start_part(evaluations: Sequence[Evaluation], best: Evaluation) -> list[str]:
    """Return a sentence if training did not raise the highest score, because the base model is no checkpoint."""
    start = next((evaluation.score.get("nasca") for evaluation in evaluations if evaluation.step == 0), None)
    if start is None or best.score["nasca"] > start:
        return []
    return [f"No evaluation scored above the model before training, whose NASCA was {start:.4f}."]


def _correlation_part(evaluations: Sequence[Evaluation]) -> list[str]:
    points = {method: points_of(evaluations, method) for method in methods_of(evaluations)}
    correlations = {method: correlations_of(by_metric) for method, by_metric in points.items()}
    if not any(points.values()):
        return ["## Alignment and quality", "There is no correlation. No evaluation has scores of both."]
    return ["## Alignment and quality", *run_part(points, correlations), *sentences_part(evaluations)]


def _figure_part(page: Path, output_dir: Path) -> list[str]:
    folder = page.parent.relative_to(output_dir)
    names = {f"{what}.png": title for what, title in FIGURES.items()}
    names |= {f"{w}-{m}.png": f"{title}, {score_name(m)}" for w, title in FIGURES.items() for m in get_args(Method)}
    shown = page.read_text(encoding="utf-8")  # a folder may hold figures of an earlier page, too
    images = [f"![{title}]({(folder / name).as_posix()})" for name, title in names.items() if f"({name})" in shown]
    link = f"[The Markdown page]({(folder / page.name).as_posix()}) has missing scores, signatures and the rest."
    return ["## Curves", *images, link]


def _text_part(run: Run) -> list[str]:
    rows = [(text, name, f"{count:,}") for text, removed in run.counts.items() for name, count in removed.items()]
    return ["## Training text", markdown_table(("text", "rows", "count"), rows)]


def _how_part(run: Run) -> list[str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    versions = [("Python", platform.python_version()), ("neuronxa-callback", __version__), *_installed()]
    versions.append(("device", device))
    if run.processes:
        versions.append(("processes", run.processes))
    parts = ["## How it was made", f"```\n{shlex.join(run.command)}\n```"]
    held = ", ".join(f"{name} (`{fingerprint}`)" for name, fingerprint in run.fingerprints.items())
    if "--config" in run.command:
        config = Path(run.command[run.command.index("--config") + 1])
        parts += [
            f"The configuration is `{config.name}`:",
            f"```yaml\n{config.read_text(encoding='utf-8').strip()}\n```",
        ]
    parts.append(f"The held-out pairs, each with the fingerprint of its sentences: {held}.")
    return [*parts, markdown_table(("package", "version"), versions)]


def _installed() -> Iterator[tuple[str, str]]:
    """Yield each of PACKAGES that is installed, and its version. A run without 4-bit weights needs no bitsandbytes."""
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            yield name, version(name)
