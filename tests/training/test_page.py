"""The report of real records: a tiny model of another seed at every step, its alignment and its translations' chrF."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner, Result

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.alignment.surface import ngram_alignment
from neuronxa_callback.cli import app
from neuronxa_callback.correlation import over_run, spearman
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality.evaluator import QualityEvaluator
from neuronxa_callback.signature import Signature
from neuronxa_callback.text.surface import shared_forms
from neuronxa_callback.training import certainty
from neuronxa_callback.training import page as report
from neuronxa_callback.training.history import History
from neuronxa_callback.training.records import Evaluation
from neuronxa_callback.training.summary import language_curves, summarise
from neuronxa_callback.vocabulary import Method
from tests.support import make_tokenizer, score_lines, tiny_llama

pytestmark = pytest.mark.once

PAIRS = [ParallelPairs.load("eng_Latn-isl_Latn", n=8), ParallelPairs.load("eng_Latn-fra_Latn", n=6)]
STEPS = (0, 5, 10, 15)
HOSTILE = "a|b `c` <script>d</script> [e](f) ![g](h) _i_ **j** &amp; \\| $k$\n| 1 | 2 |\n\n# l\u2028m"
MAPS = ["layer_map.png", "pair_map.png"]
Records = list[dict[str, Any]]


class Judge:
    """A metric of the user's own: fails at the second and at the last evaluation of two directions each."""

    def __init__(self, name: str = "judge_1", reason: str = "out of paper") -> None:
        self.name, self.reason, self.calls = name, reason, 0

    def score(self, sources: Sequence[str], translations: Sequence[str], references: Sequence[str]) -> float:
        self.calls += 1
        if self.calls in (3, 4, 7, 8):
            raise ValueError(self.reason)
        return float(self.calls)


def record_run(run_dir: Path, steps: Sequence[int], methods: Sequence[Method], metrics: Sequence[Any]) -> None:
    evaluator, history, tokenizer = NeuronXAEvaluator(PAIRS, methods), History(run_dir), make_tokenizer()
    quality = QualityEvaluator(metrics, PAIRS)
    for seed, step in enumerate(steps):
        model = tiny_llama(seed).eval()
        history.put(Evaluation.of_report(evaluator(model, tokenizer), step, step / 10, 1.0, PAIRS))
        if metrics:
            history.add_quality(step, quality.score(quality.translate(Decoder.find(model, tokenizer))))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir: Path = tmp_path_factory.mktemp("run")
    record_run(run_dir, STEPS, ("nasca",), ("chrf", Judge()))
    return run_dir


@pytest.fixture(scope="module")
def records(recorded: Path) -> Records:
    return score_lines(recorded)


def command(*arguments: Path | str) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)], env={"COLUMNS": "200"})


def written(run_dir: Path, records: Records) -> str:
    """The page of a run whose file holds these lines."""
    path = History(run_dir).path
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return report.write(run_dir).read_text(encoding="utf-8")


def typed(records: Records) -> list[Evaluation]:
    return [Evaluation.model_validate(record) for record in records]


def section(page: str, title: str) -> str:
    return page.split(f"# {title}\n")[1].split("\n## ")[0]


def rows(page: str, title: str) -> list[list[str]]:
    """The cells of a section's table, its header left out."""
    lines = [line for line in section(page, title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def images(page: str) -> dict[str, str]:
    """File -> description."""
    return {file: description for description, file in re.findall(r"!\[(.*?)\]\((.*?)\)", page)}


def test_the_command_writes_a_page_that_shows_its_figures(recorded: Path, tmp_path: Path) -> None:
    result = command(recorded, "--output", tmp_path / "new" / "page")
    assert result.exit_code == 0, result.output
    page = tmp_path / "new" / "page" / "report.md"
    assert str(page) in result.output.replace("\n", "")
    shown = images(page.read_text(encoding="utf-8"))
    assert list(shown) == ["alignment.png", "layers.png", *MAPS, "quality.png", "quality_over_steps.png"]
    assert all(shown.values())
    assert {path.name for path in page.parent.iterdir()} == {"report.md", *shown}
    for name in shown:
        assert (page.parent / name).read_bytes().startswith(b"\x89PNG")


def test_the_page_lies_in_the_run_by_default(recorded: Path) -> None:
    assert command(recorded).exit_code == 0
    assert (recorded / "neuronxa" / "report" / "report.md").is_file()


def test_the_table_has_the_first_the_last_and_the_best_of_each_score(recorded: Path, records: Records) -> None:
    found = {row[0]: row[1:] for row in rows(report.write(recorded).read_text(), "Alignment and translation quality")}
    assert list(found) == ["NASCA", "chrF", "judge_1"]
    for name, part, key in (("NASCA", "score", "nasca"), ("chrF", "quality_score", "chrf")):
        values = [record[part][key] for record in records]
        best = max(values)
        assert len(set(values)) > 2
        assert found[name] == [f"{value:.4f}" for value in (values[0], values[-1], best)] + [
            str(STEPS[values.index(best)])
        ]
    # The judge failed at the last step, and the page does not pass its value at step 10 off as that of step 15.
    assert found["judge_1"] == ["1.5000", "5.5000 (step 10)", "5.5000", "10"]


def test_correlations_over_the_run_are_scipys_and_have_no_p_value(recorded: Path, records: Records) -> None:
    page = report.write(recorded).read_text()
    nasca = [record["score"]["nasca"] for record in records]
    chrf = [record["quality_score"]["chrf"] for record in records]
    copied = [fmean(made["copied"] for made in record["quality"].values()) for record in records]
    found = over_run(nasca, chrf, copied)
    assert found is not None
    r, of_changes = stats.pearsonr(nasca, chrf).statistic, stats.pearsonr(np.diff(nasca), np.diff(chrf)).statistic
    title = "Translation quality against alignment"
    assert rows(page, title) == [
        ["NASCA", "chrF", f"{r:.3f}", f"{found.r_partial:.3f}", f"{of_changes:.3f}", "4"],
        ["NASCA", "judge_1", "none: fewer than three evaluations", "", "", "2"],
    ]
    header = "| alignment | quality | Pearson's r | r, copying held fixed | r of changes | n |"
    assert header in section(page, title)
    assert "Copying is chrF of the translations against their sources." in section(page, title)
    assert "no independent points, so r has neither a p-value nor an interval" in section(page, title)


def test_changes_need_four_evaluations(records: Records, tmp_path: Path) -> None:
    found = rows(written(tmp_path, records[:3]), "Translation quality against alignment")
    assert found[0][3:] == ["none: fewer than four evaluations", "none: fewer than three changes", "3"]


def test_why_copying_is_not_held_fixed(records: Records, tmp_path: Path) -> None:
    title = "Translation quality against alignment"
    old, follows = copy.deepcopy(records), copy.deepcopy(records)
    del old[1]["quality"]["eng_Latn-fra_Latn"]["copied"]
    for record in follows:
        for direction in record["quality"].values():
            direction["copied"] = 2 * record["quality_score"]["chrf"]
    assert rows(written(tmp_path / "old", old), title)[0][3] == "none: copying was not always measured"
    assert rows(written(tmp_path / "follows", follows), title)[0][3] == "none: a score follows from copying"


SENTENCES = "Alignment and quality of the sentences at step 15"


def test_rho_over_the_sentences_is_that_of_the_last_evaluation(records: Records, tmp_path: Path) -> None:
    aligned = copy.deepcopy(records)
    for record in aligned:
        record["languages"]["eng_Latn-isl_Latn"]["per_pair"]["nasca"] = [0.1 * i for i in range(8)]
        record["languages"]["eng_Latn-fra_Latn"]["per_pair"]["nasca"] = [0.0] * 6
    page = written(tmp_path, aligned)
    segments = records[-1]["quality"]["eng_Latn-isl_Latn"]["metrics"]["chrf"]["segments"]
    expected = spearman(range(8), segments)
    assert expected is not None
    assert expected.ci is not None
    numbers = [f"{expected.r:.3f}", "{:.3f} to {:.3f}".format(*expected.ci), f"{expected.p_value:.2g}", "8"]
    assert rows(page, SENTENCES) == [
        ["eng_Latn-isl_Latn", "NASCA", "chrF", *numbers],
        ["eng_Latn-fra_Latn", "NASCA", "chrF", "none: no pair is aligned", "", "", "6"],
    ]
    assert "p and the interval hold here" in section(page, SENTENCES)
    assert "an easy one may be easy to align and easy to translate" in section(page, SENTENCES)


def test_the_last_evaluation_stands_there_with_its_certainty(recorded: Path, records: Records) -> None:
    page = report.write(recorded).read_text()
    last = records[-1]
    everything, *languages = rows(page, "Alignment at step 15")
    low, high = last["ci"]["nasca"]
    assert everything == [
        "NASCA all language pairs",
        f"{last['score']['nasca']:.4f}",
        f"{low:.4f} to {high:.4f}",
        f"{last['chance']['nasca']:.4f}",
        f"{last['p_value']['nasca']:.2g}",
        *("", "", ""),
    ]
    for row, pair in zip(languages, PAIRS, strict=True):
        found = last["languages"][pair.name]
        low, high = found["ci"]["nasca"]
        parts = found["per_pair"]["nasca"]
        sharing = [bool(forms) for forms in shared_forms(pair)]
        others = [part for part, shares in zip(parts, sharing, strict=True) if not shares]
        carriers = [shares for part, shares in zip(parts, sharing, strict=True) if part > 0]
        assert row == [
            f"NASCA {pair.name}",
            f"{found['score']['nasca']:.4f}",
            f"{low:.4f} to {high:.4f}",
            f"{found['chance']['nasca']:.4f}",
            f"{found['p_value']['nasca']:.2g}",
            f"{sum(others) / len(others):.4f} ({len(others)} pairs)" if others else "no such pair",
            f"{ngram_alignment(pair):.4f}",
            f"{len(carriers)}, {sum(carriers)} of them share a form",
        ]
    assert [row[5] == "no such pair" for row in languages] == [False, True]  # every French sentence shares a form
    assert "torn apart" in section(page, "Alignment at step 15")
    assert certainty.OLD not in page


def test_a_line_of_an_older_format_says_whose_its_p_is(records: Records, tmp_path: Path) -> None:
    old = copy.deepcopy(records)
    for record in old:
        for part in ("ci", "chance", "p_value"):
            del record[part]
        for language in record["languages"].values():
            language["p_value"]["nasca"] = 0.25
            for part in ("chance", "chance_per_layer", "p_per_layer", "surface"):
                del language[part]
    page = written(tmp_path, old)
    assert certainty.OLD in section(page, "Alignment over training steps")
    everything, first, _ = rows(page, "Alignment at step 15")
    assert everything[2:] == [""] * 6
    assert first[3:] == ["", "0.25 (Eq. 5)", "", "", ""]
    assert report._last_chance(typed(old), "nasca") == {}


def test_the_chance_of_the_layers_is_that_of_the_last_evaluation(records: Records) -> None:
    assert report._last_chance(typed(records), "nasca") == {
        name: language["chance_per_layer"]["nasca"] for name, language in records[-1]["languages"].items()
    }
    drawn = language_curves(typed(records), "nasca")
    assert {name: [point.chance for point in points] for name, points in drawn.items()} == {
        pair.name: [record["languages"][pair.name]["chance"]["nasca"] for record in records] for pair in PAIRS
    }


def test_a_score_that_is_no_share_has_neither_carriers_nor_a_baseline(tmp_path: Path) -> None:
    record_run(tmp_path, (0,), ("nasca_rank", "cka"), ())
    _, rank, _, _, cka, _ = rows(report.write(tmp_path).read_text(), "Alignment at step 0")
    assert rank[0].startswith("NASCA rank eng")
    assert rank[5].endswith(" pairs)")
    assert rank[6:] == ["", ""]
    assert cka[0].startswith("CKA eng")
    assert cka[2] == ""
    assert cka[3] != ""
    assert cka[5:] == ["", "", ""]


def test_a_correlation_is_that_of_the_points_drawn_when_the_file_holds_an_older_one(
    records: Records, tmp_path: Path
) -> None:
    stale = copy.deepcopy(records)
    del stale[-1]["pearson"]
    assert stale[-2]["pearson"]["nasca_chrf"]["n"] == 3
    assert rows(written(tmp_path, stale), "Translation quality against alignment")[0][-1] == "4"


def test_a_score_that_does_not_vary_has_no_correlation(records: Records, tmp_path: Path) -> None:
    flat = copy.deepcopy(records)
    for record in flat:
        record["quality_score"]["chrf"] = 12.5
    page = written(tmp_path, flat)
    assert "none: a score does not vary" in rows(page, "Translation quality against alignment")[0]
    assert "no independent points" not in page


def test_empty_and_truncated_translations_are_those_of_the_last_evaluation(records: Records, tmp_path: Path) -> None:
    counted = copy.deepcopy(records)
    for number, record in enumerate(counted):
        for direction in record["quality"].values():
            direction |= {"empty": number, "truncated": number + 4}
            direction |= {"copied": number + 0.25, "off_target": number / 8, "length": number / 4}
    page = written(tmp_path, counted)
    assert rows(page, "Translations at step 15") == [
        ["eng_Latn-isl_Latn", "8", "3", "7", "3.2", "0.375", "0.75"],
        ["eng_Latn-fra_Latn", "6", "3", "7", "3.2", "0.375", "0.75"],
    ]
    assert "Off target is the share of the translations" in section(page, "Translations at step 15")


def test_a_direction_without_a_share_in_another_language_says_why(records: Records, tmp_path: Path) -> None:
    lacking = copy.deepcopy(records)
    made = lacking[-1]["quality"]["eng_Latn-isl_Latn"] | {"copied": 3.25, "off_target": None, "length": 1.0}
    old = {key: value for key, value in made.items() if key not in ("copied", "off_target", "length")}
    names = ("eng_Latn-isl_Latn", "eng_Latn-kas_Deva", "eng_Latn-<b>")
    lacking[-1]["quality"] = dict.fromkeys(names, made) | {"eng_Latn-fra_Latn": old}
    assert [row[4:] for row in rows(written(tmp_path, lacking), "Translations at step 15")] == [
        ["3.2", "– (every translation is too short)", "1.00"],
        ["3.2", "– (py3langid does not know the language)", "1.00"],
        ["3.2", "– (py3langid does not know the language)", "1.00"],
        ["– (not measured)", "", ""],
    ]


def test_missing_scores_are_listed_with_their_steps_and_the_reason(records: Records, tmp_path: Path) -> None:
    untranslated = copy.deepcopy(records)
    for part in ("quality", "quality_score", "pearson"):
        del untranslated[0][part]
    assert rows(written(tmp_path, untranslated), "Missing scores") == [
        ["judge_1", "eng_Latn-isl_Latn", "5, 15", "ValueError: out of paper"],
        ["judge_1", "eng_Latn-fra_Latn", "5, 15", "ValueError: out of paper"],
        ["all", "all", "0", "no translations were written"],
    ]


def test_every_signature_stands_there_once(records: Records, tmp_path: Path) -> None:
    resumed = copy.deepcopy(records)
    resumed[-1]["quality"]["eng_Latn-fra_Latn"]["metrics"]["chrf"]["signature"] = "sacrebleu:another"
    page = section(written(tmp_path, resumed), "Signatures")
    found = [line.strip() for line in page.splitlines() if line.startswith("    ")]
    last = records[-1]
    chrf = last["quality"]["eng_Latn-isl_Latn"]["metrics"]["chrf"]["signature"]
    assert found == [
        *(language["signature"] for language in last["languages"].values()),
        *(direction["signature"] for direction in last["quality"].values()),
        chrf,
        "metric:judge_1",
        "sacrebleu:another",
    ]


@pytest.mark.parametrize("number", [1, 4])
def test_a_run_without_translation_has_a_page_without_it(records: Records, number: int, tmp_path: Path) -> None:
    parts = ("step", "epoch", "runtime", "score", "languages")
    page = written(tmp_path, [{part: record[part] for part in parts} for record in records[:number]])
    assert list(images(page)) == ["alignment.png", "layers.png", *MAPS]
    assert re.findall("^## (.*)$", page, re.MULTILINE) == [
        "Alignment over training steps",
        f"Alignment at step {STEPS[number - 1]}",
        "Alignment per layer",
        "Layers over training steps",
        "Sentence pairs over training steps",
        "Signatures",
    ]


def test_one_evaluation_is_enough(records: Records, tmp_path: Path) -> None:
    page = written(tmp_path, records[:1])
    assert "1 evaluation, step 0, from" in page
    assert len(images(page)) == 6
    assert rows(page, "Translation quality against alignment")[0][2:] == [
        "none: fewer than three evaluations",
        "",
        "",
        "1",
    ]


def test_a_run_whose_metrics_all_failed_has_no_empty_figure(records: Records, tmp_path: Path) -> None:
    failed = copy.deepcopy(records)
    for record in failed:
        record["quality_score"] = {}
        for direction in record["quality"].values():
            direction["metrics"] = {"comet": {"missing": "not scored yet"}}
    page = written(tmp_path, failed)
    assert list(images(page)) == ["alignment.png", "layers.png", *MAPS]
    assert rows(page, "Missing scores")[0] == ["COMET", "eng_Latn-isl_Latn", "0, 5, 10, 15", "not scored yet"]


def test_several_methods_have_a_figure_each(tmp_path: Path) -> None:
    record_run(tmp_path, (0, 5), ("mexa", "nasca"), ("chrf",))
    page = report.write(tmp_path).read_text()
    kinds = ("alignment", "layers", "layer_map", "pair_map", "quality")
    names = [f"{what}-{method}.png" for what in kinds for method in ("nasca", "mexa")]
    assert list(images(page)) == [*names, "quality_over_steps.png"]
    assert all((tmp_path / "neuronxa" / "report" / name).is_file() for name in images(page))
    assert images(page)["quality-mexa.png"] == "Translation quality against MEXA"
    assert images(page)["pair_map-nasca.png"].startswith("NASCA of each held-out pair over training steps")


def test_an_alignment_score_of_an_unknown_name_names_no_file(records: Records, tmp_path: Path) -> None:
    foreign = copy.deepcopy(records)
    for record in foreign:
        record["score"]["../../elsewhere"] = 0.5
    with pytest.raises(report.RunPageError, match=r"line 1, is not an evaluation of a run"):
        written(tmp_path / "run", foreign)
    assert [path.name for path in tmp_path.rglob("*elsewhere*")] == []


def test_text_of_the_file_is_shown_as_it_is_and_injects_nothing(records: Records, tmp_path: Path) -> None:
    hostile = copy.deepcopy(records)
    for record in hostile:
        record["quality_score"][HOSTILE] = record["step"] + 0.5
        for direction in record["quality"].values():
            direction["signature"] = HOSTILE
            direction["metrics"][HOSTILE] = {"missing": HOSTILE}
    page = written(tmp_path, hostile)
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    kinds = [token.type for token in tokens]
    kinds += [child.type for token in tokens for child in token.children or ()]
    assert "html_block" not in kinds
    assert "html_inline" not in kinds
    assert "code_inline" not in kinds
    assert "link_open" not in kinds
    assert "em_open" not in kinds
    assert "strong_open" not in kinds
    assert kinds.count("image") == 6
    assert kinds.count("heading_open") == 1 + 10
    # As one cell each: in the table of scores, that of correlations, and as metric and reason of both directions.
    shown = " ".join(HOSTILE.split())
    texts = ["".join(child.content for child in token.children or ()) for token in tokens if token.type == "inline"]
    assert texts.count(shown) == 1 + 1 + 2 * 2
    signature = " ".join(str(Signature.parse(HOSTILE)).split())
    assert [token.content for token in tokens if token.type == "code_block"][1] == f"{signature}\n"


def test_the_page_of_a_folder_with_a_strange_name_is_still_one_page(records: Records, tmp_path: Path) -> None:
    page = written(tmp_path / "a`b_*c*_<i>", records)
    assert "a&#96;b&#95;&#42;c&#42;&#95;&#60;i&#62;" in page


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "scores.jsonl is missing; give the output_dir of a run"),
        ("", "scores.jsonl holds no evaluation"),
        ('{"step": 0, "sco', "scores.jsonl holds no evaluation"),
        ('{"loss": 1.5}\n', "scores.jsonl, line 1, is not an evaluation of a run"),
        ('{"step": 3}\n', "scores.jsonl, line 1, is not an evaluation of a run"),
        ("[1, 2]\n", "scores.jsonl, line 1, is not an evaluation of a run"),
        ("7\n", "scores.jsonl, line 1, is not an evaluation of a run"),
    ],
)
def test_a_run_without_scores_is_explained(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        path = History(tmp_path).path
        path.parent.mkdir()
        path.write_text(content)
    assert_refused(command(tmp_path), f"{tmp_path}/neuronxa/{said}")
    assert list(tmp_path.rglob("report*")) == []


def test_a_run_that_does_not_exist_is_explained(tmp_path: Path) -> None:
    assert_refused(command(tmp_path / "none"), f"{tmp_path}/none is not a folder; give the output_dir")


def test_a_place_that_cannot_be_written_is_explained(recorded: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = command(recorded, "--output", tmp_path / "file")
    assert_refused(result, f"{tmp_path}/file cannot be written (File exists); choose another folder with --output.")


def assert_refused(result: Result, said: str) -> None:
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.output.startswith("Error: ")
    assert said in result.output
    assert result.output.count("\n") == 1


def test_the_table_at_the_end_of_a_run_survives_any_name(records: Records) -> None:
    named = json.loads(json.dumps(records).replace("judge_1", "[/red]"))
    named[-1]["pearson"]["nasca_[/red]_2"] = named[-1]["pearson"]["nasca_chrf"]
    console = Console(file=StringIO(), width=200)
    summarise(typed(named), console)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[/red]" in output
    assert "r of NASCA and [/red]_2: " in output


def test_layers_are_shown_of_the_first_the_best_and_the_last_evaluation(records: Records) -> None:
    risen = copy.deepcopy(records)
    for record, score in zip(risen, (0.1, 0.3, 0.2, 0.2), strict=True):
        record["score"]["nasca"] = score
    shown = report.layers_at(typed(risen), "nasca")
    assert list(shown) == ["first, step 0", "best, step 5", "last, step 15"]
    assert shown["best, step 5"] == {
        name: language["per_layer"]["nasca"] for name, language in records[1]["languages"].items()
    }
    assert list(report.layers_at(typed(risen[:2]), "nasca")) == ["first, step 0", "best and last, step 5"]
    assert list(report.layers_at(typed(risen[:1]), "nasca")) == ["step 0"]


def test_a_method_without_values_of_pairs_has_a_map_of_layers_alone(tmp_path: Path) -> None:
    record_run(tmp_path, (0, 5), ("nasca", "cka"), ())
    page = report.write(tmp_path).read_text()
    maps = [name for name in images(page) if "_map" in name]
    assert maps == ["layer_map-nasca.png", "layer_map-cka.png", "pair_map-nasca.png"]
    assert all((tmp_path / "neuronxa" / "report" / name).is_file() for name in images(page))
