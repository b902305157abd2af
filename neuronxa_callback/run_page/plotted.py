"""The interactive plots of a page, as JSON for Plotly's own script. Only this module imports Plotly."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from neuronxa_callback import plots, run_map
from neuronxa_callback.correlation import OverRun
from neuronxa_callback.training.page import RunPageError
from neuronxa_callback.training.points import Point
from neuronxa_callback.vocabulary import ALIGNMENT, Method, score_name

if TYPE_CHECKING:
    import plotly.graph_objects as go

INSTALL = "the page needs Plotly; install it with: pip install 'neuronxa-callback[page]'."
# The markers of the pictures, in their order.
SYMBOLS = dict(
    zip(plots.MARKERS, ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x"), strict=True)
)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "6px,2px")
BAND, BANDS = 0.14, 0.45  # opacity of a band, and of all bands that lie on each other at first
FONT = {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": "#1b1b1b"}
AXIS = {"gridcolor": "#e3e3e3", "zerolinecolor": "#bdbdbd", "linecolor": "#8a8a8a", "automargin": True}
# A colour bar is shorter than the axis, so that its last number is not cut off.
BAR = {"thickness": 14, "outlinewidth": 0, "len": 0.94}


def plotly_script() -> str:
    """Return Plotly's own script, 4.8 MB.

    Raises:
        RunPageError: Plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise RunPageError(INSTALL) from error
    script: str = get_plotlyjs()
    return script


def shown(text: str) -> str:
    """Return text that Plotly shows as it is: it would take tags for its own markup."""
    return html.escape(" ".join(text.split()), quote=False)


def styles() -> Iterator[dict[str, Any]]:
    """Yield the colour, the marker and the dashes of each line: colour and marker are those of the pictures."""
    for place, style in zip(count(), plots.line_styles(), strict=False):
        turn = place // len(plots.COLOURS)
        dash = DASHES[(place + turn) % len(DASHES)]
        yield {"color": style["color"], "symbol": SYMBOLS[style["marker"]], "dash": dash}


# ---------------------------------------------------------------------------------------------- curves


def curve_plot(curves: Mapping[str, Sequence[plots.CurvePoint]], labels: Mapping[str, str], method: Method) -> str:
    """Return a score over training steps with its intervals and chance, a line for each language pair.

    Args:
        curves: name of a language pair -> its points in step order.
        labels: name of a language pair -> its label.
        method: the score.
    """
    figure = _figure("Step", score_name(method), lowest_is_zero=method not in ("nasca_rank", "sads"))
    has_chance = False
    for (name, points), style in zip(curves.items(), styles(), strict=False):
        chance = _chance(points, name)
        has_chance |= bool(chance)
        figure.add_traces([*_band(points, name, style, len(curves)), *chance, _line(points, name, labels[name], style)])
    if has_chance:
        figure.add_traces(_chance_key())
    return _json(figure)


def runs_plot(
    views: Mapping[str, Mapping[str, Sequence[plots.CurvePoint]]], best: Mapping[str, int], score: str
) -> str:
    """Return a score of several runs over training steps, a line for each run.

    Args:
        views: view, such as a language pair -> run -> its points in step order.
        best: run -> the step to ring.
        score: the method or the quality metric.
    """
    figure = _figure("Step", score_name(score), lowest_is_zero=score in ALIGNMENT)
    for view, by_run in views.items():
        for (run, points), style in zip(by_run.items(), styles(), strict=False):
            label = plots.distinct_labels(list(by_run))[run].replace(r"\$", "$")
            figure.add_traces(
                [
                    *_band(points, view, style, len(by_run)),
                    *_chance(points, view),
                    _line(points, view, label, style, run),
                ]
            )
            ringed = [point for point in points if point.step == best[run]]
            figure.add_traces(_ring(ringed, view, run))
        if any(point.chance is not None for points in by_run.values() for point in points):
            figure.add_traces(_chance_key(view))
    return _json(figure)


def quality_curve_plot(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    labels: Mapping[str, str],
    pairs: Mapping[str, str | None],
    metric: str,
) -> str:
    """Return a quality metric over training steps, a line for each direction of translation.

    Args:
        curves: name of a direction -> (step, score) of each evaluation that has a score.
        labels: name of a direction -> its label. It decides the line's style, so a direction has the same in each plot.
        pairs: name of a direction -> its language pair, None if it is unknown.
        metric: the metric.
    """
    figure = _figure("Step", score_name(metric))
    for (name, label), style in zip(labels.items(), styles(), strict=False):
        points = [plots.CurvePoint(step, score, None, None) for step, score in curves.get(name, ())]
        if points:
            figure.add_traces(_line(points, pairs[name], label, style, label))
    return _json(figure)


def _line(
    points: Sequence[plots.CurvePoint], pair: str | None, label: str, style: Mapping[str, Any], group: str | None = None
) -> go.Scatter:
    import plotly.graph_objects as go

    told = [_told(point) for point in points]
    alone = len(points) == 1 and points[0].interval is not None  # a band over a single step would have no width
    return go.Scatter(
        x=[point.step for point in points],
        y=[point.score for point in points],
        mode="lines+markers",
        name=shown(label),
        legendgroup=shown(group or pair or label),
        meta={"pair": pair},
        line={"color": style["color"], "dash": style["dash"], "width": 2},
        marker={"symbol": style["symbol"], "size": 8, "line": {"width": 1, "color": "white"}},
        customdata=told,
        hovertemplate="%{y:.4f}%{customdata}",
        error_y=_whisker(points[0]) if alone else None,
    )


def _told(point: plots.CurvePoint) -> str:
    between = "" if point.interval is None else " (95 %: {:.4f} to {:.4f})".format(*point.interval)
    return between + ("" if point.chance is None else f", chance {point.chance:.4f}")


def _whisker(point: plots.CurvePoint) -> dict[str, Any]:
    low, high = point.interval or (point.score, point.score)
    return {"type": "data", "symmetric": False, "array": [high - point.score], "arrayminus": [point.score - low]}


def _band(points: Sequence[plots.CurvePoint], pair: str, style: Mapping[str, Any], lines: int) -> list[go.Scatter]:
    import plotly.graph_objects as go

    having = [(point.step, *point.interval) for point in points if point.interval is not None]
    if len(having) < 2:
        return []
    steps, low, high = (list(values) for values in zip(*having, strict=True))
    red, green, blue = (int(style["color"][place : place + 2], 16) for place in (1, 3, 5))
    return [
        go.Scatter(
            x=[*steps, *reversed(steps)],
            y=[*high, *reversed(low)],
            fill="toself",
            fillcolor=f"rgba({red},{green},{blue},{min(BAND, BANDS / min(lines, len(plots.COLOURS))):.3f})",
            mode="lines",
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            meta={"pair": pair, "role": "interval"},
        )
    ]


def _chance(points: Sequence[plots.CurvePoint], pair: str) -> list[go.Scatter]:
    import plotly.graph_objects as go

    having = [point for point in points if point.chance is not None]
    if not having:
        return []
    return [
        go.Scatter(
            x=[point.step for point in having],
            y=[point.chance for point in having],
            mode="lines" if len(having) > 1 else "markers",
            line={"color": "#666", "dash": "2px,3px", "width": 1.5},
            marker={"symbol": "line-ew-open", "size": 14, "color": "#666"},
            hoverinfo="skip",
            showlegend=False,
            meta={"pair": pair, "role": "chance"},
        )
    ]


def _chance_key(view: str | None = None) -> go.Scatter:
    import plotly.graph_objects as go

    line = {"color": "#666", "dash": "2px,3px", "width": 1.5}
    return go.Scatter(x=[None], y=[None], mode="lines", line=line, name="chance", hoverinfo="skip", meta={"pair": view})


def _ring(points: Sequence[plots.CurvePoint], view: str, run: str) -> go.Scatter:
    import plotly.graph_objects as go

    return go.Scatter(
        x=[point.step for point in points],
        y=[point.score for point in points],
        mode="markers",
        marker={"symbol": "circle-open", "size": 17, "color": "black", "line": {"width": 1.5}},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=shown(run),
        meta={"pair": view, "role": "best step"},
    )


# ---------------------------------------------------------------------------------------------- maps and points


def layer_map_plot(
    per_layer: Mapping[str, NDArray[np.float64]], steps: Sequence[int], method: Method, layers: Sequence[int]
) -> str:
    """Return the score of each layer at each evaluation as a colour, a trace for each language pair.

    Args:
        per_layer: name of a language pair -> its score at each layer, (evaluations, layers). NaN means no score.
        steps: the step of each evaluation.
        method: the score.
        layers: the numbers of the layers.
    """
    import plotly.graph_objects as go

    figure = _figure("Step", "Layer")
    edges = run_map.step_edges(steps).tolist()
    known = np.concatenate([values[np.isfinite(values)] for values in per_layer.values()])
    low = 0.0 if method in ALIGNMENT else float(known.min())
    high = float(known.max()) if known.max() > low else low + 1
    for name, values in per_layer.items():
        read = values.shape[1]
        told = [[[step, layer] for step in steps] for layer in layers[:read]]
        figure.add_trace(
            go.Heatmap(
                x=edges,
                y=list(range(read)),
                z=[[None if np.isnan(value) else float(value) for value in row] for row in values.T],
                customdata=told,
                hovertemplate="step %{customdata[0]}, layer %{customdata[1]}: %{z:.4f}<extra></extra>",
                hoverongaps=False,
                coloraxis="coloraxis",
                meta={"pair": name},
            )
        )
    every = max(1, -(-len(layers) // run_map.MOST_LAYER_TICKS))
    named = range(-layers[0] % every, len(layers), every)
    figure.update_yaxes(tickvals=list(named), ticktext=[str(layers[row]) for row in named], showgrid=False)
    figure.update_xaxes(showgrid=False)
    figure.update_layout(
        plot_bgcolor="#d9d9d9",
        hovermode="closest",
        coloraxis={
            "cmin": low,
            "cmax": high,
            "colorscale": _scale(method),
            "colorbar": {"title": _title(score_name(method), side="right"), **BAR},
        },
    )
    return _json(figure)


def _scale(method: Method) -> list[list[Any]]:
    """Return the colours of the pictures' maps. A share of 0 is white."""
    colours = [[place, to_hex(run_map.COLOURS(place))] for place in np.linspace(0, 1, 12).tolist()]
    return [[0, "#ffffff"], [1e-6, colours[0][1]], *colours[1:]] if method in ALIGNMENT else colours


def quality_plot(points: Sequence[Point], correlation: OverRun | None, method: Method, metric: str) -> str:
    """Return a quality metric against alignment, a point for each evaluation, joined in step order.

    Args:
        points: the evaluations that have both scores.
        correlation: their correlation; None if there is none. With one, the line of least squares is drawn.
        method: the alignment score.
        metric: the quality metric.
    """
    import plotly.graph_objects as go

    figure = _figure(score_name(method), score_name(metric))
    x, y = [point.alignment for point in points], [point.quality for point in points]
    steps = [point.step for point in points]
    if correlation is not None:
        ends = np.array([min(x), max(x)])
        fit = np.polyval(np.polyfit(x, y, 1), ends).tolist()
        line = {"color": "black", "dash": "dash", "width": 1.5}
        figure.add_trace(go.Scatter(x=ends.tolist(), y=fit, mode="lines", line=line, hoverinfo="skip"))
    marker = {
        "size": 11,
        "color": steps,
        "colorscale": plots.STEP_COLOURS,
        "line": {"width": 1, "color": "#333"},
        "showscale": len(steps) > 1,
        "colorbar": {"title": _title("Step", side="right"), **BAR},
    }
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines+markers",
            line={"color": "#b5b5b5", "width": 1},
            marker=marker,
            customdata=steps,
            hovertemplate=f"step %{{customdata}}<br>{shown(score_name(method))} %{{x:.4f}}<br>"
            f"{shown(score_name(metric))} %{{y:.4f}}<extra></extra>",
        )
    )
    figure.update_layout(showlegend=False, hovermode="closest")
    return _json(figure)


# ---------------------------------------------------------------------------------------------- figures


def _figure(x: str, y: str, lowest_is_zero: bool = False) -> go.Figure:
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise RunPageError(INSTALL) from error
    figure = go.Figure(layout={"template": go.layout.Template()})
    figure.update_layout(
        font=FONT,
        paper_bgcolor="white",
        plot_bgcolor="white",
        hovermode="x unified",
        margin={"l": 60, "r": 20, "t": 36, "b": 50},
        showlegend=True,
        legend={"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0},
        xaxis={"title": _title(x, standoff=8), **AXIS},
        yaxis={"title": _title(y, standoff=8), "rangemode": "tozero" if lowest_is_zero else "normal", **AXIS},
    )
    return figure


def _title(text: str, **more: Any) -> dict[str, Any]:
    return {"text": shown(text), "font": {"size": 13}, **more}


def _json(figure: go.Figure) -> str:
    text: str = figure.to_json()
    return text
