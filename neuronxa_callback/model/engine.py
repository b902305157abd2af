"""How a training engine keeps a model's parameters on several processes, and how a pass goes through its hooks.

FSDP and ZeRO 3 keep a part of each parameter on each process. Hooks on the modules that they wrap gather the parameters
before a forward pass and free them after it. A pass that goes round such a module finds parts of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")

WRAPPED = ("_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def is_sharded(model: nn.Module) -> bool:
    """Return whether a pass needs all processes, because each has only a part of the parameters."""
    return is_zero_3(model) or bool(_fsdp_1_modules(model) or _fsdp_2_modules(model))


def is_zero_3(model: nn.Module) -> bool:
    """Return whether DeepSpeed keeps a part of each parameter on each process."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def acts_after_forward(module: nn.Module) -> bool:
    """Return whether a module has work to do at the end of its forward pass.

    So have accelerate's hooks, compiled code, and a module whose configuration asks for outputs to be recorded.
    """
    config = getattr(module, "config", None)
    records = any("output_" in name and value is True for name, value in getattr(config, "__dict__", {}).items())
    is_compiled = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
    return records or is_compiled or hasattr(module, "_hf_hook")


def inside(model: nn.Module, base: nn.Module, work: Callable[[], T]) -> T:
    """Do work within a forward pass of a model, in place of what the transformers model in it computes.

    The hooks of all modules around it run as in a training step.

    Args:
        model: the model, as the engine has wrapped it.
        base: the transformers model in it, without wrappers.
        work: is called once, and its result is returned.
    """
    with _answering(base, lambda *args, **kwargs: work()):
        return model()  # type: ignore[no-any-return]


@contextmanager
def calling(model: nn.Module, base: nn.Module) -> Iterator[None]:
    """While open, each forward pass of a transformers model goes through the model around it, with its hooks."""
    if model is base:
        yield
        return
    forward = base.forward

    @wraps(forward)
    def through(*args: Any, **kwargs: Any) -> Any:
        return inside(model, base, lambda: forward(*args, **kwargs))

    with _answering(base, through):
        yield


@contextmanager
def _answering(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """While open, give a module another forward."""
    own = module.__dict__.get("forward")  # accelerate sets one on the instance
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside the wrappers of DDP, FSDP 1 and activation checkpointing.

    DDP and FSDP 1 do their work in a forward of their own, and not in hooks.
    """
    children = dict(module.named_children())
    names = ("module",) if isinstance(module, nn.parallel.DistributedDataParallel) else WRAPPED
    inner = next((children[name] for name in names if name in children), None)
    return module if inner is None else unwrapped(inner)


def free_gathered(model: nn.Module) -> None:
    """Free the parameters that FSDP 2 has left gathered after a pass.

    It expects a backward pass to use them again. Until then a model has copies of its parameters in their place, and
    what is done to a copy is lost.
    """
    for module in _fsdp_2_modules(model):
        module.reshard()


def compute_dtypes(model: nn.Module) -> set[torch.dtype]:
    """Return the data types to which FSDP turns parameters for a pass; none if it leaves them as they are."""
    policies = [module.mixed_precision for module in _fsdp_1_modules(model)]
    # Nothing public tells it.
    policies = policies or [module._get_fsdp_state()._mp_policy for module in _fsdp_2_modules(model)]
    dtypes = {getattr(policy, "param_dtype", None) for policy in policies}
    return {dtype for dtype in dtypes if dtype is not None}


def _fsdp_1_modules(model: nn.Module) -> list[Any]:
    return _modules_of("FullyShardedDataParallel", model)


def _fsdp_2_modules(model: nn.Module) -> list[Any]:
    return _modules_of("FSDPModule", model)


def _modules_of(name: str, model: nn.Module) -> list[Any]:
    """Return the modules of a class of `torch.distributed.fsdp`."""
    if not _has_processes():
        return []
    from torch.distributed import fsdp  # half a second, so that one process alone does not import it

    return [module for module in model.modules() if isinstance(module, getattr(fsdp, name))]


def _has_processes() -> bool:
    return dist.is_available() and dist.is_initialized()


# -------------------------------------------------------------------------------------------------- tensor parallel


def tensor_parallel_mesh(model: nn.Module, base: nn.Module) -> Any:
    """Return the mesh of the processes that split each layer's neurons among them; None if none do.

    transformers keeps it on the model (`tp_plan`). A model that was split by torch's `parallelize_module` has it in its
    parameters.
    """
    mesh = getattr(base, "_device_mesh", None) if (getattr(base, "_tp_size", None) or 1) > 1 else None
    if mesh is None and _has_processes():
        from torch.distributed.tensor import DTensor

        meshes = (parameter.device_mesh for parameter in base.parameters() if isinstance(parameter, DTensor))
        mesh = next((its for its in meshes if "tp" in _names(its) or not is_sharded(model)), None)
    if mesh is None or mesh.ndim == 1:
        return mesh
    return mesh["tp"] if "tp" in _names(mesh) else None


def _names(mesh: Any) -> tuple[str, ...]:
    return tuple(mesh.mesh_dim_names or ())


def whole_features(values: Tensor, features: int, mesh: Any) -> Tensor:
    """Return all features (..., features) from the part that each process of a mesh has, in the order of the processes.

    Every process of the mesh must call it.
    """
    from torch.distributed.tensor import DTensor, Shard

    shape = torch.Size((*values.shape[:-1], features))
    strides = torch.empty(shape, device="meta").stride()
    parts = DTensor.from_local(values.contiguous(), mesh, [Shard(values.dim() - 1)], shape=shape, stride=strides)
    return parts.full_tensor()
