"""What several test modules share: a tokenizer and tiny models made on the spot, and training runs of a few steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from neuronxa_callback import ParallelPairs
from neuronxa_callback.model.neurons import find_ffns
from neuronxa_callback.text.embedded import embedded

if TYPE_CHECKING:  # seconds to import, and most tests train nothing
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import Trainer
    from trl import SFTTrainer

    from neuronxa_callback.training.records import Evaluation

ROOT = Path(__file__).parent.parent
SMOLLM = ROOT / ".models" / "smollm2-135m-instruct"
COMET = ROOT / ".comet"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]  # and their number
VOCABULARY = 600
ICELANDIC = ParallelPairs.load("eng_Latn-isl_Latn", n=10)


def loaded_by_transformers() -> set[str]:
    """The modules that a model of transformers loads by itself. In version 4 scipy.stats is one, by way of sklearn."""
    code = "import sys; from transformers import LlamaForCausalLM; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def make_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; with `bos` it puts a BOS token in front, as Llama's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    sentences = [sentence for column in embedded("heldout.tsv").values() for sentence in column]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left"
    )


def tiny_llama(seed: int = 0, **settings: Any) -> LlamaForCausalLM:
    """A Llama of three layers with random weights large enough for sentences to differ."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.2,
            "pad_token_id": 2,
            "bos_token_id": 0,
            "eos_token_id": 1,
        }
        | settings
    )
    return LlamaForCausalLM(config)


def linear(projection: Any, x: Tensor) -> Tensor:
    """What a projection computes, by its weight, its quantisation state and its LoRA, in the order of PEFT."""
    base = getattr(projection, "base_layer", projection)
    weight = base.weight
    if getattr(weight, "quant_state", None) is not None:
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(weight, weight.quant_state).to(x.dtype)
    elif type(base).__name__ == "Conv1D":
        weight = weight.T
    output = F.linear(x, weight, base.bias)
    if base is projection or projection.disable_adapters or projection.merged:
        return output
    (adapter,) = projection.active_adapters
    a, b, dropout = (part[adapter] for part in (projection.lora_A, projection.lora_B, projection.lora_dropout))
    added: Tensor = F.linear(F.linear(dropout(x), a.weight), b.weight) * projection.scaling[adapter]
    return output + added


def gated(mlp: Any, x: Tensor) -> Tensor:
    """What a gated FFN of SiLU computes, by the weights of its projections."""
    return linear(mlp.down_proj, F.silu(linear(mlp.gate_proj, x)) * linear(mlp.up_proj, x))


def fused(model: Any, forward: Callable[[Any, Tensor], Any] = gated) -> Any:
    """Give each FFN a forward of its own, in the way of Axolotl and Unsloth."""
    for ffn in dict.fromkeys(ffn.module for layer in find_ffns(model) for ffn in layer):
        ffn.forward = MethodType(forward, ffn)
    return model


class Forwarding(torch.nn.Module):
    """A wrapper that goes round the module it holds: it calls `inner.forward(x)`, which no hook sees."""

    def __init__(self, mlp: torch.nn.Module) -> None:
        super().__init__()
        self.inner = mlp

    def forward(self, x: Tensor) -> Any:
        return self.inner.forward(x)


def hooks_of(model: torch.nn.Module) -> list[Any]:
    return [hook for m in model.modules() for hook in (*m._forward_hooks, *m._forward_pre_hooks)]


def training_set() -> Dataset:
    from datasets import Dataset

    columns = embedded("demo_train.tsv")
    return Dataset.from_list(
        [
            {"prompt": f"English: {english}\nFrench:", "completion": f" {french}"}
            for english, french in zip(columns["eng_Latn"], columns["fra_Latn"], strict=True)
        ][:64]
    )


def sft(
    output_dir: Path,
    callbacks: list[Any],
    model: Any = None,
    tokenizer: Any = None,
    peft_config: LoraConfig | None = None,
    **settings: Any,
) -> SFTTrainer:
    from trl import SFTConfig, SFTTrainer

    options: dict[str, Any] = {
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 8,
        "learning_rate": 1e-2,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "max_length": 64,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 3,
    } | settings
    model = model or tiny_llama()
    torch.manual_seed(options["seed"])  # TRL 0.23 draws the adapter before it sets the seed, TRL 1.16 after
    return SFTTrainer(
        model=model,
        args=SFTConfig(output_dir=str(output_dir), **options),
        train_dataset=training_set(),
        eval_dataset=training_set().select(range(16)),
        processing_class=tokenizer or make_tokenizer(),
        peft_config=peft_config,
        callbacks=callbacks,
    )


def processes_environment(**variables: str) -> dict[str, str]:
    """The environment of processes that import this checkout and compute in one thread each."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


def run_processes(
    *arguments: Any, processes: int = 2, timeout: float = 300, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script with its arguments in processes of torchrun."""
    return subprocess.run(
        [*TORCHRUN, str(processes), *map(str, arguments)],
        cwd=ROOT,
        env=processes_environment(**variables),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def raw_lines(path: Path) -> list[dict[str, Any]]:
    """What a file of JSON lines holds, as it stands there."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def score_lines(output_dir: str | Path) -> list[dict[str, Any]]:
    """The evaluations of a run as the package reads them, in step order, with the keys of the file."""
    from neuronxa_callback.training.history import History

    return as_lines(History(output_dir).read())


def as_lines(evaluations: Iterable[Evaluation]) -> list[dict[str, Any]]:
    """The evaluations with the keys and values of the file, the format number left out."""
    return [json.loads(json.dumps(evaluation.model_dump())) for evaluation in evaluations]


def change_line(output_dir: str | Path, step: int, **changes: Any) -> None:
    """Change some keys of the line of a step."""
    from neuronxa_callback.training.history import History
    from neuronxa_callback.training.records import Evaluation

    history = History(output_dir)
    history.put(Evaluation.model_validate(history.at(step).model_dump() | changes))


def scored_steps(trainer: Trainer) -> list[int]:
    return [entry["step"] for entry in trainer.state.log_history if "eval_nasca" in entry]


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == self.step


class Interrupt(StopAt):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt
