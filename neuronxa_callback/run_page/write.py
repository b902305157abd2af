"""Write the run page: that of a run, or of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neuronxa_callback.files import replace_lines
from neuronxa_callback.run_page.document import Document
from neuronxa_callback.run_page.html import html_page
from neuronxa_callback.run_page.markdown import markdown_page
from neuronxa_callback.run_page.one_run import one_run
from neuronxa_callback.run_page.several_runs import several_runs
from neuronxa_callback.training.history import History
from neuronxa_callback.training.overlay import FOLDER
from neuronxa_callback.training.page import RunPageError

PAGE, MARKDOWN = "page.html", "page.md"
HTML_ENDINGS, MARKDOWN_ENDINGS = (".html", ".htm"), (".md", ".markdown")


@dataclass(frozen=True)
class Asked:
    """Which page somebody wants.

    Attributes:
        run_dirs: the `output_dir` of the run, or of each of several runs, the baseline first.
        output: the HTML file; default: RUN/neuronxa/page.html, or neuronxa-runs/page.html for several runs.
        markdown: the Markdown file; default: beside the HTML file, with the ending .md.
        pairs: held-out pairs whose sentences the page of one run should show.
    """

    run_dirs: Sequence[Path]
    output: Path | None = None
    markdown: Path | None = None
    pairs: Sequence[str] = ()

    def __post_init__(self) -> None:
        _check_file("--output", self.output, "an HTML file", HTML_ENDINGS, PAGE)
        _check_file("--markdown", self.markdown, "a Markdown file", MARKDOWN_ENDINGS, MARKDOWN)
        if self.pairs and len(self.run_dirs) > 1:
            raise RunPageError("--pairs goes with one run: the page of several runs shows no sentences; leave it out.")

    @property
    def html_file(self) -> Path:
        """The HTML file."""
        if self.output is not None:
            return self.output
        several = len(self.run_dirs) > 1
        return FOLDER / PAGE if several else History(self.run_dirs[0]).path.with_name(PAGE)

    @property
    def markdown_file(self) -> Path:
        """The Markdown file."""
        return self.markdown or self.html_file.with_suffix(".md")

    @property
    def command(self) -> list[str]:
        """The command that makes this page."""
        command = ["neuronxa", "page", *map(str, self.run_dirs)]
        for option, value in (("--output", self.output), ("--markdown", self.markdown)):
            command += [] if value is None else [option, str(value)]
        return command + [part for spec in self.pairs for part in ("--pairs", spec)]


def write(asked: Asked, reload_after: int | None = None) -> Path:
    """Write the page in HTML and in Markdown, each at once, and return the HTML file.

    Args:
        asked: which page.
        reload_after: seconds after which an open page loads itself again; None for never.

    Raises:
        RunPageError: a run has no scores, Plotly is not installed, or a file cannot be written.
    """
    document = _document(asked)
    _save("--output", asked.html_file, html_page(document, reload_after))
    beside = "--output" if asked.markdown is None else "--markdown"
    _save(beside, asked.markdown_file, markdown_page(document, asked.html_file.name))
    return asked.html_file


def _check_file(option: str, path: Path | None, kind: str, endings: Sequence[str], name: str) -> None:
    if path is None:
        return
    if path.is_dir():
        raise RunPageError(f"{option} {path} is a folder; name a file in it, such as {path / name}.")
    if path.suffix.lower() not in endings:
        raise RunPageError(f"{option} {path} does not name {kind}; give it the ending {endings[0]}.")


def _document(asked: Asked) -> Document:
    if len(asked.run_dirs) == 1:
        return one_run(asked.run_dirs[0], asked.pairs, asked.command)
    return several_runs(asked.run_dirs, asked.command)


def _save(option: str, path: Path, text: str) -> None:
    try:
        replace_lines(path, [text.encode("utf-8")])
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RunPageError(f"{path} cannot be written ({reason}); choose another file with {option}.") from error
