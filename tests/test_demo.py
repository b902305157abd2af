from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from neuronxa_callback import ParallelPairs
from neuronxa_callback.alignment.pair_scores import PairScores, Surface
from neuronxa_callback.cli import app
from neuronxa_callback.demo import text as demo_text
from neuronxa_callback.demo.run import DemoRun
from neuronxa_callback.demo.summary import summarise
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.quality.translation import Translations
from neuronxa_callback.signature import Signature
from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.training.records import Evaluation
from tests.support import make_tokenizer, score_lines, tiny_llama


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("tiny")
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def cells(output: str, language: str) -> list[list[str]]:
    """The cells of a language's rows in the tables of the summary."""
    found = [line.split("│") for line in output.splitlines() if line.startswith(f"│ {language} ")]
    return [[cell.strip() for cell in row[2:-1]] for row in found]


def test_the_command_trains_scores_and_explains(model_path: Path, tmp_path: Path) -> None:
    """The whole demo on a model that is small enough for a test; the real one is `make demo`."""
    arguments = ["demo", "--model", str(model_path), "--output-dir", str(tmp_path), "--steps", "3", "--eval-steps", "2"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "1440 training examples; none of the 100 held-out sentences" in result.output
    assert [record["step"] for record in score_lines(tmp_path)] == [0, 2, 3]
    for language in ("Icelandic", "French", "Spanish"):
        assert language in result.output
    assert re.search(
        r"^step 2: NASCA 0\.\d{4} \(Icelandic 0\.\d{4}, French 0\.\d{4}, Spanish 0\.\d{4}\)$", result.output, re.M
    )
    for noise in ("eval_nasca", "Warning", "Loading weights", "examples/s", "gemm_4bit_forward"):
        assert noise not in result.output
    assert "p is the share of 9,999 such re-pairings, the true pairing counted, that score as high" in " ".join(
        result.output.split()
    )
    last = score_lines(tmp_path)[-1]["languages"]
    for name, language in (("isl_Latn", "Icelandic"), ("fra_Latn", "French"), ("spa_Latn", "Spanish")):
        found, (measured, surface) = last[f"eng_Latn-{name}"], cells(result.output, language)
        numbers = found["score"]["nasca"], found["chance"]["nasca"], found["p_value"]["nasca"]
        assert measured[1::2][:2] == [f"{numbers[0]:.4f}", f"{numbers[1]:.4f}"]
        assert measured[4:] == [f"{numbers[2]:.2g}", "yes" if numbers[2] < 0.05 else "no"]
        assert int(surface[0]) == sum(part > 0 for part in found["per_pair"]["nasca"])
        assert surface[3] == f"{found['surface']['ngram_baseline']:.4f}"
    assert f"tensorboard --logdir {tmp_path}" in result.output
    assert (tmp_path / "alignment.png").stat().st_size > 10_000
    page = tmp_path / "neuronxa" / "page.html"
    assert f"The page of this run, for a browser: {page}" in result.output
    assert "Icelandic" in page.read_text(encoding="utf-8")
    (file,) = tmp_path.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file.parent)).Reload()
    logged = {scalar.step: scalar.value for scalar in events.Scalars("eval/chrf")}
    assert list(logged) == [0, 3]
    told = ", ".join(f"{score:.1f} at step {step}" for step, score in logged.items())
    assert f"chrF of 20 translations into French: {told}." in result.output


def test_a_slow_machine_gets_a_shorter_run(model_path: Path, tmp_path: Path) -> None:
    options = ["--steps", "9", "--eval-steps", "2", "--minutes", "0"]
    result = CliRunner().invoke(
        app, ["demo", "--model", str(model_path), "--output-dir", str(tmp_path), *options], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    assert [record["step"] for record in score_lines(tmp_path)] == [0, 2]
    assert "Stopped at step 2 of 9, to end within 0 minutes" in result.output


def test_without_its_page_the_demo_still_tells_its_scores(model_path: Path, tmp_path: Path) -> None:
    page = tmp_path / "neuronxa" / "page.html"
    page.mkdir(parents=True)
    options = ["--steps", "2", "--eval-steps", "2"]
    result = CliRunner().invoke(
        app, ["demo", "--model", str(model_path), "--output-dir", str(tmp_path), *options], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    assert cells(result.output, "Icelandic")
    assert f"There is no page of this run: {page} cannot be written (Is a directory); choose another" in result.output


def test_a_missing_model_is_explained(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--model", str(tmp_path / "none"), "--output-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "make model" in result.output
    assert "Traceback" not in result.output


def test_examples_go_both_ways() -> None:
    examples = demo_text.translation_examples(embedded("demo_train.tsv"))
    assert len(examples) == 240 * 3 * 2
    english, icelandic = (embedded("demo_train.tsv")[code][0] for code in ("eng_Latn", "isl_Latn"))
    assert {"prompt": f"English: {english}\nIcelandic:", "completion": f" {icelandic}"} in examples
    assert {"prompt": f"Icelandic: {icelandic}\nEnglish:", "completion": f" {english}"} in examples


def test_a_leak_would_be_found() -> None:
    pairs = ParallelPairs.load("eng_Latn-isl_Latn")
    leak = {"prompt": f"English: {pairs.source[7].upper()}\nFrench:", "completion": " ..."}
    with pytest.raises(demo_text.DemoError, match="1 training texts hold a held-out sentence or nearly one"):
        demo_text.check_held_out([pairs], [leak])


def test_the_summary_says_what_is_above_chance_and_what_is_not(tmp_path: Path) -> None:
    def record(step: int, scores: dict[str, tuple[float, float]]) -> Evaluation:
        languages = {
            f"eng_Latn-{code}": PairScores(
                signature=Signature.of(n=100),
                score={"nasca": score},
                p_value={"nasca": p_value},
                chance={"nasca": 0.0003},
                ci={"nasca": (0.0, 0.1)},
                surface=Surface(
                    n_without_shared=n_without,
                    without_shared={"nasca": 0.0042} if n_without else {},
                    carriers={"nasca": 5},
                    carriers_sharing={"nasca": 4},
                    ngram_baseline=0.4321,
                ),
            )
            for (code, (score, p_value)), n_without in zip(scores.items(), (60, 0), strict=True)
        }
        return Evaluation(step=step, score={}, languages=languages)

    history = [
        record(0, {"isl_Latn": (0.01, 0.6), "fra_Latn": (0.05, 0.0001)}),
        record(9, {"isl_Latn": (0.0123, 0.4), "fra_Latn": (0.0789, 1e-9)}),
    ]
    french = demo_text.shortest(ParallelPairs.load("eng_Latn-fra_Latn"), 2)
    quality = QualityEvaluator("chrf", [french])
    reports = [
        (step, quality.score({french.name: (Translations(texts, 0, 0), Signature())}))
        for step, texts in ((0, ("non", "[non]")), (9, french.target))
    ]
    console = Console(file=io.StringIO(), width=200)
    summarise(DemoRun(tmp_path, tmp_path / "a.png", tmp_path / "page.html", "", history, reports, 1.0), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    said = " ".join(text.split())
    assert "At the end French is above chance (p < 0.05 each). Icelandic is not." in said
    assert cells(text, "Icelandic") == [
        ["0.0100", "0.0123", "0.000 to 0.100", "0.0003", "0.4", "no"],
        ["5", "4", "0.0042", "0.4321"],
    ]
    assert cells(text, "French") == [
        ["0.0500", "0.0789", "0.000 to 0.100", "0.0003", "1e-09", "yes"],
        ["5", "4", "no such pair", "0.4321"],
    ]
    assert "A score above chance may come from shared names and numbers alone." in said
    assert "these share a word form: 4 of 5 in Icelandic, 4 of 5 in French." in said
    assert "knows next to no Icelandic" in text
    assert "Llama-3.1-8B" in text
    assert f"{reports[0][1].mean('chrf'):.1f} at step 0, 100.0 at step 9." in text
    assert f"step 9: {french.target[0]}" in text
    assert "0.0789" in text
