"""Tensor parallelism by a model's own plan, as transformers distributes it: over ranks that share each layer.

`from_pretrained(distributed_config=DistributedConfig(tp_size=2))` cuts a model on meta before its weights are loaded
(transformers/distributed/mixin.py, `maybe_distribute_model`, 5.23): projections by columns or rows, the embeddings by
rows. With `fsdp_size` above 1 each of these parts is sharded by FSDP2 over the groups beside it. What stays whole on
each rank, such as norms, is a DTensor of no shards or a plain tensor.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers.distributed.configuration_utils import DistributedConfig

from inspector.compat.distributed import local_tensor_of
from inspector.compat.tensor_parallel import TransformersDeviceMesh, avoid_tensors_for_strides, renew_own_tensors
from inspector.distributed.parts import refuse_parts_of_experts, refuse_parts_of_heads
from inspector.errors import NotTraceableError, UsageError
from inspector.model.build import BuiltModel
from inspector.records.steps.ranks import TensorParallel
from inspector.trace.tracer import Tracer
from inspector.workloads.base import base_model
from inspector.workloads.loading import ADDED

__all__ = ["bring_to_card", "cut_by_plan", "list_planned_families", "split_groups_by_mesh"]


_PLAN = "base_model_tp_plan = {"
# Families that people ask about first.
_KNOWN = (
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "gemma3",
    "phi3",
    "deepseek_v3",
    "glm4",
    "olmo2",
)

_META = torch.device("meta")


def split_groups_by_mesh(optimizer: torch.optim.Optimizer) -> None:
    """Give the parameters of each mesh a group of their own, as Trainer does: kernels of lists take one mesh alone."""
    groups = []
    for group in optimizer.param_groups:
        by_mesh: dict[Any, list[Any]] = {}
        for parameter in group["params"]:
            by_mesh.setdefault(parameter.device_mesh if isinstance(parameter, DTensor) else None, []).append(parameter)
        groups += [{**group, "params": parameters} for parameters in by_mesh.values()]
    optimizer.param_groups = groups


def cut_by_plan(built: BuiltModel, launch: TensorParallel, device: torch.device = _META) -> BuiltModel:
    """Cut a model on meta by its plan on the ranks of the world at hand, for a `device` to have its parts.

    Its adapter is attached to what was cut.
    """
    model: Any = built.model
    base: Any = base_model(model)
    if launch.tensor_parallel > 1 and not base.tp_plan:
        planned, count = list_planned_families()
        raise UsageError(
            f"transformers has no plan for {type(base).__name__}, by which `tensor_parallel` would cut it: drop it, or "
            f"shard it with `sharding=fsdp`. {len(planned)} of its {count} families have one, such as "
            f"{', '.join(name for name in _KNOWN if name in planned)}; docs/explain/many-gpus.md lists them."
        )
    if launch.expert_parallel > 1:
        refuse_parts_of_experts(base, launch.expert_parallel)
    refuse_parts_of_heads(base, launch.tensor_parallel)
    adapter = _take_off(model) if isinstance(model, PeftModel) else None
    _untie(base)
    if device == _META:
        avoid_tensors_for_strides()
    sharded, experts = launch.world_size // launch.tensor_parallel, launch.expert_parallel
    config = DistributedConfig(tp_size=launch.tensor_parallel, fsdp_size=sharded, ep_size=experts)
    meshes = [
        init_device_mesh(device.type, sizes, mesh_dim_names=names)
        for sizes, names in (
            ((1, 1, sharded, launch.tensor_parallel), ("pp", "dp_replicate", "fsdp", "tp")),
            ((1, 1, launch.world_size // experts, experts), ("pp", "dp_replicate", "efsdp", "ep")),
        )
    ]
    type(base).maybe_distribute_model(base, config, TransformersDeviceMesh(*meshes))
    return dataclasses.replace(built, model=base if adapter is None else adapter.attach(base))


def list_planned_families() -> tuple[tuple[str, ...], int]:
    """Return the folders of transformers whose configuration has a plan, and how many folders of models there are."""
    folder = Path(transformers.__file__).parent / "models"
    families = sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__")
    planned = [
        family.name
        for family in families
        if any(_PLAN in path.read_text(encoding="utf-8") for path in family.glob("configuration_*.py"))
    ]
    return tuple(planned), len(families)


def bring_to_card(built: BuiltModel, tracer: Tracer | None, device: torch.device = _META) -> None:
    """Make the parts that this rank has: of the base as they are loaded, with tied weights apart, then of the adapter.

    A tracer watches what is done on meta; on a real `device` there is none. PEFT makes an adapter in the dtype of its
    layer, and casts all of it then (tuners/tuners_utils.py).
    """
    base: Any = base_model(built.model)
    model: nn.Module = built.model
    dtypes = {name: item.dtype for name, item in model.named_parameters() if built.roles.get(name) in ADDED}
    adapted = {model.get_submodule(name.rpartition(".")[0]) for name in dtypes}
    with tracer or contextlib.nullcontext():
        for module in base.modules():
            if module not in adapted:
                renew_own_tensors(module, device)
        base.tie_weights()
        for name in dtypes:
            layer: Any = model.get_submodule(name.partition(".lora_")[0])
            first = layer.get_base_layer().weight.dtype
            _replace(model, name, functools.partial(_make_anew, first, device))
        for name, dtype in dtypes.items():
            _replace(model, name, functools.partial(_cast, dtype))


def _make_anew(dtype: torch.dtype, device: torch.device, parameter: Tensor) -> Tensor:
    """Return a tensor like a parameter, or like the part of it that this rank has."""
    if not isinstance(parameter, DTensor):
        return torch.empty(parameter.shape, dtype=dtype, device=device)
    local = torch.empty(local_tensor_of(parameter).shape, dtype=dtype, device=device)
    shape, stride = parameter.shape, parameter.stride()
    return DTensor.from_local(
        local, parameter.device_mesh, parameter.placements, run_check=False, shape=shape, stride=stride
    )


def _cast(dtype: torch.dtype, parameter: Tensor) -> Tensor:
    return parameter.detach().to(dtype)


def _replace(model: nn.Module, name: str, make: Callable[[Tensor], Tensor]) -> None:
    """Put what is made of a parameter in its place; one that is cut does not take other data."""
    owner, _, own = name.rpartition(".")
    module = model.get_submodule(owner)
    module.register_parameter(own, nn.Parameter(make(model.get_parameter(name))))


class _Adapter(NamedTuple):
    """An adapter that was taken off its base: PEFT's configuration of it, and the dtypes of its parameters."""

    config: LoraConfig
    dtypes: Mapping[str, torch.dtype]

    def attach(self, base: Any) -> PeftModel:
        """Let PEFT attach it to a base that is cut: it cuts one of the two matrices of each layer as the layer is."""
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = get_peft_model(base, self.config)
        for name, dtype in self.dtypes.items():
            _replace(model, name, functools.partial(_cast, dtype))
        _refuse_misfits(model)
        return model


def _refuse_misfits(model: PeftModel) -> None:
    """Raise NotTraceableError where PEFT cuts a matrix of an adapter otherwise than transformers takes it.

    PEFT 0.21 makes `lora_A` of a layer that is cut by rows as wide as its part, which transformers 5.23 reads as the
    width of the whole (`RowwiseParallel`, `module.in_features`); where FSDP2 shards beside, a part is taken for one of
    the cards that share a layer alone.
    """
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if "lora_" not in name or not isinstance(weight, DTensor):
            continue
        dim = 0 if "lora_B" in name else 1
        held = weight.to_local().shape[dim] * weight.device_mesh.size()
        if held < weight.shape[dim]:
            raise NotTraceableError(
                "PEFT takes the part of a layer that FSDP2 shards beside `tensor_parallel` for the whole part of a "
                "card, and a real step with LoRA stops there, too: give as many cards as `tensor_parallel`, or "
                "shard alone"
            )
        if getattr(module, "in_features", weight.shape[1]) != weight.shape[1]:
            layer = name.partition(".lora_")[0].rpartition(".")[2]
            raise NotTraceableError(
                f"PEFT gives lora_A of {layer}, which is cut by rows, the width of its part, and a real step stops "
                "there, too: target layers that are cut by columns, such as `targets=q_proj,k_proj,v_proj,gate_proj,"
                "up_proj`"
            )


def _take_off(model: PeftModel) -> _Adapter:
    """Take the adapter off a model; raise NotTraceableError for one that PEFT does not attach to cut layers."""
    config = model.active_peft_config
    if not isinstance(config, LoraConfig) or config.modules_to_save or config.use_dora or config.bias != "none":
        raise NotTraceableError(
            "PEFT cuts plain LoRA alone where layers are cut, without DoRA, trained biases and saved modules: drop "
            "`tensor_parallel`, or these"
        )
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.unload()
    return _Adapter(copy.deepcopy(config), dtypes)


def _untie(base: Any) -> None:
    """Give weights that are tied parameters of their own, as they have until they are loaded (`no_tie_weights`)."""
    for target in base.all_tied_weights_keys:
        owner, _, name = target.rpartition(".")
        module = base.get_submodule(owner)
        module.register_parameter(name, nn.Parameter(torch.empty_like(getattr(module, name)), requires_grad=True))
