"""The model card of real records, with the real COMET: its numbers are those of scores.jsonl, its r is scipy's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import run_report
from huggingface_hub import ModelCard
from languages import Languages
from scipy import stats

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.correlation import spearman
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality.comet import environment as comet_environment
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.training.history import History
from neuronxa_callback.training.page import RunPageError
from neuronxa_callback.training.records import Evaluation
from neuronxa_callback.vocabulary import Method
from tests.support import make_tokenizer, score_lines, tiny_llama

pytestmark = [pytest.mark.recipe, pytest.mark.once]

RUN = run_report.Run(
    base_model="somebody/model",
    recipe="translation_sft.py",
    languages=Languages("eng_Latn", ("isl_Latn",)),
    command=["python", "translation_sft.py", "--output_dir", "two words"],
    processes="2, MULTI_GPU",
    step=10,
    stopped="eval_nasca did not rise for 2 evaluations",
    watched="8 pairs of FLORES dev",
    tested="8 pairs of FLORES devtest",
    test_scores={"nasca": 0.25, "comet": 0.5},
    counts={"a|b.tsv": {"read": 1234567, "kept": 3}},
    notes=["CometKiwi will not be logged: it is not here."],
    fingerprints={"8 pairs of FLORES dev": "0123456789ab", "8 pairs of FLORES devtest": "ba9876543210"},
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, comet_models: Path, comet_python: Path) -> Path:
    folder: Path = tmp_path_factory.mktemp("scored") / "run"
    pairs = [ParallelPairs.load("eng_Latn-isl_Latn", n=8)]
    history, evaluator, tokenizer = History(folder), NeuronXAEvaluator(pairs), make_tokenizer()
    comet = str(comet_models / "comet")
    with (
        pytest.MonkeyPatch.context() as patched,
        QualityEvaluator(("comet", "chrf"), pairs, comet_model=comet) as quality,
    ):
        patched.setenv(comet_environment.VARIABLE, str(comet_python))
        for seed, step in enumerate((0, 5, 10, 15)):
            model = tiny_llama(seed).eval()
            history.put(Evaluation.of_report(evaluator(model, tokenizer), step, step / 10, 1.0, pairs))
            report = quality.score(quality.translate(Decoder.find(model, tokenizer)))
            report.wait()
            history.add_quality(step, report)
    return folder


@pytest.fixture
def scored(tmp_path: Path) -> Callable[..., str]:
    """The card of a run whose evaluations have these NASCA scores, by step."""
    pairs = [ParallelPairs.load("eng_Latn-isl_Latn", n=8)]
    report = NeuronXAEvaluator(pairs)(tiny_llama().eval(), make_tokenizer())

    def scored(scores: Mapping[int, float], step: int) -> str:
        history = History(tmp_path / "run")
        for at, nasca in scores.items():
            evaluation = Evaluation.of_report(report, at, at / 10, 1.0)
            history.put(evaluation.model_copy(update={"score": {"nasca": nasca}}))
        return str(ModelCard.load(run_report.write(tmp_path / "run", replace(RUN, step=step))).text)

    return scored


def rows(card: str, title: str) -> list[list[str]]:
    lines = [line for line in card.split(f"## {title}")[1].split("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_card_says_what_scores_jsonl_says(run_dir: Path) -> None:
    card = ModelCard.load(run_report.write(run_dir, RUN))
    records = score_lines(run_dir)
    best = max(records, key=lambda record: record["score"]["nasca"])
    low, high = best["languages"]["eng_Latn-isl_Latn"]["ci"]["nasca"]
    table = rows(card.text, f"Best step: {best['step']}")
    found = best["languages"]["eng_Latn-isl_Latn"]
    surface, carriers = found["surface"], sum(part > 0 for part in found["per_pair"]["nasca"])
    assert table[0][1:] == [
        f"{best['score']['nasca']:.4f}",
        f"{low:.4f} to {high:.4f}",
        f"{found['chance']['nasca']:.4f}",
        f"{found['p_value']['nasca']:.2g}",
        f"{surface['without_shared']['nasca']:.4f} ({surface['n_without_shared']} pairs)",
        f"{surface['ngram_baseline']:.4f}",
        f"{carriers}, {surface['carriers_sharing']['nasca']} of them share a form",
    ]
    assert "A score above chance may come from names and numbers alone." in card.text
    assert table[1][:2] == ["NASCA rank eng_Latn-isl_Latn", f"{best['score']['nasca_rank']:.4f}"]
    assert {row[0]: row[1] for row in table[2:]} == {
        "COMET": f"{best['quality_score']['comet']:.4f}",
        "chrF": f"{best['quality_score']['chrf']:.4f}",
    }
    both = product((("NASCA", "nasca"), ("NASCA rank", "nasca_rank")), (("COMET", "comet"), ("chrF", "chrf")))
    for row, ((method_name, method), (metric_name, metric)) in zip(
        rows(card.text, "Alignment and quality"), both, strict=True
    ):
        alignment = [record["score"].get(method) for record in records]
        if None in alignment:  # the fixture gives some steps NASCA alone
            assert row[:2] == [method_name, metric_name]
            continue
        scores = [record["quality_score"][metric] for record in records]
        of_changes = stats.pearsonr(np.diff(alignment), np.diff(scores)).statistic
        r = stats.pearsonr(alignment, scores).statistic
        assert [*row[:3], *row[4:]] == [method_name, metric_name, f"{r:.3f}", f"{of_changes:.3f}", "4"]
    of_sentences = rows(card.text, "Alignment and quality of the sentences at step 15")
    assert [(row[0], row[1], row[2], row[-1]) for row in of_sentences] == [
        ("eng_Latn-isl_Latn", method, metric, "8") for method in ("NASCA", "NASCA rank") for metric in ("COMET", "chrF")
    ]
    segments = records[-1]["quality"]["eng_Latn-isl_Latn"]["metrics"]["comet"]["segments"]
    found = spearman(records[-1]["languages"]["eng_Latn-isl_Latn"]["per_pair"]["nasca"], segments)
    assert of_sentences[0][3] == ("none: no pair is aligned" if found is None else f"{found.r:.3f}")
    assert rows(card.text, "Test") == [["NASCA", "0.2500"], ["COMET", "0.5000"]]
    held = "8 pairs of FLORES dev (`0123456789ab`), 8 pairs of FLORES devtest (`ba9876543210`)."
    packages = dict(rows(card.text, "How it was made"))
    assert (packages["sacrebleu"], packages["py3langid"]) == (version("sacrebleu"), version("py3langid"))
    for said in (
        held,
        RUN.notes[0],
        RUN.stopped,
        "weights are those of step 10",
        "'two words'",
        "1,234,567",
        "a&#124;b.tsv",
    ):
        assert str(said) in card.text


def test_the_model_index_holds_the_saved_weights_and_the_test(run_dir: Path) -> None:
    card = ModelCard.load(run_report.write(run_dir, RUN))
    of_step = score_lines(run_dir)[2]
    found = {(r.dataset_split, r.metric_type): (r.dataset_name, r.metric_value) for r in card.data.eval_results}
    assert found == {
        ("validation", "nasca"): (RUN.watched, round(of_step["score"]["nasca"], 4)),
        ("validation", "nasca_rank"): (RUN.watched, round(of_step["score"]["nasca_rank"], 4)),
        ("validation", "comet"): (RUN.watched, round(of_step["quality_score"]["comet"], 4)),
        ("validation", "chrf"): (RUN.watched, round(of_step["quality_score"]["chrf"], 4)),
        ("test", "nasca"): (RUN.tested, 0.25),
        ("test", "comet"): (RUN.tested, 0.5),
    }


@pytest.mark.parametrize(
    ("methods", "shown"),
    [
        (("nasca",), ["alignment.png", "layers.png"]),
        (
            ("nasca", "nasca_rank"),
            [f"{what}-{method}.png" for what in ("alignment", "layers") for method in ("nasca", "nasca_rank")],
        ),
    ],
)
def test_the_card_shows_the_figures_of_each_method(
    methods: tuple[Method, ...], shown: list[str], tmp_path: Path
) -> None:
    pairs = ParallelPairs.load("eng_Latn-isl_Latn", n=8)
    report = NeuronXAEvaluator(pairs, methods)(tiny_llama().eval(), make_tokenizer())
    History(tmp_path).put(Evaluation.of_report(report, 0, 0.0, 1.0))
    card = str(ModelCard.load(run_report.write(tmp_path, RUN)).text)
    assert [f"(neuronxa/report/{name})" for name in shown] == re.findall(r"\(neuronxa/report/.*?\.png\)", card)
    assert all((tmp_path / "neuronxa" / "report" / name).is_file() for name in shown)


def test_the_model_before_training_is_no_checkpoint(scored: Callable[..., str]) -> None:
    card = scored({0: 0.5, 5: 0.25, 10: 0.25}, 10)
    assert "## Best step: 0, before training\n" in card
    assert "No evaluation scored above the model before training, whose NASCA was 0.5000." in card


@pytest.mark.parametrize(("saved", "best"), [(10, 10), (5, 5), (20, 5)])
def test_of_equal_scores_that_of_the_saved_weights_is_the_best(
    saved: int, best: int, scored: Callable[..., str]
) -> None:
    card = scored({0: 0.5, 5: 0.5, 10: 0.5, 20: 0.25}, saved)
    assert f"## Best step: {best}\n" in card
    assert "No evaluation scored above the model before training, whose NASCA was 0.5000." in card


def test_a_step_above_the_start_is_the_best(scored: Callable[..., str]) -> None:
    card = scored({0: 0.25, 5: 0.5, 10: 0.25}, 10)
    assert "## Best step: 5\n" in card
    assert "before training" not in card


def test_the_card_names_every_language_that_was_trained_on(run_dir: Path) -> None:
    several = Languages("eng_Latn", ("isl_Latn", "fra_Latn"), ("deu_Latn",))
    card = ModelCard.load(run_report.write(run_dir, replace(RUN, languages=several)))
    assert card.data.language == ["en", "is", "fr"]
    assert {result.dataset_config for result in card.data.eval_results} == {"eng_Latn-isl_Latn, eng_Latn-fra_Latn"}
    assert "for English, Icelandic and French." in card.text
    assert "English to Icelandic and to French and back." in card.text


def test_without_a_test_it_says_so(run_dir: Path) -> None:
    card = ModelCard.load(run_report.write(run_dir, replace(RUN, tested=None, test_scores={})))
    assert "There was no test set" in card.text
    assert {result.dataset_split for result in card.data.eval_results} == {"validation"}


def test_a_run_without_scores_has_no_card(tmp_path: Path) -> None:
    tmp_path.joinpath("run").mkdir()
    with pytest.raises(RunPageError, match=r"scores\.jsonl is missing"):
        run_report.write(tmp_path / "run", RUN)


def test_a_package_that_is_not_installed_is_not_listed(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without 4-bit weights on a machine without bitsandbytes once ended without its card."""
    monkeypatch.setattr(run_report, "PACKAGES", ("torch", "no-such-package"))
    text = str(ModelCard.load(run_report.write(run_dir, RUN)).text)
    assert f"| torch | {version('torch')} |" in text
    assert "no-such-package" not in text
