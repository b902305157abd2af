from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from neuronxa_callback.training.maps import run_maps
from neuronxa_callback.training.records import Evaluation

pytestmark = pytest.mark.unit


def language(layers: list[float], pairs: list[float], pooling: str = "mean", method: str = "nasca") -> dict[str, Any]:
    per_pair = {method: pairs} if pairs else {}
    signature = f"method:{method}|n:{len(pairs)}|layers:{pooling}"
    return {"signature": signature, "score": {method: 0.5}, "per_layer": {method: layers}, "per_pair": per_pair}


def evaluation(step: int, **languages: dict[str, Any]) -> Evaluation:
    score = {"nasca": 0.5} if languages else {}
    return Evaluation.model_validate({"step": step, "score": score, "languages": languages})


def drawn(panel: Axes) -> list[list[float | None]]:
    """The columns of a panel; None where a column is empty."""
    (mesh,) = panel.collections
    rows = np.asarray(mesh.get_coordinates()).shape[0] - 1  # type: ignore[attr-defined]
    cells: Any = np.ma.asarray(mesh.get_array()).reshape(rows, -1).T.tolist()
    return list(cells)


def test_a_failed_evaluation_and_a_language_that_joined_later_have_empty_columns() -> None:
    run = [
        evaluation(0, isl=language([0.1, 0.2], [0.0, 0.3, 0.6])),
        evaluation(5),
        evaluation(10, isl=language([0.3, 0.4], [0.9, 0.6, 0.3]), fra=language([0.5, 0.6], [0.2, 0.1, 0.0])),
    ]
    maps = run_maps(run, "nasca")
    assert list(maps) == ["layer_map", "pair_map"]
    isl, fra, _ = maps["layer_map"].axes
    assert [panel.get_title() for panel in (isl, fra)] == ["isl (3 pairs)", "fra (3 pairs)"]
    assert drawn(isl) == [[0.1, 0.2], [None, None], [0.3, 0.4]]
    assert drawn(fra) == [[None, None], [None, None], [0.5, 0.6]]
    isl, fra, _ = maps["pair_map"].axes
    assert drawn(isl) == [[0.0, 0.3, 0.6], [None] * 3, [0.9, 0.6, 0.3]]
    assert drawn(fra) == [[None] * 3, [None] * 3, [0.2, 0.1, 0.0]]


@pytest.mark.parametrize(
    ("method", "pooling", "named"),
    [
        ("nasca", "mean", ["1", "2", "3"]),
        ("mexa", "max", ["0", "1", "2"]),
        ("nasca", "max(4,9,17)", ["4", "9", "17"]),
    ],
)
def test_layers_and_their_pooling_are_those_of_the_signature(method: Any, pooling: str, named: list[str]) -> None:
    line = language([0.1, 0.2, 0.3], [0.0, 1.0], pooling, method)
    maps = run_maps([evaluation(0, isl=line)], method)
    assert [text.get_text() for text in maps["layer_map"].axes[0].get_yticklabels()] == named
    assert ("greatest layer" in maps["pair_map"].axes[-1].get_ylabel()) is pooling.startswith("max")


def test_a_method_without_values_of_pairs_has_a_map_of_layers_alone() -> None:
    assert list(run_maps([evaluation(0, isl=language([0.1], [], method="cka"))], "cka")) == ["layer_map"]


def test_evaluations_without_layers_and_pairs_have_no_map() -> None:
    """Both parts of a line are optional."""
    bare = {"signature": "n:5", "score": {"nasca": 0.5}}
    assert run_maps([evaluation(0, isl=bare), evaluation(5)], "nasca") == {}


def test_values_that_are_no_numbers_are_missing() -> None:
    nothing = evaluation(0, isl=language([np.nan, np.nan], [np.nan]))
    assert run_maps([nothing], "nasca") == {}
    maps = run_maps([nothing, evaluation(5, isl=language([0.1, 0.2], [0.3]))], "nasca")
    assert drawn(maps["layer_map"].axes[0]) == [[None, None], [0.1, 0.2]]
