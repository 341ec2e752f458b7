"""FSDP1 as accelerate, and so Trainer, wraps a model: torch's FullyShardedDataParallel with the plugin's arguments.

The units are the decoder layers, and with an adapter of PEFT each of its weights too (peft/utils/other.py,
`fsdp_auto_wrap_policy`); what is left is the root's. A unit is one flat parameter. Under mixed precision what trains
becomes float32 once it is wrapped, and the forward pass runs under autocast beside FSDP's own policy (accelerator.py,
`prepare_model`, 1.15). A model comes from host memory: each unit goes to the card whole, and is cut there.

FSDP1 knows weights that are still to be loaded by their being on meta, and what it has resharded by addresses, which
are all 0 there: both are put right here (fsdp/_init_utils.py and _runtime_utils.py, torch 2.13).
"""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from peft import PeftModel
from peft.utils.other import fsdp_auto_wrap_policy
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffload, FullyShardedDataParallel

from inspector.compat.distributed import let_fsdp1_run_on_meta, list_flat_units
from inspector.distributed.tracer import RankTracer
from inspector.model.build import BuiltModel
from inspector.quantization.bitsandbytes.modules import Params4bit
from inspector.records.model import Role
from inspector.records.steps.ranks import Fsdp1
from inspector.records.tape import Category
from inspector.runtime.patches import restore_changes
from inspector.trace.categories import find_category
from inspector.workloads.base import NotTraceableError, base_model
from inspector.workloads.quantized_load import is_quantized

__all__ = ["hold_units", "list_roles", "shard_with_fsdp1"]

_META = torch.device("meta")


def shard_with_fsdp1(
    model: nn.Module,
    launch: Fsdp1,
    mixed_precision: str,
    tracer: RankTracer | None,
    device: torch.device = _META,
) -> FullyShardedDataParallel:
    """Wrap a model that is in host memory for FSDP1 on the ranks of the world at hand.

    A tracer watches what is done on meta; on a real `device` there is none.
    """
    plugin = _make_plugin(model, launch, mixed_precision)
    is_packed = is_quantized(base_model(model)) and not launch.packed_on_host  # and on the card already
    on_card = {id(tensor) for tensor in itertools.chain(model.parameters(), model.buffers()) if is_packed}

    def move(unit: nn.Module, ignored: AbstractSet[Any], _buffers: AbstractSet[Any], _device: torch.device) -> None:
        for tensor in _list_own_tensors(unit):
            if id(tensor) not in on_card and tensor not in ignored:
                on_card.add(id(tensor))
                if isinstance(tensor, Params4bit):
                    _move_state(tensor)
                tensor.data = torch.empty(tensor.shape, dtype=tensor.dtype, device=_META)

    with restore_changes(), tracer or contextlib.nullcontext():
        if tracer is not None:
            let_fsdp1_run_on_meta(move)
        wrapped = FullyShardedDataParallel(
            model,
            sharding_strategy=plugin.sharding_strategy,
            auto_wrap_policy=plugin.auto_wrap_policy,
            mixed_precision=plugin.mixed_precision_policy,
            cpu_offload=CPUOffload(offload_params=launch.offload),
            sync_module_states=launch.sync_module_states,
            backward_prefetch=plugin.backward_prefetch,
            forward_prefetch=launch.forward_prefetch,
            use_orig_params=launch.use_orig_params,
            limit_all_gathers=True,
            device_id=device,
        )
        if mixed_precision != "no":
            _upcast(wrapped)
    return wrapped


def _move_state(packed: Params4bit) -> None:
    """Bring what belongs to a packed weight beside to the card, where each has tables of its own (`QuantState.to`)."""
    state = packed.quant_state
    if state is None:
        return
    for owner, names in ((state, ("code", "absmax", "offset")), (state.state2, ("absmax", "code"))):
        for name in names:
            if isinstance(tensor := getattr(owner, name, None), Tensor):
                setattr(owner, name, torch.empty_like(tensor))


def list_roles(built: BuiltModel) -> dict[tuple[int, str], Role]:
    """Return the role of each parameter of a model by its module and its name there."""
    return {
        (id(module), own): built.roles[f"{name}.{own}" if name else own]
        for name, module in built.model.named_modules()
        for own, _ in module.named_parameters(recurse=False)
        if (f"{name}.{own}" if name else own) in built.roles
    }


def hold_units(tracer: RankTracer, wrapped: FullyShardedDataParallel, roles: Mapping[tuple[int, str], Role]) -> None:
    """Say what the flat parameters of a model are for, and whose they are, by the role of the first in each."""
    for unit in list_flat_units(wrapped):
        role = roles.get((id(unit.module), unit.name), Role.OTHER)
        if not tracer.lies_on_host(unit.flat):
            tracer.hold([unit.flat], find_category(role), unit.owner)
        tracer.note_shared(torch.empty(shape, device="meta") for shape in unit.shared_shapes)
    tracer.hold(wrapped.buffers(), Category.BUFFERS)


def _make_plugin(model: nn.Module, launch: Fsdp1, mixed_precision: str) -> FullyShardedDataParallelPlugin:
    """Return accelerate's settings as Trainer leaves them before it wraps a model."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=1,
        sharding_strategy=launch.sharding_strategy,
        backward_prefetch=launch.backward_prefetch or "NO_PREFETCH",
        auto_wrap_policy=launch.wrap_policy,
        transformer_cls_names_to_wrap=None if launch.wrapped_classes is None else list(launch.wrapped_classes),
        min_num_params=launch.min_num_params,
        cpu_ram_efficient_loading=False,
        sync_module_states=False,  # it asks for a card
        forward_prefetch=launch.forward_prefetch,
        use_orig_params=launch.use_orig_params,
    )
    if mixed_precision != "no":
        plugin.set_mixed_precision(mixed_precision)
    if isinstance(model, PeftModel):
        plugin.auto_wrap_policy = fsdp_auto_wrap_policy(model)
        held_in = {item.quant_storage for item in model.parameters() if hasattr(item, "quant_storage")}
        if any(not dtype.is_floating_point for dtype in held_in):
            raise NotTraceableError(
                "FSDP1 flattens weights of floats alone, and a real step with 4-bit weights in uint8 stops there, too: "
                "hold them in `quant_storage=bfloat16`, or shard with FSDP2, which leaves them whole on each card"
            )
        for dtype in held_in:  # transformers/distributed/fsdp.py, `update_fsdp_plugin_peft`
            if dtype.is_floating_point and mixed_precision == "no":
                raise NotTraceableError(
                    "FSDP1 casts to the dtype that packed weights are held in, and without mixed precision a real step "
                    "stops at a product of two dtypes: use `mixed_precision=bf16`"
                )
            if dtype.is_floating_point:
                plugin.set_mixed_precision(dtype, override=True)
    plugin.set_auto_wrap_policy(model)
    return plugin


def _upcast(wrapped: FullyShardedDataParallel) -> None:
    """Make what trains float32, unit by unit."""
    for unit in list_flat_units(wrapped):
        if unit.flat.dtype is not torch.float32 and unit.flat.requires_grad:
            unit.flat.data = unit.flat.data.to(torch.float32)
            unit.note_dtype(torch.float32)


def _list_own_tensors(unit: nn.Module) -> list[Tensor]:
    """Return the parameters and then the buffers of a unit, outer modules first, without those of units in it."""
    queue = collections.deque([unit])
    parameters: list[Tensor] = []
    buffers: list[Tensor] = []
    while queue:
        module = queue.popleft()
        parameters += module.parameters(recurse=False)
        buffers += module.buffers(recurse=False)
        queue += (child for child in module.children() if not isinstance(child, FullyShardedDataParallel))
    return list(itertools.chain(parameters, buffers))
