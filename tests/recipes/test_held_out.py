"""What is watched and what is left for the end, from each place that FLORES can be had from."""

from __future__ import annotations

from pathlib import Path

import held_out
import pyarrow
import pytest
from pyarrow import parquet

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.quality.translation import PLAIN_PROMPT
from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.text.pairs import PairsError
from tests.support import make_tokenizer, tiny_llama

pytestmark = pytest.mark.recipe

TEXT = embedded("heldout.tsv")
LANGUAGES = ("eng_Latn", "isl_Latn")


def release(folder: Path) -> Path:
    """FLORES-200's release layout: 30 embedded sentences as dev, 30 others as devtest."""
    for split, start in (("dev", 0), ("devtest", 30)):
        (folder / split).mkdir(parents=True)
        for code in LANGUAGES:
            text = "\n".join(TEXT[code][start : start + 30]) + "\n"
            (folder / split / f"{code}.{split}").write_text(text, encoding="utf-8")
    return folder


def test_dev_is_watched_and_devtest_left_for_the_end(tmp_path: Path) -> None:
    held = held_out.load(str(release(tmp_path / "flores200_dataset")), 20)
    assert held.watched == ParallelPairs(TEXT["eng_Latn"][:20], TEXT["isl_Latn"][:20], *LANGUAGES)
    assert held.test == ParallelPairs(TEXT["eng_Latn"][30:50], TEXT["isl_Latn"][30:50], *LANGUAGES)
    assert held.all_pairs == [held.watched, held.test]
    assert (held.watched_name, held.test_name) == ("20 pairs of FLORES dev", "20 pairs of FLORES devtest")


def test_a_data_set_with_a_configuration_a_language(tmp_path: Path) -> None:
    configurations = ""
    for code in LANGUAGES:
        configurations += f"- config_name: {code}\n  data_files:\n  - split: dev\n    path: dev/{code}.parquet\n"
        (tmp_path / "dev").mkdir(exist_ok=True)
        rows = {"id": list(range(30)), "text": list(TEXT[code][:30])}
        parquet.write_table(pyarrow.table(rows), tmp_path / "dev" / f"{code}.parquet")
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configurations}---\n")
    pairs = held_out._from_hub(str(tmp_path), "dev", 20)
    assert pairs == ParallelPairs(TEXT["eng_Latn"][:20], TEXT["isl_Latn"][:20], *LANGUAGES)


def test_another_data_set_that_cannot_be_had_is_not_replaced() -> None:
    with pytest.raises(PairsError, match="data/flores200 could not be read as a data set"):
        held_out.load("data/flores200", 20)


@pytest.mark.parametrize("flores", ["/no/such/flores200_dataset", "flores200_dataset"])
def test_a_folder_that_is_not_there_is_refused(flores: str) -> None:
    with pytest.raises(PairsError, match=f"--flores {flores} does not exist; give FLORES-200's release folder"):
        held_out.load(flores, 20)


def test_the_embedded_pairs_where_flores_cannot_be_had_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    held = held_out.load("openlanguagedata/flores_plus", 20)
    assert held.watched == ParallelPairs.load("eng_Latn-isl_Latn", n=20)
    assert held.test is None
    message = capsys.readouterr().err.strip()
    assert message.count("\n") == 0
    assert message.startswith("The embedded pairs are watched")
    assert "since openlanguagedata/flores_plus could not be read as a data set" in message
    assert "hf auth login" in message


def test_the_embedded_pairs_when_they_are_asked_for_need_no_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert held_out.load("embedded", 20).watched_name == "20 embedded pairs"
    assert capsys.readouterr().err == ""


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"eng_Latn\.dev does not exist"):
        held_out.load(str(tmp_path), 20)


def test_quality_metrics_are_those_that_can_be_had() -> None:
    held = held_out.load("embedded", 10)
    assert held.metrics == ("chrf",)
    assert held.left_out is not None
    assert "`neuronxa comet " in held.left_out


def test_the_test_at_the_end_scores_both_ways(tmp_path: Path) -> None:
    held = held_out.load(str(release(tmp_path / "flores200_dataset")), 10)
    model, tokenizer = tiny_llama().eval(), make_tokenizer()
    assert held.test is not None
    with QualityEvaluator("chrf", [held.test], "both", PLAIN_PROMPT) as quality:
        report = quality.score(quality.translate(Decoder.find(model, tokenizer)))
        chrf = report.mean("chrf")
    scores = NeuronXAEvaluator(held.test)(model, tokenizer).score
    alignment = {str(method): score for method, score in scores.items()}
    assert held_out.test_scores(model, tokenizer, held, PLAIN_PROMPT) == alignment | {"chrf": chrf}


def test_no_test_has_no_scores() -> None:
    assert held_out.test_scores(tiny_llama(), make_tokenizer(), held_out.load("embedded", 10), PLAIN_PROMPT) == {}
