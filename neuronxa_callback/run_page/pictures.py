"""The pictures of a page: figures as SVG, for paper and for browsers without JavaScript."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import matplotlib
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

V = TypeVar("V")

MOST_LINES = 7  # language pairs in a picture: as many as there are colours
MOST_PANELS = 6  # language pairs in a picture with a panel each: two rows, which a page of paper holds
MAP_DPI = 150  # of the cells of a map, which would be thousands of shapes


def svg(figure: Figure) -> bytes:
    """Return a figure as an SVG file, the same one for the same figure. The cells of a map are one image in it."""
    for mesh in figure.findobj(QuadMesh):
        mesh.set_rasterized(True)
    file = io.BytesIO()
    # Letters are drawn as shapes, so a browser needs none of our fonts.
    with matplotlib.rc_context({"svg.hashsalt": "neuronxa", "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", dpi=MAP_DPI, metadata={"Date": None})
    return file.getvalue()


def parts_of(by_name: Mapping[str, V], most: int) -> Iterator[dict[str, V]]:
    """Yield the entries in parts of a number of entries at most, a part a picture."""
    entries = iter(by_name.items())
    while part := dict(islice(entries, most)):
        yield part


def title_of(labels: Sequence[str], parts: int) -> str:
    """Return a picture's title: its language pairs if there are several pictures. One has the chart's caption alone."""
    return "" if parts == 1 else ", ".join(labels)
