from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.parallelism_config import ParallelismConfig
from transformers import TrainerControl

from neuronxa_callback.training.checks import check_engine
from neuronxa_callback.training.trainer import Moment
from tests.support import sft

pytestmark = pytest.mark.trainer


@pytest.mark.parametrize("size", ["sp_size", "cp_size"])
def test_sentences_that_are_split_over_processes_are_refused(size: str, tmp_path: Path) -> None:
    moment = Moment(sft(tmp_path, [], use_cpu=True), TrainerControl())
    check_engine(moment)
    if size not in inspect.signature(ParallelismConfig).parameters:
        pytest.skip(f"this accelerate has no {size}")
    # The Trainer itself would refuse it without GPUs.
    accelerator: Any = SimpleNamespace(parallelism_config=ParallelismConfig(**{size: 2}))
    moment.trainer.accelerator = accelerator
    with pytest.raises(ValueError, match=f"split over processes \\({size} of accelerate's ParallelismConfig\\)"):
        check_engine(moment)
