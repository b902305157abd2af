"""A real browser for the tests of pages: Debian's Chromium, without a network, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
INSIDE = ("file:", "data:", "blob:", "about:")  # what asks no server


def browser_path() -> str:
    """The path of the browser. Without one the test is skipped, and fails where CI is set."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        reason = "no chromium is installed; install it with: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser for some tests."""
    path = browser_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page that is open, and what went wrong on it.

    Attributes:
        page: Playwright's page.
        errors: what its scripts threw and what its console was told as an error.
        requests: the addresses outside the page that it asked for.
    """

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def texts(self, selector: str) -> list[str]:
        """The text of all elements that a selector finds and that are to be seen."""
        return [element.inner_text() for element in self.page.locator(selector).all() if element.is_visible()]


@contextmanager
def opened(browser: Browser, file: Path, **options: Any) -> Iterator[Opened]:
    """Open a file without a network, and wait until its charts are drawn where scripts may run.

    Args:
        browser: the browser.
        file: the page.
        options: those of Playwright's `new_context`.
    """
    context = browser.new_context(offline=True, **options)
    found = Opened(context.new_page())
    found.page.on("pageerror", lambda error: found.errors.append(str(error)))
    found.page.on(
        "console", lambda message: found.errors.append(message.text) if message.type in ("error", "warning") else None
    )
    found.page.on(
        "request",
        lambda request: None if request.url.startswith(INSIDE) else found.requests.append(request.url),
    )
    found.page.goto(file.resolve().as_uri())
    if options.get("java_script_enabled", True):
        found.page.wait_for_selector("html[data-drawn=all]", timeout=120_000)
    yield found
    context.close()
