"""Names of metrics before training: ours that will never be logged are refused, those of others never."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainingArguments

from neuronxa_callback.training.metric_checks import Logged, check_best_metric, check_stopping_metric
from neuronxa_callback.training.metric_names import named_for, prefix_of
from neuronxa_callback.training.settings import StoppingRule

PAIRS = ("eng_Latn-isl_Latn", "eng_Latn-fra_Latn")
SCORES = ("nasca", "nasca_rank", "chrf", "letters")
NAMES = [f"eval_{score}{ending}" for score in SCORES for ending in ("", *(f"_{pair}" for pair in PAIRS))]
LOGGED = Logged([*NAMES, "eval_neuronxa_runtime"], ("chrf", "letters"), ("is", "anc", "nasca_dev"), others=False)
WITH_OTHERS = Logged(LOGGED.names, LOGGED.quality, (), others=True)


def check(name: str | None, logged: Logged, folder: Path) -> None:
    check_best_metric(TrainingArguments(str(folder), metric_for_best_model=name), StoppingRule(), logged)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("eval_NASCA", "the nearest names are eval_nasca, "),
        ("eval/nasca", "the nearest names are eval_nasca, "),
        ("eval_is_nasca", "the nearest names are eval_nasca, "),
        ("eval_eval_nasca", "the nearest names are eval_nasca, "),
        ("nasca_isl", "the nearest names are eval_nasca, "),
        ("eval_nasca_en-is", "the nearest names are eval_nasca_rank, eval_nasca_eng_Latn-isl_Latn, eval_nasca"),
        ("eval_nasca_isl_Latn-eng_Latn", "choose from nasca, nasca_eng_Latn-isl_Latn, nasca_eng_Latn-fra_Latn"),
        ("nasca_rank_best", "the nearest names are eval_nasca_rank, "),
        ("navca", r"name 'navca' in NeuronXACallback\(methods=...\)"),
    ],
)
def test_a_name_with_a_word_of_the_paper_is_refused_whoever_gives_metrics(
    name: str, remedy: str, tmp_path: Path
) -> None:
    for logged in (LOGGED, WITH_OTHERS):
        with pytest.raises(ValueError, match=f"metric_for_best_model='{name}' will not be logged; {remedy}"):
            check(name, logged, tmp_path)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("eval_nsca", "the nearest names are eval_nasca, "),
        ("nascaa", "the nearest names are eval_nasca, "),
        ("eval_mexa", r"name 'mexa' in NeuronXACallback\(methods=...\)"),
        ("eval_bleu", r"name 'bleu' in NeuronXACallback\(quality=...\)"),
        ("eval_is_chrf", "the nearest names are eval_chrf, "),
        ("eval_chrF", "the nearest names are eval_chrf, "),
        ("chrf_en-is", "the nearest names are eval_chrf_eng_Latn-isl_Latn, eval_chrf, "),
        ("eval_letters_eng_Latn-deu_Latn", "choose from letters, letters_eng_Latn-isl_Latn, letters_eng_Latn-fra_Latn"),
    ],
)
def test_a_name_that_others_may_give_is_refused_where_there_are_none(name: str, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"metric_for_best_model='{name}' will not be logged; {remedy}"):
        check(name, LOGGED, tmp_path)
    check(name, WITH_OTHERS, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *(None, "loss", "eval_loss", "eval_accuracy", "eval_mymetric", "eval_is_loss", "eval_runtime"),
        *("eval_rewards/margins", "eval_mean_token_accuracy", "eval_f1", "eval_pearson", "pearson_r", "eval_rougeL"),
        *("eval_anc_loss", "eval_nasca_dev_loss"),  # of evaluation sets with such names
        *("eval_nasca", "nasca", "eval_nasca_eng_Latn-fra_Latn", "chrf", "eval_neuronxa_runtime"),
    ],
)
def test_names_of_others_and_logged_ones_are_never_refused(name: str | None, tmp_path: Path) -> None:
    check(name, LOGGED, tmp_path)


@pytest.mark.parametrize("metric", ["NASCA", "is_nasca", "nasca_en-is"])
def test_the_stopping_rule_is_checked_likewise(metric: str, tmp_path: Path) -> None:
    args = TrainingArguments(str(tmp_path), eval_strategy="steps")
    with pytest.raises(ValueError, match=f"the stopping rule's metric='{metric}' will not be logged; the nearest"):
        check_stopping_metric(args, StoppingRule(2, metric), WITH_OTHERS)
    check_stopping_metric(args, StoppingRule(None, metric), WITH_OTHERS)  # nothing is judged by it
    check_stopping_metric(args, StoppingRule(2, "accuracy"), WITH_OTHERS)


@pytest.mark.parametrize(
    ("metrics", "prefix"),
    [
        (("eval_loss", "eval_runtime", "eval_samples_per_second"), "eval"),
        (("eval_german_loss", "eval_german_runtime"), "eval_german"),
        (("train_x_runtime", "train_loss", "train_runtime"), "train"),
        (("eval_neuronxa_runtime", "eval_translation_runtime", "a_longer_prefix_runtime"), "a_longer_prefix"),
        ((), "eval"),
    ],
)
def test_the_prefix_of_an_evaluation(metrics: tuple[str, ...], prefix: str) -> None:
    assert prefix_of(dict.fromkeys(metrics, 0.0)) == prefix


def test_scores_have_the_prefix_of_the_evaluation_unless_the_trainer_reads_it() -> None:
    scores = {"eval_nasca": 0.5}
    assert named_for("eval", scores) == named_for("eval_german", scores) == scores
    assert named_for("test", scores) == {"test_nasca": 0.5}
    assert named_for("evaluation", scores) == {"evaluation_nasca": 0.5}
