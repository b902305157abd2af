"""Metrics that score translations in this process: chrF and BLEU (sacrebleu), and the user's own metrics."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Any, Protocol, TypeAlias, runtime_checkable

from sacrebleu.metrics import BLEU, CHRF

from neuronxa_callback.model.state import same_random_state
from neuronxa_callback.quality.comet.process import QualityScore, checked
from neuronxa_callback.signature import Signature
from neuronxa_callback.significance import mean_interval
from neuronxa_callback.text.pairs import ParallelPairs
from neuronxa_callback.vocabulary import MetricName

# These scripts put no space between words. sacrebleu's default tokenizer would take a whole sentence for one word.
_CHINESE = frozenset({"Hans", "Hant", "Hani"})
_IN_SOUTH_EAST_ASIA = frozenset({"Ahom", "Khmr", "Lana", "Laoo", "Mymr", "Tale", "Talu", "Tavt", "Thai"})  # UAX 14, SA
_WITHOUT_SPACES = _IN_SOUTH_EAST_ASIA | {"Bali", "Hira", "Hrkt", "Java", "Jpan", "Kana", "Tibt", "Yiii"}

# Their scores count n-grams over all translations, and so are no means over the translations.
OF_WHOLE_CORPUS = frozenset({"chrf", "bleu"})


@runtime_checkable
class QualityMetric(Protocol):
    """A user's own metric. The log calls it by its `name` attribute, or by its class's name in lower case."""

    def score(self, sources: Sequence[str], translations: Sequence[str], references: Sequence[str]) -> Any:
        """Return one number, or one number for each translation."""


Metric: TypeAlias = MetricName | QualityMetric


def score_interval(segments: Sequence[float]) -> tuple[float, float]:
    """Return Student's 95 % interval of a score that is the mean of at least two translations' scores."""
    n = len(segments)
    return mean_interval(fmean(segments), stdev(segments) / sqrt(n), n)


def score_here(metric: Metric, name: str, pair: ParallelPairs, texts: Sequence[str]) -> QualityScore:
    """Return the score of a metric that runs in this process."""
    references = list(pair.target)
    if metric == "chrf":
        return _with_sacrebleu(CHRF(), CHRF(), texts, references)
    if metric == "bleu":
        tokenize = bleu_tokenizer(pair.target_lang)
        # The longest n-grams must not count in a sentence that is too short for them.
        sentence = BLEU(tokenize=tokenize, effective_order=True)
        return _with_sacrebleu(BLEU(tokenize=tokenize), sentence, texts, references)
    with same_random_state():
        given = metric.score(list(pair.source), list(texts), references)  # type: ignore[union-attr]
    segments_or_none = None if _is_number(given) else tuple(float(score) for score in given)
    system_score = float(given) if segments_or_none is None else fmean(segments_or_none)
    return checked(QualityScore(system_score, segments_or_none, Signature.of(metric=name)), len(texts))


def bleu_tokenizer(code: str) -> str:
    """Return the name of sacrebleu's tokenizer for a language, by the script in its code: "zh" for "cmn_Hans".

    Korean has spaces and "13a". sacrebleu's own choice for it, "ko-mecab", needs packages, and a score must not change
    with what is installed.
    """
    script = code.partition("_")[2]
    if script in _CHINESE:
        return "zh"
    return "char" if script in _WITHOUT_SPACES else "13a"


def _with_sacrebleu(corpus: Any, sentence: Any, texts: Sequence[str], references: Sequence[str]) -> QualityScore:
    """Return the system score and signature that `corpus` gives and the segment scores that `sentence` gives."""
    system = corpus.corpus_score(list(texts), [list(references)])
    segments = tuple(sentence.sentence_score(t, [r]).score for t, r in zip(texts, references, strict=True))
    return QualityScore(system.score, segments, Signature.parse(str(corpus.get_signature())))


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float) or getattr(given, "ndim", None) == 0
