"""A page as one HTML file, which needs nothing beside itself."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from functools import cache
from importlib import resources
from itertools import count
from typing import NamedTuple

import langcodes
from jinja2 import Environment, PackageLoader, StrictUndefined
from langcodes.tag_parser import LanguageTagError
from markupsafe import Markup

from neuronxa_callback.run_page.document import Block, Chart, Code, Document, Table
from neuronxa_callback.run_page.plotted import plotly_script

_NUMBER = re.compile(r"[-+–]?[\d.,]+(e[-+]?\d+)?%?( to [-+]?[\d.]+)?( \(step \d+\))?")


class Plot(NamedTuple):
    """An interactive plot of a chart: the name of its place in the page, and its JSON."""

    name: str
    json: Markup


def html_page(document: Document, reload_after: int | None = None) -> str:
    """Return the page as HTML. Everything that it shows is escaped.

    Args:
        document: what the page holds.
        reload_after: seconds after which an open page loads itself again; None for never.

    Raises:
        RunPageError: Plotly is not installed.
    """
    environment = Environment(
        loader=PackageLoader("neuronxa_callback.run_page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests |= {"table": _is(Table), "chart": _is(Chart), "code": _is(Code), "number": _is_number}
    environment.filters |= {"tag": language_tag, "picture": _picture}
    numbers = count(1)
    script = _template("page.js")
    return environment.get_template("page.html").render(
        page=document,
        reload_after=reload_after,
        style=Markup(_template("page.css")),
        plotly=Markup(plotly_script()),
        script=Markup(script),
        # The browser runs these two scripts alone, and asks no server for anything.
        sources=" ".join(f"'sha256-{_sha256(text)}'" for text in (plotly_script(), script)),
        plots_of=lambda chart: [Plot(f"plot-{next(numbers)}", _embedded(plot)) for plot in chart.plots],
    )


@cache
def language_tag(code: str | None) -> str:
    """Return the BCP 47 tag of a FLORES-200 code, as HTML's `lang` takes it: "is" for "isl_Latn". "" if it has none."""
    if code is None:
        return ""
    try:
        return langcodes.standardize_tag(code.replace("_", "-"))
    except LanguageTagError:
        return ""


def _is(kind: type) -> Callable[[Block], bool]:
    def is_of_kind(block: Block) -> bool:
        return isinstance(block, kind)

    return is_of_kind


def _is_number(cell: object) -> bool:
    return isinstance(cell, str) and _NUMBER.fullmatch(cell) is not None


def _picture(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"


def _embedded(plot: str) -> Markup:
    """Return JSON that cannot end the script element it stands in."""
    return Markup(plot.replace("<", r"\u003c"))


@cache
def _template(name: str) -> str:
    return resources.files("neuronxa_callback.run_page").joinpath("templates", name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
