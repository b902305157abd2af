"""What the page of a run says, in HTML and in Markdown, held against the lines it was made from."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lxml.html
import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner, Result

from neuronxa_callback import ParallelPairs
from neuronxa_callback.cli import app
from neuronxa_callback.run_page import plotted, watch
from neuronxa_callback.run_page.changes import changes_between
from neuronxa_callback.run_page.evaluations import pair_labels
from neuronxa_callback.run_page.html import language_tag
from tests.run_page.conftest import FRENCH, GOLDEN, Lines, lines_of, many_languages
from tests.support import ROOT

pytestmark = pytest.mark.once

Make = Callable[..., Path]
HOSTILE = "<script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\"> a|b"


def command(*arguments: Path | str) -> Result:
    return CliRunner().invoke(app, ["page", *map(str, arguments)], env={"COLUMNS": "200"})


def page_of(run_dir: Path, *options: Path | str) -> Any:
    result = command(run_dir, *options)
    assert result.exit_code == 0, result.output
    return lxml.html.document_fromstring((run_dir / "neuronxa" / "page.html").read_text(encoding="utf-8"))


def table(page: Any, caption: str) -> list[dict[str, str]]:
    """The rows of the table with this caption, each as column -> text."""
    (found,) = [t for t in page.iter("table") if caption_of(t).startswith(caption)]
    header = [cell.text_content() for cell in found.find("thead").iter("th")]
    rows = [[" ".join(" ".join(c.itertext()).split()) for c in row] for row in found.find("tbody").iter("tr")]
    return [dict(zip(header, row, strict=True)) for row in rows]


def caption_of(table: Any) -> str:
    caption = table.find("caption")
    if caption is None:
        caption = table.getparent().getparent().find("summary")
    return str(caption.text_content())


def section(page: Any, name: str) -> str:
    return " ".join(page.get_element_by_id(name).text_content().split())


def plots(page: Any) -> list[dict[str, Any]]:
    return [json.loads(script.text) for script in page.iter("script") if script.get("type") == "application/json"]


@pytest.fixture
def golden(make_run: Make) -> Path:
    return make_run(lines_of(GOLDEN))


def test_the_command_writes_both_pages_into_the_run(golden: Path) -> None:
    result = command(golden)
    assert result.exit_code == 0, result.output
    html, markdown = golden / "neuronxa" / "page.html", golden / "neuronxa" / "page.md"
    assert f"The page is {html}" in result.output
    assert f"In Markdown: {markdown}" in result.output
    assert html.is_file()
    assert markdown.is_file()


def test_the_same_scores_give_the_same_bytes(golden: Path) -> None:
    pages = []
    for _ in range(2):
        assert command(golden).exit_code == 0
        pages.append((golden / "neuronxa" / "page.html").read_bytes())
    assert pages[0] == pages[1]


def test_the_page_names_other_files(golden: Path, tmp_path: Path) -> None:
    html, markdown = tmp_path / "new" / "a.html", tmp_path / "b.md"
    assert command(golden, "--output", html, "--markdown", markdown).exit_code == 0
    assert html.is_file()
    assert markdown.is_file()
    assert f"--output {html} --markdown {markdown}" in html.read_text(encoding="utf-8")


def test_the_curves_are_the_recorded_scores(make_run: Make) -> None:
    lines = lines_of(FRENCH)
    page = page_of(make_run(lines))
    by_chart = plots(page)
    traces = {trace["name"]: trace for trace in by_chart[0]["data"] if "name" in trace}
    scores = [line["languages"]["eng_Latn-fra_Latn"]["score"]["nasca"] for line in lines]
    assert traces["French"]["x"] == [line["step"] for line in lines]
    assert traces["French"]["y"] == scores
    (band,) = [t for t in by_chart[0]["data"] if t["meta"] == {"pair": "eng_Latn-fra_Latn", "role": "interval"}]
    intervals = [line["languages"]["eng_Latn-fra_Latn"]["ci"]["nasca"] for line in lines]
    assert band["y"] == [high for _, high in intervals] + [low for low, _ in reversed(intervals)]
    (chance,) = [t for t in by_chart[0]["data"] if t["meta"] == {"pair": "eng_Latn-fra_Latn", "role": "chance"}]
    assert chance["y"] == [line["languages"]["eng_Latn-fra_Latn"]["chance"]["nasca"] for line in lines]
    numbers = [row for row in table(page, "NASCA: the numbers of the curves") if row["language"] == "French"]
    assert [row["score"] for row in numbers] == [f"{score:.4f}" for score in scores]
    assert numbers[3]["95 % interval"] == "{:.4f} to {:.4f}".format(*intervals[3])


def test_lines_differ_beside_colour_too(golden: Path) -> None:
    drawn = [trace for trace in plots(page_of(golden))[0]["data"] if trace.get("mode") == "lines+markers"]
    assert len({trace["line"]["dash"] for trace in drawn}) == len(drawn) == 2
    assert len({trace["marker"]["symbol"] for trace in drawn}) == 2


def test_the_map_has_the_values_of_the_layers(make_run: Make) -> None:
    lines = lines_of(FRENCH, "nasca", "nasca_rank")
    maps = [plot for plot in plots(page_of(make_run(lines))) if plot["data"][0]["type"] == "heatmap"]
    assert len(maps) == 2
    (french,) = [t for t in maps[0]["data"] if t["meta"]["pair"] == "eng_Latn-fra_Latn"]
    recorded = [line["languages"]["eng_Latn-fra_Latn"]["per_layer"]["nasca"] for line in lines]
    assert french["z"] == [list(layer) for layer in zip(*recorded, strict=True)]
    assert french["customdata"][0][:2] == [[0, 1], [15, 1]]  # step and layer


def test_the_tables_hold_the_first_the_last_and_the_best(make_run: Make) -> None:
    lines = lines_of(FRENCH)
    rows = {row["language"]: row for row in table(page_of(make_run(lines)), "NASCA by language")}
    for name, pair in (("French", "eng_Latn-fra_Latn"), ("German", "eng_Latn-deu_Latn")):
        scores = {line["step"]: line["languages"][pair]["score"]["nasca"] for line in lines}
        best = max(scores.values())
        assert rows[name]["code"] == pair
        assert [rows[name][column] for column in ("first", "last", "best")] == [
            f"{value:.4f}" for value in (scores[0], scores[300], best)
        ]
        assert scores[int(rows[name]["at step"])] == best
    assert rows["all"]["last"] == f"{lines[-1]['score']['nasca']:.4f}"


def test_quality_stands_against_alignment_with_both_correlations(make_run: Make) -> None:
    lines = lines_of(FRENCH)
    page = page_of(make_run(lines))
    found = lines[-1]["pearson"]["nasca_chrf"]
    row = next(
        row
        for row in table(page, "Correlations over the run")
        if (row["alignment"], row["quality"]) == ("NASCA", "chrF")
    )
    assert row["Pearson's r"] == f"{found['r']:.3f}"
    assert row["r of changes"] == f"{found['r_diff']:.3f}"
    assert f"{found['r_diff']:.2f}" in [b.text for b in page.find_class("numbers")[0].iter("b")]
    (drawn, *_) = [p for p in plots(page) if p["layout"]["xaxis"]["title"]["text"] == "NASCA"]
    assert drawn["data"][-1]["y"] == [line["quality_score"]["chrf"] for line in lines]


def test_pairs_that_became_aligned_or_were_lost() -> None:
    found = changes_between([0, 0.5, 0, 0.2, 0, float("nan")], [0.1, 0, 0.4, 0.2, 0, 1])
    assert [(change.place, change.after) for change in found.became] == [(2, 0.4), (0, 0.1)]
    assert [change.place for change in found.lost] == [1]
    assert (found.kept, found.never) == (1, 1)


def test_the_best_step_is_chosen_among_those_with_values_of_pairs(make_run: Make) -> None:
    """The third evaluation has the best score of all and no values of pairs."""
    lines = lines_of(GOLDEN)[:3]
    for line, score in zip(lines, (0.1, 0.2, 0.3), strict=True):
        line["score"]["nasca"] = score
    for scores in lines[2]["languages"].values():
        scores["per_pair"] = {}
    first, second = lines[0]["step"], lines[1]["step"]
    told = section(page_of(make_run(lines)), "changes")
    assert f"step {first} against step {second}, the best of the steps with values of single pairs." in told
    assert "none of them is better" not in told
    lines[1]["score"]["nasca"] = 0.05
    told = section(page_of(make_run(lines)), "changes")
    assert f"step {second}, the last of the steps with values of single pairs: none of them is better" in told


@pytest.mark.parametrize("kept", [10, 6])
def test_pairs_of_other_sentences_are_not_compared(make_run: Make, kept: int) -> None:
    """French has other sentences from the second evaluation on, or fewer."""
    lines = lines_of(GOLDEN)[:2]
    lines[0]["score"]["nasca"], lines[1]["score"]["nasca"] = 0.1, 0.2
    scores = lines[1]["languages"]["eng_Latn-fra_Latn"]
    parts = dict(part.split(":", 1) for part in scores["signature"].split("|"))
    parts |= {"n": str(kept)} | ({"data": "0" * len(parts["data"])} if kept == 10 else {})
    scores["signature"] = "|".join(f"{key}:{value}" for key, value in parts.items())
    scores["per_pair"]["nasca"] = scores["per_pair"]["nasca"][:kept]
    page = page_of(make_run(lines))
    assert [row["language"] for row in table(page, "Pairs by language")] == ["Icelandic"]
    steps = [line["step"] for line in lines]
    assert (
        "The pairs of French are not compared: their signatures do not name the same sentences at step "
        f"{steps[0]} and at step {steps[1]}." in section(page, "changes")
    )
    assert "French: what" not in section(page, "changes")


def test_a_pair_stands_with_its_sentences_and_translations(golden: Path) -> None:
    """The golden run has ten pairs of the embedded set, so their text is found by its fingerprint."""
    lines = lines_of(GOLDEN)
    page = page_of(golden)
    first, best = lines[0], max(lines[1:], key=lambda line: line["score"]["nasca"])
    assert best["score"]["nasca"] > first["score"]["nasca"]
    pair = "eng_Latn-isl_Latn"
    before, after = (line["languages"][pair]["per_pair"]["nasca"] for line in (first, best))
    became = [place for place in range(10) if before[place] == 0 < after[place]]
    lost = [place for place in range(10) if after[place] == 0 < before[place]]
    counts = {row["language"]: row for row in table(page, "Pairs by language")}["Icelandic"]
    assert (counts["became aligned"], counts["lost"]) == (str(len(became)), str(len(lost)))
    assert became or lost
    what, places = ("became aligned", became) if became else ("was lost", lost)
    rows = {int(row["pair"]): row for row in table(page, f"Icelandic: what {what}")}
    assert set(rows) == {place + 1 for place in places}
    texts = ParallelPairs.load(pair, n=10)
    for place in places:
        row = rows[place + 1]
        assert texts.source[place] in row["sentences"]
        assert texts.target[place] in row["sentences"]
        for line in (first, best):
            made = line["quality"][pair]
            assert " ".join(made["translations"][place].split())[:100] in row["translations"]
            assert (
                f"into Icelandic, step {line['step']} (chrF {made['metrics']['chrf']['segments'][place]:.2f}"
                in (row["translations"])
            )


def test_sentences_that_are_not_known_are_missed_aloud(make_run: Make, tmp_path: Path) -> None:
    run = make_run(lines_of(FRENCH))
    assert "The sentences of eng_Latn-fra_Latn, eng_Latn-deu_Latn are not shown" in section(page_of(run), "changes")
    other = tmp_path / "other.tsv"
    pairs = ParallelPairs.load("eng_Latn-fra_Latn")
    rows = "".join(f"{one}\t{two}\n" for one, two in zip(pairs.source, pairs.target, strict=True))
    other.write_text("eng_Latn\tfra_Latn\n" + rows, encoding="utf-8")
    result = command(run, "--pairs", other)
    assert result.exit_code == 1
    assert "holds other sentences than the run scored: it has 100 pairs of eng_Latn-fra_Latn" in result.output


def test_given_pairs_are_found_by_their_fingerprint(make_run: Make, tmp_path: Path) -> None:
    source, target = ["One.", "Two.", "Three."], ["Un <b>.", "Deux.", "Trois."]
    file = tmp_path / "own.tsv"
    rows = "".join(f"{one}\t{two}\n" for one, two in zip(source, target, strict=True))
    file.write_text("eng_Latn\tfra_Latn\n" + rows, encoding="utf-8")
    signature = f"method:nasca|n:3|pair:eng_Latn-fra_Latn|data:{ParallelPairs.load(file).fingerprint}|layers:mean"

    def line(step: int, parts: list[float]) -> dict[str, Any]:
        scores = {"signature": signature, "score": {"nasca": sum(parts) / 3}, "per_pair": {"nasca": parts}}
        return {
            "format": 3,
            "step": step,
            "score": scores["score"],
            "languages": {"eng_Latn-fra_Latn": scores},
        }

    page = page_of(make_run([line(0, [0, 0.5, 0]), line(5, [0.75, 0, 0])]), "--pairs", file)
    (became,) = table(page, "French: what became aligned (1 of 3 pairs)")
    assert (became["pair"], became["share of layers"]) == ("1", "0.000 → 0.750")
    assert became["sentences"] == "English One. French Un <b>."
    (lost,) = table(page, "French: what was lost (1 of 3 pairs)")
    assert "Deux." in lost["sentences"]
    assert lost["translations"] == "not translated at these steps"
    (text,) = [bdi for bdi in page.iter("bdi") if bdi.text == "Deux."]
    assert (text.get("lang"), text.get("dir")) == ("fr", "auto")


def test_the_verdict_is_the_recorded_one(make_run: Make) -> None:
    lines = lines_of(FRENCH)
    lines[-1]["stopping"]["reason"] = "NASCA <rises> no more"
    page = page_of(make_run(lines))
    (told,) = page.find_class("verdict")
    assert "Stopped at step 300: NASCA <rises> no more. The best step was" in told.text_content()
    assert [row["step"] for row in table(page, "Every verdict")] == [
        str(line["step"]) for line in lines if line.get("stopping")
    ]
    for line in lines:
        line.pop("stopping", None)
    assert "No stopping rule judged this run." in section(page_of(make_run(lines)), "stopping")


def test_signatures_and_the_command_stand_there(golden: Path) -> None:
    page = page_of(golden)
    assert lines_of(GOLDEN)[0]["languages"]["eng_Latn-isl_Latn"]["signature"] in page.text_content()
    assert f"neuronxa page {golden}" in section(page, "command")


def test_every_chart_is_a_picture_too_and_is_described(golden: Path) -> None:
    page = page_of(golden)
    charts = page.find_class("chart")
    assert [chart.find("figcaption").text for chart in charts][:2] == [
        "NASCA over training steps",
        "Translation quality against NASCA",
    ]
    for chart in charts:
        images = list(chart.iter("img"))
        assert images
        for image in images:
            assert image.get("src").startswith("data:image/svg+xml;base64,")
            assert image.get("alt")
        assert chart.find("figcaption").text


def test_nothing_of_a_run_is_read_as_html(make_run: Make) -> None:
    lines: Lines = copy.deepcopy(lines_of(GOLDEN))
    for line in lines:
        for made in line["quality"].values():
            made["translations"] = [HOSTILE] * len(made["translations"])
            made["metrics"][HOSTILE] = made["metrics"].pop("words")
            made["signature"] += f"|prompt:{HOSTILE.replace('|', '%7C')}"
        line["quality_score"][HOSTILE] = line["quality_score"].pop("words", 1.0)
        line["languages"][f"eng_Latn-{HOSTILE}"] = line["languages"].pop("eng_Latn-fra_Latn")
    run = make_run(lines, "<b>run")
    page = page_of(run)
    assert not [element for element in page.iter("img") if element.get("onerror")]
    assert len([script for script in page.iter("script") if script.get("type") is None]) == 2  # Plotly's and ours
    assert HOSTILE in page.get_element_by_id("changes").text_content()
    assert page.find_class("kind")[0].getnext().text == "<b>run"
    for plot in plots(page):
        for trace in plot["data"]:
            assert "<" not in (trace.get("name") or "")
    rendered = MarkdownIt("commonmark").enable("table").render((run / "neuronxa" / "page.md").read_text("utf-8"))
    assert not {"script", "img", "b"} & {element.tag for element in lxml.html.fromstring(rendered).iter()}
    assert HOSTILE in lxml.html.fromstring(rendered).text_content()


def test_the_page_allows_no_network(golden: Path) -> None:
    page = page_of(golden)
    (policy,) = [meta.get("content") for meta in page.iter("meta") if meta.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data: blob:;")
    assert "unsafe-inline" not in policy.partition("script-src")[2]
    assert not [link for link in page.iter("link", "iframe", "script") if link.get("src") or link.get("href")]


def test_what_a_run_lacks_is_left_out_or_said(make_run: Make) -> None:
    """One evaluation by one method, with neither intervals nor chance nor translations."""
    line = lines_of(GOLDEN, "cka")[0]
    for part in ("quality", "quality_score", "pearson", "over_sentences", "ci", "p_value", "chance", "stopping"):
        line.pop(part, None)
    for scores in line["languages"].values():
        scores["ci"] = scores["p_value"] = {}
    page = page_of(make_run([line]))
    assert "1 evaluation, at step 0" in page.find_class("told")[0].text
    assert "No translations were scored in this run" in section(page, "quality-against-alignment")
    assert "Nothing is said of single pairs here" in section(page, "changes")
    assert "No stopping rule judged this run." in section(page, "stopping")
    assert [row["95 % interval"] for row in table(page, "CKA by language")] == ["", "", ""]
    assert not [trace for plot in plots(page) for trace in plot["data"] if trace["meta"].get("role")]


def test_an_evaluation_whose_alignment_failed_has_no_point(make_run: Make) -> None:
    lines = lines_of(GOLDEN)
    lines[1] |= {"score": {}, "languages": {}, "ci": {}, "p_value": {}, "runtime": None}
    traces = {t.get("name"): t for t in plots(page_of(make_run(lines)))[0]["data"]}
    assert traces["Icelandic"]["x"] == [lines[0]["step"], lines[2]["step"], lines[3]["step"]]
    only_failed = [line | {"score": {}, "languages": {}, "quality": {}, "quality_score": {}} for line in lines]
    page = page_of(make_run(only_failed, "failed"))
    assert "No evaluation of this run has an alignment score" in section(page, "curves")


def test_scores_that_are_no_numbers_are_no_points(make_run: Make) -> None:
    lines = lines_of(GOLDEN)
    lines[2]["languages"]["eng_Latn-isl_Latn"]["score"]["nasca"] = float("nan")
    lines[2]["score"]["nasca"] = float("nan")
    lines[3]["quality_score"]["chrf"] = float("inf")
    lines[3]["quality"]["eng_Latn-isl_Latn"]["metrics"]["chrf"]["score"] = float("inf")
    page = page_of(make_run(lines))
    traces = {t.get("name"): t for t in plots(page)[0]["data"]}
    assert len(traces["Icelandic"]["x"]) == 3
    assert len(traces["French"]["x"]) == 4
    assert ["chrF", "English → Icelandic", str(lines[3]["step"]), "the score is no finite number"] in [
        list(row.values()) for row in table(page, "Missing scores")
    ]
    for cells in (row.values() for name in ("Each score", "NASCA by language") for row in table(page, name)):
        assert not {"nan", "inf"} & set(cells)


def test_a_line_that_is_being_written_is_left_out(golden: Path) -> None:
    path = golden / "neuronxa" / "scores.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"format": 3, "step": 99, "sco')
    assert "4 evaluations, step 0 to 6" in page_of(golden).find_class("told")[0].text
    path.write_bytes(whole.splitlines()[0][:50])
    assert command(golden).exit_code == 1


def test_fifty_languages_have_a_choice_and_several_pictures(make_run: Make) -> None:
    from neuronxa_callback.text.languages import language_codes

    codes = [code for code in sorted(language_codes()) if code != "eng_Latn"][:50]
    page = page_of(make_run(many_languages(lines_of(GOLDEN)[:2], codes)))
    assert [box.get("value") for box in page.find_class("chooser")[0].iter("input")] == [
        f"eng_Latn-{code}" for code in codes
    ]
    curves, *_ = page.find_class("chart")
    assert len(list(curves.iter("img"))) == 8  # 7 lines each
    assert len({trace["name"] for trace in plots(page)[0]["data"] if trace.get("mode") == "lines+markers"}) == 50
    (chooser,) = [c for c in page.find_class("chart") if c.get("data-choice") == "one"][:1]
    assert len(list(chooser.iter("option"))) == 50


def test_the_section_on_quality_follows_the_choice_of_languages(make_run: Make) -> None:
    """Each direction, from English or back, belongs to the language pair whose sentences were translated."""
    page = page_of(make_run(many_languages(lines_of(GOLDEN)[:2], ["isl_Latn", "fra_Latn"])))
    quality = page.get_element_by_id("quality")
    (chart,) = quality.find_class("chart")
    assert chart.get("data-choice") == "several"
    pair_of = {
        "English → Icelandic": "eng_Latn-isl_Latn",
        "Icelandic → English": "eng_Latn-isl_Latn",
        "English → French": "eng_Latn-fra_Latn",
        "French → English": "eng_Latn-fra_Latn",
    }
    drawn = [json.loads(script.text) for script in chart.iter("script")]
    assert drawn
    for plot in drawn:
        assert {trace["name"].replace("&gt;", ">"): trace["meta"]["pair"] for trace in plot["data"]} == pair_of
        assert len({trace["legendgroup"] for trace in plot["data"]}) == 4  # a click in the legend hides one line
    tables = list(quality.iter("table"))
    assert len(tables) >= 2
    for found in tables:
        column = [cell.text_content() for cell in found.find("thead").iter("th")].index("direction")
        for row in found.find("tbody").iter("tr"):
            assert row.get("data-pair") == pair_of[row[column].text_content().strip()]


def test_labels_of_language_pairs() -> None:
    assert pair_labels(["eng_Latn-isl_Latn", "eng_Latn-fra_Latn"]) == {
        "eng_Latn-isl_Latn": "Icelandic",
        "eng_Latn-fra_Latn": "French",
    }
    assert pair_labels(["eng_Latn-isl_Latn", "fra_Latn-isl_Latn"])["fra_Latn-isl_Latn"] == "French → Icelandic"
    assert pair_labels(["odd"]) == {"odd": "odd"}


def test_a_language_code_becomes_a_tag() -> None:
    assert [language_tag(code) for code in ("isl_Latn", "arb_Arab", "zho_Hant", "<b>", None)] == [
        "is",
        "arb-Arab",
        "zh-Hant",
        "",
        "",
    ]


# ---------------------------------------------------------------------------------------------- several runs


def test_several_runs_lie_over_each_other(make_run: Make, tmp_path: Path) -> None:
    lines = lines_of(FRENCH)
    other = copy.deepcopy(lines[:11])
    for line in other:
        line["languages"]["eng_Latn-isl_Latn"] = line["languages"].pop("eng_Latn-deu_Latn")
    runs = [make_run(lines, "base"), make_run(other, "short $<i>")]
    output = tmp_path / "page.html"
    result = command(*runs, "--output", output)
    assert result.exit_code == 0, result.output
    page = lxml.html.document_fromstring(output.read_text(encoding="utf-8"))
    assert [row["run"] for row in table(page, "The runs")] == ["base", "short $<i>"]
    assert "Left out, because not every run has it: eng_Latn-deu_Latn, eng_Latn-isl_Latn." in section(page, "runs")
    drawn = {t["name"]: t for t in plots(page)[0]["data"] if t.get("mode") == "lines+markers"}
    assert list(drawn) == ["base", "short $&lt;i&gt;"]
    assert drawn["base"]["y"] == [line["languages"]["eng_Latn-fra_Latn"]["score"]["nasca"] for line in lines]
    assert [t["meta"]["role"] for t in plots(page)[0]["data"] if t.get("meta", {}).get("role") == "interval"]
    assert table(page, "Each run's best step against the baseline's")
    assert len(table(page, "What the stopping rule said")) == 2
    assert (tmp_path / "page.md").read_text(encoding="utf-8").startswith("# Runs laid over each other")


def test_shared_languages_can_be_shown_one_by_one(make_run: Make, tmp_path: Path) -> None:
    runs = [make_run(lines_of(GOLDEN), name) for name in ("one", "two")]
    output = tmp_path / "page.html"
    assert command(*runs, "--output", output).exit_code == 0
    page = lxml.html.document_fromstring(output.read_text(encoding="utf-8"))
    chart, *_ = page.find_class("chart")
    assert [option.text for option in chart.iter("option")][1:] == ["Icelandic", "French"]
    assert len(list(chart.iter("img"))) == 3  # the mean and both languages


def test_runs_that_share_nothing_are_refused(make_run: Make, tmp_path: Path) -> None:
    lines = lines_of(GOLDEN)
    other = copy.deepcopy(lines)
    for line in other:
        line["languages"] = {f"deu_Latn-{name}": scores for name, scores in line["languages"].items()}
    result = command(make_run(lines, "one"), make_run(other, "two"), "--output", tmp_path / "page.html")
    assert result.exit_code == 1
    assert "the runs share no language pair" in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["none"], "none is not a folder; give the output_dir of a run that was trained with NeuronXACallback."),
        (["run", "--output", "x.pdf"], "--output x.pdf does not name an HTML file; give it the ending .html."),
        (["run", "--output", "run"], "--output run is a folder; name a file in it, such as run/page.html."),
        (["run", "--markdown", "run"], "--markdown run is a folder; name a file in it, such as run/page.md."),
        (
            ["run", "--output", "a.html", "--markdown", "a.html"],
            "--markdown a.html does not name a Markdown file; give it the ending .md.",
        ),
        (
            ["run", "--markdown", "run/neuronxa/scores.jsonl/a.md"],
            "run/neuronxa/scores.jsonl/a.md cannot be written (File exists); choose another file with --markdown.",
        ),
        (["run", "run"], "run is named twice"),
        (["run", "two", "--pairs", "a.tsv"], "--pairs goes with one run"),
    ],
)
def test_what_cannot_be_made_is_told_in_a_sentence(
    golden: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(golden.parent)
    result = command(*arguments)
    assert result.exit_code == 1
    assert told in result.output
    assert "Traceback" not in result.output


def test_a_missing_plotly_is_told_in_a_sentence(golden: Path) -> None:
    """In a process that cannot import Plotly; nothing but this page needs it."""
    code = (
        "import sys; sys.modules['plotly'] = None\n"
        "from neuronxa_callback.cli import app\n"
        f"app(['report', {str(golden)!r}], standalone_mode=False)\n"
        f"app(['page', {str(golden)!r}], standalone_mode=False)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert "The Markdown page is" in done.stdout
    assert plotted.INSTALL in " ".join(done.stdout.split())
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------------------------------------- Markdown and watching


def test_markdown_has_the_tables_and_names_no_picture(golden: Path) -> None:
    assert command(golden).exit_code == 0
    text = (golden / "neuronxa" / "page.md").read_text(encoding="utf-8")
    assert "![" not in text
    assert "The charts and the tables of all numbers are in page.html." in text
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert {"Scores", "Languages", "Translation quality against alignment", "Stopping", "Signatures"} <= set(headings)
    rendered = lxml.html.fromstring(MarkdownIt("commonmark").enable("table").render(text))
    scores = [row for row in rendered.iter("tr") if row[0].text_content() == "NASCA"]
    assert f"{lines_of(GOLDEN)[-1]['score']['nasca']:.4f}" in {cell.text_content() for row in scores for cell in row}


def documented(beginning: str) -> list[list[str]]:
    """The commands of docs/how-to/run-page.md that begin so, without their first word."""
    text = (ROOT / "docs" / "how-to" / "run-page.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"^```\n(.*?)^```$", text, re.M | re.S) for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith(beginning)]


def test_the_commands_of_the_documentation_run(make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my-run", "other-run"):
        make_run(lines_of(GOLDEN), f"runs/{name}")
    pairs = ParallelPairs.load("eng_Latn-isl_Latn", n=10)
    rows = "".join(f"{one}\t{two}\n" for one, two in zip(pairs.source, pairs.target, strict=True))
    Path("held-out.tsv").write_text("eng_Latn\tisl_Latn\n" + rows, encoding="utf-8")
    commands = [words for words in documented("neuronxa page") if "--watch" not in words]
    assert len(commands) == 3
    for words in commands:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    assert Path("runs/my-run/neuronxa/page.html").is_file()
    assert Path("neuronxa-runs/page.html").is_file()


def test_the_extra_of_the_documentation_brings_plotly() -> None:
    assert documented("pip") == [["install", "neuronxa-callback[page]"]]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert [extra for extra in ("page", "train") if "plotly>=6" in extras[extra]] == ["page", "train"]


def _interruptible() -> None:
    """Where the tests run in the background, the shell has them ignore SIGINT, and so would their processes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def watched(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command of `neuronxa` that goes on until Ctrl-C. It ends with the context at the latest."""
    process = subprocess.Popen(
        [sys.executable, "-m", "neuronxa_callback", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200", "PYTHONUNBUFFERED": "1"},
        preexec_fn=_interruptible,
    )
    try:
        yield process
    finally:
        process.kill()


def interrupted(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Press Ctrl-C, and return the rest of what the command wrote: its output and its errors."""
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return out, errors


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Waits while the process lives, and for two minutes at most. Then the process ends, and its output is told."""
    end = time.monotonic() + 120
    while not what():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"the wait was in vain: {process.communicate()}")
        time.sleep(0.1)


def test_a_watched_page_follows_the_run_until_it_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (words,) = [words for words in documented("neuronxa page") if "--watch" in words]
    run, lines = Path(words[1]), lines_of(GOLDEN)
    monkeypatch.chdir(tmp_path)
    page, path = run / "neuronxa" / "page.html", run / "neuronxa" / "scores.jsonl"
    with watched(*words) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"Waiting for the first evaluation of {run}.\n"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(lines[0]) + "\n" + json.dumps(lines[1])[:60], encoding="utf-8")
        wait_for(page.is_file, process)
        assert "1 evaluation, at step 0" in page.read_text(encoding="utf-8")
        assert '<meta http-equiv="refresh"' in page.read_text(encoding="utf-8")
        path.write_text("".join(json.dumps(line) + "\n" for line in lines[:2]), encoding="utf-8")
        wait_for(lambda: "2 evaluations" in page.read_text(encoding="utf-8"), process)
        out, errors = interrupted(process)
    assert out.splitlines()[-2:] == [f"The page is {page}", f"In Markdown: {page.with_suffix('.md')}"]
    assert "Traceback" not in errors
    assert '<meta http-equiv="refresh"' not in page.read_text(encoding="utf-8")


def test_a_watched_page_of_several_runs_waits_for_a_score_of_each(make_run: Make, tmp_path: Path) -> None:
    """The first evaluation of a run has no alignment score, so the runs share no language pair yet."""
    lines = lines_of(GOLDEN)
    failed = lines[0] | {"score": {}, "languages": {}, "ci": {}, "p_value": {}, "quality": {}, "quality_score": {}}
    runs = [make_run(lines, "one"), make_run([failed], "two")]
    output, path = tmp_path / "page.html", runs[1] / "neuronxa" / "scores.jsonl"
    with watched("page", *map(str, runs), "--watch", "--output", str(output)) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("This evaluation makes no page: the runs share no language pair:")
        path.rename(tmp_path / "away")  # a run may be started anew
        path.write_text("".join(json.dumps(line) + "\n" for line in [failed, *lines[1:]]), encoding="utf-8")
        wait_for(output.with_suffix(".md").is_file, process)
        out, _ = interrupted(process)
    assert out.splitlines()[-2:] == [f"The page is {output}", f"In Markdown: {output.with_suffix('.md')}"]
    assert "This evaluation" not in out


def test_scores_that_are_moved_away_between_two_looks_are_waited_for(golden: Path) -> None:
    assert watch._state(golden) is not None
    (golden / "neuronxa" / "scores.jsonl").rename(golden / "away")
    assert watch._state(golden) is None
