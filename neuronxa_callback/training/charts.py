"""The charts of TensorBoard's page "Custom Scalars": alignment with interval and chance, alignment beside quality."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from neuronxa_callback.vocabulary import score_name

PERCENTAGES = ("chrf", "bleu")  # they run from 0 to 100, and alignment from 0 to 1
SHARES = ("comet", "cometkiwi")


def percentages(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return chrF and BLEU over all directions, divided by 100: TensorBoard's tag -> value."""
    return {_shared_scale(name): metrics[f"eval_{name}"] / 100 for name in PERCENTAGES if f"eval_{name}" in metrics}


def write_layout(writer: Any, certain: Sequence[str], methods: Sequence[str], quality: Sequence[str]) -> None:
    """Write the layout into TensorBoard's run.

    A margin chart shows a method with its 95 % interval and its chance. Beside it stands a chart of the method and the
    quality metrics. All lines of a chart share one axis. So chrF and BLEU are divided by 100 there, and a metric of the
    user's, whose scale is not known, has a chart of its own.

    Args:
        writer: the Trainer's SummaryWriter.
        certain: the logged names of intervals and chance; see `metric_names.certainty_metrics`.
        methods: the alignment methods.
        quality: the quality metrics. Without any there is no chart of them.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    charts = []
    for method in methods:
        series = [layout_pb2.MarginChartContent.Series(**tags) for tags in _series(method, certain)]
        title = f"{score_name(method)}, its 95 % interval and chance"
        charts.append(layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=series)))
    for title, tags in _beside_quality(methods, quality).items():
        only = [f"^{re.escape(tag)}$" for tag in tags]  # TensorBoard takes them for regular expressions
        charts.append(layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=only)))
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title="NeuronXA", chart=charts)])
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME)
    tensor = TensorProto(dtype="DT_STRING", string_val=[layout.SerializeToString()])
    value = Summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, tensor=tensor, metadata=SummaryMetadata(plugin_data=plugin))
    # SummaryWriter.add_custom_scalars takes one series for a margin chart, which would leave out chance.
    writer.file_writer.add_summary(Summary(value=[value]))
    writer.flush()


def _series(method: str, certain: Sequence[str]) -> list[dict[str, str]]:
    """Return the tags of a method and its interval, and of its chance. What has no interval is a line alone."""
    score = dict.fromkeys(("value", "lower", "upper"), f"eval/{method}")
    if f"eval_{method}_ci_low" in certain:
        score |= {"lower": f"eval/{method}_ci_low", "upper": f"eval/{method}_ci_high"}
    if f"eval_{method}_chance" not in certain:
        return [score]
    return [score, dict.fromkeys(("value", "lower", "upper"), f"eval/{method}_chance")]


def _beside_quality(methods: Sequence[str], quality: Sequence[str]) -> dict[str, list[str]]:
    """Return title -> tags of the charts of each method beside quality, and of the metrics whose scale is not known."""
    lines = {score_name(name): f"eval/{name}" for name in quality if name in SHARES}
    lines |= {f"{score_name(name)} / 100": _shared_scale(name) for name in quality if name in PERCENTAGES}
    charts: dict[str, list[str]] = {}
    if lines:
        shown = ", ".join(lines)
        charts = {f"{score_name(m)} beside {shown}": [f"eval/{m}", *lines.values()] for m in methods}
    return charts | {name: [f"eval/{name}"] for name in quality if name not in SHARES + PERCENTAGES}


def _shared_scale(name: str) -> str:
    return f"neuronxa/{name}_divided_by_100"
