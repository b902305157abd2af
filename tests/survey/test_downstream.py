"""Alignment against task results, on a file that lm-evaluation-harness really wrote (tests/data/lm_eval/make.py)."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from neuronxa_callback.cli import app
from neuronxa_callback.signature import Signature
from neuronxa_callback.significance import pearson, spearman
from neuronxa_callback.survey.downstream import (
    AlignmentScore,
    ResultsError,
    TaskResult,
    averages,
    correlate,
    read_results,
    read_scores,
)
from tests.support import ROOT, make_tokenizer, tiny_llama

RESULTS = Path(__file__).parents[1] / "data" / "lm_eval" / "results.json"
SIGNATURE = Signature.of(n=30)
LANGUAGES = ("isl_Latn", "deu_Latn", "fra_Latn", "spa_Latn")
RUNNER = CliRunner()


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What neuronxa score writes of a tiny model of the name that was evaluated."""
    folder: Path = tmp_path_factory.mktemp("survey")
    tiny_llama(max_position_embeddings=1024).save_pretrained(folder / "one")
    make_tokenizer().save_pretrained(folder / "one")
    command = ["score", str(folder / "one"), "--n", "30", "--methods", "nasca,mexa", "--output", str(folder / "out")]
    done = RUNNER.invoke(app, command)
    assert done.exit_code == 0, done.output
    return folder / "out"


def test_the_harness_file_is_read() -> None:
    raw = json.loads(RESULTS.read_text(encoding="utf-8"))["results"]
    found = {(result.task, result.lang): result for result in read_results(RESULTS)}
    assert found.keys() == {("belebele", code) for code in LANGUAGES} | {("arc", code) for code in LANGUAGES[:3]}
    assert found["arc", "isl_Latn"].value == raw["arc_is"]["acc,none"]
    assert {Path(result.model).name for result in found.values()} == {"one"}
    normalised = {(result.task, result.lang): result.value for result in read_results(RESULTS, "acc_norm")}
    assert normalised["belebele", "deu_Latn"] == raw["belebele_deu_Latn"]["acc_norm,none"]


def test_the_table_holds_scipys_numbers(scores: Path) -> None:
    table = correlate(read_scores(scores), read_results(RESULTS))
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["method"], row["task"], row["n"]) for row in rows] == [
        (method, task, n) for method in ("nasca", "mexa") for task, n in (("belebele", 4), ("arc", 3))
    ]
    aligned = {(s.method, s.lang): s.score for s in read_scores(scores)}
    values = {(r.task, r.lang): r.value for r in read_results(RESULTS)}
    for row in rows:
        shared = LANGUAGES[: int(str(row["n"]))]
        x = [aligned[str(row["method"]), code] for code in shared]
        y = [values[str(row["task"]), code] for code in shared]
        assert row["Pearson r"] == pytest.approx(stats.pearsonr(x, y).statistic)
        assert row["p"] == pytest.approx(stats.pearsonr(x, y).pvalue)
        assert row["Spearman rho"] == pytest.approx(stats.spearmanr(x, y).statistic)
        assert "n:30|tokens:weighted" in str(row["signature"])
        assert "pair:" not in str(row["signature"])


def test_spearman_is_scipys_with_ties_and_monotone_curves() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 8, 30), rng.normal(size=30)
    found, expected = spearman(x, y), stats.spearmanr(x, y)
    assert found is not None
    assert found.r == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.ci[0] < found.r < found.ci[1]
    curve = np.linspace(0, 5, 20)
    rank, line = spearman(curve, np.exp(curve)), pearson(curve, np.exp(curve))
    assert rank is not None
    assert line is not None
    assert rank.r == pytest.approx(1)
    assert line.r < 0.9
    assert spearman([1, 2], [1, 2]) is None
    assert spearman([1, 1, 1], [1, 2, 3]) is None


def test_a_csv_of_several_models_is_joined_by_model(tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    codes = ["is", "deu_Latn", "fr"]
    rows = [
        f"{model},xnli,{code},{sign * i}" for model, sign in (("hub/a", 1), ("b", -1)) for i, code in enumerate(codes)
    ]
    path.write_text("\n".join(["model,task,lang,value", *rows]) + "\n", encoding="utf-8")
    aligned = [
        AlignmentScore(model, "nasca", "eng_Latn", lang, score, SIGNATURE)
        for model in ("a", "b", "c")
        for lang, score in zip(LANGUAGES, (0.1, 0.2, 0.4), strict=False)
    ]
    table = correlate(aligned, read_results(path))
    assert [(row[0], row[4]) for row in table.rows] == [("a", 3), ("b", 3)]
    assert [row[9] for row in table.rows] == pytest.approx([1, -1])


def test_two_languages_have_no_correlation_and_the_table_says_so() -> None:
    aligned = [AlignmentScore("m", "nasca", "eng_Latn", lang, 0.1, SIGNATURE) for lang in LANGUAGES[:2]]
    table = correlate(aligned, [TaskResult("", "xnli", lang, 0.5) for lang in LANGUAGES])
    assert table.rows == [["m", "nasca", "eng_Latn", "xnli", 2, *[None] * 8, SIGNATURE]]
    assert "m, nasca, xnli: 2 languages in both, but three are needed." in table.notes
    assert averages(table).rows == []


def test_pivots_stand_apart_and_models_are_averaged() -> None:
    """Tables 6 and 8 to 10: one row a pivot, a mean over models and over tasks."""
    levels: dict[tuple[str, str], tuple[float, ...]] = {
        ("a", "eng_Latn"): (0.1, 0.2, 0.3, 0.5),
        ("a", "deu_Latn"): (0.3, 0.1, 0.2, 0.2),
        ("b", "eng_Latn"): (0.4, 0.1, 0.3, 0.2),
    }
    tasks = {"xnli": (1.0, 2.0, 4.0, 3.0), "arc": (4.0, 1.0, 2.0, 2.0)}
    aligned = [
        AlignmentScore(
            model, "nasca", pivot, lang, score, Signature.of(n=30, tokens="last", layers="mean", dtype=model)
        )
        for (model, pivot), scores in levels.items()
        for lang, score in zip(LANGUAGES, scores, strict=True)
    ]
    results = [TaskResult("", t, lang, v) for t, vs in tasks.items() for lang, v in zip(LANGUAGES, vs, strict=True)]
    table = correlate(aligned, results)
    r = {key: {t: stats.pearsonr(level, vs).statistic for t, vs in tasks.items()} for key, level in levels.items()}
    for row in (dict(zip(table.columns, row, strict=True)) for row in table.rows):
        assert row["Pearson r"] == pytest.approx(r[str(row["model"]), str(row["pivot"])][str(row["task"])])
    assert len(table.rows) == 6
    means: dict[Any, Any] = {(row[1], row[2]): (row[3], row[4], row[6]) for row in averages(table).rows}
    assert len(means) == 6
    choices = Signature.of(n=30, tokens="last", layers="mean")
    both = [r["a", "eng_Latn"]["xnli"], r["b", "eng_Latn"]["xnli"]]
    assert means["eng_Latn", "xnli"] == (2, pytest.approx(sum(both) / 2), choices)
    german = r["a", "deu_Latn"].values()
    assert means["deu_Latn", "all tasks"] == (2, pytest.approx(sum(german) / 2), choices)
    assert means["eng_Latn", "all tasks"][0] == 4


def test_what_cannot_be_joined_is_refused() -> None:
    score = AlignmentScore("m", "nasca", "eng_Latn", "isl_Latn", 0.1, SIGNATURE)
    result = TaskResult("other", "xnli", "isl_Latn", 0.5)
    with pytest.raises(ResultsError, match=r"in both the scores \(m\) and the results \(other\)"):
        correlate([score], [result])
    with pytest.raises(ResultsError, match=r"task xnli: isl_Latn is there twice, with 0\.5 and 0\.6; keep one"):
        correlate([score], [result, TaskResult("other", "xnli", "isl_Latn", 0.6)])


def survey_line(lang: str, score: float, **changed: Any) -> dict[str, Any]:
    """A line as neuronxa score wrote it in version 0.1."""
    method = changed.pop("method", "nasca")
    signature = f"method:{method}|n:30|pair:eng_Latn-{lang}|data:{score}|tokens:weighted"
    key = changed.pop("weights", "runs/one||auto||aaa") + f"|method:{method}|pair:eng_Latn-{lang}"
    line = {"model": "one", "lang": lang, "pivot": "eng_Latn", "corpus": "devtest", "signature": signature, "key": key}
    return line | {"scores": dict.fromkeys(method.split("+"), score)} | changed


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_texts_are_not_mixed_and_methods_not_counted_twice(tmp_path: Path) -> None:
    levels = dict(zip(LANGUAGES, (0.1, 0.2, 0.4, 0.3), strict=True))
    lines = [survey_line(lang, level) for lang, level in levels.items()]
    lines += [survey_line(lang, level, method="nasca+mexa") for lang, level in levels.items()]
    lines += [survey_line(lang, 1 - level, corpus="tatoeba") for lang, level in levels.items()]
    aligned = read_scores(write_lines(tmp_path / "scores.jsonl", lines))
    table = correlate(aligned, [TaskResult("", "xnli", lang, level) for lang, level in levels.items()])
    found = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["method"], row["n"], round(float(str(row["Pearson r"])))) for row in found] == [
        ("nasca", 4, 1),
        ("mexa", 4, 1),
        ("nasca", 4, -1),
    ]
    assert [str(row["signature"]).rpartition("|")[2] for row in found] == ["corpus:devtest"] * 2 + ["corpus:tatoeba"]
    assert str(found[0]["signature"]).startswith("method:nasca|n:30|tokens")


def test_of_a_model_that_was_trained_on_the_newest_scores_count(tmp_path: Path) -> None:
    """Not mixed with those of languages that only the old weights were scored on."""
    lines = [survey_line(lang, 0.1) for lang in LANGUAGES]
    lines += [survey_line(lang, 0.7, weights="runs/one||auto||bbb") for lang in LANGUAGES[:2]]
    scores = read_scores(write_lines(tmp_path / "scores.jsonl", lines))
    assert [(score.lang, score.score) for score in scores] == [(lang, 0.7) for lang in LANGUAGES[:2]]


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    lines = [survey_line("isl_Latn", 0.1), survey_line("deu_Latn", 0.2, weights="other/one||auto||ccc")]
    with pytest.raises(
        ResultsError, match=r"holds two models named one \(runs/one, other/one\); score them into separate"
    ):
        read_scores(write_lines(tmp_path / "scores.jsonl", lines))


@pytest.mark.parametrize(
    ("ours", "arguments", "same"),
    [
        ("hub/base", {"pretrained": "hub/base"}, True),
        ("base", {"pretrained": "/models/base"}, True),
        ("hub/base", {"pretrained": "other/base"}, False),
        ("hub/base", {"pretrained": "hub/base", "peft": "runs/adapter"}, False),
        ("hub/base + adapter", {"pretrained": "hub/base", "peft": "runs/adapter"}, True),
        ("hub/base + adapter", "pretrained=hub/base,peft=runs/adapter", True),
        ("hub/base (nf4)", {"pretrained": "hub/base", "load_in_4bit": True}, True),
        ("hub/base", "pretrained=hub/base,load_in_4bit=True", False),
    ],
)
def test_a_model_is_joined_with_its_own_results_alone(ours: str, arguments: Any, same: bool, tmp_path: Path) -> None:
    content = {"results": {"xnli_is": {"acc,none": 0.5}}, "config": {"model_args": arguments}}
    (tmp_path / "r.json").write_text(json.dumps(content))
    score = AlignmentScore(ours, "nasca", "eng_Latn", "isl_Latn", 0.1, SIGNATURE)
    if same:
        assert len(correlate([score], read_results(tmp_path / "r.json")).rows) == 1
    else:
        with pytest.raises(ResultsError, match="no model is in both"):
            correlate([score], read_results(tmp_path / "r.json"))


def test_a_language_without_the_metric_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = {"results": {"xnli_is": {"acc,none": 0.5}, "xnli_de": {"f1,none": 0.5}}}
    (tmp_path / "r.json").write_text(json.dumps(content))
    assert [result.lang for result in read_results(tmp_path / "r.json")] == ["isl_Latn"]
    assert "xnli_de left out (no acc)" in caplog.text


FILES: dict[str, tuple[str, str, str]] = {
    "no JSON": ("r.json", "{", "r.json is no results file of lm-evaluation-harness; name the results_"),
    "other JSON": ("r.json", "[1]", "is no results file"),
    "no language": ("r.json", '{"results": {"hellaswag": {"acc,none": 1}}}', "no task that ends with a language"),
    "no metric": ("r.json", '{"results": {"xnli_de": {"f1,none": 1, "alias": "x"}}}', "no metric 'acc'; it has f1."),
    "no column": ("r.csv", "task,lang\n", "r.csv has no column value; its first line must be model,task,lang,value"),
    "no code": ("r.csv", "task,lang,value\nx,Icelandic,1\n", "line 2: 'Icelandic' is no language"),
    "not a number": ("r.csv", "task,lang,value\nx,is,nan\n", "line 2: 'nan' is no number"),
    "no number": ("r.csv", "task,lang,value\nx,is,high\n", "line 2: 'high' is no number"),
}


@pytest.mark.parametrize("kind", FILES)
def test_bad_results_are_one_sentence(kind: str, tmp_path: Path) -> None:
    name, text, message = FILES[kind]
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ResultsError, match=r".") as caught:
        read_results(tmp_path / name)
    assert message in str(caught.value)


def test_bad_scores_and_missing_files_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_text('{"step": 0}\n', encoding="utf-8")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ResultsError, match="holds no scores of languages; neuronxa score"):
            read_scores(folder)
    done = RUNNER.invoke(app, ["correlate", str(tmp_path), str(tmp_path / "none.json")])
    assert done.exit_code == 1
    assert "does not exist; name a results JSON" in done.stderr.replace("\n", " ")


@pytest.mark.parametrize("table_format", ["csv", "markdown", "latex", "json"])
def test_the_command(table_format: str, scores: Path) -> None:
    done = RUNNER.invoke(app, ["correlate", str(scores), str(RESULTS), "--format", table_format])
    assert done.exit_code == 0, done.output
    expected: Any = correlate(read_scores(scores), read_results(RESULTS))
    if table_format == "csv":
        assert [row[0] for row in csv.reader(io.StringIO(done.stdout))] == ["model", *["one"] * 4]
    elif table_format == "json":
        assert [list(row.values()) for row in json.loads(done.stdout)["rows"]] == [
            [*cells, str(signature)] for *cells, signature in expected.rows
        ]
    else:
        assert "Pearson r" in done.stdout
        assert "Signature: method:(in the file)|n:30" in done.stdout
        assert "Correlations averaged over models" in done.stdout


def test_the_documented_command(scores: Path) -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    (command,) = [line.split()[1:] for line in page.splitlines() if line.startswith("neuronxa correlate")]
    places = {"neuronxa-scores": str(scores), "results.json": str(RESULTS)}
    done = RUNNER.invoke(app, [places.get(word, word) for word in command])
    assert done.exit_code == 0, done.output
    assert "belebele" in done.stdout
