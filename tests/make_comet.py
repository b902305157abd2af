"""Make tiny COMET checkpoints in COMET's own format; runs in the environment that has unbabel-comet.

python tests/make_comet.py FOLDER

A RegressionMetric (as wmt22-comet-da) and a UnifiedMetric without references (as wmt22-cometkiwi-da), each on a tiny
XLM-R of random weights with a Unigram tokenizer, and what `comet.models` says of a few samples directly. A third one,
"wide", needs much memory for each segment.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
import yaml
from comet.models import RegressionMetric, UnifiedMetric
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizerFast

TEXT = [line for line in Path(__file__).read_text(encoding="utf-8").splitlines() if line]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
WIDE = 65_536  # a token takes 256 KiB in the FFN, so that a few segments fill tens of MiB
SAMPLES = [
    {"src": "The dog sleeps on the old red sofa.", "mt": "Hundurinn sefur.", "ref": "Hundurinn sefur á gamla sófanum."},
    {"src": "No.", "mt": "", "ref": "Nei."},
    {"src": "Eight ships left.", "mt": "Átta skip fóru út í gær.", "ref": "Átta skip lögðu úr höfn."},
]


def make_encoder(folder: Path, intermediate_size: int = 32, **sizes: float) -> None:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        TEXT,
        trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    XLMRobertaTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size() + 8,
        intermediate_size=intermediate_size,
        max_position_embeddings=140,
        **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.5} | sizes,
    )
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)


def save(model: pytorch_lightning.LightningModule, folder: Path) -> None:
    (folder / "checkpoints").mkdir(parents=True)
    trainer = pytorch_lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(folder / "checkpoints" / "model.ckpt", weights_only=True)
    (folder / "hparams.yaml").write_text(yaml.safe_dump(dict(model.hparams)))


def main(folder: Path) -> None:
    sys.modules["mpi4py"] = None  # type: ignore[assignment]  # Lightning starts MPI where it is installed, as in worker.py
    torch.manual_seed(0)
    encoder = folder / "xlmr"
    make_encoder(encoder)
    settings = {"pretrained_model": str(encoder), "hidden_sizes": [24, 12], "dropout": 0.1}
    made = {
        "comet": RegressionMetric(**settings),
        "cometkiwi": UnifiedMetric(
            **settings, input_segments=["mt", "src"], layer_transformation="softmax", word_layer=1
        ),
    }
    expected: dict[str, Any] = {"samples": SAMPLES}
    for name, model in made.items():
        save(model, folder / name)
        expected[name] = model.predict(SAMPLES, batch_size=2, gpus=0, num_workers=0, progress_bar=False)["scores"]
    (folder / "expected.json").write_text(json.dumps(expected))
    make_encoder(folder / "wide_xlmr", WIDE)
    save(RegressionMetric(**settings | {"pretrained_model": str(folder / "wide_xlmr")}), folder / "wide")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
