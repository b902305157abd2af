"""The pages of the documentation and the code blocks on them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT

# What a reader reads: the README, the pages of docs/, and the guides beside the code. The model cards of recorded runs
# are what the recipes wrote.
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "results" not in path.relative_to(ROOT).parts),
    *(ROOT / folder / "README.md" for folder in ("docs/results", "recipes", "recipes/accelerate", "examples")),
]
# Pages whose blocks are run by tests of their own, each with that test.
ELSEWHERE = {
    "docs/how-to/other-trainers.md": "tests/trainers/page.py",
    "docs/how-to/run-page.md": "tests/run_page/test_page.py",
    "docs/how-to/trackers.md": "tests/trackers/test_faults.py",
}

CODE_BLOCK = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the page's path in the repository.
        line: the line of the page where the code begins.
        language: what stands behind the fence.
        title: the file that the page says the code is in, "" if it says none.
        code: the text between the fences.
    """

    page: str
    line: int
    language: str
    title: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks_of(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page in order, or those of some languages."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(name_of(page), text.count("\n", 0, match.start()) + 2, match[1], match[2] or "", match[3])
        for match in CODE_BLOCK.finditer(text)
    ]
    return [block for block in found if not languages or block.language in languages]


def pages_with(*languages: str) -> list[str]:
    """The names of the pages that have blocks of these languages, without those that are tested elsewhere."""
    return [name_of(page) for page in PAGES if blocks_of(page, *languages) and name_of(page) not in ELSEWHERE]
