"""Models and adapters, loaded from a folder or the hub as they are asked for."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from neuronxa_callback.vocabulary import Dtype, check_choice


class ModelError(RuntimeError):
    """A model that cannot be found or loaded; the message names the place and says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A model, or an adapter of one, and where it stands in a run.

    Attributes:
        source: its folder, or the hub name of a base model.
        remedy: what to do where it cannot be loaded, for the error.
        step: the Trainer's global step; 0 is the base model.
        epoch: the Trainer's epoch, None where the checkpoint does not say.
        adapter: the adapter's configuration, None for a full model.
    """

    source: str
    remedy: str
    step: int = 0
    epoch: float | None = None
    adapter: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """How the progress bar calls it."""
        return Path(self.source).name if self.step else "base model"


class Loader:
    """Models of checkpoints, one at a time; the base of adapters is loaded once where they leave it as it is.

    Args:
        checkpoints: as `find_checkpoints` returns them.
        dtype: what the weights are loaded in.
        load_in_4bit: load them in NF4.
        device: where they go; a GPU, where there is one, for None.

    Raises:
        ModelError: the configuration that "auto" asks cannot be loaded.
        ValueError: an unknown dtype or device.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        dtype: Dtype = "auto",
        load_in_4bit: bool = False,
        device: str | None = None,
    ) -> None:
        check_choice("dtype", dtype, Dtype)
        self.device = _device(device)
        self.load_in_4bit = load_in_4bit
        self.base = checkpoints[0]
        # "auto" is settled once: a base may be stored in another dtype than the models trained from it.
        self.dtype = _stored_dtype(checkpoints) if dtype == "auto" else getattr(torch, dtype)
        self._loaded: tuple[str, nn.Module] | None = None

    @contextmanager
    def model(self, checkpoint: Checkpoint) -> Iterator[nn.Module]:
        """The checkpoint's model, in evaluation mode, until the block ends.

        Raises:
            ModelError: it cannot be loaded, or its weights are not all there.
        """
        if checkpoint.adapter is None:
            yield self._load(checkpoint)
            return
        base = self._load(self.base)
        modules = dict(base.named_modules(remove_duplicate=False))
        adapted = _put_adapter_on(base, checkpoint)
        try:
            yield adapted
        finally:
            adapted.unload()  # type: ignore[operator]
            # PEFT leaves the trained copies of modules_to_save behind in place of the base's own.
            for name, module in modules.items():
                parent, _, child = name.rpartition(".")
                if child:
                    setattr(base.get_submodule(parent), child, module)
            if not leaves_base_alone(checkpoint.adapter):
                self._loaded = None

    def _load(self, checkpoint: Checkpoint) -> nn.Module:
        if self._loaded is None or self._loaded[0] != checkpoint.source:
            self._loaded = None
            gc.collect()  # there may be no room for two
            self._loaded = checkpoint.source, self._from_pretrained(checkpoint)
        return self._loaded[1]

    def _from_pretrained(self, checkpoint: Checkpoint) -> nn.Module:
        source = checkpoint.source
        options: dict[str, Any] = {
            "dtype": self.dtype,
            "device_map": {"": str(self.device)},
            "trust_remote_code": False,
        }
        if self.load_in_4bit:
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=self.dtype
            )
        with _loading(source, checkpoint.remedy):
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if getattr(config, "is_encoder_decoder", False):  # of some of these a decoder alone would be loaded
            raise ModelError(
                f"{source} is an encoder-decoder ({config.model_type}); NeuronXA is defined for decoder-only models: "
                f"{checkpoint.remedy}."
            )
        with _loading(source, checkpoint.remedy):
            model, told = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **options)
        lacking = sorted(told["missing_keys"])
        if lacking:  # they would be random numbers, and so would the scores
            raise ModelError(f"{source} lacks {len(lacking)} weights, such as {lacking[0]}; {checkpoint.remedy}.")
        return model.eval()  # type: ignore[no-any-return]


def leaves_base_alone(adapter: Mapping[str, Any]) -> bool:
    """Whether an adapter puts modules into the base and does nothing else to it.

    Some ways to begin a LoRA (PiSSA, OLoRA, CorDA) take the beginning out of the base's weights, trained biases are
    the base's own, and other methods do as they like.
    """
    return (
        adapter.get("peft_type") == "LORA"
        and adapter.get("init_lora_weights", True) in (True, False, "gaussian")
        and adapter.get("bias", "none") == "none"
        and not any(adapter.get(option) for option in ("layer_replication", "target_parameters"))
    )


def _put_adapter_on(base: nn.Module, checkpoint: Checkpoint) -> nn.Module:
    from peft import PeftModel  # not needed for full models

    with _loading(checkpoint.source, checkpoint.remedy), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # notes to library authors would tear the progress bar
        # Weights that are not there would be those of an untrained adapter.
        warnings.filterwarnings("error", r"(?s).*missing adapter keys")
        return PeftModel.from_pretrained(base, checkpoint.source).eval()  # type: ignore[no-any-return]


@contextmanager
def _loading(source: str, remedy: str) -> Iterator[None]:
    """Make one sentence of whatever foreign files can do to the libraries that read them."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"{source} could not be loaded ({reason[:200].rstrip('.: ')}); {remedy}.") from error


def _stored_dtype(checkpoints: Sequence[Checkpoint]) -> torch.dtype:
    """What the configuration of the adapters' base, or of the last full model, says; else float32."""
    first, last = checkpoints[0], checkpoints[-1]
    stored = first if last.adapter is not None else last
    with _loading(stored.source, stored.remedy):
        return AutoConfig.from_pretrained(stored.source, trust_remote_code=False).dtype or torch.float32


def _device(name: str | None) -> torch.device:
    has_gpu = torch.cuda.is_available()
    try:
        device = torch.device(name or ("cuda" if has_gpu else "cpu"))
    except RuntimeError:
        raise ValueError(f"device {name!r} is unknown; use cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and not has_gpu:
        raise ValueError(f"device {name!r} is not on this machine; use cpu.")
    return device


def load_tokenizer(checkpoints: Sequence[Checkpoint]) -> Any:
    """One tokenizer for all steps: the last checkpoint's, or the base model's where none was saved with it."""
    last, first = checkpoints[-1], checkpoints[0]
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
    saved = any((Path(last.source) / name).exists() for name in names)
    if not saved and first.step > 0:
        raise ModelError(f"{last.source} holds no tokenizer; name the model that it was trained from with --base.")
    source = last.source if saved else first.source
    with _loading(f"the tokenizer in {source}", "put the tokenizer that the model was trained with there"):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def check_packages(checkpoints: Sequence[Checkpoint], load_in_4bit: bool) -> None:
    """Raise ModelError where a package is missing that loading the last of these needs."""
    needed = ["accelerate"]
    if checkpoints[-1].adapter is not None:
        needed.append("peft")
    if load_in_4bit:
        needed.append("bitsandbytes")
    missing = [package for package in needed if find_spec(package) is None]
    if missing:
        raise ModelError(
            f"{checkpoints[-1].source} cannot be loaded without {' and '.join(missing)}; install the training extra: "
            "pip install 'neuronxa-callback[train]'."
        )


def read_json(path: Path) -> dict[str, Any]:
    """A model's JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    except ValueError:
        raise ModelError(
            f"{path} is not JSON; if the run ended while it was being saved, move {path.parent} away."
        ) from None
