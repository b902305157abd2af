"""TensorBoard's own page of a run, opened in a real browser."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from neuronxa_callback import NeuronXACallback
from tests.browser import chromium
from tests.support import ICELANDIC, processes_environment, sft

pytestmark = [pytest.mark.trainer, pytest.mark.once]

MARGIN = "NASCA, its 95 % interval and chance"
BESIDE = "NASCA beside chrF / 100"


class Words:
    """A user's metric."""

    name = "words"

    def score(self, sources: Any, translations: Any, references: Any) -> float:
        return 100.0 * len(translations)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of TensorBoard's files of a training."""
    folder = tmp_path_factory.mktemp("run")
    callback = NeuronXACallback(ICELANDIC, methods="nasca", eval_steps=2, quality=("chrf", Words()), on_error="raise")
    sft(folder, [callback], report_to="tensorboard", learning_rate=0.1).train()
    (file,) = folder.rglob("events.out.tfevents.*")
    return file.parent


@pytest.fixture
def address(run: Path) -> Iterator[str]:
    """The address of a TensorBoard that shows the run."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(
        [*command, "--load_fast", "false"], stderr=subprocess.PIPE, text=True, env=processes_environment()
    ) as server:
        assert server.stderr is not None
        found = (re.search(r"http://127\.0\.0\.1:\d+", line) for line in server.stderr)
        try:
            yield next(filter(None, found)).group()
        finally:
            server.terminate()


def test_the_layout_has_alignment_with_its_interval_and_chance_and_beside_quality(run: Path) -> None:
    events = EventAccumulator(str(run), size_guidance={"tensors": 0, "scalars": 0}).Reload()
    (config,) = events.Tensors("custom_scalars__config__")  # it is written once
    (category,) = layout_pb2.Layout.FromString(config.tensor_proto.string_val[0]).category
    charts = {chart.title: chart for chart in category.chart}
    assert list(charts) == [MARGIN, BESIDE, "words"]
    tags = [(series.value, series.lower, series.upper) for series in charts[MARGIN].margin.series]
    assert tags == [("eval/nasca", "eval/nasca_ci_low", "eval/nasca_ci_high"), ("eval/nasca_chance",) * 3]
    beside = [tag.strip("^$") for tag in charts[BESIDE].multiline.tag]
    assert beside == ["eval/nasca", "neuronxa/chrf_divided_by_100"]
    for tag in {tag for series in tags for tag in series} | {*beside}:
        assert [point.step for point in events.Scalars(tag)] == [0, 2, 4, 6]
    low, score, high = (events.Scalars(f"eval/nasca{end}") for end in ("_ci_low", "", "_ci_high"))
    assert all(a.value <= b.value <= c.value for a, b, c in zip(low, score, high, strict=True))
    shares = [point.value for point in events.Scalars("neuronxa/chrf_divided_by_100")]
    assert shares == pytest.approx([point.value / 100 for point in events.Scalars("eval/chrf")])


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"{address}/#custom_scalars")
        yield page


def test_a_browser_shows_the_charts_with_their_lines(page: Any) -> None:
    for title, areas in ((MARGIN, 2), (BESIDE, 0)):
        cards = "tf-custom-scalar-margin-chart-card, tf-custom-scalar-multi-line-chart-card"
        card = page.locator(cards, has_text=title)
        card.get_by_text("Matches (2)").wait_for(timeout=60_000)
        lines = card.locator("path.line")
        lines.nth(1).wait_for(state="attached", timeout=60_000)
        drawn = [line.get_attribute("d") for line in lines.all()]
        assert all(path.count("L") + path.count(",") >= 4 for path in drawn)  # a point for each evaluation
        assert card.locator("path.area").count() == areas  # the interval, and that of chance, which has no width
