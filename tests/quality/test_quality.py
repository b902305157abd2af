from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from scipy import stats
from transformers import PreTrainedTokenizerFast

from neuronxa_callback import NeuronXACallback, ParallelPairs, Quality
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality import evaluator as quality
from neuronxa_callback.quality.comet import environment as comet_environment
from neuronxa_callback.quality.comet.process import QualityScore
from neuronxa_callback.quality.evaluator import QualityEvaluator, sample
from neuronxa_callback.quality.faithfulness import faithfulness
from neuronxa_callback.quality.metrics import bleu_tokenizer
from neuronxa_callback.quality.translation import Translations, translate
from neuronxa_callback.signature import Signature
from tests.support import tiny_llama

PAIRS = ParallelPairs.load("eng_Latn-isl_Latn", n=6)
FRENCH = ParallelPairs.load("eng_Latn-fra_Latn", n=6)


def judged(evaluator: QualityEvaluator, texts: dict[str, Sequence[str]]) -> quality.QualityReport:
    made = {name: (Translations(tuple(lines), 0, 0), Signature.of(prompt="how")) for name, lines in texts.items()}
    report = evaluator.score(made)
    report.wait()
    evaluator.close()
    return report


def some_translations(pairs: ParallelPairs) -> list[str]:
    """Half right, half wrong, one empty."""
    return [text if i % 2 else text[::-1] for i, text in enumerate(pairs.target[:-1])] + [""]


def test_chrf_and_bleu_are_sacrebleus() -> None:
    texts = some_translations(PAIRS)
    report = judged(QualityEvaluator(("chrf", "bleu"), [PAIRS]), {PAIRS.name: texts})
    scores = report.by_direction[PAIRS.name].finished()
    chrf, bleu = scores["chrf"], scores["bleu"]
    assert isinstance(chrf, QualityScore)
    assert isinstance(bleu, QualityScore)
    assert chrf.system == sacrebleu.corpus_chrf(texts, [list(PAIRS.target)]).score == report.mean("chrf")
    assert bleu.system == sacrebleu.corpus_bleu(texts, [list(PAIRS.target)]).score
    assert chrf.segments == tuple(
        sacrebleu.sentence_chrf(text, [reference]).score for text, reference in zip(texts, PAIRS.target, strict=True)
    )
    assert bleu.segments == tuple(
        sacrebleu.sentence_bleu(text, [reference]).score for text, reference in zip(texts, PAIRS.target, strict=True)
    )
    assert "nc:6|nw:0" in str(chrf.signature)
    assert "tok:13a" in str(bleu.signature)


@pytest.mark.parametrize(
    ("tokenizer", "codes"),
    [
        ("zh", "zho_Hans zho_Hant zho_Hani yue_Hant cmn_Hans cmn_Hant wuu_Hans lzh_Hant nan_Hant hak_Hans"),
        ("char", "jpn_Jpan jpn_Hira tha_Thai lao_Laoo khm_Khmr mya_Mymr shn_Mymr mnw_Mymr bod_Tibt dzo_Tibt iii_Yiii"),
        ("13a", "isl_Latn kor_Hang kor_Kore nan_Latn jpn_Latn hin_Deva arb_Arab nonsense"),
    ],
)
def test_bleus_tokenizer_follows_the_script(tokenizer: str, codes: str) -> None:
    assert {code: bleu_tokenizer(code) for code in codes.split()} == dict.fromkeys(codes.split(), tokenizer)


def test_bleu_of_mandarin_is_sacrebleus() -> None:
    references = ("我今天早上很早就起床去海边散步了。", "昨天晚上我们在家里一起看了一部电影。")
    texts = ["我今天早上很早起床去海边散步。", "昨天晚上我们一起在家看了电影。"]
    pairs = ParallelPairs(("I walked early.", "We saw a film."), references, "eng_Latn", "cmn_Hans")
    report = judged(QualityEvaluator("bleu", [pairs]), {pairs.name: texts})
    assert report.mean("bleu") == sacrebleu.corpus_bleu(texts, [list(references)], tokenize="zh").score
    assert report.mean("bleu") == pytest.approx(45, abs=15)


@pytest.mark.parametrize(("code", "tokenizer"), [("zho_Hans", "zh"), ("jpn_Jpan", "char"), ("kor_Hang", "13a")])
def test_bleu_splits_scripts_without_spaces(code: str, tokenizer: str) -> None:
    pairs = ParallelPairs(("a", "b"), ("船は今朝早く港を出た。", "犬は古い椅子の上で眠る。"), "eng_Latn", code)
    report = judged(QualityEvaluator("bleu", [pairs]), {pairs.name: ["船は今朝港を出た。", "犬は椅子の上で眠る。"]})
    score = report.by_direction[pairs.name].finished()["bleu"]
    assert isinstance(score, QualityScore)
    assert f"tok:{tokenizer}" in str(score.signature)
    assert score.system > 10 or code == "kor_Hang"


class Length:
    """A metric of the user's own."""

    def score(self, sources: Sequence[str], translations: Sequence[str], references: Sequence[str]) -> Any:
        assert len(sources) == len(references) == 6
        return [len(text) for text in translations]


class Custom:
    name = "mine"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def score(self, sources: Sequence[str], translations: Sequence[str], references: Sequence[str]) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Named(Length):
    def __init__(self, name: str) -> None:
        self.name = name


class TestAMetricOfTheUsersOwn:
    def test_a_list_of_segments(self) -> None:
        texts = some_translations(PAIRS)
        report = judged(QualityEvaluator(["chrf", Length()], [PAIRS]), {PAIRS.name: texts})
        assert report.metrics == ["chrf", "length"]
        assert report.mean("length") == sum(map(len, texts)) / 6

    def test_one_number(self) -> None:
        report = judged(QualityEvaluator(Custom(0.25), [PAIRS]), {PAIRS.name: PAIRS.target})
        assert report.mean("mine") == 0.25
        assert report.by_direction[PAIRS.name].scores["mine"].result().segments is None

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            ([1.0], "1 scores came back for 6 translations"),
            (math.nan, "the scores are NaN or infinite"),
            (ZeroDivisionError("oh"), "ZeroDivisionError: oh"),
            (None, "TypeError"),
        ],
    )
    def test_one_that_fails_is_missing(self, answer: Any, message: str) -> None:
        report = judged(QualityEvaluator([Custom(answer), "chrf"], [PAIRS]), {PAIRS.name: PAIRS.target})
        assert report.mean("mine") is None
        assert message in report.errors("mine")[0]
        assert report.mean("chrf") == 100


def test_directions(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    evaluator = QualityEvaluator("chrf", [PAIRS, FRENCH], "both")
    decoder = Decoder.find(llama, tokenizer)
    translated = evaluator.translate(decoder)
    back = "isl_Latn-eng_Latn"
    assert list(translated) == [PAIRS.name, FRENCH.name, back, "fra_Latn-eng_Latn"]
    assert translated[PAIRS.name][0] == translate(decoder, PAIRS.source, "eng_Latn", "isl_Latn")
    assert translated[back][0] == translate(decoder, PAIRS.target, "isl_Latn", "eng_Latn")
    report = evaluator.score(translated)
    assert report.system("chrf")[back] == sacrebleu.corpus_chrf(translated[back][0].texts, [list(PAIRS.source)]).score
    assert report.mean("chrf") == pytest.approx(sum(report.system("chrf").values()) / 4)
    assert list(QualityEvaluator("chrf", [PAIRS], "target->source").jobs) == [back]
    signature = translated[back][1]
    assert str(signature).startswith(f"pair:{back}|n:6|data:{evaluator.jobs[back].fingerprint}|prompt:plain-")


class TestSomeOfTheWatchedPairs:
    @pytest.mark.parametrize(
        ("pairs", "direction", "jobs"),
        [
            (None, "source->target", [PAIRS.name, FRENCH.name]),
            (FRENCH.name, "source->target", [FRENCH.name]),
            ([FRENCH.name], "both", [FRENCH.name, "fra_Latn-eng_Latn"]),
            ((FRENCH.name, PAIRS.name), "target->source", ["isl_Latn-eng_Latn", "fra_Latn-eng_Latn"]),
        ],
    )
    def test_they_alone_have_directions(self, pairs: Any, direction: Any, jobs: list[str]) -> None:
        settings = Quality("chrf", direction, pairs=pairs)
        assert list(QualityEvaluator.of_settings(settings, [PAIRS, FRENCH]).jobs) == jobs

    @pytest.mark.parametrize(
        ("pairs", "message"),
        [
            ("eng_Latn-fra_Latm", "'eng_Latn-fra_Latm', which is not watched; choose from eng_Latn-fra_Latn, eng_Latn"),
            ([PAIRS.name, "isl_Latn"], "'isl_Latn', which is not watched; choose from eng_Latn-isl_Latn, eng_Latn-fra"),
            ((), "has nothing translated"),
        ],
    )
    def test_a_name_that_is_not_watched_is_refused_with_the_nearest_first(self, pairs: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            NeuronXACallback([PAIRS, FRENCH], quality=Quality("chrf", pairs=pairs))


class Characters:
    """A user's own metric that scores any number of translations."""

    def score(self, sources: Sequence[str], translations: Sequence[str], references: Sequence[str]) -> Any:
        return [len(text) for text in translations]


class TestSomeOfTheSources:
    def evaluator(self, n: int | None, metrics: Any = "chrf", direction: Any = "both") -> QualityEvaluator:
        return QualityEvaluator.of_settings(Quality(metrics, direction, translate_n=n), [PAIRS, FRENCH])

    def test_they_are_the_same_in_all_directions_and_some_of_those_of_a_larger_number(self) -> None:
        chosen = [self.evaluator(n).places for n in (2, 3, 5)]
        assert all(len(set(places.values())) == 1 and len(places) == 4 for places in chosen)
        few, more, most = (next(iter(places.values())) for places in chosen)
        assert set(few) < set(more) < set(most) < set(range(6))
        assert [list(places) for places in (few, more, most)] == [sorted(places) for places in (few, more, most)]
        jobs = self.evaluator(3).jobs
        assert jobs[PAIRS.name].source == tuple(PAIRS.source[place] for place in more)
        assert jobs["isl_Latn-eng_Latn"].source == jobs[PAIRS.name].target
        assert jobs[FRENCH.name].target == tuple(FRENCH.target[place] for place in more)

    def test_they_come_from_all_over_the_text(self) -> None:
        """A hundred sources in the order of a file that goes from easy to hard: each third has about a third."""
        places = sample(300, 100)
        assert all(20 < sum(place // 100 == third for place in places) < 47 for third in range(3))
        assert sample(300, 3) == (178, 245, 286)  # a resumed run must find the same ones, whatever is installed

    @pytest.mark.parametrize("n", [None, 6, 100])
    def test_all_of_them(self, n: int | None, llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        """The signature is that of a run without the setting."""
        evaluator, plain = self.evaluator(n), QualityEvaluator("chrf", [PAIRS, FRENCH], "both")
        assert (evaluator.jobs, evaluator.places) == (plain.jobs, {})
        decoder = Decoder.find(llama, tokenizer)
        assert evaluator.signature(PAIRS.name, decoder) == plain.signature(PAIRS.name, decoder)

    def test_scores_and_signature_are_those_of_the_translated(
        self, llama: Any, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        evaluator = self.evaluator(4, ["chrf", Characters()], "source->target")
        translated = evaluator.translate(Decoder.find(llama, tokenizer))
        part = evaluator.jobs[PAIRS.name]
        texts = translated[PAIRS.name][0].texts
        assert texts == translate(Decoder.find(llama, tokenizer), part.source, "eng_Latn", "isl_Latn").texts
        data = f"pair:{PAIRS.name}|n:4|data:{part.fingerprint}|of:{PAIRS.fingerprint}|prompt:plain-"
        assert str(translated[PAIRS.name][1]).startswith(data)
        report = evaluator.score(translated)
        assert report.system("chrf")[PAIRS.name] == sacrebleu.corpus_chrf(texts, [list(part.target)]).score
        assert report.faithfulness[PAIRS.name] == faithfulness(part, texts)

    def test_intervals(self, llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        """Student's of the means over the sources, and of the mean over sources of the mean over directions."""
        evaluator = self.evaluator(4, ["chrf", Characters()])
        report = evaluator.score(evaluator.translate(Decoder.find(llama, tokenizer)))
        segments = {name: list(map(len, made.translations.texts)) for name, made in report.by_direction.items()}
        found = report.intervals("characters")
        assert {name: pytest.approx(student(lengths)) for name, lengths in segments.items()} == found
        assert report.interval("characters") == pytest.approx(student(np.mean(list(segments.values()), axis=0)))
        assert (report.intervals("chrf"), report.interval("chrf")) == ({}, None)

    def test_no_interval_without_the_setting(self, llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        evaluator = self.evaluator(None, [Characters()])
        report = evaluator.score(evaluator.translate(Decoder.find(llama, tokenizer)))
        assert (report.intervals("characters"), report.interval("characters")) == ({}, None)

    @pytest.mark.parametrize("n", [0, 1, -3, 2.5, "3", True])
    def test_what_is_no_number_of_sources(self, n: Any) -> None:
        with pytest.raises(ValueError, match=f"translate_n={n!r} is not a usable number of sources; give at least two"):
            NeuronXACallback([PAIRS], quality=Quality("chrf", translate_n=n))

    def test_pairs_with_equal_sides_are_not_told_again(self, caplog: pytest.LogCaptureFixture) -> None:
        places = sample(5, 2)
        source = [f"Sentence {number}." for number in range(5)]
        target = [text if place == places[0] else f"Setning {place}." for place, text in enumerate(source)]
        pairs = ParallelPairs(tuple(source), tuple(target), "eng_Latn", "isl_Latn")
        assert caplog.text.count("both sides are equal") == 1
        QualityEvaluator("chrf", [pairs], "both", translate_n=2)
        assert caplog.text.count("both sides are equal") == 1


def student(values: Any) -> tuple[float, float]:
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return float(low), float(high)


def test_the_same_sources_are_translated_once_for_all_metrics(llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    calls = []

    def prompt(source: str, source_lang: str, target_lang: str) -> str:
        calls.append(source)
        return source

    evaluator = QualityEvaluator(["chrf", "bleu", Length()], [PAIRS], prompt=prompt)
    evaluator.score(evaluator.translate(Decoder.find(llama, tokenizer)))
    assert len(calls) == 2 * 6  # once to translate, once to sign


@pytest.mark.parametrize(
    ("metrics", "options", "message"),
    [
        ("rouge", {}, "quality metric 'rouge' is unknown; choose from comet, cometkiwi, chrf, bleu"),
        (["chrf", "chrf"], {}, "the quality metric chrf was given twice"),
        ([object()], {}, "has no method score"),
        ([Named("comet")], {}, "the name 'comet' of the quality metric .* is taken; give it another `name`"),
        ([Named("nasca")], {}, "the name 'nasca' of the quality metric .* is taken"),
        ([Named("rank")], {}, "the name 'rank' of the quality metric .* is taken"),
        ("chrf", {"direction": "there"}, "direction 'there' is unknown"),
        ("chrf", {"prompt": "no field"}, "has no {source}"),
        ("chrf", {"prompt": 3}, "prompt=3 must be a template text or a function"),
        ("comet", {"comet_device": "gpu"}, "comet_device='gpu' is unknown; use cpu, cuda or cuda:N"),
        ("comet", {"comet_device": "cuda:x"}, "comet_device='cuda:x' is unknown; use cpu, cuda or cuda:N"),
    ],
)
def test_bad_arguments(metrics: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QualityEvaluator(metrics, [PAIRS], **options)


def test_comet_sees_references_and_cometkiwi_does_not(with_comet: None, comet_models: Path) -> None:
    models: dict[str, Any] = {"comet_model": str(comet_models / "comet")}
    models["cometkiwi_model"] = str(comet_models / "cometkiwi")
    texts = some_translations(PAIRS)
    evaluator = QualityEvaluator(("comet", "cometkiwi"), [PAIRS], **models)
    first = judged(evaluator, {PAIRS.name: texts})
    other = ParallelPairs(PAIRS.source, PAIRS.target[::-1], "eng_Latn", "isl_Latn")
    second = judged(QualityEvaluator(("comet", "cometkiwi"), [other], **models), {other.name: texts})
    assert first.mean("comet") != second.mean("comet")
    assert first.mean("cometkiwi") == second.mean("cometkiwi")
    assert evaluator.worker.process is None


class TestWhatTheDefaultLeavesOut:
    def evaluator(self, **options: Any) -> QualityEvaluator:
        return QualityEvaluator(("comet", "cometkiwi"), [PAIRS], **options)

    def test_without_an_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(comet_environment, "comet_works_here", lambda: False)
        evaluator = self.evaluator()
        names, message = evaluator.without_downloads()
        assert message == (
            "COMET and CometKiwi will not be logged: no environment has unbabel-comet; `neuronxa comet setup` makes "
            "one, or NEURONXA_COMET_PYTHON can name a Python that has it."
        )
        assert names == []

    def test_without_the_models(self, with_comet: None, comet_models: Path) -> None:
        evaluator = self.evaluator(comet_model=str(comet_models / "comet"))
        names, message = evaluator.without_downloads()
        assert message is not None
        assert message.startswith("CometKiwi will not be logged: ")
        assert "`neuronxa comet check Unbabel/wmt22-cometkiwi-da`" in message
        assert names == ["comet"]

    def test_nothing_where_all_is_there(self, with_comet: None, comet_models: Path) -> None:
        models = {"comet_model": str(comet_models / "comet"), "cometkiwi_model": str(comet_models / "cometkiwi")}
        evaluator = self.evaluator(**models)
        assert evaluator.without_downloads() == (["comet", "cometkiwi"], None)


def test_a_model_path_of_nothing_is_left_out_by_the_default(with_comet: None, comet_models: Path) -> None:
    models: dict[str, Any] = {"comet_model": "/gone/a/b.ckpt", "cometkiwi_model": str(comet_models / "cometkiwi")}
    evaluator = QualityEvaluator(("comet", "cometkiwi"), [PAIRS], **models)
    names, message = evaluator.without_downloads()
    assert "COMET will not be logged" in str(message)
    assert names == ["cometkiwi"]


class TestAGpuThatIsNotThere:
    """No machine has a hundred of them."""

    def test_is_refused_before_training(self, with_comet: None) -> None:
        message = (
            r"^comet_device='cuda:99' is not there: COMET's Python, \S+, sees (no|\d+) GPUs?; use comet_device='cpu'"
        )
        with pytest.raises(ValueError, match=message):
            QualityEvaluator("comet", [PAIRS], comet_device="cuda:99").check_device()

    def test_is_nothing_to_other_metrics(self, with_comet: None) -> None:
        QualityEvaluator("chrf", [PAIRS], comet_device="cuda:99").check_device()

    def test_is_not_looked_for_without_comet(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv(comet_environment.VARIABLE, str(tmp_path / "gone"))
        QualityEvaluator("comet", [PAIRS], comet_device="cuda:99").check_device()

    def test_is_not_looked_for_where_comets_python_does_not_say(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        broken = tmp_path / "python"
        broken.write_text("#!/bin/sh\nexit 1\n")
        broken.chmod(0o755)
        monkeypatch.setenv(comet_environment.VARIABLE, str(broken))
        QualityEvaluator("comet", [PAIRS], comet_device="cuda:99").check_device()


def test_without_metrics_prompts_need_not_fit(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_llama(max_position_embeddings=20)
    QualityEvaluator((), [PAIRS]).check(Decoder.find(model, tokenizer))
    with pytest.raises(ValueError, match="of a context of 20"):
        QualityEvaluator("chrf", [PAIRS]).check(Decoder.find(model, tokenizer))


class TestTheInterpreter:
    def test_the_named_one_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(comet_environment.VARIABLE, sys.executable)
        assert comet_environment.find_python() == Path(sys.executable)

    def test_a_named_one_that_is_none(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv(comet_environment.VARIABLE, str(tmp_path))
        with pytest.raises(comet_environment.CometEnvironmentError, match=r"NEURONXA_COMET_PYTHON=.* is no program"):
            comet_environment.find_python()

    def test_setups_own_is_found(self, comet_python: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(comet_environment, "comet_works_here", lambda: False)
        environment = comet_python.parent.parent
        monkeypatch.setattr(comet_environment, "default_path", lambda: environment)
        if not (environment / comet_environment.READY).exists():
            pytest.skip("COMET is in the training interpreter here")
        assert comet_environment.find_python() == comet_python

    def test_this_one_where_transformers_is_old_enough(self) -> None:
        import importlib.metadata
        import importlib.util

        has_comet = importlib.util.find_spec("comet") is not None
        old = importlib.metadata.version("transformers").startswith("4.")
        assert comet_environment.comet_works_here() == (has_comet and old)


class TestSetup:
    def test_what_is_there_stays(self, comet_python: Path) -> None:
        environment = comet_python.parent.parent
        if not (environment / comet_environment.READY).exists():
            pytest.skip("COMET is in the training interpreter here")
        told: list[str] = []
        assert comet_environment.setup(environment, tell=told.append) == comet_python
        assert told == [f"{environment} is there already."]

    def test_a_folder_with_something_else_in_it(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("")
        with pytest.raises(comet_environment.CometEnvironmentError, match="is in use and no virtual environment"):
            comet_environment.setup(tmp_path)

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(comet_environment.CometEnvironmentError, match="is in use and no virtual environment"):
            comet_environment.setup(tmp_path / "file")

    def test_a_python_that_does_not_fit(self, tmp_path: Path) -> None:
        program = tmp_path / "python"
        program.write_text("#!/bin/sh\necho 3 14\n")
        program.chmod(0o755)
        with pytest.raises(comet_environment.CometEnvironmentError, match=r"is Python 3\.14, which .* pass --python"):
            comet_environment.setup(tmp_path / "env", str(program))
        with pytest.raises(comet_environment.CometEnvironmentError, match=r"does not run; pass --python"):
            comet_environment.setup(tmp_path / "env", str(tmp_path / "no python"))

    def test_an_installation_that_fails_is_not_taken_for_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        with pytest.raises(comet_environment.CometEnvironmentError, match="the installation failed: "):
            comet_environment.setup(tmp_path / "env")
        assert not (tmp_path / "env" / comet_environment.READY).exists()
