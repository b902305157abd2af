"""Alignment against task results, on a file that lm-evaluation-harness really wrote (tests/data/lm_eval/make.py)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from neuronxa_callback.cli import app
from neuronxa_callback.correlation import Coefficient, difference
from neuronxa_callback.signature import Signature
from neuronxa_callback.significance import holm
from neuronxa_callback.survey.downstream import averages, correlate, differences, join
from neuronxa_callback.survey.results import AlignmentScore, ResultsError, TaskResult, read_results, read_scores
from neuronxa_callback.tables import Table
from tests.support import make_tokenizer, tiny_llama

RESULTS = Path(__file__).parents[1] / "data" / "lm_eval" / "results.json"
SIGNATURE = Signature.of(n=30)
LANGUAGES = ("isl_Latn", "deu_Latn", "fra_Latn", "spa_Latn")
RUNNER = CliRunner()


def table_of(scores: Iterable[AlignmentScore], results: Iterable[TaskResult]) -> Table:
    return correlate(join(scores, results))


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
    table = table_of(read_scores(scores), read_results(RESULTS))
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["method"], row["task"], row["n"]) for row in rows] == [
        (method, task, n) for method in ("nasca", "mexa") for task, n in (("belebele", 4), ("arc", 3))
    ]
    aligned = {(s.method, s.lang): s.score for s in read_scores(scores)}
    values = {(r.task, r.lang): r.value for r in read_results(RESULTS)}
    assert [row["p (Holm)"] for row in rows] == pytest.approx(holm([float(str(row["p"])) for row in rows]))
    assert "There is no interval below 8 languages." in table.notes
    for row in rows:
        shared = LANGUAGES[: int(str(row["n"]))]
        x = [aligned[str(row["method"]), code] for code in shared]
        y = [values[str(row["task"]), code] for code in shared]
        assert row["Pearson r"] == pytest.approx(stats.pearsonr(x, y).statistic)
        every = stats.PermutationMethod()
        assert row["p"] == pytest.approx(stats.pearsonr(x, y, method=every).pvalue)
        assert row["rho p"] == pytest.approx(stats.pearsonr(stats.rankdata(x), stats.rankdata(y), method=every).pvalue)
        assert row["low"] is row["rho high"] is None
        assert row["Spearman rho"] == pytest.approx(stats.spearmanr(x, y).statistic)
        assert "n:30|tokens:weighted" in str(row["signature"])
        assert "pair:" not in str(row["signature"])


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
    table = table_of(aligned, read_results(path))
    assert [(row[0], row[4]) for row in table.rows] == [("a", 3), ("b", 3)]
    assert [row[10] for row in table.rows] == pytest.approx([1, -1])


def test_two_languages_have_no_correlation_and_the_table_says_so() -> None:
    aligned = [AlignmentScore("m", "nasca", "eng_Latn", lang, 0.1, SIGNATURE) for lang in LANGUAGES[:2]]
    table = table_of(aligned, [TaskResult("", "xnli", lang, 0.5) for lang in LANGUAGES])
    assert table.rows == [["m", "nasca", "eng_Latn", "xnli", 2, *[None] * 10, SIGNATURE]]
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
    table = table_of(aligned, results)
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


MANY = ("isl_Latn", "deu_Latn", "fra_Latn", "spa_Latn", "ita_Latn", "por_Latn", "dan_Latn", "swe_Latn", "fin_Latn")


def of_method(method: str, scores: Sequence[float], model: str = "m", **choices: Any) -> list[AlignmentScore]:
    signature = Signature.of(method=method, n=30, tokens="last", layers="mean").with_fields(**choices)
    return [
        AlignmentScore(model, method, "eng_Latn", lang, score, signature)
        for lang, score in zip(MANY, scores, strict=False)
    ]


def drawn(seed: int) -> tuple[list[list[float]], list[TaskResult]]:
    """Three methods' scores of nine languages, and the languages' results at two tasks."""
    points = np.random.default_rng(seed).normal(size=(5, 9))
    results = [
        TaskResult("", task, lang, float(value))
        for task, values in zip(("xnli", "arc"), points[3:], strict=True)
        for lang, value in zip(MANY, values, strict=True)
    ]
    return (points[:3] + points[3]).tolist(), results


def test_every_two_methods_are_tested_and_corrected_over_all_tests() -> None:
    scores, results = drawn(0)
    aligned = [
        line for name, row in zip(("nasca", "mexa", "cka"), scores, strict=True) for line in of_method(name, row)
    ]
    table = differences(join(aligned, results))
    found = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    methods = [("nasca", "mexa"), ("nasca", "cka"), ("mexa", "cka")]
    assert [(row["correlation"], row["task"], row["first"], row["second"]) for row in found] == [
        (kind, task, *two) for kind in ("Pearson", "Spearman") for task in ("xnli", "arc") for two in methods
    ]
    values = {task: [result.value for result in results if result.task == task] for task in ("xnli", "arc")}
    by_name = dict(zip(("nasca", "mexa", "cka"), scores, strict=True))
    for kind in get_args(Coefficient):
        of_kind = [row for row in found if row["correlation"] == kind]
        assert [row["p (Holm)"] for row in of_kind] == pytest.approx(holm([float(str(row["p"])) for row in of_kind]))
        for row in of_kind:
            sides = by_name[str(row["first"])], by_name[str(row["second"])], values[str(row["task"])]
            expected = difference(*sides, coefficient=kind)
            assert expected is not None
            assert [row[name] for name in ("r first", "r second", "z difference", "low", "high", "p")] == [
                *(expected.first, expected.second, expected.z),
                *(*expected.ci, expected.p_value),
            ]
            assert row["n"] == 9
            assert "method" not in cast("Signature", row["signature"])


def test_two_methods_are_tested_over_the_languages_that_both_scored() -> None:
    scores, results = drawn(1)
    aligned = of_method("nasca", scores[0]) + of_method("mexa", scores[1][:8])
    table = differences(join(aligned, results[:9]))
    assert [row[6] for row in table.rows] == [8, 8]
    values = [result.value for result in results[:8]]
    expected = difference(scores[0][:8], scores[1][:8], values, coefficient="Pearson")
    assert expected is not None
    assert table.rows[0][11] == pytest.approx(expected.ci[1])


def test_below_eight_languages_there_is_no_test_and_a_note() -> None:
    scores, results = drawn(2)
    aligned = of_method("nasca", scores[0][:7]) + of_method("mexa", scores[1])
    table = differences(join(aligned, results[:9]))
    assert [row[6:14] for row in table.rows] == [[7, *[None] * 7]] * 2
    assert "m, nasca and mexa, xnli, Pearson: 7 languages in both, but eight are needed." in table.notes
    joined = join(aligned, results[:9])
    low_and_high = [(row[6] is None, row[7] is None) for row in correlate(joined).rows]
    assert low_and_high == [(True, True), (False, False)]


def test_methods_of_other_models_texts_or_options_are_not_compared() -> None:
    scores, results = drawn(3)
    aligned = of_method("nasca", scores[0])
    aligned += of_method("mexa", scores[1], model="other")
    aligned += of_method("mexa", scores[1], n=100) + of_method("mexa", scores[1], corpus="tatoeba")
    assert differences(join(aligned, results)).rows == []


def test_scores_of_other_numbers_of_pairs_are_neither_correlated_together_nor_averaged() -> None:
    scores, results = drawn(4)
    aligned = of_method("nasca", scores[0][:4], n=30)
    aligned += of_method("nasca", scores[0], n=100)[4:]
    table = table_of(aligned, results[:9])
    assert [row[4] for row in table.rows] == [4, 5]
    counts = [(row[2], row[3], cast("Signature", row[6])["n"]) for row in averages(table).rows]
    assert sorted(counts) == [(task, 1, n) for task in ("all tasks", "xnli") for n in ("100", "30")]


def test_what_cannot_be_joined_is_refused() -> None:
    score = AlignmentScore("m", "nasca", "eng_Latn", "isl_Latn", 0.1, SIGNATURE)
    result = TaskResult("other", "xnli", "isl_Latn", 0.5)
    with pytest.raises(ResultsError, match=r"in both the scores \(m\) and the results \(other\)"):
        join([score], [result])
    with pytest.raises(ResultsError, match=r"task xnli: isl_Latn is there twice, with 0\.5 and 0\.6; keep one"):
        join([score], [result, TaskResult("other", "xnli", "isl_Latn", 0.6)])


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
    table = table_of(aligned, [TaskResult("", "xnli", lang, level) for lang, level in levels.items()])
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
        ResultsError, match=r"holds two models named one \(runs/one, other/one\); measure them into separate"
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
        assert len(join([score], read_results(tmp_path / "r.json"))) == 1
    else:
        with pytest.raises(ResultsError, match="no model is in both"):
            join([score], read_results(tmp_path / "r.json"))


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
    expected: Any = table_of(read_scores(scores), read_results(RESULTS))
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
        assert "Differences between the correlations of two methods" in done.stdout


def test_the_differences_alone(scores: Path, tmp_path: Path) -> None:
    command = ["correlate", str(scores), str(RESULTS), "--differences", "--format", "csv"]
    done = RUNNER.invoke(app, command)
    assert done.exit_code == 0, done.output
    found = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["task"], row["correlation"], row["n"]) for row in found] == [
        (task, kind, n) for kind in ("Pearson", "Spearman") for task, n in (("belebele", "4"), ("arc", "3"))
    ]
    both = RUNNER.invoke(app, [*command, "--summary"])
    assert both.exit_code == 1
    assert "--differences and --summary each print one table alone" in both.stderr
    lines = [survey_line(lang, 0.1 * i) for i, lang in enumerate(LANGUAGES)]
    write_lines(tmp_path / "scores.jsonl", lines)
    alone = RUNNER.invoke(app, ["correlate", str(tmp_path), str(RESULTS), "--differences"])
    assert alone.exit_code == 1
    assert "holds one method of each model; score two or more (neuronxa score --methods)" in alone.stderr
