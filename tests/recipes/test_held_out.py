"""What is watched and what is left for the end, from each place that held-out text can be had from."""

from __future__ import annotations

from pathlib import Path

import held_out
import pyarrow
import pytest
from languages import Languages
from pyarrow import parquet

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.quality.prompts import PLAIN_PROMPT
from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.text.pairs import PairsError
from tests.support import make_tokenizer, tiny_llama

pytestmark = pytest.mark.recipe

TEXT = embedded("heldout.tsv")
ICELANDIC = Languages("eng_Latn", ("isl_Latn",))
SEVERAL = Languages("deu_Latn", ("isl_Latn", "fra_Latn"), ("spa_Latn",))
CODES = ("eng_Latn", "isl_Latn", "deu_Latn", "fra_Latn", "spa_Latn")


def pairs(source: str, target: str, start: int, end: int) -> ParallelPairs:
    return ParallelPairs(TEXT[source][start:end], TEXT[target][start:end], source, target)


def release(folder: Path) -> Path:
    """FLORES-200's release layout: 30 embedded sentences as dev, 30 others as devtest."""
    for split, start in (("dev", 0), ("devtest", 30)):
        (folder / split).mkdir(parents=True)
        for code in CODES:
            text = "\n".join(TEXT[code][start : start + 30]) + "\n"
            (folder / split / f"{code}.{split}").write_text(text, encoding="utf-8")
    return folder


def table(path: Path, rows: int) -> str:
    lines = ["\t".join(CODES), *("\t".join(TEXT[code][row] for code in CODES) for row in range(rows))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_dev_is_watched_and_devtest_left_for_the_end(tmp_path: Path) -> None:
    held = held_out.load(str(release(tmp_path / "flores200_dataset")), ICELANDIC, 20)
    assert held.watched == (pairs("eng_Latn", "isl_Latn", 0, 20),)
    assert held.test == (pairs("eng_Latn", "isl_Latn", 30, 50),)
    assert held.all_pairs == [*held.watched, *held.test]
    assert (held.watched_name, held.test_name) == ("20 pairs of FLORES dev", "20 pairs of FLORES devtest")


def test_every_language_is_watched_and_no_control_translated(tmp_path: Path) -> None:
    held = held_out.load(str(release(tmp_path / "flores200_dataset")), SEVERAL, 20)
    assert held.watched == tuple(pairs("deu_Latn", code, 0, 20) for code in ("isl_Latn", "fra_Latn", "spa_Latn"))
    assert [pair.target_lang for pair in held.test] == ["isl_Latn", "fra_Latn", "spa_Latn"]
    assert held.translated == held.watched[:2]


def test_a_file_is_watched_from_its_beginning_and_what_follows_is_the_test(tmp_path: Path) -> None:
    held = held_out.load(table(tmp_path / "captions.tsv", 50), SEVERAL, 20)
    assert held.watched[0] == pairs("deu_Latn", "isl_Latn", 0, 20)
    assert held.test[2] == pairs("deu_Latn", "spa_Latn", 20, 40)
    names = ("the first 20 pairs of captions.tsv", "the next 20 pairs of captions.tsv")
    assert (held.watched_name, held.test_name) == names


@pytest.mark.parametrize(("rows", "left"), [(20, 0), (21, 0), (22, 2), (35, 15)])
def test_a_short_file_leaves_fewer_pairs_for_the_end_or_none(rows: int, left: int, tmp_path: Path) -> None:
    held = held_out.load(table(tmp_path / "captions.tsv", rows), ICELANDIC, 20)
    assert len(held.watched[0]) == 20
    assert [len(pair) for pair in held.test] == ([left] if left else [])
    assert (held.test_name is None) == (left == 0)


def test_a_data_set_with_a_configuration_a_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configurations = ""
    for code in ("eng_Latn", "isl_Latn"):
        configurations += f"- config_name: {code}\n  data_files:\n"
        for split, start in (("dev", 0), ("devtest", 30)):
            configurations += f"  - split: {split}\n    path: {split}/{code}.parquet\n"
            (tmp_path / "a" / "set" / split).mkdir(exist_ok=True, parents=True)
            rows = {"id": list(range(30)), "text": list(TEXT[code][start : start + 30])}
            parquet.write_table(pyarrow.table(rows), tmp_path / "a" / "set" / split / f"{code}.parquet")
    (tmp_path / "a" / "set" / "README.md").write_text(f"---\nconfigs:\n{configurations}---\n")
    monkeypatch.chdir(tmp_path)
    held = held_out._from_hub("a/set", ICELANDIC, 20)
    assert held is not None
    assert held.watched == (pairs("eng_Latn", "isl_Latn", 0, 20),)
    assert held.test == (pairs("eng_Latn", "isl_Latn", 30, 50),)


def test_another_data_set_that_cannot_be_had_is_not_replaced() -> None:
    with pytest.raises(PairsError, match="data/flores200 could not be read as a data set"):
        held_out.load("data/flores200", ICELANDIC, 20)


@pytest.mark.parametrize("text", ["/no/such/flores200_dataset", "flores200_dataset"])
def test_a_folder_that_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(PairsError, match=f"{text} is not parallel text; give a"):
        held_out.load(text, ICELANDIC, 20)


def test_the_embedded_pairs_where_flores_cannot_be_had_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    held = held_out.load("openlanguagedata/flores_plus", ICELANDIC, 20)
    assert held.watched == (ParallelPairs.load("eng_Latn-isl_Latn", n=20),)
    assert held.test == ()
    message = capsys.readouterr().err.strip()
    assert message.count("\n") == 0
    assert message.startswith("The embedded pairs are watched")
    assert "since openlanguagedata/flores_plus could not be read as a data set" in message
    assert "hf auth login" in message


def test_the_embedded_pairs_when_they_are_asked_for_need_no_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert held_out.load("embedded", ICELANDIC, 20).watched_name == "20 embedded pairs"
    assert capsys.readouterr().err == ""


def test_a_language_that_the_text_does_not_have_is_refused() -> None:
    with pytest.raises(PairsError, match="embedded has no fao_Latn; it has eng_Latn"):
        held_out.load("embedded", Languages("eng_Latn", ("fao_Latn",)), 20)


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="holds 0 files named by a language"):
        held_out.load(str(tmp_path), ICELANDIC, 20)


def test_quality_metrics_are_those_that_can_be_had() -> None:
    held = held_out.load("embedded", ICELANDIC, 10)
    assert held.metrics == ("chrf", "bleu")
    assert held.left_out is not None
    assert "`neuronxa comet " in held.left_out


def test_the_test_at_the_end_scores_both_ways_and_no_control(tmp_path: Path) -> None:
    languages = Languages("eng_Latn", ("isl_Latn",), ("deu_Latn",))
    held = held_out.load(str(release(tmp_path / "flores200_dataset")), languages, 10)
    model, tokenizer = tiny_llama().eval(), make_tokenizer()
    with QualityEvaluator(("chrf", "bleu"), held.test[:1], "both", PLAIN_PROMPT) as quality:
        report = quality.score(quality.translate(Decoder.find(model, tokenizer)))
        quality_scores = {metric: report.mean(metric) for metric in ("chrf", "bleu")}
    scores = NeuronXAEvaluator(held.test[:1], ("nasca", "mexa"))(model, tokenizer).score
    alignment = {str(method): score for method, score in scores.items()}
    scores_of_test = held_out.test_scorer(model, tokenizer, held, ["nasca", "mexa"], PLAIN_PROMPT)
    assert scores_of_test() == alignment | quality_scores


def test_no_test_has_no_scores() -> None:
    held = held_out.load("embedded", ICELANDIC, 10)
    assert held_out.test_scorer(tiny_llama(), make_tokenizer(), held, ["nasca"], PLAIN_PROMPT)() == {}
