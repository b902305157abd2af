"""Train a tiny Llama on the processes of torchrun with one of the engines, and keep what each process ends with.

Arguments: an output folder, and settings as JSON (see `Settings`).
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerState

from neuronxa_callback import NeuronXACallback, ParallelPairs, Quality, StoppingRule
from neuronxa_callback.ranks import OutOfStepError
from tests.support import fused, sft


def leave() -> None:
    """End the process at once, when all is written.

    The threads of gloo at times abort the interpreter while it ends ("terminate called without an active exception"),
    even when their group is gone.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@dataclass(frozen=True)
class Settings:
    """One training.

    Attributes:
        engine: "one", "ddp", "fsdp2", "fsdp1", "zero2" or "zero3".
        lora: whether to train an adapter.
        fused: whether the FFNs' forwards take the weights and call no projection.
        watched: whether the callback is there.
        pairs: the number of held-out sentence pairs.
        translates: whether the model translates, too.
        stops: whether a stopping rule ends the training at its second step.
        max_steps: the Trainer's. Every step is evaluated.
        fault: what fails on the last process at the second step; see `Saboteur`.
        on_error: the callback's.
    """

    engine: str
    lora: bool = False
    fused: bool = False
    watched: bool = True
    pairs: int = 6
    translates: bool = True
    stops: bool = False
    max_steps: int = 2
    fault: str = ""
    on_error: Any = "warn"


class Saboteur(TrainerCallback):
    """Let something fail on the last process, and only at the evaluation of the second step.

    * "pass": a layer's forward pass.
    * "memory": the first forward pass, by lack of memory.
    * "twice": an FFN calls its gate twice, which is found within the pass.
    * "nan": an FFN gets NaN.
    """

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def on_step_end(self, args: Any, state: TrainerState, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Break the model behind the first step's evaluation, and mend it behind the second's."""
        ffn = decoder_layers(model)[1].mlp
        if state.global_step == 1 and args.process_index == args.world_size - 1:
            self.handle = ffn.register_forward_pre_hook(self.fail)
        elif state.global_step == 2 and args.process_index == args.world_size - 1:
            self.handle.remove()

    def fail(self, ffn: Any, args: Any) -> Any:
        """Fail in evaluation mode."""
        if ffn.training:
            return None
        if self.fault == "nan":
            return (args[0] * float("nan"),)
        if self.fault == "twice":
            ffn.gate_proj(args[0])
        elif self.fault == "memory":
            self.fault = ""
            raise torch.OutOfMemoryError("out of memory")
        elif self.fault:
            raise RuntimeError("the pass failed")
        return None


class Sharded(TrainerCallback):
    """Check that an evaluation leaves no parameter of FSDP 2 gathered. The callback's own turn comes before."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Check the model."""
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())


def callback_of(settings: Settings) -> NeuronXACallback:
    """Return the callback of a training."""
    pairs = [ParallelPairs.load(name, n=settings.pairs) for name in ("eng_Latn-isl_Latn", "eng_Latn-fra_Latn")]
    return NeuronXACallback(
        pairs,
        methods=("nasca", "navca", "mexa"),
        eval_steps=1,
        quality=Quality("chrf", pairs=["eng_Latn-fra_Latn"]) if settings.translates else (),
        stopping=StoppingRule(2, min_delta=1.0) if settings.stops else None,
        on_error=settings.on_error,
    )


def train(output_dir: Path, settings: Settings) -> None:
    """Train, and write each process's log and the whole weights to the output folder."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    stage = {"zero2": 2, "zero3": 3}.get(settings.engine)
    trainer = sft(
        output_dir,
        [callback_of(settings)] if settings.watched else [],
        peft_config=lora_config() if settings.lora else None,
        use_cpu=True,
        max_steps=settings.max_steps,
        report_to="tensorboard",
        per_device_train_batch_size=4 // processes,
        **({} if stage is None else {"deepspeed": _deepspeed(stage)}),
    )
    if stage is not None:
        import deepspeed

        # It would compile an operation at its first start.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if settings.fused:
        fused(trainer.model)
    if settings.fault:
        trainer.add_callback(Saboteur(settings.fault))
    if settings.engine == "fsdp2":
        trainer.add_callback(Sharded())
    if settings.engine.startswith("fsdp"):
        trainer.model = trainer.model_wrapped = _sharded(trainer.model, settings.engine)
        # On the CPU accelerate would wrap the model by DDP.
        trainer.accelerator.prepare_model = lambda model, **options: model
    error = ""
    try:
        trainer.train()
    except OutOfStepError:
        raise
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    log, again = list(trainer.state.log_history), {}
    if settings.engine == "ddp" and settings.watched and not settings.fault:
        again = trainer.evaluate()  # outside training
    result = {"again": again, "log": log, "step": trainer.state.global_step, "error": error}
    (output_dir / f"rank-{trainer.args.process_index}.json").write_text(json.dumps(result))
    weights = _whole_weights(trainer.model, settings.engine)
    if trainer.args.process_index == 0:
        torch.save(weights, output_dir / "weights.pt")


def decoder_layers(model: Any) -> Any:
    """Return the decoder layers of the Llama inside the wrappers of PEFT and FSDP 1."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.model.layers


def lora_config() -> Any:
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
    layers = decoder_layers(model)
    if engine == "fsdp2":
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)  # type: ignore[no-any-return]
    policy = partial(transformer_auto_wrap_policy, transformer_layer_cls={type(layers[0])})
    return FullyShardedDataParallel(model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu"))


def _whole_weights(model: Any, engine: str) -> dict[str, torch.Tensor]:
    if engine == "zero3":
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(model.parameters())):
            return {name: value.detach().clone() for name, value in model.named_parameters()}
    if engine.startswith("fsdp"):
        return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))  # type: ignore[return-value]
    return dict(model.state_dict())


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    train(folder, Settings(**json.loads(sys.argv[2])))
    leave()
