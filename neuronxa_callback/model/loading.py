"""Load models and adapters from a folder or the hub when they are needed."""

from __future__ import annotations

import gc
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from neuronxa_callback.vocabulary import Dtype, check_choice

if TYPE_CHECKING:  # not needed for full models
    from peft import PeftModel


class ModelError(RuntimeError):
    """A model that cannot be found or loaded; the message names the place and says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A full model or an adapter, and its step in a run.

    Attributes:
        source: the checkpoint's folder, or the hub name of a base model.
        remedy: the error's advice if the checkpoint cannot be loaded.
        step: the Trainer's global step; 0 is the base model.
        epoch: the Trainer's epoch; None if the checkpoint does not say.
        adapter: the adapter's configuration; None for a full model.
    """

    source: str
    remedy: str
    step: int = 0
    epoch: float | None = None
    adapter: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The checkpoint's name on the progress bar."""
        return Path(self.source).name if self.step else "base model"


class Loader:
    """A loader that gives the models of checkpoints, one at a time.

    Adapters share one base. It is loaded only once if they leave its weights alone.

    Args:
        checkpoints: the checkpoints as `find_checkpoints` returns them.
        dtype: data type of the loaded weights.
        load_in_4bit: whether to load the weights in NF4.
        device: device of the weights; None takes a GPU if there is one. Of several processes on a machine, each takes
            its own.

    Raises:
        ModelError: dtype is "auto" and the configuration that names it cannot be loaded.
        ValueError: the dtype or the device is unknown, or there are more processes than GPUs.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        dtype: Dtype = "auto",
        load_in_4bit: bool = False,
        device: str | None = None,
    ) -> None:
        check_choice("dtype", dtype, Dtype)
        self.device = _device(device, _place())
        self.load_in_4bit = load_in_4bit
        self.base = checkpoints[0]
        # "auto" is settled once, because a base may be stored in another dtype than the models trained from it.
        self.dtype = _stored_dtype(checkpoints) if dtype == "auto" else getattr(torch, dtype)
        self._loaded: tuple[str, nn.Module] | None = None
        self._is_used = False

    @contextmanager
    def model(self, checkpoint: Checkpoint) -> Iterator[nn.Module]:
        """Yield the checkpoint's model in evaluation mode, for use until the block ends.

        Raises:
            ModelError: the model cannot be loaded, or some of its weights are missing.
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
            # PEFT leaves the trained copies of modules_to_save in place of the base's own modules.
            for name, module in modules.items():
                parent, _, child = name.rpartition(".")
                if child:
                    setattr(base.get_submodule(parent), child, module)
            if hasattr(base, "peft_config"):  # PEFT 0.18 leaves it, and then warns of a second adapter
                del base.peft_config
            if not leaves_base_alone(checkpoint.adapter):
                self._loaded = None

    def _load(self, checkpoint: Checkpoint) -> nn.Module:
        if self._loaded is None or self._loaded[0] != checkpoint.source:
            self._loaded = None
            if self._is_used:
                gc.collect()  # there may be no room for two models
            self._is_used = True
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
        if getattr(config, "is_encoder_decoder", False):  # for some, only the decoder would be loaded
            raise ModelError(
                f"{source} is an encoder-decoder ({config.model_type}); NeuronXA is defined for decoder-only models: "
                f"{checkpoint.remedy}."
            )
        with _loading(source, checkpoint.remedy):
            model, loading_info = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **options)
        lacking = sorted(loading_info["missing_keys"])
        if lacking:  # they would be random numbers, and so would the scores
            raise ModelError(f"{source} lacks {len(lacking)} weights, such as {lacking[0]}; {checkpoint.remedy}.")
        return model.eval()  # type: ignore[no-any-return]


def leaves_base_alone(adapter: Mapping[str, Any]) -> bool:
    """Return whether an adapter only adds modules to the base and changes nothing else in it.

    Some ways to initialise a LoRA (PiSSA, OLoRA, CorDA) subtract the initial adapter from the base's weights. Trained
    biases are the base's own parameters. Other methods may change anything.
    """
    return (
        adapter.get("peft_type") == "LORA"
        and adapter.get("init_lora_weights", True) in (True, False, "gaussian")
        and adapter.get("bias", "none") == "none"
        and not any(adapter.get(option) for option in ("layer_replication", "target_parameters"))
    )


def _put_adapter_on(base: nn.Module, checkpoint: Checkpoint) -> nn.Module:
    from peft import PeftModel  # not needed for full models
    from peft.utils import load_peft_weights

    with _loading(checkpoint.source, checkpoint.remedy), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # notes to library authors would break the progress bar
        # PEFT only warns of missing weights. They would be those of an untrained adapter.
        warnings.filterwarnings("error", r"(?s).*missing adapter keys")
        adapted = PeftModel.from_pretrained(base, checkpoint.source)
        stored = load_peft_weights(checkpoint.source, device="cpu")
    _cast_adapter(adapted, stored)
    return adapted.eval()  # type: ignore[no-any-return]


def _cast_adapter(adapted: PeftModel, stored: Mapping[str, torch.Tensor]) -> None:
    """Give an adapter's own weights the dtype that they were saved in, if all of them were saved in one.

    PEFT loads them in float32. TRL trains the adapters of 4-bit models in bfloat16, and the callback scores them so.
    Trained copies of the base's modules (`modules_to_save`) keep the dtype that PEFT gave them, which fits the base.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    prefix = getattr(adapted.base_model, "prefix", None)
    dtypes = {weight.dtype for name, weight in stored.items() if prefix and prefix in name}
    if len(dtypes) != 1:
        return
    (dtype,) = dtypes
    for layer in adapted.modules():
        if isinstance(layer, BaseTunerLayer):
            for name, parameter in layer.named_parameters():
                if prefix in name and parameter.is_floating_point():
                    parameter.data = parameter.data.to(dtype)


@contextmanager
def _loading(source: str, remedy: str) -> Iterator[None]:
    """Turn any error that foreign files cause in the libraries that read them into a `ModelError` of one sentence."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"{source} could not be loaded ({reason[:200].rstrip('.: ')}); {remedy}.") from error


def _stored_dtype(checkpoints: Sequence[Checkpoint]) -> torch.dtype:
    """Return the dtype in the configuration of the adapters' base, or of the last full model; float32 without one."""
    first, last = checkpoints[0], checkpoints[-1]
    stored = first if last.adapter is not None else last
    with _loading(stored.source, stored.remedy):
        return AutoConfig.from_pretrained(stored.source, trust_remote_code=False).dtype or torch.float32


def _device(name: str | None, place: int | None) -> torch.device:
    """Return the device of this name.

    Args:
        name: the name; None takes a GPU if there is one.
        place: this process's number on its machine, to take the GPU with this number; None for one process alone.
    """
    has_gpu = torch.cuda.is_available()
    try:
        device = torch.device(name or ("cuda" if has_gpu else "cpu"))
    except RuntimeError:
        raise ValueError(f"device {name!r} is unknown; use cpu, cuda or cuda:N.") from None
    if device.type != "cuda":
        return device
    if not has_gpu:
        raise ValueError(f"device {name!r} is not on this machine; use cpu.")
    if device.index is not None or place is None:
        return device
    if place >= torch.cuda.device_count():
        raise ValueError(
            f"this machine has more processes than GPUs ({torch.cuda.device_count()}); start as many processes as "
            "GPUs, or give --device. If each process sees a GPU of its own, that is --device cuda:0."
        )
    return torch.device("cuda", place)


def _place() -> int | None:
    """Return this process's number on its machine, from 0, if a launcher started several processes; None otherwise."""
    several = dist.is_available() and dist.is_initialized()
    return int(os.environ["LOCAL_RANK"]) if several and "LOCAL_RANK" in os.environ else None


def load_tokenizer(checkpoints: Sequence[Checkpoint]) -> Any:
    """Load one tokenizer for all steps: the last checkpoint's, or the base model's if that checkpoint has none."""
    last, first = checkpoints[-1], checkpoints[0]
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
    saved = any((Path(last.source) / name).exists() for name in names)
    if not saved and first.step > 0:
        raise ModelError(f"{last.source} holds no tokenizer; name the model that it was trained from with --base.")
    source = last.source if saved else first.source
    with _loading(f"the tokenizer in {source}", "put the tokenizer that the model was trained with there"):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def check_packages(checkpoints: Sequence[Checkpoint], load_in_4bit: bool) -> None:
    """Raise ModelError if a package is missing that loading the last checkpoint needs."""
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
    """Read a JSON file of a model; raise ModelError if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    except ValueError:
        raise ModelError(
            f"{path} is not JSON; if the run ended while it was being saved, move {path.parent} away."
        ) from None
