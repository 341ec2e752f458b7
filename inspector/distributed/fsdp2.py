"""FSDP2 as accelerate, and so Trainer, wraps a model: accelerate's own function, with what it reads of an Accelerator.

It wraps each decoder layer, the input embeddings, and the last norm with the head as one unit; trainable parameters
become float32 under mixed precision (accelerate/utils/fsdp_utils.py, `fsdp2_prepare_model`, 1.15). A model comes from
host memory: each unit goes to the card whole, and is cut there. With `cpu_ram_efficient_loading` units are cut on meta,
and then one parameter after the other comes from rank 0 whole. One that bitsandbytes packed is on the card, and stays
there whole until all of it is cut: a state_dict holds it meanwhile. Weights that are packed in integers are not cut at
all, and what belongs to packed weights beside, their scales, is on each card whole.
"""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.fsdp as fsdp
from accelerate import ParallelismConfig
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from inspector.compat.distributed import (
    fsdp2_prepare_auto_wrap_policy,
    fsdp2_prepare_model,
    keep_shards_on_host,
    replace_move,
    watch_loading,
)
from inspector.distributed.tracer import RankTracer
from inspector.quantization.bitsandbytes.modules import Linear4bit
from inspector.records.steps.ranks import Fsdp2
from inspector.runtime.patches import replace_attribute, restore_changes
from inspector.workloads.base import NotTraceableError, base_model
from inspector.workloads.quantized_load import is_quantized

__all__ = ["shard_with_fsdp2"]

_SHARDS = "dp_shard"
# What accelerate calls the two dimensions of a mesh of copies (parallelism_config.py, `fsdp_dim_names`).
_COPIES = ("dp_replicate", "dp_shard_cp")
_META = torch.device("meta")


class _Meshes(dict[Any, DeviceMesh]):
    """What an Accelerator's mesh is asked for by the names of its dimensions: here there is one."""

    def __init__(self, mesh: DeviceMesh) -> None:
        super().__init__()
        self._mesh = mesh

    def __missing__(self, _names: Any) -> DeviceMesh:
        return self._mesh


def shard_with_fsdp2(
    model: nn.Module,
    launch: Fsdp2,
    mixed_precision: str,
    tracer: RankTracer | None,
    device: torch.device = _META,
) -> nn.Module:
    """Wrap a model that is in host memory, or packed on the card, for FSDP2 on the ranks of the world at hand.

    A tracer watches what is done on meta; on a real `device` there is none.
    """
    is_packed = is_quantized(base_model(model))
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy=launch.wrap_policy,
        transformer_cls_names_to_wrap=None if launch.wrapped_classes is None else list(launch.wrapped_classes),
        min_num_params=launch.min_num_params,
        reshard_after_forward=launch.reshard_after_forward,
        cpu_ram_efficient_loading=False,
        cpu_offload=launch.offload,
    )
    if mixed_precision != "no":
        plugin.set_mixed_precision(mixed_precision)
        for parameter in (
            () if is_packed else filter(_is_trained, model.parameters())
        ):  # as the function below does, which is watched
            parameter.data = parameter.data.to(torch.float32)
    accelerator = types.SimpleNamespace(
        state=types.SimpleNamespace(fsdp_plugin=plugin),
        torch_device_mesh=_make_meshes(launch, device),
        mixed_precision=mixed_precision,
        is_main_process=False,
        device=device,
        parallelism_config=types.SimpleNamespace(fsdp_dim_names=_COPIES if launch.replicas > 1 else (_SHARDS,)),
    )
    if launch.cpu_ram_efficient_loading and not is_packed and not launch.offload:
        plugin.cpu_ram_efficient_loading = True
        accelerator.is_main_process = dist.get_rank() == 0  # which has the weights
    if tracer is None:
        return _shard_for_real(model, accelerator)
    on_card: set[int] = set()

    def move(parameters: Iterable[nn.Parameter], buffers: Iterable[Tensor], _device: torch.device) -> None:
        for tensor in itertools.chain(parameters, buffers):
            if id(tensor) not in on_card and not isinstance(tensor, DTensor):
                on_card.add(id(tensor))
                tensor.data = torch.empty_like(tensor)

    shard = fsdp.fully_shard

    def shard_watched(*args: Any, **kwargs: Any) -> Any:
        with tracer:
            return shard(*args, **kwargs)

    if launch.offload:  # until the trace ends
        keep_shards_on_host(functools.partial(_copy_to_host, tracer))
    if is_packed:
        return _shard_packed(model, accelerator, tracer)
    _refuse_sharding_twice(model, plugin)
    with restore_changes():
        if plugin.cpu_ram_efficient_loading:
            watch_loading(functools.partial(_watch_placeholders, tracer))
        elif launch.comes_from_host:
            replace_move(move)
            # What the function keeps beside, such as a state_dict, is in host memory.
            replace_attribute(fsdp, "fully_shard", shard_watched)
        wrapped: nn.Module = fsdp2_prepare_model(accelerator, model)
    if not launch.comes_from_host:
        with tracer:  # padded where a shard has fewer rows than others
            wrapped.to_empty(device="meta")
            base_model(wrapped).tie_weights()
    return wrapped


def _watch_placeholders(tracer: RankTracer, model: nn.Module) -> RankTracer:
    """Return a tracer for which what a model holds takes no memory yet."""
    tracer.leave_out(itertools.chain(model.parameters(), model.buffers()))
    return tracer


def _make_meshes(launch: Fsdp2, device: torch.device) -> Any:
    """Return the mesh of all ranks; where shards are kept in several copies, accelerate's own of two dimensions."""
    if launch.replicas == 1:
        return _Meshes(init_device_mesh(device.type, (launch.world_size,), mesh_dim_names=(_SHARDS,)))
    shards = launch.world_size // launch.replicas
    sizes = ParallelismConfig(dp_replicate_size=launch.replicas, dp_shard_size=shards, tp_size=1, cp_size=1, sp_size=1)
    return sizes.build_device_mesh(device.type)


def _shard_for_real(model: nn.Module, accelerator: Any) -> nn.Module:
    """Wrap a model with data; the optimizer's parameters are replaced meanwhile as `_shard_packed` says."""
    kept = [item.new_empty(1) for item in filter(_is_trained, model.parameters())]
    wrapped: nn.Module = fsdp2_prepare_model(accelerator, model)
    del kept
    return wrapped


def _copy_to_host(tracer: RankTracer, shard: Tensor) -> Tensor:
    """Return a shard in host memory."""
    with tracer.make_on_host():
        return torch.empty_like(shard)


def _refuse_sharding_twice(model: Any, plugin: FullyShardedDataParallelPlugin) -> None:
    """Raise NotTraceableError where the input embeddings are part of a unit, as in ViT and BERT.

    accelerate 1.15 shards them once more after the units, and a real step stops there, too.
    """
    plugin.set_auto_wrap_policy(model)
    wraps = fsdp2_prepare_auto_wrap_policy(plugin, model)
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    units = (module for module in model.modules() if module is not model and wraps is not None and wraps(module))
    if any(item is embedding for unit in units for item in unit.modules() if item is not unit):
        raise NotTraceableError(
            "accelerate shards the input embeddings twice, as a unit of its own and in another, and a real step stops "
            "there, too: drop `sharding`"
        )


def _shard_packed(model: nn.Module, accelerator: Any, tracer: RankTracer) -> nn.Module:
    """Wrap a packed model that is on the card.

    accelerate keeps one element in the place of each parameter of the optimizer meanwhile (accelerator.py,
    `_prepare_fsdp2`), and the state_dict copies of the table that packed scales share (bitsandbytes,
    `QuantState.as_dict`).
    """
    with tracer:
        kept = [torch.empty(1, dtype=item.dtype, device="meta") for item in filter(_is_trained, model.parameters())]
        layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
        states = [layer.weight.quant_state for layer in layers]
        kept += [state.state2.code.clone() for state in states if state is not None and state.state2 is not None]
        wrapped: nn.Module = fsdp2_prepare_model(accelerator, model)
        del kept
    return wrapped


def _is_trained(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad
