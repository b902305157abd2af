"""The pages: their links lead somewhere, the files that they name exist, and every code block has a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import CODE_BLOCK, ELSEWHERE, PAGES, blocks_of, name_of
from tests.support import ROOT

pytestmark = pytest.mark.unit
pages = pytest.mark.parametrize("page", PAGES, ids=name_of)

LANGUAGES = {"python", "bash", "json", "text"}  # each has a module of tests here


def anchors(page: Path) -> set[str]:
    """The names that GitHub and the site give a page's headings."""
    headings = re.findall(r"^#+ (.+)$", CODE_BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_links_lead_somewhere(page: Path) -> None:
    text = CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pages
def test_the_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:tests|benchmarks|scripts|docs|constraints)/[\w/.-]+)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pages
def test_every_code_block_has_a_test(page: Path) -> None:
    """A block of another language, or without one, would be run by nothing."""
    if name_of(page) not in ELSEWHERE:
        assert [str(block) for block in blocks_of(page) if block.language not in LANGUAGES] == []
    assert page.read_text(encoding="utf-8").count("\n```") == 2 * len(blocks_of(page))


def test_a_page_that_is_tested_elsewhere_is_read_there() -> None:
    for page, test in ELSEWHERE.items():
        assert blocks_of(ROOT / page)
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


def test_no_page_is_said_twice() -> None:
    """No paragraph of 200 letters stands on two pages of docs/, nor twice on one."""
    seen: dict[str, str] = {}
    twice = []
    for page in PAGES:
        if not name_of(page).startswith("docs/"):
            continue
        text = CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))
        paragraphs = [part for part in re.split(r"\n\s*\n|\n(?=[|*])", text) if not part.startswith("|")]
        for paragraph in paragraphs:
            words = " ".join(re.sub(r"\]\([^)]*\)", "]", paragraph).split())
            if len(words) >= 200 and words in seen:
                twice.append((name_of(page), seen[words], words[:80]))
            seen[words] = name_of(page)
    assert twice == []


def test_the_readme_is_one_screen() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 60
