"""`neuronxa sweep`: score a finished run's checkpoints in step order, into the files that the callback writes."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.progress import Progress

from neuronxa_callback.alignment.encoder import NonFiniteActivationError
from neuronxa_callback.alignment.evaluator import NeuronXAEvaluator
from neuronxa_callback.alignment.report import AlignmentReport
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.loading import Checkpoint, Loader, ModelError, check_packages, load_tokenizer, read_json
from neuronxa_callback.model.state import TokenBudget
from neuronxa_callback.quality.comet import environment as comet_environment
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.quality.queue import PendingScores, ScoreQueue
from neuronxa_callback.quality.translation import Translations
from neuronxa_callback.ranks import RankError, Ranks
from neuronxa_callback.signature import Signature
from neuronxa_callback.training.continuation import measured_again, other_choices, scored_again
from neuronxa_callback.training.history import History, correlations
from neuronxa_callback.training.metric_names import (
    correlation_metrics,
    faithfulness_metrics,
    metrics_of,
    quality_metrics,
    translation_metrics,
)
from neuronxa_callback.training.records import UNMEASURED, Evaluation
from neuronxa_callback.vocabulary import Dtype

logger = logging.getLogger(__name__)

CHECKPOINT = re.compile(r"checkpoint-([1-9]\d*)")

BASE_REMEDY = "name the folder or the hub name of the base model with --base"
ADAPTER_REMEDY = "name the base model that it was trained on with --base"
CHECKPOINT_REMEDY = "if the run ended while it was being saved, move it away"

# Field of a signature -> the option that changes it.
OPTION_OF = {
    "languages": "--pairs",
    "pair": "--pairs",
    "n": "--pairs and --translate-n",
    "data": "--pairs and --translate-n",
    "of": "--pairs and --translate-n",
    "method": "--methods",
    "dtype": "--dtype and --load-in-4bit",
    "directions": "--direction and --quality-pairs",
    "prompt": "--prompt",
    "comet": "--comet-model",
    "cometkiwi": "--cometkiwi-model",
    "comet's dtype": "--comet-dtype",
    "cometkiwi's dtype": "--comet-dtype",
}


class SweepError(ModelError):
    """The checkpoints of a run cannot be scored. The message names the place and says what to do."""


def run(
    output_dir: str | Path,
    evaluator: NeuronXAEvaluator,
    quality: QualityEvaluator | None = None,
    *,
    base: str | Path | None = None,
    dtype: Dtype = "auto",
    load_in_4bit: bool = False,
    device: str | None = None,
    progress: Progress | None = None,
    ranks: Ranks = Ranks(),
) -> list[Evaluation]:
    """Score the checkpoints of a finished run that have no scores yet.

    Each checkpoint's line is written to disk as soon as it is scored, so a sweep that was stopped can continue. If a
    line has alignment but lacks quality metrics, the sweep adds them. COMET scores in the background while the sweep
    works on the next checkpoint.

    Step 0 is the base model. For adapters it is always scored, because LoRA starts as the identity. For full models it
    is scored only if `base` names it.

    Several processes share the sentences of each checkpoint, not the checkpoints: so a line is on the disk as soon as
    its checkpoint is done, and the lines come in step order. Each process loads each model. The first alone writes and
    runs COMET.

    Usage:
        ```python
        evaluations = sweep.run("runs/mine", NeuronXAEvaluator("eng_Latn-isl_Latn"), dtype="bfloat16")
        ```

    Args:
        output_dir: the Trainer's `output_dir`, with its `checkpoint-N` folders.
        evaluator: the evaluator that scores alignment.
        quality: the evaluator that translates and scores the translations. It is closed at the end. None translates
            nothing.
        base: folder or hub name of the base model. None takes the one that the adapters name.
        dtype: data type of the weights, or of the computation if they are in 4-bit. "auto" takes the data type in the
            configuration of the base, or of the last full model.
        load_in_4bit: whether to load the weights in NF4.
        device: "cpu", "cuda" or "cuda:N". None takes a GPU if there is one.
        progress: a progress display. It gets a task that counts the checkpoints.
        ranks: the processes that share the work. All of them must make this call.

    Returns:
        the lines of `scores.jsonl`, in step order.

    Raises:
        SweepError: the checkpoints cannot be found or loaded, or `scores.jsonl` was made with other choices. The
            check comes before anything is written into the file.
        CometEnvironmentError: COMET is wanted but has no environment.
        ValueError: an argument or a model cannot be used; see `NeuronXAEvaluator.check`.
        RankError: another process failed.
    """
    with quality or QualityEvaluator((), evaluator.pairs) as scorer:
        with ranks.together():
            checkpoints = find_checkpoints(Path(output_dir), base)
            check_packages(checkpoints, load_in_4bit)
            if scorer.slow and ranks.is_first:
                comet_environment.find_python()  # otherwise the user would learn hours later that it lacks
            tokenizer = load_tokenizer(checkpoints)
            loader = Loader(checkpoints, dtype, load_in_4bit, device)
        queue = ScoreQueue(scorer.slow)
        curves, budget = Curves(Path(output_dir)), TokenBudget(evaluator.token_budget)
        scoring = _Scoring(evaluator, scorer, tokenizer, loader, History(output_dir), curves, queue, budget, ranks)
        try:
            scoring.score_all(checkpoints, progress or Progress(disable=True))
        finally:
            scoring.curves.close()
        return ranks.first_does(scoring.history.read)


# -------------------------------------------------------------------------------------------------- checkpoints


def find_checkpoints(output_dir: Path, base: str | Path | None = None) -> list[Checkpoint]:
    """Return the run's models in step order. The base model comes first if it is known.

    Raises:
        SweepError: there are no checkpoints, one of them is not a model, or they do not belong together.
    """
    if not output_dir.is_dir():
        raise SweepError(f"{output_dir} does not exist; give the output_dir of a finished run.")
    folders = [folder for folder in output_dir.iterdir() if CHECKPOINT.fullmatch(folder.name) and folder.is_dir()]
    if not folders:
        raise SweepError(
            f"{output_dir} has no checkpoint-N folder; give the output_dir of a run that saved checkpoints."
        )
    checkpoints = sorted(map(_read_checkpoint, folders), key=lambda checkpoint: checkpoint.step)
    adapters = [checkpoint for checkpoint in checkpoints if checkpoint.adapter is not None]
    if adapters and len(adapters) < len(checkpoints):
        full = next(checkpoint for checkpoint in checkpoints if checkpoint.adapter is None)
        raise SweepError(
            f"{adapters[0].source} is an adapter and {full.source} a full model, so they are not from one run; "
            "move the checkpoints of the other run away."
        )
    base = base or (_base_of(adapters) if adapters else None)
    if base:
        checkpoints.insert(0, Checkpoint(str(base), step=0, epoch=0, remedy=BASE_REMEDY))
    return checkpoints


def _read_checkpoint(folder: Path) -> Checkpoint:
    is_adapter = (folder / "adapter_config.json").exists()
    if not is_adapter and not (folder / "config.json").exists():
        raise SweepError(f"{folder} holds no model (neither adapter_config.json nor config.json); {CHECKPOINT_REMEDY}.")
    state = folder / "trainer_state.json"
    return Checkpoint(
        step=int(folder.name.rpartition("-")[2]),
        source=str(folder),
        epoch=read_json(state).get("epoch") if state.exists() else None,
        adapter=read_json(folder / "adapter_config.json") if is_adapter else None,
        remedy=ADAPTER_REMEDY if is_adapter else CHECKPOINT_REMEDY,
    )


def _base_of(adapters: Sequence[Checkpoint]) -> str:
    """Return the base model that all adapters name.

    Raises:
        SweepError: they name none, or several.
    """
    bases = {(adapter.adapter or {}).get("base_model_name_or_path") or "" for adapter in adapters}
    if bases == {""}:
        raise SweepError(f"{adapters[0].source}/adapter_config.json names no base model; name it with --base.")
    if len(bases) > 1:
        raise SweepError(
            f"the adapters in {Path(adapters[0].source).parent} name {len(bases)} base models "
            f"({', '.join(sorted(bases))}); name the one they were trained on with --base."
        )
    return str(bases.pop())


# --------------------------------------------------------------------------------------------- what is there already


def _unscored(evaluation: Evaluation | None, quality: QualityEvaluator) -> list[str]:
    """Return the wanted metrics that have no score. A new sweep tries metrics again that gave none before."""
    scored = evaluation.scored_metrics if evaluation else []
    return [metric for metric in quality.metrics if metric not in scored]


def _check_series(history: History, evaluator: NeuronXAEvaluator, quality: QualityEvaluator, decoder: Decoder) -> None:
    """Raise SweepError if the lines on disk were made with other choices, because one curve must mean one thing."""
    wanted = {pair.name: evaluator.signature(pair, decoder) for pair in evaluator.pairs}
    jobs = quality.jobs if quality.metrics else {}
    translated = {name: quality.signature(name, decoder) for name in jobs}
    for evaluation in history.read():
        differ = other_choices(evaluation, wanted, translated, quality.comet)
        if differ:
            choices = "; ".join(f"{name} {theirs} there, {ours} here" for name, (theirs, ours) in differ.items())
            # Autocast belongs to the Trainer. No option of ours can turn it on.
            fitting = [OPTION_OF.get(name) for name, (theirs, _) in differ.items() if "autocast" not in theirs]
            hint = f", or give the same choices ({', '.join(dict.fromkeys(map(str, fitting)))})" if all(fitting) else ""
            raise SweepError(
                f"{history.path} was made with other choices than this sweep ({choices}), so its curves would mix; "
                f"move it away{hint if fitting else ''}."
            )


# ------------------------------------------------------------------------------------------------------- scoring


@dataclass
class _Scoring:
    """One sweep over the checkpoints. Methods that `Ranks.first_does` calls run on the first process alone."""

    evaluator: NeuronXAEvaluator
    quality: QualityEvaluator
    tokenizer: Any
    loader: Loader
    history: History
    curves: Curves
    queue: ScoreQueue
    budget: TokenBudget
    ranks: Ranks
    translation_budget: TokenBudget = field(default_factory=TokenBudget)
    _warned: set[str] = field(default_factory=set)

    def score_all(self, checkpoints: Sequence[Checkpoint], progress: Progress) -> None:
        """Check a checkpoint, score the checkpoints that have no scores yet, and wait for COMET."""
        written = self.ranks.first_does(self._written)
        todo = [c for c in checkpoints if c.step not in written or _unscored(written[c.step], self.quality)]
        # The base is not checked, because it does not show whether the adapters fit it.
        self._check(next(c for c in (*todo, *checkpoints) if c.step > 0))
        if self.quality.metrics:
            written = self.ranks.first_does(self._measured)
        task = progress.add_task("", total=len(todo))
        for checkpoint in todo:
            progress.update(task, description=checkpoint.name)
            self._score(checkpoint, written.get(checkpoint.step))
            progress.advance(task)
        if len(self.queue):
            progress.update(task, description="waiting for COMET")
        self.ranks.first_does(self._finish)

    def _written(self) -> dict[int, Evaluation]:
        return {evaluation.step: evaluation for evaluation in self.history.read()}

    def _check(self, checkpoint: Checkpoint) -> None:
        """Refuse a model that cannot be measured, or whose scores would not fit the lines on disk.

        The check comes before anything is written.
        """
        with self.ranks.together(), self.loader.model(checkpoint) as model:
            decoder = Decoder.find(model, self.tokenizer)
            self.evaluator.check(decoder)
            self.quality.check(decoder)
            if self.ranks.is_first:
                self.quality.check_device()
                _check_series(self.history, self.evaluator, self.quality, decoder)

    def _measured(self) -> dict[int, Evaluation]:
        """Return the lines with what an early version did not measure of their translations, and keep it."""
        written = {}
        for step, evaluation in self._written().items():
            written[step] = measured_again(self.quality, evaluation)
            if written[step] is not evaluation:
                self.history.put(written[step])
                self.curves.add(step, faithfulness_metrics(written[step].faithfulness))
        return written

    def _score(self, checkpoint: Checkpoint, written: Evaluation | None) -> None:
        """Score what a checkpoint's line lacks, and write it. COMET's scores come later."""
        translated = written.translated if written else {}
        if not translated:
            try:
                with self._loaded(checkpoint) as decoder:
                    if written is None:
                        self._score_alignment(checkpoint, decoder)
                    if self.quality.metrics:
                        translated = self._translate(checkpoint.step, decoder)
            except (NonFiniteActivationError, RankError) as error:  # one process has read the sentence that shows it
                if isinstance(error, RankError) and error.error != NonFiniteActivationError.__name__:
                    raise
                logger.warning("NeuronXA: %s gets no scores: %s", checkpoint.source, error)
        self.ranks.first_does(lambda: self._write_scores(checkpoint.step, written, translated))

    @contextmanager
    def _loaded(self, checkpoint: Checkpoint) -> Iterator[Decoder]:
        """Yield the checkpoint's model, loaded on every process, whose sentences the processes share."""
        with ExitStack() as stack:
            with self.ranks.together():
                model = stack.enter_context(self.loader.model(checkpoint))
                decoder = Decoder.find(model, self.tokenizer, ranks=self.ranks)
            yield decoder

    def _finish(self) -> None:
        """Wait for COMET, and update the correlations of the lines that follow the lines with new scores."""
        for pending in self.queue:
            pending.report.wait()
            self._write_quality(pending, self.queue.take(pending))
        evaluations = self.history.read()
        for number, evaluation in enumerate(evaluations, start=1):
            now = evaluation.with_correlations(correlations(evaluations[:number]))
            if evaluation.quality and now.pearson != evaluation.pearson:
                self.history.put(now)

    def _score_alignment(self, checkpoint: Checkpoint, decoder: Decoder) -> None:
        start = time.perf_counter()
        report = self.evaluator.score(decoder, self.budget)
        runtime = time.perf_counter() - start
        self.ranks.first_does(lambda: self._write_alignment(checkpoint, report, runtime))

    def _write_alignment(self, checkpoint: Checkpoint, report: AlignmentReport, runtime: float) -> None:
        evaluation = Evaluation.of_report(report, checkpoint.step, checkpoint.epoch, runtime, self.evaluator.pairs)
        self.history.put(evaluation)
        for name, language in evaluation.languages.items():
            if few := language.few_carriers(name):
                self._warn_once(few, name)
        self.curves.add(checkpoint.step, metrics_of(report) | {"eval_neuronxa_runtime": round(runtime, 4)})

    def _translate(self, step: int, decoder: Decoder) -> dict[str, tuple[Translations, Signature]]:
        start = time.perf_counter()
        translated = self.quality.translate(decoder, self.translation_budget)
        runtime = {"eval_translation_runtime": round(time.perf_counter() - start, 4)}
        self.ranks.first_does(lambda: self.curves.add(step, runtime))
        return translated

    def _write_scores(
        self, step: int, written: Evaluation | None, translated: Mapping[str, tuple[Translations, Signature]]
    ) -> None:
        """Have the translations scored, and write the scores that are there by now."""
        if translated:
            self._score_translations(step, written, translated)
        for pending, names in self.queue.finished():
            self._write_quality(pending, names)

    def _score_translations(
        self, step: int, written: Evaluation | None, translated: Mapping[str, tuple[Translations, Signature]]
    ) -> None:
        pending = scored_again(self.quality, _unscored(written, self.quality), translated, step, written)
        if written is None or not written.quality:
            self.curves.add(step, translation_metrics(pending.report))
        self.queue.put(pending)
        # The translations are written at once, so that a sweep that continues has them.
        self._write_quality(pending, self.queue.take(pending))
        for error in pending.report.unmeasured:
            self._warn_once(f"{UNMEASURED} at step {step}: {error}", f"{UNMEASURED}: {error}")

    def _write_quality(self, pending: PendingScores, names: Sequence[str]) -> None:
        evaluation = self.history.add_quality(pending.step, pending.report)
        metrics = quality_metrics(pending.report, names)
        self.curves.add(pending.step, metrics | correlation_metrics(evaluation, names))
        self._warn(pending, names)

    def _warn(self, pending: PendingScores, metrics: Collection[str]) -> None:
        """Warn of metrics that gave no score, once for each reason."""
        for metric in metrics:
            for error in pending.report.errors(metric):
                self._warn_once(f"no {metric} at step {pending.step}: {error}", f"{metric}: {error}")

    def _warn_once(self, message: str, what: str) -> None:
        """Warn, unless this sweep has already warned about the same thing."""
        if what not in self._warned:
            logger.warning("NeuronXA: %s", message)
        self._warned.add(what)


class Curves:
    """A writer of the scores into the run's own TensorBoard folder, if tensorboard is installed.

    Args:
        output_dir: the Trainer's `output_dir`. The folder is the one with its newest events, or `runs/neuronxa` if it
            has no events.
    """

    def __init__(self, output_dir: Path) -> None:
        events = sorted(output_dir.rglob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime)
        self.folder = events[-1].parent if events else output_dir / "runs" / "neuronxa"
        self.is_there = find_spec("tensorboard") is not None
        self.writer: Any = None

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write metrics under the names that the Trainer's own log gives them in TensorBoard."""
        if not self.is_there or not metrics:
            return
        if self.writer is None:  # made only when there is something to write, because it leaves a file
            from torch.utils.tensorboard import SummaryWriter  # tensorboard is an extra

            self.writer = SummaryWriter(str(self.folder))
        for name, value in metrics.items():
            self.writer.add_scalar(f"eval/{name.removeprefix('eval_')}", value, step)
        self.writer.flush()  # a sweep that is killed does not score this step again

    def close(self) -> None:
        """Write everything to disk."""
        if self.writer is not None:
            self.writer.close()
