from __future__ import annotations

import pytest
from datasets.exceptions import DatasetNotFoundError

from neuronxa_callback.text.hub import refusal

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub."),
            "b is gated: accept its terms on https://huggingface.co/datasets/a/b and run `hf auth login`.",
        ),
        (DatasetNotFoundError("'a/delegated' doesn't exist."), "b cannot be read ('a/delegated' doesn't exist); mend."),
        (FileNotFoundError("/gated/file"), "b cannot be read (/gated/file); mend."),
        (ConnectionError("no\n  way"), "b cannot be read (no way); mend."),
        (ValueError(), "b cannot be read (ValueError); mend."),
    ],
)
def test_an_error_becomes_a_sentence(error: Exception, sentence: str) -> None:
    assert refusal("b", "a/b", error, "cannot be read", "mend") == sentence
