"""Launchers such as Ray send the callback to other processes before training."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from neuronxa_callback import NeuronXACallback, Quality, StoppingRule
from tests.support import ICELANDIC, score_lines, sft

pytestmark = pytest.mark.trainer

SETTINGS: list[dict[str, Any]] = [
    {},
    {
        "methods": ("nasca", "mexa"),
        "eval_steps": 3,
        "quality": Quality(("comet", "cometkiwi", "chrf"), prompt="{source} ="),
        "stopping": StoppingRule(3, floor={"isl_Latn": 0.5}),
        "on_error": "raise",
    },
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_callback_can_be_sent_to_another_process(settings: dict[str, Any]) -> None:
    callback = NeuronXACallback(ICELANDIC, **settings)
    sent = pickle.loads(pickle.dumps(callback))
    assert sent.evaluator.pairs == callback.evaluator.pairs
    assert sent.evaluator.methods == callback.evaluator.methods
    assert sent.stopping == callback.stopping
    assert list(sent.quality.metrics) == list(callback.quality.metrics)


def test_a_callback_that_was_sent_trains_as_the_original(tmp_path: Path) -> None:
    callback = NeuronXACallback(ICELANDIC, eval_steps=3, quality="chrf")
    for name, each in (("sent", pickle.loads(pickle.dumps(callback))), ("kept", callback)):
        sft(tmp_path / name, [each], use_cpu=True).train()
    sent, kept = (
        [(line["step"], line["score"], line["quality"]) for line in score_lines(tmp_path / name)]
        for name in ("sent", "kept")
    )
    assert sent == kept
    assert [step for step, *_ in sent] == [0, 3, 6]
