"""A Lightning training of a process of torchrun. argv: FOLDER, which gets rank-N.pt and scores.jsonl."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything

from neuronxa_callback.integrations.lightning import NeuronXALightning
from tests.support import ICELANDIC
from tests.trainers.test_lightning import TOKENIZER, Translator, batches

folder = Path(sys.argv[1])
seed_everything(3)
module = Translator()
trainer = Trainer(
    accelerator="cpu",
    devices=2,
    strategy="ddp",
    max_steps=4,
    val_check_interval=2,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    callbacks=[NeuronXALightning(TOKENIZER, ICELANDIC, output_dir=str(folder), on_error="raise")],
)
trainer.fit(module, batches(), batches())
metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("eval_")}
torch.save({"metrics": metrics, "weights": module.model.state_dict()}, folder / f"rank-{trainer.global_rank}.pt")
torch.distributed.barrier()
sys.stdout.flush()
os._exit(0)  # gloo's threads at times abort an interpreter that ends
