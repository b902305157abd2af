"""`neuronxa map`: what is drawn, and that it is scikit-learn's t-SNE of what the evaluator reads."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from sklearn.manifold import TSNE
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from neuronxa_callback import ParallelPairs, alignment_score, encode
from neuronxa_callback.cli import app
from neuronxa_callback.survey.figures import MapPanel, map_figure
from neuronxa_callback.survey.sentence_map import project
from tests.support import make_tokenizer, tiny_llama

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("models") / "one"
    tiny_llama().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def run(*arguments: Any) -> str:
    done = RUNNER.invoke(app, ["map", *map(str, arguments)])
    assert done.exit_code == 0, done.output + done.stderr
    return done.stdout


def test_the_map_is_scikit_learns_of_what_is_encoded(model: Path, tmp_path: Path) -> None:
    command = (model, "--langs", "fra_Latn", "--n", 20, "--layer", 2, "--output", tmp_path)
    points = list(csv.DictReader(io.StringIO(run(*command, "--format", "csv"))))
    pairs = ParallelPairs.load("eng_Latn-fra_Latn", n=20)
    loaded = AutoModelForCausalLM.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert len(points) == 2 * 40
    assert (tmp_path / "map-one-eng_Latn-fra_Latn.png").read_bytes().startswith(b"\x89PNG")
    summary = run(*command, "--format", "markdown")
    for read, method, index in (("embedding", "mexa", 2), ("nas", "nasca", 1)):
        sides = [encode(loaded, tokenizer, side, read)[index] for side in (pairs.source, pairs.target)]  # type: ignore[arg-type]
        vectors = torch.cat(sides).double().numpy()
        expected = TSNE(metric="cosine", init="pca", perplexity=40 / 3, random_state=0).fit_transform(vectors)
        rows = [row for row in points if row["representation"] == read]
        np.testing.assert_allclose([(float(row["x"]), float(row["y"])) for row in rows], expected, rtol=1e-4)
        assert [row["sentence"] for row in rows] == [*pairs.source, *pairs.target]
        assert [row["language"] for row in rows] == ["eng_Latn"] * 20 + ["fra_Latn"] * 20
        aligned = alignment_score(sides[0][None], sides[1][None], method).item()  # type: ignore[arg-type]
        assert f"| fra_Latn | {read} | 2 | {aligned:.4f} |" in summary
        assert all("|layers:mean(2)|" in row["signature"] for row in rows)


def test_the_middle_layer_unless_another_is_chosen(model: Path, tmp_path: Path) -> None:
    printed = run(model, "--langs", "fra_Latn", "--n", 8, "--output", tmp_path, "--format", "markdown")
    assert "| fra_Latn | nas | 1 |" in printed  # of three
    done = RUNNER.invoke(app, ["map", str(model), "--layer", "4", "--n", "8", "--output", str(tmp_path)])
    assert done.exit_code == 1
    assert "layers" in done.stderr
    assert "Traceback" not in done.output + done.stderr


def test_translations_that_are_alike_come_to_lie_together() -> None:
    """Forty sentences in far corners of a space, each side with a little noise: a pair is nearer than any other."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 64, generator=generator)
    source, target = (centres + 0.01 * torch.randn(40, 64, generator=generator) for _ in range(2))
    points, divergence = project(source, target)
    distance = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    assert (distance.argmin(axis=1) == np.arange(40)).all()
    assert divergence > 0
    again, _ = project(source, target)
    np.testing.assert_array_equal(points, again)


def test_two_sentences_can_be_mapped() -> None:
    points, _ = project(torch.eye(2, 5), torch.eye(2, 5).flip(0))
    assert points.shape == (2, 2, 2)
    assert np.isfinite(points).all()


def test_the_figure_holds_every_sentence_and_its_translation() -> None:
    points = np.random.default_rng(0).normal(size=(2, 7, 2))
    figure = map_figure([MapPanel("embedding", 3, 0.25, points), MapPanel("nas", 3, 0.5, points)], ("a", "b"), "title")
    assert [axes.get_title() for axes in figure.axes] == [
        "Embedding, layer 3\n25% of pairs aligned there",
        "Neuron states, layer 3\n50% of pairs aligned there",
    ]
    for axes in figure.axes:
        for line, side in zip(axes.lines, points, strict=True):
            np.testing.assert_array_equal(line.get_xydata(), side)
        (links,) = [c for c in axes.collections if isinstance(c, LineCollection)]
        np.testing.assert_array_equal(list(links.get_segments()), points.swapaxes(0, 1))


def test_without_scikit_learn(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    done = RUNNER.invoke(app, ["map", str(model), "--output", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "a map needs scikit-learn; install it with: pip install 'neuronxa-callback[map]'" in done.stderr.replace(
        "\n", " "
    )
    assert not (tmp_path / "out").exists()
