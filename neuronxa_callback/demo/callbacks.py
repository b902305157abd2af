"""The demo's own callbacks: chrF at the start and the end, a time limit, and one line for each measurement."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from neuronxa_callback.demo.text import PIVOT, WATCHED
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality.evaluator import QualityEvaluator, QualityReport
from neuronxa_callback.quality.prompts import PLAIN_PROMPT
from neuronxa_callback.text.languages import language_name
from neuronxa_callback.text.pairs import ParallelPairs
from neuronxa_callback.training.metric_names import quality_metrics, translation_metrics
from neuronxa_callback.training.trainer import Moment


class ChrF(TrainerCallback):
    """Logs the chrF of a few translations at the start and at the end.

    On a CPU it would take too long to translate at every evaluation.

    Args:
        pairs: the pairs whose sources are translated.
    """

    def __init__(self, pairs: ParallelPairs) -> None:
        self.quality = QualityEvaluator("chrf", [pairs], prompt=PLAIN_PROMPT)
        self.reports: list[tuple[int, QualityReport]] = []  # each with its step
        self.seconds = 0.0  # duration of the last translation and scoring

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Translate with the model before it is trained."""
        if state.global_step == 0:
            self._translate(state, control, kwargs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Translate after the last step, while the trackers are still open."""
        if control.should_training_stop:
            self._translate(state, control, kwargs)

    def _translate(self, state: TrainerState, control: TrainerControl, kwargs: dict[str, Any]) -> None:
        start = time.perf_counter()
        moment = Moment.of(self, control, kwargs)
        with moment.trainer.accelerator.autocast():
            decoder = Decoder.find(moment.model, moment.tokenizer())
            report = self.quality.score(self.quality.translate(decoder))
        self.seconds = time.perf_counter() - start
        self.reports.append((state.global_step, report))
        moment.log(quality_metrics(report, ["chrf"]) | translation_metrics(report))


class InTime(TrainerCallback):
    """Stops training if the next evaluation would end too late, so that a slow machine gets a shorter run.

    Args:
        start: `time.perf_counter()` at the beginning.
        seconds: the time limit of the whole demo.
        eval_steps: steps between two evaluations.
        chrf: the callback that translates at the end. It takes about as long as it did at the start.
    """

    def __init__(self, start: float, seconds: float, eval_steps: int, chrf: ChrF) -> None:
        self.start, self.seconds, self.eval_steps, self.chrf = start, seconds, eval_steps, chrf
        self.last = start

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop if the time left is shorter than the last round of steps and evaluation, plus the translations."""
        if state.global_step % self.eval_steps:
            return
        now = time.perf_counter()
        if now + (now - self.last) + self.chrf.seconds > self.start + self.seconds:
            control.should_training_stop = True
        self.last = now


class OneLineEach(ProgressCallback):
    """The Trainer's progress bar, with one line above it for each measurement instead of all metrics of the log."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print the loss, NASCA or chrF."""
        line = logged_line(logs or {})
        if line and self.training_bar is not None:
            self.training_bar.write(f"step {state.global_step}: {line}")


def logged_line(logs: Mapping[str, Any]) -> str | None:
    """Return one entry of the Trainer's log in words. None if the table at the end shows it better."""
    if "loss" in logs:
        return f"loss {logs['loss']:.3f}"
    if "eval_nasca" in logs:
        of_each = (f"{language_name(code)} {logs[f'eval_nasca_{PIVOT}-{code}']:.4f}" for code in WATCHED)
        return f"NASCA {logs['eval_nasca']:.4f} ({', '.join(of_each)})"
    return f"chrF {logs['eval_chrf']:.1f}" if "eval_chrf" in logs else None
