"""Tensor parallelism by a model's own plan, as transformers distributes it: over ranks that share each layer.

`from_pretrained(distributed_config=DistributedConfig(tp_size=2))` cuts a model on meta before its weights are loaded
(transformers/distributed/mixin.py, `maybe_distribute_model`, 5.23): projections by columns or rows, the embeddings by
rows. With `fsdp_size` above 1 each of these parts is sharded by FSDP2 over the groups beside it. What stays whole on
each rank, such as norms, is a DTensor of no shards or a plain tensor.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers.distributed.configuration_utils import DistributedConfig

from inspector.compat.tensor_parallel import TransformersDeviceMesh, avoid_tensors_for_strides
from inspector.errors import UsageError
from inspector.records.steps.ranks import TensorParallel
from inspector.trace.tracer import Tracer
from inspector.workloads.base import base_model

__all__ = ["cut_by_plan", "split_groups_by_mesh"]

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


def cut_by_plan(
    model: nn.Module, launch: TensorParallel, tracer: Tracer | None, device: torch.device = _META
) -> nn.Module:
    """Cut a model on meta by its plan on the ranks of the world at hand, and make its parts on a device.

    A tracer watches once it is cut; on a real `device` there is none.
    """
    base: Any = base_model(model)
    if not base.tp_plan:
        raise UsageError(
            f"transformers has no plan for {type(base).__name__}, by which `tensor_parallel` would cut it: drop it, or "
            "shard it with `sharding=fsdp`."
        )
    if tracer is not None:
        avoid_tensors_for_strides()
    sharded = launch.world_size // launch.tensor_parallel
    config = DistributedConfig(tp_size=launch.tensor_parallel, fsdp_size=sharded)
    meshes = [
        init_device_mesh(device.type, sizes, mesh_dim_names=names)
        for sizes, names in (
            ((1, 1, sharded, launch.tensor_parallel), ("pp", "dp_replicate", "fsdp", "tp")),
            ((1, 1, launch.world_size, 1), ("pp", "dp_replicate", "efsdp", "ep")),
        )
    ]
    type(base).maybe_distribute_model(base, config, TransformersDeviceMesh(*meshes))
    with tracer or contextlib.nullcontext():
        base.to_empty(device=device)
        base.tie_weights()
    return model
