"""The page of several runs, made of real records: tiny models of other seeds, their alignment and their chrF."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.cli import app
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.signature import Signature
from neuronxa_callback.training import best_steps, overlay
from neuronxa_callback.training.history import History
from neuronxa_callback.training.page import RunPageError
from neuronxa_callback.training.records import Evaluation
from neuronxa_callback.vocabulary import Method
from tests.support import make_tokenizer, score_lines, tiny_llama

pytestmark = pytest.mark.once

ISL, FRA = "eng_Latn-isl_Latn", "eng_Latn-fra_Latn"
PAIRS = [ParallelPairs.load(ISL, n=8), ParallelPairs.load(FRA, n=8)]
METHODS: tuple[Method, ...] = ("nasca", "nasca_rank", "cka")
AGAINST = "Best steps against that of one"
Records = list[dict[str, Any]]


def record_run(run_dir: Path, seeds: Sequence[int]) -> Records:
    """A run with an evaluation every five steps: a model of the next seed, scored and translated with."""
    evaluator, tokenizer = NeuronXAEvaluator(PAIRS, METHODS), make_tokenizer()
    quality, history = QualityEvaluator(("chrf",), PAIRS), History(run_dir)
    for place, seed in enumerate(seeds):
        model = tiny_llama(seed).eval()
        history.put(Evaluation.of_report(evaluator(model, tokenizer), 5 * place, None, 1.0, PAIRS))
        history.add_quality(5 * place, quality.score(quality.translate(Decoder.find(model, tokenizer))))
    return score_lines(run_dir)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Records, Records]:
    folder = tmp_path_factory.mktemp("recorded")
    return record_run(folder / "one", range(4)), record_run(folder / "two", range(10, 13))


@pytest.fixture
def one(recorded: tuple[Records, Records]) -> Records:
    return copy.deepcopy(recorded[0])


@pytest.fixture
def two(recorded: tuple[Records, Records]) -> Records:
    return copy.deepcopy(recorded[1])


def put(run_dir: Path, records: Records) -> Path:
    path = History(run_dir).path
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return run_dir


def written(folder: Path, **runs: Records) -> str:
    """The page of runs whose files hold these lines."""
    folders = [put(folder / name, records) for name, records in runs.items()]
    return overlay.write(folders, folder / "page").read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    return page.split(f"# {title}\n")[1].split("\n## ")[0]


def rows(page: str, title: str) -> list[list[str]]:
    """The cells of a section's table, its header left out."""
    lines = [line for line in section(page, title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def command(*arguments: Path | str) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)], env={"COLUMNS": "200"})


def score_of(record: dict[str, Any], method: str) -> float:
    return fmean(record["languages"][name]["score"][method] for name in (ISL, FRA))


def best(records: Records) -> dict[str, Any]:
    return max(records, key=lambda record: score_of(record, "nasca"))


def parts(record: dict[str, Any], method: str, names: Sequence[str]) -> list[float]:
    by_language = [record["languages"][name]["per_pair"][method] for name in names]
    return [sum(values) / len(values) for values in zip(*by_language, strict=True)]


def exact_p_values(now: Sequence[float], before: Sequence[float]) -> tuple[float, float]:
    """The two-sided paired permutation test by every exchange there is: without its ties, and with them.

    The file has seven digits, so a sum of thirds may tie with another or not.
    """
    differences = [b - a for a, b in zip(before, now, strict=True)]
    found = abs(sum(differences))
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in product((1, -1), repeat=8)]
    low, high = (sum(value >= found + edge for value in sums) / len(sums) for edge in (1e-5, -1e-5))
    return low, high


def holm_by_hand(p_values: Sequence[float]) -> list[float]:
    """Each p-value times the number of those that are not smaller, and never below that of a smaller one."""
    ranked = sorted(p_values)
    steps = [min(1, p * (len(ranked) - place)) for place, p in enumerate(ranked)]
    return [max(steps[: ranked.index(p) + 1]) for p in p_values]


def test_the_command_writes_one_page_with_one_figure(
    one: Records, two: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [put(tmp_path / "one", one), put(tmp_path / "two", two)]
    monkeypatch.chdir(tmp_path)
    result = command(*folders)
    assert result.exit_code == 0, result.output
    assert result.output == "The page of the runs is neuronxa-runs/report.md\n"
    page = tmp_path / "neuronxa-runs" / "report.md"
    assert re.findall(r"!\[.+?\]\((.*?)\)", page.read_text()) == ["runs.png"]
    assert {path.name for path in page.parent.iterdir()} == {"report.md", "runs.png"}
    assert (page.parent / "runs.png").read_bytes().startswith(b"\x89PNG")
    assert not (folders[0] / "neuronxa" / "report").exists()
    assert command(*folders, "--output", tmp_path / "new" / "page").exit_code == 0
    assert (tmp_path / "new" / "page" / "report.md").read_text() == page.read_text()


def test_each_run_has_a_row_in_the_table_of_each_score(one: Records, two: Records, tmp_path: Path) -> None:
    page = written(tmp_path, one=one, two=two)
    assert [row[2:] for row in rows(page, "Runs laid over each other")] == [
        ["4", "15", str(best(one)["step"])],
        ["3", "10", str(best(two)["step"])],
    ]
    for method, title in (("nasca", "NASCA"), ("nasca_rank", "NASCA rank"), ("cka", "CKA")):
        for row, name, records in zip(rows(page, title), ("one", "two"), (one, two), strict=True):
            values = [score_of(record, method) for record in records]
            highest = values.index(max(values))
            chrf = fmean(records[highest]["quality"][pair]["metrics"]["chrf"]["score"] for pair in (ISL, FRA))
            shown = [f"{value:.4f}" for value in (values[0], values[-1], max(values))]
            assert row == [name, *shown, str(5 * highest), f"{chrf:.4f}"]
    for row, records in zip(rows(page, "chrF"), (one, two), strict=True):
        values = [record["quality_score"]["chrf"] for record in records]
        shown = [f"{value:.4f}" for value in (values[0], values[-1], max(values))]
        assert row[1:] == [*shown, str(5 * values.index(max(values)))]


def test_the_best_steps_are_compared_pair_by_pair(one: Records, two: Records, tmp_path: Path) -> None:
    page = written(tmp_path, one=one, two=two, three=one[:2])
    found = rows(page, AGAINST)
    expected, p_values = [], []
    for method, title in (("nasca", "NASCA"), ("nasca_rank", "NASCA rank")):
        for name, records in (("two", two), ("three", one[:2])):
            for called, pairs in ((best_steps.ALL, (ISL, FRA)), (ISL, (ISL,)), (FRA, (FRA,))):
                now, before = (parts(best(lines), method, pairs) for lines in (records, one))
                scores = [f"{fmean(values):.4f}" for values in (now, before)]
                expected.append([name, title, called, *scores, f"{fmean(now) - fmean(before) + 0:+.4f}"])
                p_values.append(exact_p_values(now, before))
    assert [row[:6] for row in found] == expected
    shown = [float(row[7]) for row in found]
    assert all(low - 0.005 <= p <= high + 0.005 for p, (low, high) in zip(shown, p_values, strict=True))
    assert sum(high - low < 0.01 for low, high in p_values) > 3  # most have no ties
    assert [float(row[8]) for row in found] == pytest.approx(holm_by_hand(shown), rel=0.05)


def test_the_interval_is_that_of_drawn_pairs(one: Records, two: Records, tmp_path: Path) -> None:
    found = {(row[1], row[2]): row[6] for row in rows(written(tmp_path, one=one, two=two), AGAINST)}
    now, before = (np.array(parts(best(records), "nasca_rank", (ISL, FRA))) for records in (two, one))
    drawn = np.random.default_rng(7).choice(now - before, (20000, 8)).mean(axis=1)
    low, high = map(float, found["NASCA rank", best_steps.ALL].split(" to "))
    assert (low, high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.1 * float(np.ptp(drawn)))
    assert low < high


def test_the_page_says_what_the_test_does_not_know(one: Records, two: Records, tmp_path: Path) -> None:
    page = written(tmp_path, one=one, two=two)
    begins = section(page, "Runs laid over each other")
    assert f"Alignment is the mean over {ISL}, {FRA}." in begins
    assert "The best step of a run is that of its highest NASCA. The baseline is one." in begins
    assert "chosen because its NASCA is the highest" in section(page, AGAINST)
    assert "takes no account of this" in section(page, AGAINST)
    assert "10 % (NASCA) to 24 % (NASCA rank) of mere jitter" in section(page, AGAINST)
    assert "CKA left out: the paired test needs a value for each sentence pair." in section(page, AGAINST)


def changed(records: Records, name: str, old: str, new: str) -> Records:
    """The records with another value in the signature of a language pair."""
    for record in records:
        signature = record["languages"][name]["signature"]
        assert old in signature
        record["languages"][name]["signature"] = signature.replace(old, new)
    return records


def test_other_held_out_pairs_are_not_tested(one: Records, two: Records, tmp_path: Path) -> None:
    data = PAIRS[0].fingerprint
    page = written(tmp_path, one=one, two=changed(two, ISL, data, "abcdef"))
    told = f"data is {data} in one and abcdef in two"
    assert f"two cannot be compared with one on {ISL} and is not tested there: {told}." in section(page, AGAINST)
    assert [row[1:3] for row in rows(page, AGAINST)] == [["NASCA", FRA], ["NASCA rank", FRA]]
    both = written(tmp_path / "both", one=one, two=changed(two, FRA, PAIRS[1].fingerprint, "fedcba"))
    assert "| p |" not in both
    assert section(both, AGAINST).count("is not tested there: data is") == 2
    assert best_steps.LIMITS[:20] not in both


def test_another_choice_of_one_method_leaves_the_others_tested(one: Records, two: Records, tmp_path: Path) -> None:
    page = written(tmp_path, one=one, two=changed(two, ISL, "nasca_rank", "nasca_rank(nav)"))
    assert f"on {ISL} by NASCA rank and is not tested there: method is nasca_rank in one and" in section(page, AGAINST)
    assert [row[1:3] for row in rows(page, AGAINST)] == [
        *(["NASCA", name] for name in (best_steps.ALL, ISL, FRA)),
        ["NASCA rank", FRA],
    ]


def test_a_field_that_only_one_run_has_counts() -> None:
    signatures = [Signature.of(n=8), Signature.of(n=8, kind="new")]
    assert best_steps.both_ways(*signatures) == {"kind": ("none", "new")}
    assert best_steps.both_ways(*reversed(signatures)) == {"kind": ("new", "none")}


def test_facts_about_the_models_are_named_and_the_runs_tested(one: Records, two: Records, tmp_path: Path) -> None:
    for name in (ISL, FRA):
        changed(two, name, "dtype:float32", "dtype:bfloat16")
    page = written(tmp_path, one=one, two=two)
    assert "which may change its scores: dtype is float32 in one and bfloat16 in two." in section(page, AGAINST)
    assert len(rows(page, AGAINST)) == 6


def test_runs_of_different_languages_are_compared_in_those_they_share(
    one: Records, two: Records, tmp_path: Path
) -> None:
    for record in two:
        del record["languages"][FRA], record["quality"][FRA]
    page = written(tmp_path, one=one, two=two)
    assert f"Left out, because not every run has it: {FRA}." in page
    assert f"Alignment is that of {ISL}. Translation quality is that of {ISL}." in page
    values = [record["languages"][ISL]["score"]["nasca"] for record in one]
    assert rows(page, "NASCA")[0][1:4] == [f"{value:.4f}" for value in (values[0], values[-1], max(values))]
    highest = max(one, key=lambda record: record["languages"][ISL]["score"]["nasca"])
    assert rows(page, "Runs laid over each other")[0][-1] == str(highest["step"])
    assert [row[2] for row in rows(page, AGAINST)] == [ISL, ISL]
    quality = [record["quality"][ISL]["metrics"]["chrf"]["score"] for record in one]
    assert rows(page, "chrF")[0][3] == f"{max(quality):.4f}"


def test_languages_with_sources_of_their_own_have_no_tested_mean(one: Records, two: Records, tmp_path: Path) -> None:
    for record in (*one, *two):
        record["per_pair"] = {}
    page = written(tmp_path, one=one, two=two)
    assert best_steps.OWN_SOURCES in section(page, AGAINST)
    assert [row[2] for row in rows(page, AGAINST)] == [ISL, FRA] * 2


def test_a_metric_that_is_missing_is_not_made_up(one: Records, two: Records, tmp_path: Path) -> None:
    step = best(two)["step"]
    for record in two:
        if record["step"] in (step, 10):
            record["quality"][ISL]["metrics"]["chrf"] = {"missing": "out of paper"}
    page = written(tmp_path, one=one, two=two)
    assert rows(page, "NASCA")[1][-1] == "none"
    assert re.search(r" \(step \d\)$", rows(page, "chrF")[1][2])
    assert "cannot be compared" not in page


def test_runs_without_translations_have_alignment_alone(one: Records, two: Records, tmp_path: Path) -> None:
    for record in two:
        record["quality"] = {}
    page = written(tmp_path, one=one, two=two)
    assert re.findall("^## (.*)$", page, re.MULTILINE) == ["NASCA", "NASCA rank", "CKA", AGAINST, "Signatures"]
    assert f"Left out, because not every run has it: {ISL}, {FRA}, chrF." in page


def test_translations_of_another_prompt_are_named(one: Records, two: Records, tmp_path: Path) -> None:
    for record in two:
        made = record["quality"][FRA]
        made["signature"] = re.sub(r"prompt:[\w-]+", "prompt:own-1", made["signature"])
        made["metrics"]["chrf"]["signature"] = "nw:9"
    page = written(tmp_path, one=one, two=two)
    (told,) = re.findall(rf"The quality of two cannot be compared with that of one on {FRA}: (.*)\.$", page, re.M)
    assert re.match(r"prompt is plain-\w+ in one and own-1 in two; ", told)
    assert "chrF's nw is 0 in one and 9 in two" in told


@pytest.mark.parametrize(
    ("dtype", "told"),
    [("", None), ("dtype:bfloat16|", "COMET's dtype is float32 in one and bfloat16 in two")],
)
def test_comet_scores_of_an_earlier_version_are_compared(
    dtype: str, told: str | None, one: Records, two: Records, tmp_path: Path
) -> None:
    """It named neither Python nor the references nor a precision, which was float32."""
    earlier, now = "model:m|comet:2.2.7", f"model:m|{dtype}comet:2.2.7|python:3.11.7|references:1"
    for records, signature in ((one, earlier), (two, now)):
        for record in records:
            for made in record["quality"].values():
                made["metrics"]["comet"] = {"score": 0.5, "segments": None, "signature": signature}
    page = written(tmp_path, one=one, two=two)
    found = re.findall(rf"The quality of two cannot be compared with that of one on {FRA}: (.*)\.$", page, re.M)
    assert found == ([] if told is None else [told])
    precision = "bf16" if dtype else "fp32"
    assert f"    Python3.11.7|Comet2.2.7|{precision}|m|r1\n" in section(page, "Signatures")


def test_names_are_those_of_the_folders_with_as_many_parents_as_tell_them_apart() -> None:
    names = ("x/a/run", "y/a/run", "z/run", "lone", "x/../other/.", "/run", "run2")
    assert overlay.run_names([Path("/tmp", name) for name in names]) == [
        *("x/a/run", "y/a/run", "z/run", "lone", "other", "/run", "run2"),
    ]


def test_a_strange_folder_name_breaks_no_table(one: Records, two: Records, tmp_path: Path) -> None:
    page = written(tmp_path, one=one, **{"a|b `c` <i>": two})
    assert len(rows(page, "NASCA")[1]) == 6
    assert "a&#124;b &#96;c&#96; &#60;i&#62;" in page
    assert "<i>" not in page


def refused(*folders: Path) -> str:
    result = command(*folders)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    return result.output


def test_runs_that_cannot_be_laid_over_each_other_are_refused_with_one_sentence(
    one: Records, two: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = put(tmp_path / "one", one)
    told = refused(first, put(tmp_path / "two", two), tmp_path / "two" / ".." / "one")
    assert f"{tmp_path}/one is named twice; name each run once." in told
    assert f"{tmp_path}/none is not a folder; give the output_dir" in refused(first, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}/empty/neuronxa/scores.jsonl is missing" in refused(first, tmp_path / "empty")
    french = [record | {"languages": {FRA: record["languages"][FRA]}} for record in one]
    icelandic = [record | {"languages": {ISL: record["languages"][ISL]}} for record in two]
    told = refused(put(tmp_path / "fra", french), put(tmp_path / "isl", icelandic))
    assert f"the runs share no language pair: fra has {FRA}; isl has {ISL}." in told
    other = json.loads(json.dumps(two).replace("nasca_rank", "mexa").replace("nasca", "navca").replace("cka", "anc"))
    told = refused(first, put(tmp_path / "other", other))
    assert "the runs share no alignment method: one has nasca, nasca_rank, cka; other has navca, mexa, anc." in told
    assert not (tmp_path / "neuronxa-runs").exists()


def test_fewer_than_two_runs_have_no_page_of_several(tmp_path: Path) -> None:
    with pytest.raises(RunPageError, match="needs two at least; name the output_dir of each"):
        overlay.write([tmp_path])


def test_no_run_is_a_missing_argument() -> None:
    result = command()
    assert result.exit_code == 2
    assert "Missing argument 'OUTPUT_DIR'" in result.output
