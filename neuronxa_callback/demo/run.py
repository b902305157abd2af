"""The demo's training run."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import ProgressCallback, TrainerCallback
from transformers.utils import logging as transformers_logging

from neuronxa_callback import plots
from neuronxa_callback.demo.callbacks import ChrF, InTime, OneLineEach
from neuronxa_callback.demo.text import (
    PIVOT,
    TRANSLATED,
    TRANSLATIONS,
    WATCHED,
    DemoError,
    check_held_out,
    shortest,
    translation_examples,
)
from neuronxa_callback.quality.evaluator import QualityReport
from neuronxa_callback.run_page.write import Asked, write
from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.text.pairs import ParallelPairs
from neuronxa_callback.training.callback import NeuronXACallback
from neuronxa_callback.training.history import History
from neuronxa_callback.training.page import RunPageError
from neuronxa_callback.training.records import Evaluation
from neuronxa_callback.training.summary import language_curves

BATCH_SIZE = 8


@dataclass(frozen=True)
class DemoRun:
    """The results of the demo.

    Attributes:
        output_dir: folder of all its files.
        figure: the picture of its curves.
        page: its page, None if that could not be written.
        no_page: why there is no page; empty if there is one.
        history: its evaluations in step order.
        translations: (step, chrF) at the start and at the end.
        minutes: how long it took.
    """

    output_dir: Path
    figure: Path
    page: Path | None
    no_page: str
    history: list[Evaluation]
    translations: list[tuple[int, QualityReport]]
    minutes: float


@contextmanager
def one_bar() -> Iterator[None]:
    """Show only the progress bar of the training steps, and hide notes for authors of libraries."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    # Loading the weights and the five passes over 1440 examples take seconds. Each would leave a bar on the screen.
    weights, passes = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            # TRL and transformers themselves read the old name. Releases before 5.23 have only that name.
            warnings.filterwarnings("ignore", r"`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        if weights:
            transformers_logging.enable_progress_bar()
        if passes:
            enable_progress_bars()


def run(model_path: Path, output_dir: Path, steps: int, eval_steps: int, minutes: float, console: Console) -> DemoRun:
    """Fine-tune the model in NF4 with LoRA on the embedded training set and watch three languages.

    Args:
        model_path: folder of a causal language model and its tokenizer.
        output_dir: folder for TensorBoard events, scores.jsonl, the figure and the page.
        steps: training steps of 8 sentence pairs.
        eval_steps: steps between two evaluations.
        minutes: the time limit; a slow machine makes fewer steps.
        console: the console to print to.

    Raises:
        DemoError: the model or a package is missing, or the training text holds held-out sentences.
    """
    start = time.perf_counter()
    pairs = [ParallelPairs.load(f"{PIVOT}-{language}") for language in WATCHED]
    examples = translation_examples(embedded("demo_train.tsv"))
    check_held_out(pairs, examples)
    console.print(
        f"{len(examples)} training examples; none of the {len(pairs[0])} held-out sentences is among them, "
        "in any of the four languages."
    )
    # A demo without scores has nothing to show, so an error ends it.
    chrf = ChrF(shortest(pairs[WATCHED.index(TRANSLATED)], TRANSLATIONS))
    callbacks = [
        NeuronXACallback(pairs, eval_steps=eval_steps, quality=(), max_overhead=1, on_error="raise"),
        InTime(start, 60 * minutes, eval_steps, chrf),
        chrf,
    ]
    with one_bar():
        _trainer(model_path, output_dir, examples, steps, callbacks).train()
    history = History(output_dir).read()
    figure = output_dir / "alignment.png"
    made = history[-1].step
    if made < steps:
        console.print(f"Stopped at step {made} of {steps}, to end within {minutes:g} minutes (--minutes).")
    title = f"{model_path.name}, 4-bit LoRA, {made} steps"
    plots.curve_figure(language_curves(history, "nasca"), "nasca", len(pairs[0]), title).savefig(figure)
    page, no_page = page_of(output_dir)
    return DemoRun(output_dir, figure, page, no_page, history, chrf.reports, (time.perf_counter() - start) / 60)


def page_of(output_dir: Path) -> tuple[Path | None, str]:
    """Write the page of the run and return it, or None and why it cannot be written: the scores are worth telling."""
    try:
        return write(Asked([output_dir])), ""
    except RunPageError as error:
        return None, str(error)


def _trainer(
    model_path: Path, output_dir: Path, examples: list[dict[str, str]], steps: int, callbacks: list[TrainerCallback]
) -> Any:
    try:
        import plotly  # noqa: F401 - the page at the end needs it, which should not come to light after training
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
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(examples),
        processing_class=AutoTokenizer.from_pretrained(model_path, trust_remote_code=False),
        peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear"),
        callbacks=callbacks,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(OneLineEach())
    return trainer
