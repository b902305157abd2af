"""The page in a real browser: opened from the disk, with no network, with and without JavaScript, and on paper."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from typer.testing import CliRunner

from neuronxa_callback import ParallelPairs
from neuronxa_callback.cli import app
from tests.browser import chromium, opened
from tests.run_page.conftest import FRENCH, GOLDEN, Lines, lines_of, many_languages, write_run

pytestmark = pytest.mark.once

HOSTILE = "<script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"
ARABIC = "سطر من اليمين إلى اليسار"
SECTIONS = [
    "Alignment over training steps",
    "Scores",
    "Languages",
    "Translation quality against alignment",
    "Translation quality over training steps",
    "Layers over training steps",
    "Pairs that became aligned or were lost",
    "Stopping",
    "Signatures",
    "Command",
]
VISIBLE = "plot => plot.data.filter(t => t.visible === true && t.mode === 'lines+markers').map(t => t.name)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def recorded() -> Lines:
    """The golden run, with a language pair in Arabic script and markup among its translations."""
    lines = copy.deepcopy(lines_of(GOLDEN))
    for line in lines:
        for made in line["quality"].values():
            made["translations"] = [HOSTILE, ARABIC, *made["translations"][2:]]
        for language in line["languages"].values():
            language["per_pair"]["nasca"][:2] = [0.0, 0.0] if line["step"] == 0 else [0.5, 0.25]
    return lines


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("page"), recorded())


def made(folder: Path, *runs: Lines) -> Path:
    folders = [str(write_run(folder / f"run{number}", lines)) for number, lines in enumerate(runs)]
    result = CliRunner().invoke(app, ["page", *folders, "--output", str(folder / "page.html")])
    assert result.exit_code == 0, result.output
    return folder / "page.html"


def test_it_opens_from_the_disk_draws_every_chart_and_asks_for_nothing(browser: Browser, page: Path) -> None:
    with opened(browser, page) as found:
        charts = found.page.locator(".plot")
        assert charts.count() >= 4
        for chart in charts.all():
            assert chart.locator(".main-svg").count() > 0
        assert found.page.locator(".pictures img").first.is_hidden()
        assert found.texts("h2") == SECTIONS
        assert found.errors == []
        assert found.requests == []


def test_markup_in_a_translation_is_text(browser: Browser, page: Path) -> None:
    with opened(browser, page) as found:
        assert HOSTILE in found.texts("#changes bdi")
        assert "hacked" not in found.page.title()


def test_text_from_right_to_left_runs_so(browser: Browser, page: Path) -> None:
    with opened(browser, page) as found:
        line = found.page.locator("#changes bdi", has_text=ARABIC).first
        assert line.evaluate("element => getComputedStyle(element).direction") == "rtl"


def test_the_choice_of_languages_changes_charts_and_tables(browser: Browser, page: Path) -> None:
    with opened(browser, page) as found:
        chart = found.page.locator("figure[data-choice=several] .plot").first
        assert chart.evaluate(VISIBLE) == ["Icelandic", "French"]
        found.page.get_by_role("checkbox", name="French").uncheck()
        assert chart.evaluate(VISIBLE) == ["Icelandic"]
        assert not [text for text in found.texts("#languages tbody th") if text == "French"]
        assert not [text for text in found.texts("#changes caption") if text.startswith("French")]
        found.page.reload()
        found.page.wait_for_selector("html[data-drawn=all]")
        assert chart.evaluate(VISIBLE) == ["Icelandic"]  # a page that loads itself again keeps the choice
        found.page.get_by_role("button", name="all", exact=True).click()
        assert chart.evaluate(VISIBLE) == ["Icelandic", "French"]


def test_a_click_in_the_legend_hides_a_line_and_its_band(browser: Browser, page: Path) -> None:
    with opened(browser, page) as found:
        chart = found.page.locator("figure[data-choice=several] .plot").first
        chart.locator(".legendtoggle").first.click()
        found.page.wait_for_selector(".plot .legend .traces[style*='opacity: 0.5']")
        hidden = "plot => plot.data.filter(t => t.visible === 'legendonly' && t.name).map(t => t.name)"
        assert chart.evaluate(hidden) == ["Icelandic"]


def test_the_map_shows_the_chosen_language(browser: Browser, page: Path) -> None:
    with opened(browser, page) as found:
        chart = found.page.locator("#layers figure").first
        shown = "plot => plot.data.filter(t => t.visible === true).map(t => t.meta.pair)"
        assert chart.locator(".plot").evaluate(shown) == ["eng_Latn-isl_Latn"]
        chart.locator("select").select_option("French")
        assert chart.locator(".plot").evaluate(shown) == ["eng_Latn-fra_Latn"]


def test_without_javascript_pictures_and_numbers_are_there(browser: Browser, page: Path) -> None:
    with opened(browser, page, java_script_enabled=False) as found:
        pictures = found.page.locator(".pictures img")
        assert pictures.count() >= 4
        for picture in pictures.all():
            box = picture.bounding_box()
            assert box is not None
            assert box["height"] > 100
        assert found.page.locator(".plot").first.is_hidden()
        assert found.page.locator("form.chooser").is_hidden()
        assert found.texts("h2") == SECTIONS
        score = recorded()[-1]["languages"]["eng_Latn-isl_Latn"]["score"]["nasca"]
        found.page.locator("#curves summary").first.click()
        assert f"{score:.4f}" in found.texts("#curves td")


def test_on_paper_every_section_has_pictures_and_no_table_is_cut(browser: Browser, page: Path) -> None:
    with opened(browser, page, viewport={"width": 700, "height": 1000}) as found:
        found.page.emulate_media(media="print")
        assert found.texts("h2") == SECTIONS
        assert found.page.locator(".pictures img").first.is_visible()
        assert found.page.locator(".plot").first.is_hidden()
        for table in found.page.locator("table:visible").all():
            cut = table.evaluate("t => t.getBoundingClientRect().right - document.documentElement.clientWidth")
            assert cut <= 0, table.inner_text()[:80]
        assert found.page.pdf(format="A4").startswith(b"%PDF")


EIGHT = [f"{code}_Latn" for code in ("dan", "deu", "fra", "isl", "ita", "nld", "spa", "swe")]


def test_the_eighth_language_is_hidden_on_the_screen_and_printed_on_paper(browser: Browser, tmp_path: Path) -> None:
    file = made(tmp_path, many_languages(recorded()[:2], EIGHT))
    with opened(browser, file) as found:
        quality = found.page.locator("#quality .plot").first
        assert len(quality.evaluate(VISIBLE)) == 14  # seven languages, from English and back
        assert quality.locator(".legendtext").count() == 14
        assert not [text for text in found.texts("#quality tbody th") if "Swedish" in text]
        assert not [text for text in found.texts("#languages tbody th") if text == "Swedish"]
        found.page.emulate_media(media="print")
        assert "English → Swedish" in found.texts("#quality tbody th")
        assert "Swedish" in found.texts("#languages tbody th")
        assert [text for text in found.texts("#changes caption") if text.startswith("Swedish")]
        assert not found.page.locator("#curves details tr").first.is_visible()  # it is closed
        found.page.emulate_media(media="screen")
        found.page.get_by_role("checkbox", name="Swedish").check()
        assert len(quality.evaluate(VISIBLE)) == 16


def test_a_narrow_page_does_not_scroll_sideways(browser: Browser, page: Path) -> None:
    with opened(browser, page, viewport={"width": 400, "height": 800}) as found:
        assert found.page.evaluate("document.documentElement.scrollWidth") <= 400


def test_several_runs_are_drawn_and_chosen(browser: Browser, tmp_path: Path) -> None:
    file = made(tmp_path, lines_of(FRENCH), lines_of(FRENCH)[:9])
    with opened(browser, file) as found:
        chart = found.page.locator("#curves figure").first
        assert chart.locator(".plot").evaluate(VISIBLE) == ["run0", "run1"]
        chart.locator("select").select_option("German")
        pairs: Any = chart.locator(".plot").evaluate(
            "p => p.data.filter(t => t.visible === true).map(t => t.meta.pair)"
        )
        assert set(pairs) == {"eng_Latn-deu_Latn"}
        assert found.errors == []
        assert found.requests == []


def test_embedded_sentences_are_shown(browser: Browser, page: Path) -> None:
    with opened(browser, page) as found:
        assert ParallelPairs.load("eng_Latn-isl_Latn", n=10).target[0] in found.texts("#changes bdi[lang=is]")
