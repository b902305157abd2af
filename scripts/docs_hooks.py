"""What only the built site needs of a page: the options of a command, and links that leave docs/.

MkDocs calls these functions (`hooks` in mkdocs.yml). On GitHub the pages are read as they stand.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from typer.main import get_command

from neuronxa_callback.cli.main import app

# Stands on its own line where a command's options belong: <!-- options of neuronxa score -->
OPTIONS = re.compile(r"^<!-- options of (neuronxa(?: [\w-]+)*) -->$", re.MULTILINE)
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LOADED = re.compile(
    r'<(?:script|img|iframe|link rel="(?:stylesheet|preconnect|icon)")[^>]* (?:src|href)="((?:https?:)?//[^"]+)"'
)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)\s#]*)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Return a page's Markdown as the site shows it."""
    shown = OPTIONS.sub(lambda found: options_of(found[1]), markdown)
    parts = FENCE.split(shown)
    folder = posixpath.dirname(page.file.src_uri)
    return "".join(part if FENCE.match(part) else _with_outside_links(part, folder, config.repo_url) for part in parts)


def on_post_build(*, config: Any) -> None:
    """Refuse a site that would load a script, a style, a font or a picture from another host.

    Raises:
        ValueError: a page does.
    """
    for page in Path(config.site_dir).rglob("*.html"):
        if found := LOADED.search(page.read_text(encoding="utf-8")):
            raise ValueError(f"{page} loads {found[1]}; put the file into docs/.")


def options_of(command: str) -> str:
    """Return how a command is used, and a table of its arguments and options, in the words of its --help.

    Args:
        command: such as "neuronxa score" or "neuronxa comet check".

    Raises:
        KeyError: there is no such command.
    """
    program, *names = command.split()
    found: Any = get_command(app)
    context = found.make_context(program, [], resilient_parsing=True)
    for name in names:
        found = found.commands[name]
        context = found.context_class(found, info_name=name, parent=context)
    usage = " ".join([command, *found.collect_usage_pieces(context)])
    parts = sorted(found.get_params(context), key=lambda part: str(part.param_type_name))  # arguments come first
    records = [record for part in parts if (record := part.get_help_record(context))]
    rows = [f"| `{_cell(name)}` | {_cell(text)} |" for name, text in records if not name.startswith("--help")]
    return "\n".join([f"```text\n{usage}\n```", "", "| option | what it does |", "| --- | --- |", *rows])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _with_outside_links(markdown: str, folder: str, repo_url: str | None) -> str:
    """Make links to files of the repository that are not in docs/ into links to the host, or into their paths.

    Args:
        markdown: a part of a page.
        folder: the page's folder in docs/.
        repo_url: where the repository is, None if the site does not say so.
    """

    def changed(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        place = posixpath.normpath(posixpath.join("docs", folder, target))
        if place == "docs" or place.startswith("docs/"):
            return found[0]
        if repo_url:
            return f"[{text}]({repo_url.rstrip('/')}/blob/main/{place}{anchor})"
        return f"`{place}`" if text.strip("`/") == place else f"{text} (`{place}`)"

    return LINK.sub(changed, markdown)
