"""The typed lines of a run's scores.jsonl: one `Evaluation` a line, and the parts of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from neuronxa_callback.alignment import pair_scores
from neuronxa_callback.alignment.pair_scores import PairScores
from neuronxa_callback.correlation import Correlation, OverRun
from neuronxa_callback.files import Record
from neuronxa_callback.quality.comet.process import QualityError, QualityScore
from neuronxa_callback.quality.faithfulness import Faithfulness
from neuronxa_callback.signature import Signature, SignatureText
from neuronxa_callback.vocabulary import Method

if TYPE_CHECKING:  # pages and reports read the lines without importing torch
    from neuronxa_callback.alignment.report import AlignmentReport
    from neuronxa_callback.quality.evaluator import DirectionScores, QualityReport
    from neuronxa_callback.quality.translation import Translations
    from neuronxa_callback.text.pairs import ParallelPairs

NOT_YET = "not scored yet"  # the reason for a missing score that COMET is still working on

# What a warning says if a direction's translations have no `Faithfulness`.
UNMEASURED = "the copying, the language and the length of translations could not be measured"

# Seven digits hold shares of a few thousand and float32 scores exactly enough, and keep the file small.
DIGITS = 7


class SparseRecord(Record):
    """A record that is written without the fields that it was not given."""

    @model_serializer(mode="wrap")
    def _without_absent_parts(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        absent = type(self).model_fields.keys() - self.model_fields_set
        return {name: value for name, value in serialise(self).items() if name not in absent}


class MetricScore(SparseRecord):
    """A quality metric's score of one direction's translations.

    Attributes:
        score: the score of all translations; 0 to 100 for chrF and BLEU, mostly 0 to 1 for COMET and CometKiwi.
        ci: its 95 % interval over samples of as many sources. None if there is none; see `QualityReport.intervals`.
        segments: the score of each translation, None if the metric gives none.
        signature: the choices behind the numbers.
    """

    score: float
    ci: tuple[float, float] | None = None
    segments: list[float] | None = None
    signature: SignatureText


class NoScore(Record):
    """A quality metric that gave one direction no score.

    Attributes:
        missing: the reason. It is `NOT_YET` while the metric is at work.
    """

    missing: str


class DirectionQuality(SparseRecord):
    """One direction's translations and their scores.

    Lines of early versions have neither `copied` nor `off_target` nor `length`.

    Attributes:
        signature: how the translations were made.
        empty: how many translations are empty.
        truncated: how many translations were cut at their length limit.
        copied: chrF of the translations against their sources, 0 to 100. None if it was not measured.
        off_target: the share of the long enough translations that are in another language, 0 to 1. None if it was not
            measured, or if there is none; see `Faithfulness`.
        length: the characters of all translations over those of all references. None if it was not measured.
        translations: one for each translated source.
        places: the places of these sources among the held-out ones, from 0. None if all are translated.
        metrics: the name of a quality metric -> its score, or the reason why there is none.
    """

    signature: SignatureText
    empty: int
    truncated: int
    copied: float | None = None
    off_target: float | None = None
    length: float | None = None
    translations: list[str]
    places: list[int] | None = None
    metrics: dict[str, MetricScore | NoScore]

    @property
    def faithfulness(self) -> Faithfulness | None:
        """How much is copied, the language and the length. None if it was not measured."""
        if self.copied is None or self.length is None:
            return None
        return Faithfulness(self.copied, self.off_target, self.length)

    def at(self, place: int) -> int | None:
        """Return which translation is that of the held-out source at a place, None if it was not translated."""
        places = range(len(self.translations)) if self.places is None else self.places
        return places.index(place) if place in places else None

    @property
    def data(self) -> str | None:
        """The fingerprint of the held-out pairs, also if only some of their sources are translated."""
        return self.signature.get("of", self.signature.get("data"))

    @property
    def scored(self) -> dict[str, MetricScore]:
        """The metrics that gave a score, each with its score."""
        return {name: found for name, found in self.metrics.items() if isinstance(found, MetricScore)}

    @property
    def missing(self) -> dict[str, str]:
        """The metrics without a score, each with its reason."""
        return {name: found.missing for name, found in self.metrics.items() if isinstance(found, NoScore)}


class RunCorrelation(Record):
    """A `correlation.OverRun` of an alignment score and a quality metric, as a part of a line.

    Early versions wrote a p-value and an interval, which were those of independent points. They are kept and not read.

    Attributes:
        r: Pearson's r of the two scores.
        r_diff: Pearson's r of their changes. None if there is none, and in lines of early versions.
        r_partial: Pearson's r of the two scores with copying held fixed. None if there is none, and in lines of early
            versions.
        n: how many evaluations have both scores.
    """

    r: float
    r_diff: float | None = None
    r_partial: float | None = None
    n: int


class SentenceCorrelation(Record):
    """A `correlation.Correlation` over the sentences of one evaluation, as a part of a line.

    Attributes:
        r: Spearman's rho of the alignment of each pair and the score of its translation.
        p_value: the probability of such a rho by chance.
        ci: the 95 % interval of rho, None if there is none.
        n: how many sentences there are.
    """

    r: float
    p_value: float
    ci: tuple[float, float] | None
    n: int


class Verdict(Record):
    """What the stopping rule says about an evaluation.

    Early versions judged by a paired test. Their verdicts have no `metric`, and a rule does not go on from them.

    Attributes:
        metric: the metric that the rule judged by, without "eval_".
        value: its value. None if it had none.
        best: the best value so far, which may be this one. None if none had a value yet.
        best_step: the step of that value.
        rise: the rise of the line through the last evaluations; see `trend.Trend`. None for fewer than three values.
        jitter: how far the values jitter about such lines.
        forgotten: language pair -> how far it fell below its start, if that is too far and more than noise.
        forgotten_by: the score in which it fell. None if the rule has no floor.
        reason: why training stops now. None if it goes on.
    """

    metric: str | None = None
    value: float | None = None
    best: float | None
    best_step: int | None
    rise: float | None = None
    jitter: float | None = None
    forgotten: dict[str, float]
    forgotten_by: str | None = None
    reason: str | None


class Evaluation(SparseRecord):
    """A line of a run's scores.jsonl.

    Attributes:
        step: the Trainer's global step.
        epoch: the Trainer's epoch, None if it is not known.
        runtime: how many seconds the alignment took, None if it failed.
        score: method -> alignment score over all language pairs. It is empty if the alignment failed.
        ci: method -> 95 % interval of that score.
        chance: method -> what the same sentences score when their pairs are torn apart at random.
        p_value: method -> the probability of such a score by chance.
        languages: name of a language pair, such as "eng_Latn-isl_Latn" -> its numbers.
        per_pair: method -> each sentence pair's part over several language pairs. It is empty if there is only one, or
            if the language pairs do not share their source sentences.
        quality_score: quality metric -> mean over directions. It has the metrics that scored every direction.
        quality_ci: quality metric -> 95 % interval of that mean. It has the metrics with such an interval; see
            `QualityReport.interval`.
        quality: name of a direction -> its translations and scores. It is empty if nothing was translated.
        pearson: "nasca_comet" and the like -> the correlation over the run up to this step.
        over_sentences: name of a direction -> "nasca_comet" and the like -> the correlation over its sentences.
        stopping: the stopping rule's verdict, None if there is none.
    """

    CALLED: ClassVar[str] = "an evaluation of a run"

    step: int
    epoch: float | None = None
    runtime: float | None = None
    score: dict[Method, float]
    ci: dict[Method, tuple[float, float]] = Field(default_factory=dict)
    chance: dict[Method, float] = Field(default_factory=dict)
    p_value: dict[Method, float] = Field(default_factory=dict)
    languages: dict[str, PairScores]
    per_pair: dict[Method, list[float]] = Field(default_factory=dict)
    quality_score: dict[str, float] = Field(default_factory=dict)
    quality_ci: dict[str, tuple[float, float]] = Field(default_factory=dict)
    quality: dict[str, DirectionQuality] = Field(default_factory=dict)
    pearson: dict[str, RunCorrelation] = Field(default_factory=dict)
    over_sentences: dict[str, dict[str, SentenceCorrelation]] = Field(default_factory=dict)
    stopping: Verdict | None = None

    @classmethod
    def of_report(
        cls,
        report: AlignmentReport,
        step: int,
        epoch: float | None,
        runtime: float,
        pairs: Collection[ParallelPairs] = (),
    ) -> Evaluation:
        """Return the line of an alignment report.

        Args:
            report: the report, with its language pairs in `by_language`.
            step: the Trainer's global step.
            epoch: the Trainer's epoch.
            runtime: how many seconds the evaluation took.
            pairs: the sentences of the language pairs, for the control of their surface. A language pair whose
                sentences are not there has no control.
        """
        texts = {pair.name: pair for pair in pairs}
        languages = {
            name: pair_scores.of_report(language, texts.get(name), DIGITS)
            for name, language in report.by_language.items()
        }
        evaluation = cls(step=step, epoch=epoch, runtime=runtime, score=report.score, languages=languages)
        if len(languages) == 1:  # its numbers are those of the language pair
            return evaluation
        of_all = {"ci": report.ci, "chance": report.chance, "p_value": report.p_value}
        per_pair = pair_scores.numbers_of(report.per_pair, DIGITS)
        return evaluation.model_copy(update=of_all | {"per_pair": per_pair})

    def language_pair(self, direction: str) -> str | None:
        """Return the name of the language pair whose sentences were translated: in its own direction, or back.

        If a run watches two languages as two pairs, one each way round, the fingerprints tell whose sentences these
        are.

        Args:
            direction: the name of a direction in `quality`.

        Returns:
            the name, or None if the evaluation has no scores of such a language pair.
        """
        source, _, target = direction.partition("-")
        same, back = self.languages.get(direction), f"{target}-{source}"
        if same is not None and same.signature.get("data") == self.quality[direction].data:
            return direction
        return back if back in self.languages else None

    @property
    def translated_pairs(self) -> list[str]:
        """The language pairs whose sentences were translated; all of them if nothing tells which these are."""
        found = {self.language_pair(direction) for direction in self.quality}
        return [name for name in self.languages if name in found] or list(self.languages)

    def alignment_of_translated(self, method: Method) -> float | None:
        """Return a method's mean over the language pairs whose sentences were translated, None if there is none.

        Where all are translated, it is the score. A language pair that is watched but not translated, such as that of a
        language that is not trained on, has no part in how alignment and quality go together.
        """
        if len(self.translated_pairs) == len(self.languages):
            return self.score.get(method)
        scores = [self.languages[name].score.get(method) for name in self.translated_pairs]
        there = [score for score in scores if score is not None]
        return fmean(there) if len(there) == len(scores) else None

    @property
    def all_scores(self) -> dict[str, float]:
        """Every score of this evaluation, alignment first."""
        return {name: value for part in (self.score, self.quality_score) for name, value in part.items()}

    @property
    def faithfulness(self) -> dict[str, Faithfulness]:
        """How much is copied, the language and the length, by direction, without the directions that have none."""
        found = {name: made.faithfulness for name, made in self.quality.items()}
        return {name: measured for name, measured in found.items() if measured is not None}

    @property
    def copied(self) -> float | None:
        """The mean of `copied` over the directions. None if a direction has none."""
        found = [direction.copied for direction in self.quality.values() if direction.copied is not None]
        return fmean(found) if found and len(found) == len(self.quality) else None

    @property
    def scored_metrics(self) -> list[str]:
        """The quality metrics that have scored every direction."""
        scored = [set(direction.scored) for direction in self.quality.values()]
        return sorted(set.intersection(*scored)) if scored else []

    @property
    def awaited_metrics(self) -> list[str]:
        """The quality metrics that were still at work when the run ended."""
        missing = [item for direction in self.quality.values() for item in direction.missing.items()]
        return list(dict.fromkeys(name for name, reason in missing if reason == NOT_YET))

    @property
    def translated(self) -> dict[str, tuple[Translations, Signature]]:
        """The translations and their signatures, as `QualityEvaluator.translate` returns them."""
        from neuronxa_callback.quality.translation import Translations  # imports torch, which only a run needs

        return {
            name: (Translations(tuple(made.translations), made.empty, made.truncated), made.signature)
            for name, made in self.quality.items()
        }

    def with_quality(self, report: QualityReport) -> Evaluation:
        """Return this evaluation with what is known by now of its translations."""
        done = [metric for metric in report.metrics if report.done(metric)]
        means = {metric: mean for metric in done if (mean := report.mean(metric)) is not None}
        intervals = {metric: interval for metric in done if (interval := report.interval(metric))}
        of_directions = {metric: report.intervals(metric) for metric in done}
        parts = {
            name: _direction(scores, {metric: found[name] for metric, found in of_directions.items() if name in found})
            for name, scores in report.by_direction.items()
        }
        update = {"quality_score": means, "quality": parts}
        return self.model_copy(update=update | ({"quality_ci": intervals} if intervals else {}))

    def with_faithfulness(self, found: Mapping[str, Faithfulness]) -> Evaluation:
        """Return this evaluation with how much these directions' translations copy, their language and length."""
        parts = {
            name: direction.model_copy(update=asdict(found[name]))
            for name, direction in self.quality.items()
            if name in found
        }
        return self.model_copy(update={"quality": self.quality | parts})

    def with_correlations(self, found: Mapping[str, OverRun]) -> Evaluation:
        """Return this evaluation with the correlations over the run up to its step."""
        pearson = {name: RunCorrelation(**asdict(correlation)) for name, correlation in found.items()}
        return self.model_copy(update={"pearson": pearson})

    def with_sentence_correlations(self, found: Mapping[str, Mapping[str, Correlation]]) -> Evaluation:
        """Return this evaluation with its correlations over sentences, by direction and by "nasca_comet"."""
        parts = {
            direction: {name: SentenceCorrelation(**asdict(correlation)) for name, correlation in by_name.items()}
            for direction, by_name in found.items()
        }
        return self.model_copy(update={"over_sentences": parts})

    def with_verdict(self, verdict: Verdict) -> Evaluation:
        """Return this evaluation with what the stopping rule says about it."""
        return self.model_copy(update={"stopping": verdict})


def methods_of(evaluations: Sequence[Evaluation]) -> list[Method]:
    """Return the alignment methods of a run in the order of the vocabulary."""
    return [method for method in get_args(Method) if any(method in evaluation.score for evaluation in evaluations)]


def layers_of(evaluations: Sequence[Evaluation], method: Method) -> list[int]:
    """Return the numbers of the layers that a method read in a run; see `layer_numbers`."""
    languages = [language for evaluation in evaluations for language in evaluation.languages.values()]
    if not languages:
        return []
    most = max(len(language.per_layer.get(method, [])) for language in languages)
    return pair_scores.layer_numbers(languages[0].signature, method, most)


def pair_counts(evaluations: Collection[Evaluation], method: Method) -> dict[str, int]:
    """Return how many sentence pairs each language pair of a run has that a method scored."""
    languages = (item for evaluation in evaluations for item in evaluation.languages.items())
    return {name: int(language.signature["n"]) for name, language in languages if method in language.score}


def _direction(direction: DirectionScores, intervals: Mapping[str, tuple[float, float]]) -> DirectionQuality:
    made, finished = direction.translations, direction.finished()
    found: dict[str, Any] = {}
    if isinstance(direction.faithfulness, Faithfulness):
        found |= asdict(direction.faithfulness)
    if direction.places is not None:
        found["places"] = list(direction.places)
    return DirectionQuality(
        signature=direction.signature,
        empty=made.empty,
        truncated=made.truncated,
        **found,
        translations=list(made.texts),
        metrics={metric: _outcome(finished.get(metric), intervals.get(metric)) for metric in direction.scores},
    )


def _outcome(
    outcome: QualityScore | QualityError | None, interval: tuple[float, float] | None
) -> MetricScore | NoScore:
    if not isinstance(outcome, QualityScore):
        return NoScore(missing=NOT_YET if outcome is None else str(outcome))
    segments = None if outcome.segments is None else [round(segment, DIGITS) for segment in outcome.segments]
    found = {} if interval is None else {"ci": interval}
    return MetricScore(score=outcome.system, **found, segments=segments, signature=outcome.signature)
