"""Measure a model whose layers are split over the processes of torchrun (tensor parallel)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.layers import UnreadableFFNError
from neuronxa_callback.model.taps import local
from tests.architectures import tiny
from tests.distributed.train import Settings, callback_of, leave
from tests.support import fused

torch.set_num_threads(1)
dist.init_process_group("gloo")
folder = Path(sys.argv[1])
callback = callback_of(Settings("one"))
tokenizer = AutoTokenizer.from_pretrained(folder / "model")
model = AutoModelForCausalLM.from_pretrained(folder / "model", tp_plan="auto")
report = callback.evaluator(model, tokenizer)
translated = callback.quality.translate(Decoder.find(model, tokenizer))


def on_local_weights(mlp: Any, x: Tensor) -> Tensor:
    """An FFN that takes this process's part of its weights, and adds up what the processes give."""
    gate, up, down = (local(projection.weight) for projection in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    output = F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)
    dist.all_reduce(output)
    return output


bypassed = callback.evaluator(fused(model, on_local_weights), tokenizer)
if dist.get_rank() == 0:
    tiny("mixtral", torch.float32).save_pretrained(folder / "experts")
dist.barrier()
refused = ""
try:
    callback.evaluator(AutoModelForCausalLM.from_pretrained(folder / "experts", tp_plan="auto"), tokenizer)
except UnreadableFFNError as error:
    refused = str(error)
found = {
    "per_layer": {name: values.tolist() for name, values in report.per_layer.items()},
    "bypassed": {name: values.tolist() for name, values in bypassed.per_layer.items()},
    "texts": [made.texts for made, _ in translated.values()],
    "refused": refused,
}
(folder / f"rank-{dist.get_rank()}.json").write_text(json.dumps(found))
leave()
