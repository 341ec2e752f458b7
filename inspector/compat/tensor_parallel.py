"""Private names of transformers that tensor parallelism runs on meta with."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from inspector.compat.names import private
from inspector.runtime.patches import replace_attribute

__all__ = ["TransformersDeviceMesh", "avoid_tensors_for_strides", "clip_mixed_gradients", "renew_own_tensors"]

_PURPOSE = "tensor parallelism"

TransformersDeviceMesh: Any = private(
    "transformers.distributed.utils.TransformersDeviceMesh",
    purpose=_PURPOSE,
    instead="the meshes that transformers distributes a model by",
)
_layer: Any = private(
    "transformers.distributed.tensor_parallel.TensorParallelLayer",
    purpose=_PURPOSE,
    instead="what asks a tensor on meta for its strides, which would be one on the GPU here",
)
_strides: Any = private(
    "torch._prims_common.make_contiguous_strides_for", purpose=_PURPOSE, instead="strides of a shape"
)


def clip_mixed_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Clip gradients of which some are sharded, as Trainer does, and return their norm."""
    from transformers import Trainer

    norm: Tensor = Trainer._mixed_mesh_grad_norm(None, model, max_norm)  # type: ignore[arg-type]  # it reads none of it
    return norm


def renew_own_tensors(module: nn.Module, device: torch.device) -> None:
    """Give the parameters and buffers of a module itself other memory, as `to_empty` gives those of all below it."""
    module._apply(functools.partial(torch.empty_like, device=device), recurse=False)


def avoid_tensors_for_strides() -> None:
    """Have no tensor made on meta for its strides alone, until the innermost block of changes ends."""

    def from_local(local: Tensor, mesh: Any, size: int) -> DTensor:
        shape = torch.Size((*local.shape[:-1], size))
        return DTensor.from_local(local, mesh, [Shard(-1)], run_check=False, shape=shape, stride=_strides(shape))

    replace_attribute(_layer, "_from_local_last_dim_shard", staticmethod(from_local))
