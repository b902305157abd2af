"""Score the model's translations with chrF and BLEU (sacrebleu) and with COMET and CometKiwi (in their own process)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.state import TokenBudget, same_random_state
from neuronxa_callback.quality import translation
from neuronxa_callback.quality.comet import device as comet_device
from neuronxa_callback.quality.comet import environment as comet_environment
from neuronxa_callback.quality.comet import signature as comet_signature
from neuronxa_callback.quality.comet.environment import CometEnvironmentError
from neuronxa_callback.quality.comet.process import CometWorker, QualityError, QualityScore
from neuronxa_callback.quality.faithfulness import Faithfulness, faithfulness
from neuronxa_callback.quality.metrics import OF_WHOLE_CORPUS, Metric, QualityMetric, score_here, score_interval
from neuronxa_callback.quality.prompts import Prompt, check_template, prompt_ids
from neuronxa_callback.quality.settings import COMET_MODEL, COMETKIWI_MODEL, Quality
from neuronxa_callback.quality.translation import Translations
from neuronxa_callback.signature import Signature
from neuronxa_callback.text.pairs import ParallelPairs
from neuronxa_callback.vocabulary import CometDtype, Direction, Method, MetricName, check_choice, score_name


@dataclass(frozen=True)
class DirectionScores:
    """The translations of one direction and their scores. Some scores may not have arrived yet.

    Attributes:
        translations: the model's translations of the sources.
        signature: the choices behind the translations.
        faithfulness: how much they copy, their language and their length; the error if that could not be measured.
        scores: metric name -> a future of its QualityScore, or of a QualityError if the metric fails.
        places: the places of the translated sources among the held-out ones, from 0. None if all are translated.
    """

    translations: Translations
    signature: Signature
    faithfulness: Faithfulness | QualityError
    scores: dict[str, Future[QualityScore]]
    places: tuple[int, ...] | None = None

    def finished(self) -> dict[str, QualityScore | QualityError]:
        """Return the scores and errors that have arrived, by metric name."""
        return {name: _outcome(future) for name, future in self.scores.items() if future.done()}


def _outcome(future: Future[QualityScore]) -> QualityScore | QualityError:
    error = future.exception()
    if error is None:
        return future.result()
    return error if isinstance(error, QualityError) else QualityError(f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class QualityReport:
    """The scores of all directions.

    Attributes:
        by_direction: suffix of a direction, such as "eng_Latn-isl_Latn" -> its translations and scores.
        of_samples: whether the scores are those of samples of the held-out sources, and so have intervals.
    """

    by_direction: dict[str, DirectionScores]
    of_samples: bool = False

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics."""
        return list(next(iter(self.by_direction.values())).scores)

    @property
    def faithfulness(self) -> dict[str, Faithfulness]:
        """How much is copied, the language and the length, by direction, without the directions at which it failed."""
        found = {name: direction.faithfulness for name, direction in self.by_direction.items()}
        return {name: measured for name, measured in found.items() if isinstance(measured, Faithfulness)}

    @property
    def unmeasured(self) -> list[str]:
        """The reasons why a direction has no `faithfulness`, each reason once."""
        found = (direction.faithfulness for direction in self.by_direction.values())
        return list(dict.fromkeys(str(error) for error in found if isinstance(error, QualityError)))

    def wait(self) -> None:
        """Wait until every metric is done. Each metric has its own time limit."""
        wait([future for direction in self.by_direction.values() for future in direction.scores.values()])

    def done(self, metric: str) -> bool:
        """Return whether a metric has scored every direction or failed to."""
        return all(direction.scores[metric].done() for direction in self.by_direction.values())

    def system(self, metric: str) -> dict[str, float]:
        """Return a finished metric's score for each direction, without the directions at which it failed."""
        outcomes = {name: direction.finished()[metric] for name, direction in self.by_direction.items()}
        return {name: outcome.system for name, outcome in outcomes.items() if isinstance(outcome, QualityScore)}

    def mean(self, metric: str) -> float | None:
        """Return a finished metric's mean over the directions, or None if a direction has no score."""
        system = self.system(metric)
        return fmean(system.values()) if len(system) == len(self.by_direction) else None

    def intervals(self, metric: str) -> dict[str, tuple[float, float]]:
        """Return the 95 % interval of a finished metric's score for each direction that has one.

        It is Student's interval of the mean over the sources. A score that is no mean over them has none.
        """
        return {name: score_interval(segments) for name, segments in self._segments(metric).items()}

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a finished metric's mean over the directions, None if there is none.

        The directions may translate the same sources, and then their scores are no independent ones. So the interval is
        that of the mean over each source's mean over the directions. There is none if their numbers of sources differ.
        """
        segments = self._segments(metric)
        if not segments or len(segments) < len(self.by_direction) or len(set(map(len, segments.values()))) > 1:
            return None
        return score_interval([fmean(scores) for scores in zip(*segments.values(), strict=True)])

    def _segments(self, metric: str) -> dict[str, tuple[float, ...]]:
        """Return the scores of the translations, for each direction whose score is their mean and has an interval."""
        if not self.of_samples or metric in OF_WHOLE_CORPUS:
            return {}
        outcomes = {name: direction.finished()[metric] for name, direction in self.by_direction.items()}
        return {
            name: outcome.segments
            for name, outcome in outcomes.items()
            if isinstance(outcome, QualityScore) and outcome.segments is not None
        }

    def errors(self, metric: str) -> list[str]:
        """Return the reasons why a finished metric gave no score, each reason once."""
        outcomes = (direction.finished()[metric] for direction in self.by_direction.values())
        return list(dict.fromkeys(str(outcome) for outcome in outcomes if isinstance(outcome, QualityError)))


class QualityEvaluator:
    """Translates the held-out sources with a model and scores the translations.

    Usage:
        ```python
        with QualityEvaluator("chrf", [ParallelPairs.load("eng_Latn-isl_Latn")]) as quality:
            report = quality.score(quality.translate(Decoder.find(model, tokenizer)))
            report.wait()
            print(report.mean("chrf"))
        ```

    Args:
        metrics: one or several of "comet", "cometkiwi", "chrf", "bleu" and objects with a
            `score(sources, translations, references)` method.
        pairs: the held-out pairs, loaded.
        direction: "source->target", "target->source" or "both".
        prompt: see `translation.translate`.
        comet_model: a COMET model that sees source, translation and reference: a hub name or a checkpoint's path.
        cometkiwi_model: a COMET model that sees no reference, given in the same way.
        comet_device: where COMET runs: "cpu", "cuda" or "cuda:N".
        comet_batch_size: segments that COMET scores at once. It is halved when memory runs out.
        comet_timeout: seconds that COMET may take for one direction with one model, including loading it.
        local_only: use only COMET models that are in the local cache or on disk.
        translate_n: how many of each language pair's sources are translated. None translates all, and so does a number
            that is larger than there are. The same sources are taken at every evaluation and in every language pair of
            as many pairs, and a smaller number takes some of those of a larger one. They come from all over the text.
        comet_dtype: the precision of COMET's encoder: "float32" or "bfloat16".

    Raises:
        ValueError: an argument cannot be used.
    """

    def __init__(
        self,
        metrics: Metric | Sequence[Metric],
        pairs: Sequence[ParallelPairs],
        direction: Direction = "source->target",
        prompt: Prompt | None = None,
        comet_model: str = COMET_MODEL,
        cometkiwi_model: str = COMETKIWI_MODEL,
        comet_device: str = "cpu",
        comet_batch_size: int = 8,
        comet_timeout: float = 1200,
        local_only: bool = False,
        translate_n: int | None = None,
        comet_dtype: CometDtype = "float32",
    ) -> None:
        several = list(metrics) if isinstance(metrics, Sequence) and not isinstance(metrics, str) else [metrics]
        self.metrics: dict[str, Metric] = {}
        for metric in several:
            name = _name_of(metric)
            if name in self.metrics:
                raise ValueError(f"the quality metric {name} was given twice; give one of them another `name`.")
            self.metrics[name] = metric
        check_choice("direction", direction, Direction)
        if isinstance(prompt, str):
            check_template(prompt)
        elif prompt is not None and not callable(prompt):
            raise ValueError(
                f"prompt={prompt!r:.60} must be a template text or a function of a sentence and two codes."
            )
        if translate_n is not None and (type(translate_n) is not int or translate_n < 2):
            raise ValueError(
                f"translate_n={translate_n!r} is not a usable number of sources; give at least two, or None for all."
            )
        whole = directions(pairs, direction)
        self.translate_n = translate_n
        # Direction -> the places of its translated sources. A direction whose sources are all translated has none.
        self.places = {
            name: sample(len(pair), translate_n)
            for name, pair in whole.items()
            if translate_n is not None and translate_n < len(pair)
        }
        self.jobs = whole | {name: whole[name].only(places) for name, places in self.places.items()}
        self._whole = {name: whole[name].fingerprint for name in self.places}
        self.prompt = prompt
        self.models = {"comet": str(comet_model), "cometkiwi": str(cometkiwi_model)}
        self.local_only = local_only
        self.worker = CometWorker(comet_device, comet_batch_size, comet_timeout, dtype=comet_dtype)

    @classmethod
    def of_settings(cls, quality: Quality, pairs: Sequence[ParallelPairs]) -> QualityEvaluator:
        """Return the evaluator that these settings describe. With "auto" it downloads no model.

        Args:
            quality: the settings.
            pairs: the watched pairs, loaded.

        Raises:
            ValueError: a setting cannot be used.
        """
        return cls(
            ("comet", "cometkiwi") if quality.metrics == "auto" else quality.metrics,
            _chosen(pairs, quality.pairs),
            quality.direction,
            quality.prompt,
            quality.comet_model,
            quality.cometkiwi_model,
            quality.comet_device,
            quality.comet_batch_size,
            quality.comet_timeout,
            local_only=quality.metrics == "auto",
            translate_n=quality.translate_n,
            comet_dtype=quality.comet_dtype,
        )

    def without_downloads(self) -> tuple[list[str], str | None]:
        """Return the metrics that need no download.

        A COMET metric needs one if its environment or its model is not on this machine.

        Returns:
            the names of these metrics, and a sentence that names the metrics left out and the command that adds them.
            The sentence is None if no metric is left out.
        """
        try:
            comet_environment.find_python()
        except CometEnvironmentError as error:
            left_out = self.slow
            reason = str(error)
        else:
            left_out = [name for name in self.slow if not _is_here(self.models[name])]
            commands = " and ".join(f"`neuronxa comet check {self.models[name]}`" for name in left_out)
            reason = f"the local cache does not have what {commands} would fetch."
        kept = [name for name in self.metrics if name not in left_out]
        names = " and ".join(map(score_name, left_out))
        return kept, f"{names} will not be logged: {reason}" if left_out else None

    @property
    def slow(self) -> list[str]:
        """The metrics that are scored in the background."""
        return [name for name in self.metrics if name in self.models]

    @property
    def comet(self) -> dict[str, Signature]:
        """The model and precision that score each metric in the background, by the metric's name."""
        return {name: comet_signature.wanted(self.models[name], self.worker.dtype) for name in self.slow}

    def check(self, decoder: Decoder) -> None:
        """Check before training that every held-out source fits into a prompt.

        Raises:
            ValueError: one of them does not. The message says which and why.
        """
        for pair in self.jobs.values() if self.metrics else ():
            translation.check(decoder, pair.source, pair.source_lang, pair.target_lang, self.prompt)

    def check_device(self) -> None:
        """Check before training that COMET's device is there, by starting COMET's Python if it is a GPU.

        Only the process that scores needs it: the others never start COMET.

        Raises:
            ValueError: the device is not there.
        """
        if self.slow:
            comet_device.check_there(self.worker.device)

    def translate(
        self, decoder: Decoder, budget: TokenBudget | None = None
    ) -> dict[str, tuple[Translations, Signature]]:
        """Translate the sources of every direction.

        Args:
            decoder: the model and its tokenizer.
            budget: the token budget. It is halved when memory runs out. A caller that passes the same budget to
                several calls keeps the smaller one.

        Returns:
            the translations of each direction and their signature, by suffix.
        """
        budget = budget or TokenBudget()
        translated = {}
        with same_random_state():  # a prompt function may draw random numbers too
            for name, pair in self.jobs.items():
                made = self._translate(pair, decoder, budget)
                translated[name] = made, decoder.ranks.first_does(partial(self.signature, name, decoder))
        return translated

    def _translate(self, pair: ParallelPairs, decoder: Decoder, budget: TokenBudget) -> Translations:
        languages = pair.source_lang, pair.target_lang

        def run(token_budget: int) -> Translations:
            return translation.translate(decoder, pair.source, *languages, self.prompt, token_budget)

        def longest() -> int:
            return max(map(len, prompt_ids(decoder.tokenizer, pair.source, *languages, self.prompt)))

        return budget.fit(run, longest, translation.TOKEN_BUDGET)

    def signature(self, direction: str, decoder: Decoder) -> Signature:
        """Return the choices behind a direction's translations.

        If only some of the sources are translated, `n` and `data` are those of these, and `of` is the fingerprint of
        all held-out pairs.
        """
        pair = self.jobs[direction]
        how = translation.signature(decoder, pair.source, pair.source_lang, pair.target_lang, self.prompt)
        what = Signature.of(pair=direction, n=len(pair), data=pair.fingerprint)
        if direction in self._whole:
            what = what.with_fields(of=self._whole[direction])
        return what.joined(how).with_fields(dtype=decoder.dtype)

    def score(
        self, translated: Mapping[str, tuple[Translations, Signature]], metrics: Sequence[str] | None = None
    ) -> QualityReport:
        """Score translations. COMET's scores arrive later; the other metrics are done when the call returns.

        Args:
            translated: the translations that `translate` returned.
            metrics: the names of the metrics to score with. None means all of them.
        """
        names = list(self.metrics) if metrics is None else metrics
        return QualityReport(
            {
                direction: DirectionScores(
                    made,
                    signature,
                    self.faithfulness(direction, made.texts),
                    {name: self._score(name, self.jobs[direction], made.texts) for name in names},
                    self.places.get(direction),
                )
                for direction, (made, signature) in translated.items()
            },
            of_samples=bool(self.places),
        )

    def make_room(self) -> None:
        """Give back the GPU memory that this process has cached and does not use, if COMET runs on a GPU.

        A training that goes on while COMET scores must keep its cache. Otherwise COMET takes the memory, and training
        ends when it needs the memory again.
        """
        if self.slow and self.worker.device != "cpu":
            torch.cuda.empty_cache()  # does nothing in a process that uses no GPU

    def faithfulness(self, direction: str, texts: Sequence[str]) -> Faithfulness | QualityError:
        """Return how much a direction's translations copy, their language and their length.

        Args:
            direction: its suffix, such as "eng_Latn-isl_Latn".
            texts: the translation of each source.

        Returns:
            the error if it cannot be measured, which is no reason to lose the scores.
        """
        try:
            return faithfulness(self.jobs[direction], texts)
        except Exception as error:
            return QualityError(f"{type(error).__name__}: {error}")

    def _score(self, name: str, pair: ParallelPairs, texts: Sequence[str]) -> Future[QualityScore]:
        if name in self.models:
            samples = [{"src": source, "mt": text} for source, text in zip(pair.source, texts, strict=True)]
            if name == "comet":
                samples = [sample | {"ref": ref} for sample, ref in zip(samples, pair.target, strict=True)]
            return self.worker.submit(self.models[name], samples, self.local_only)
        future: Future[QualityScore] = Future()
        try:
            future.set_result(score_here(self.metrics[name], name, pair, texts))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """End COMET's process."""
        self.worker.close()

    def __enter__(self) -> QualityEvaluator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _is_here(model: str) -> bool:
    """Return whether a COMET model is on disk or in the hub's local cache."""
    try:
        return Path(model).exists() or isinstance(try_to_load_from_cache(model, "checkpoints/model.ckpt"), str)
    except HFValidationError:  # a path at which nothing exists
        return False


def _name_of(metric: Any) -> str:
    if isinstance(metric, str):
        check_choice("quality metric", metric, MetricName)
        return metric
    if not isinstance(metric, QualityMetric):
        raise ValueError(
            f"the quality metric {metric!r:.60} is none of {', '.join(get_args(MetricName))} and has no method "
            "score(sources, translations, references)."
        )
    name = str(getattr(metric, "name", type(metric).__name__.lower()))
    # A name such as "rank" would make nasca_rank, the alignment score, of the correlation of NASCA with the metric.
    joined = (f"{method}_{name}" for method in get_args(Method))
    if {name, *joined} & {*get_args(MetricName), *get_args(Method)}:
        raise ValueError(f"the name {name!r} of the quality metric {metric!r:.60} is taken; give it another `name`.")
    return name


def _chosen(pairs: Sequence[ParallelPairs], names: str | Sequence[str] | None) -> list[ParallelPairs]:
    """Return the pairs with these names; all of them without names.

    Raises:
        ValueError: no pair is called so, or there are no names.
    """
    if names is None:
        return list(pairs)
    wanted = [names] if isinstance(names, str) else list(names)
    watched = [pair.name for pair in pairs]
    if not wanted:
        raise ValueError("Quality(pairs=()) has nothing translated; leave pairs out, or give no metrics.")
    for name in wanted:
        if name not in watched:
            near = sorted(watched, key=lambda known: -SequenceMatcher(None, str(name), known).ratio())
            raise ValueError(f"Quality's pairs name {name!r}, which is not watched; choose from {', '.join(near)}.")
    return [pair for pair in pairs if pair.name in wanted]


def sample(count: int, n: int) -> tuple[int, ...]:
    """Return n of the places of `count` sources, in their order.

    They are drawn by a hash of the places. So they are the same on every machine and with every version of Python, and
    those of a smaller n are among those of a larger one.
    """
    drawn = sorted(range(count), key=lambda place: hashlib.sha256(str(place).encode()).digest())
    return tuple(sorted(drawn[:n]))


def directions(pairs: Sequence[ParallelPairs], direction: Direction) -> dict[str, ParallelPairs]:
    """Return the sources and references of each direction, by suffix."""
    forward = list(pairs) if direction != "target->source" else []
    back = (
        [ParallelPairs(p.target, p.source, p.target_lang, p.source_lang) for p in pairs]
        if direction != "source->target"
        else []
    )
    return {pair.name: pair for pair in (*forward, *back)}
