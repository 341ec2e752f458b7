"""FSDP2 as accelerate, and so Trainer, wraps a model: accelerate's own function, with what it reads of an Accelerator.

It wraps each decoder layer, the input embeddings, and the last norm with the head as one unit; trainable parameters
become float32 under mixed precision (accelerate/utils/fsdp_utils.py, `fsdp2_prepare_model`, 1.15).
"""

from __future__ import annotations

import types
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from inspector.compat.distributed import fsdp2_prepare_model
from inspector.records.distributed import Fsdp2

__all__ = ["shard_with_fsdp2"]

_SHARDS, _COPIES = "dp_shard", "dp_replicate"


class _Meshes(dict[Any, DeviceMesh]):
    """What an Accelerator's mesh is asked for by the names of its dimensions: here there is one."""

    def __init__(self, mesh: DeviceMesh) -> None:
        super().__init__()
        self._mesh = mesh

    def __missing__(self, _names: Any) -> DeviceMesh:
        return self._mesh


def shard_with_fsdp2(model: nn.Module, launch: Fsdp2, mixed_precision: str, device: str = "meta") -> nn.Module:
    """Wrap a model for FSDP2 on the ranks of the world at hand."""
    copies = launch.replicas
    mesh = (
        init_device_mesh(device, (launch.world_size,), mesh_dim_names=(_SHARDS,))
        if copies == 1
        else init_device_mesh(device, (copies, launch.world_size // copies), mesh_dim_names=(_COPIES, _SHARDS))
    )
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        reshard_after_forward=launch.reshard_after_forward,
        cpu_ram_efficient_loading=False,
    )
    if mixed_precision != "no":
        plugin.set_mixed_precision(mixed_precision)
    accelerator = types.SimpleNamespace(
        state=types.SimpleNamespace(fsdp_plugin=plugin),
        torch_device_mesh=_Meshes(mesh),
        mixed_precision=mixed_precision,
        is_main_process=False,
        device=torch.device(device),
        parallelism_config=types.SimpleNamespace(fsdp_dim_names=(_SHARDS,)),
    )
    wrapped: nn.Module = fsdp2_prepare_model(accelerator, model)
    return wrapped
