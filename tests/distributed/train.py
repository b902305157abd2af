"""Train a tiny Llama on the processes of torchrun with one of the engines, and keep what each process ends with.

Arguments: an output folder, and settings as JSON (see `Settings`).
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

if __name__ == "__main__":
    torch.set_num_threads(1)

from torch import nn

from neuronxa_callback import NeuronXACallback, ParallelPairs, Quality, StoppingRule
from tests.support import make_tokenizer, sft, tiny_llama


@dataclass(frozen=True)
class Settings:
    """One training.

    Attributes:
        engine: "one", "ddp", "fsdp2", "fsdp1", "zero2" or "zero3".
        lora: whether to train an adapter.
        watched: whether the callback is there.
        pairs: the number of held-out sentence pairs.
        translates: whether the model translates, too.
        patience: the stopping rule's.
        learning_rate: the Trainer's.
        fault: what fails on the last process: "", "read", "pass", "prompt" or "memory".
        on_error: the callback's.
    """

    engine: str
    lora: bool = False
    watched: bool = True
    pairs: int = 10
    translates: bool = True
    patience: int | None = None
    learning_rate: float = 1e-2
    max_steps: int = 4
    fault: str = ""
    on_error: Any = "warn"


def train(output_dir: Path, settings: Settings) -> None:
    """Train, and write each process's log and the whole weights to the output folder."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    callback = NeuronXACallback(
        [ParallelPairs.load(name, n=settings.pairs) for name in ("eng_Latn-isl_Latn", "eng_Latn-fra_Latn")],
        methods=("nasca", "navca", "mexa"),
        eval_steps=1,
        quality=Quality("chrf") if settings.translates else (),
        stopping=StoppingRule(settings.patience) if settings.patience else None,
        on_error=settings.on_error,
    )
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    options: dict[str, Any] = {"deepspeed": _deepspeed(int(settings.engine[-1]))} if "zero" in settings.engine else {}
    trainer = sft(
        output_dir,
        [callback] if settings.watched else [],
        tiny_llama(),
        tokenizer,
        _lora() if settings.lora else None,
        use_cpu=True,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        report_to="tensorboard",
        per_device_train_batch_size=4 // processes if processes < 3 else 1,
        **options,
    )
    if settings.engine.startswith("fsdp"):
        trainer.model = trainer.model_wrapped = _sharded(trainer.model, settings.engine)
        # On the CPU accelerate would wrap the model by DDP.
        trainer.accelerator.prepare_model = lambda model, **options: model
    is_last = trainer.args.process_index == trainer.args.world_size - 1
    if settings.fault and is_last:
        _break(callback, trainer.model, settings.fault)
    error = ""
    try:
        trainer.train()
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
        if type(raised).__name__ == "OutOfStepError":
            raise
    result = {"log": trainer.state.log_history, "step": trainer.state.global_step, "error": error}
    (output_dir / f"rank-{trainer.args.process_index}.json").write_text(json.dumps(result))
    weights = _whole_weights(trainer.model, settings.engine)
    if trainer.args.process_index == 0:
        torch.save(weights, output_dir / "weights.pt")


def _lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)


def _deepspeed(stage: int) -> dict[str, Any]:
    return {
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
        "gradient_accumulation_steps": "auto",
        "zero_allow_untested_optimizer": True,
    }


def _sharded(model: Any, engine: str) -> nn.Module:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if engine == "fsdp2":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in base.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model  # type: ignore[no-any-return]
    from functools import partial

    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    policy = partial(transformer_auto_wrap_policy, transformer_layer_cls={type(base.model.layers[0])})
    return FullyShardedDataParallel(
        model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
    )


def _break(callback: NeuronXACallback, model: Any, fault: str) -> None:
    """Let something fail on this process alone."""
    if fault == "read":
        callback.evaluator.representations = {"nasca": "broken"}  # type: ignore[dict-item]
    elif fault == "prompt":
        callback.quality.worker = None  # type: ignore[assignment]
    raise ValueError(fault)


def _whole_weights(model: Any, engine: str) -> dict[str, torch.Tensor]:
    if engine == "zero3":
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(model.parameters())):
            return {name: value.detach().clone() for name, value in model.named_parameters()}
    if engine.startswith("fsdp"):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))  # type: ignore[return-value]
    return dict(model.state_dict())


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    train(folder, Settings(**json.loads(sys.argv[2])))
    if dist.is_initialized():
        dist.destroy_process_group()  # left to the interpreter's end, gloo's threads at times abort it
