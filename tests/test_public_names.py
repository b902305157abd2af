"""The public names: all there, and each imported without what it does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

import neuronxa_callback
from tests.support import loaded_by_transformers


@pytest.mark.parametrize("name", neuronxa_callback.__all__)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(neuronxa_callback, name).__name__ == name
    assert name in dir(neuronxa_callback)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        neuronxa_callback.nonsense  # noqa: B018


def test_encode_loads_neither_matplotlib_nor_the_trainer() -> None:
    code = "import sys; from neuronxa_callback import encode; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "neuronxa_callback.alignment.encoder" in loaded
    assert not loaded & {"matplotlib", "transformers.trainer", "sacrebleu", "bitsandbytes", "typer"}


def test_the_callback_loads_what_draws_and_resamples_only_when_it_does() -> None:
    code = "import sys; from neuronxa_callback import NeuronXACallback; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "neuronxa_callback.training.run" in loaded
    assert not loaded & ({"matplotlib.figure", "scipy.stats", "plotly"} - loaded_by_transformers())


def test_the_package_alone_loads_nothing() -> None:
    code = "import sys; before = set(sys.modules); import neuronxa_callback; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "neuronxa_callback" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "scipy", "matplotlib", "datasets", "pydantic", "rich"}
