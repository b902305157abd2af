"""`neuronxa demo`: a real 4-bit LoRA fine-tuning run on the embedded data, with alignment watched."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from neuronxa_callback import plots
from neuronxa_callback.quality.evaluator import QualityEvaluator, QualityReport
from neuronxa_callback.quality.translation import PLAIN_PROMPT
from neuronxa_callback.significance import chance_level
from neuronxa_callback.text.overlap import search
from neuronxa_callback.text.pairs import ParallelPairs, embedded, language_name
from neuronxa_callback.training.callback import (
    NeuronXACallback,
    calling_trainer,
    log_metrics,
    quality_metrics,
    translation_metrics,
)
from neuronxa_callback.training.history import History

PIVOT = "eng_Latn"
WATCHED = ("isl_Latn", "fra_Latn", "spa_Latn")
TRANSLATED = "fra_Latn"
TRANSLATIONS = 20
SIGNIFICANCE = 0.05
BATCH_SIZE = 8


class DemoError(RuntimeError):
    """Something the demo needs is not there; the message says what to do."""


@dataclass(frozen=True)
class DemoRun:
    """What the demo left behind."""

    output_dir: Path
    figure: Path
    history: list[dict[str, Any]]
    translations: list[tuple[int, QualityReport]]
    minutes: float


class ChrF(TrainerCallback):
    """Log chrF of a few translations at the start and at the end; each evaluation would take a CPU too long.

    Args:
        pairs: what is translated.
    """

    def __init__(self, pairs: ParallelPairs) -> None:
        self.quality = QualityEvaluator("chrf", [pairs], prompt=PLAIN_PROMPT)
        self.reports: list[tuple[int, QualityReport]] = []  # with the step of each
        self.seconds = 0.0  # that the last of them took

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Translate with the model as it comes."""
        if state.global_step == 0:
            self._translate(state, control, kwargs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Translate after the last step, while the trackers are still open."""
        if control.should_training_stop:
            self._translate(state, control, kwargs)

    def _translate(self, state: TrainerState, control: TrainerControl, kwargs: dict[str, Any]) -> None:
        start = time.perf_counter()
        trainer = calling_trainer(self)
        with trainer.accelerator.autocast():
            report = self.quality.score(self.quality.translate(kwargs["model"], kwargs["processing_class"]))
        self.seconds = time.perf_counter() - start
        self.reports.append((state.global_step, report))
        log_metrics(trainer, control, quality_metrics(report, ["chrf"]) | translation_metrics(report))


class InTime(TrainerCallback):
    """Stop after the last evaluation whose successor would end too late, so that a slow machine gets a shorter run.

    Args:
        start: `time.perf_counter()` of the beginning.
        seconds: how long all may take.
        eval_steps: steps between two evaluations.
        chrf: translates at the end, about as long as it did at the start.
    """

    def __init__(self, start: float, seconds: float, eval_steps: int, chrf: ChrF) -> None:
        self.start, self.seconds, self.eval_steps, self.chrf = start, seconds, eval_steps, chrf
        self.last = start

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Compare the time left with what the last round of steps and evaluation took."""
        if state.global_step % self.eval_steps:
            return
        now = time.perf_counter()
        if now + (now - self.last) + self.chrf.seconds > self.start + self.seconds:
            control.should_training_stop = True
        self.last = now


def run(model_path: Path, output_dir: Path, steps: int, eval_steps: int, minutes: float, console: Console) -> DemoRun:
    """Fine-tune the model in NF4 with LoRA on the embedded training set and watch three languages.

    Args:
        model_path: folder of a causal language model and its tokenizer.
        output_dir: where TensorBoard events, scores.jsonl and the figure go.
        steps: training steps of 8 sentence pairs.
        eval_steps: steps between two evaluations.
        minutes: how long it may take; a slow machine makes fewer steps.
        console: where the story is told.

    Raises:
        DemoError: the model or a package is missing, or held-out sentences stand in the training text.
    """
    start = time.perf_counter()
    pairs = [ParallelPairs.load(f"{PIVOT}-{language}") for language in WATCHED]
    examples = translation_examples(embedded("demo_train.tsv"))
    check_held_out(pairs, examples)
    console.print(
        f"{len(examples)} training examples; none of the {len(pairs[0])} held-out sentences is among them, "
        "in any of the four languages."
    )
    # Without its scores a demo has nothing to show: it fails with the reason instead of going on.
    chrf = ChrF(shortest(pairs[WATCHED.index(TRANSLATED)], TRANSLATIONS))
    callbacks = [
        NeuronXACallback(pairs, eval_steps=eval_steps, quality=(), max_overhead=1, on_error="raise"),
        InTime(start, 60 * minutes, eval_steps, chrf),
        chrf,
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # notes to library authors would bury the progress bar
        _trainer(model_path, output_dir, examples, steps, callbacks).train()
    history = History(output_dir).read()
    figure = output_dir / "alignment.png"
    made = history[-1]["step"]
    if made < steps:
        console.print(f"Stopped at step {made} of {steps}, to end within {minutes:g} minutes (--minutes).")
    title = f"{model_path.name}, 4-bit LoRA, {made} steps"
    plots.curve_figure(history, "nasca", len(pairs[0]), title).savefig(figure)
    return DemoRun(output_dir, figure, history, chrf.reports, (time.perf_counter() - start) / 60)


def shortest(pairs: ParallelPairs, n: int) -> ParallelPairs:
    """The n pairs with the shortest sources, which are translated soonest."""
    source, target = zip(
        *sorted(zip(pairs.source, pairs.target, strict=True), key=lambda p: len(p[0]))[:n], strict=True
    )
    return ParallelPairs(source, target, pairs.source_lang, pairs.target_lang)


def translation_examples(columns: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Prompt and completion of every sentence, from English into each language and back."""
    examples = []
    for language in WATCHED:
        for english, other in zip(columns[PIVOT], columns[language], strict=True):
            examples.append(_example(PIVOT, english, language, other))
            examples.append(_example(language, other, PIVOT, english))
    return examples


def _example(source_lang: str, source: str, target_lang: str, target: str) -> dict[str, str]:
    names = {"source_language": language_name(source_lang), "target_language": language_name(target_lang)}
    return {"prompt": PLAIN_PROMPT.format(source=source, **names), "completion": f" {target}"}


def check_held_out(pairs: Sequence[ParallelPairs], examples: Sequence[Mapping[str, str]]) -> None:
    """Raise DemoError if a held-out sentence stands in the training text."""
    texts = [example[part] for example in examples for part in ("prompt", "completion")]
    report = search(texts, pairs)
    if report.examples:
        raise DemoError(
            f"{report.whole + report.near} training texts hold a held-out sentence or nearly one, such as "
            f"{report.examples[0]['sentence']!r}."
        )


def _trainer(
    model_path: Path, output_dir: Path, examples: list[dict[str, str]], steps: int, callbacks: list[TrainerCallback]
) -> Any:
    try:
        from datasets import Dataset
        from peft import LoraConfig
        from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
        from trl import SFTConfig, SFTTrainer
    except ImportError as error:
        raise DemoError(f"{error}. Install the training extra: pip install 'neuronxa-callback[train]'.") from None
    if not (model_path / "config.json").exists():
        raise DemoError(f"there is no model in {model_path}; `make model` puts SmolLM2-135M-Instruct there.")
    on_gpu = torch.cuda.is_available()
    # Without bf16 instructions a CPU computes bfloat16 in 4-bit layers more than ten times slower than float32.
    dtype = torch.bfloat16 if on_gpu else torch.float32
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(
        model_path, dtype=dtype, quantization_config=quantization, trust_remote_code=False
    )
    args = SFTConfig(
        output_dir=str(output_dir),
        max_steps=steps,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=1e-3,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=5,
        bf16=on_gpu,
        gradient_checkpointing=False,
        max_length=128,
        logging_steps=5,
        save_strategy="no",
        dataloader_pin_memory=on_gpu,
        report_to="tensorboard",
        seed=1,
    )
    return SFTTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(examples),
        processing_class=AutoTokenizer.from_pretrained(model_path, trust_remote_code=False),
        peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear"),
        callbacks=callbacks,
    )


def summarise(run: DemoRun, console: Console) -> None:
    """Print what happened: a table, a sentence on what it means, and where everything is."""
    first, last = run.history[0], run.history[-1]
    table = Table(title=f"NASCA on {_pairs_in(last)} held-out pairs, English with", title_justify="left")
    for column in (
        "",
        f"step {first['step']}",
        f"step {last['step']}",
        "95 % interval",
        "p by chance",
        "above chance",
    ):
        table.add_column(column, justify="left" if not column else "right")
    above: list[str] = []
    below: list[str] = []
    for name, entry in last["languages"].items():
        language = language_name(name.partition("-")[2])
        low, high = entry["ci"]["nasca"]
        p_value = entry["p_value"]["nasca"]
        (above if p_value < SIGNIFICANCE else below).append(language)
        table.add_row(
            language,
            f"{first['languages'][name]['score']['nasca']:.4f}",
            f"{entry['score']['nasca']:.4f}",
            f"{low:.3f} to {high:.3f}",
            f"{p_value:.2g}",
            "yes" if p_value < SIGNIFICANCE else "no",
        )
    console.print()
    console.print(table)
    console.print(f"The chance level is {chance_level(_pairs_in(last)):.4f}.", _verdict(above, below))
    _tell_translations(run.translations, console)
    console.print(
        "This is a small English model, which knows next to no Icelandic. For Icelandic take a multilingual model on "
        "a GPU, Llama-3.1-8B for example, with the same callback."
    )
    console.print(f"\nThis took {run.minutes:.1f} minutes.")
    # Paths and commands stay on one line, so that they can be copied.
    console.print(f"Scores: {History(run.output_dir).path}", soft_wrap=True)
    console.print(f"Figure: {run.figure}", soft_wrap=True)
    console.print(f"Curves: tensorboard --logdir {run.output_dir}", soft_wrap=True)


def _tell_translations(reports: Sequence[tuple[int, QualityReport]], console: Console) -> None:
    """Say the chrF at the start and at the end, and how the sentence was translated at each."""
    scores = [f"{report.mean('chrf'):.1f} at step {step}" for step, report in reports]
    console.print(f"chrF of {TRANSLATIONS} translations into {language_name(TRANSLATED)}: {', '.join(scores)}.")
    for step, report in reports:
        (direction,) = report.by_direction.values()
        console.print(f"  step {step}: {escape(direction.translations.texts[0])}", highlight=False)


def _pairs_in(record: Mapping[str, Any]) -> int:
    return min(len(entry["per_pair"]["nasca"]) for entry in record["languages"].values())


def _verdict(above: Sequence[str], below: Sequence[str]) -> str:
    sentences = []
    if above:
        verb = "is" if len(above) == 1 else "are"
        sentences.append(f"At the end {' and '.join(above)} {verb} above it (p < {SIGNIFICANCE} each).")
    if below:
        sentences.append(f"{' and '.join(below)} {'is' if len(below) == 1 else 'are'} not.")
    return " ".join(sentences)
