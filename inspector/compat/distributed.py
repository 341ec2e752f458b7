"""Private names of torch.distributed and accelerate, which run on meta tensors with them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from inspector.compat.names import private, private_attribute
from inspector.compat.torch import storage_address
from inspector.runtime.patches import replace_attribute

_RANKS = "tracing a rank of several"

FakeStore: Any = private(
    "torch.testing._internal.distributed.fake_pg.FakeStore",
    purpose=_RANKS,
    instead="a store that asks nobody: torch's own tests have one",
)
make_fake_group: Any = private(
    "torch.testing._internal.distributed.fake_pg._create_fake_pg",
    purpose=_RANKS,
    instead="a process group that knows its rank and its size and sends nothing",
)
active_fake_mode: Any = private(
    "torch._guards.active_fake_mode",
    purpose=_RANKS,
    instead="what tells that DTensor works out shapes on fake tensors, which take no memory",
)
AsyncCollectiveTensor: Any = private(
    "torch.distributed._functional_collectives.AsyncCollectiveTensor",
    purpose=_RANKS,
    instead="the tensor that waits for a collective when it is used first",
)
_check_materialised: Any = private(
    "torch.distributed.fsdp._fully_shard._fsdp_param_group.FSDPParamGroup._validate_no_meta_params",
    purpose="FSDP2",
    instead="what refuses parameters on meta before the first pass",
)
_reset_shard: Any = private(
    "torch.distributed.fsdp._fully_shard._fsdp_param.FSDPParam.reset_sharded_param",
    purpose="FSDP2",
    instead="what pads a shard of fewer rows once it is materialised",
)
_cut_param: Any = private(
    "torch.distributed.fsdp._fully_shard._fsdp_param.FSDPParam._init_sharded_param",
    purpose="FSDP2",
    instead="what cuts a parameter, and moves its shard to host memory where that is asked for",
)
_move_states: Any = private(
    "torch.distributed.fsdp._fully_shard._fsdp_init._move_states_to_device",
    purpose="FSDP2",
    instead="what moves the parameters of a unit to the device before they are sharded",
)
_group: Any = private(
    "torch.distributed.fsdp._fully_shard._fsdp_param_group.FSDPParamGroup", purpose="FSDP2", instead="see the check"
)
_param: Any = private(
    "torch.distributed.fsdp._fully_shard._fsdp_param.FSDPParam", purpose="FSDP2", instead="see the padding"
)
local_tensor_of: Any = private_attribute(
    "torch.distributed.tensor.DTensor._local_tensor",
    purpose=_RANKS,
    instead="DTensor.to_local(), which makes another tensor each time",
)
_compare_shapes: Any = private(
    "torch.nn.parallel.distributed._verify_param_shape_across_processes",
    purpose="DDP",
    instead="what compares the shapes of parameters over ranks",
)
fsdp2_prepare_auto_wrap_policy: Any = private(
    "accelerate.utils.fsdp_utils.fsdp2_prepare_auto_wrap_policy", purpose="FSDP2", instead="which modules are units"
)
_load_full_state: Any = private(
    "accelerate.utils.fsdp_utils.fsdp2_load_full_state_dict",
    purpose="FSDP2",
    instead="how accelerate sends rank 0's weights to the shards of all",
)
fsdp2_prepare_model: Any = private(
    "accelerate.utils.fsdp_utils.fsdp2_prepare_model",
    purpose="FSDP2",
    instead="how accelerate wraps a model for FSDP2",
)

flatten_dense_tensors: Any = private(
    "torch._utils._flatten_dense_tensors", purpose="ZeRO", instead="what lays tensors side by side in one"
)
unflatten_dense_tensors: Any = private(
    "torch._utils._unflatten_dense_tensors", purpose="ZeRO", instead="what gives views of one tensor for many"
)
_has_parameters: Any = private_attribute(
    "torch.distributed.fsdp.FullyShardedDataParallel._has_params",
    purpose="FSDP1",
    instead="whether a unit has parameters of its own",
)
_flat_parameter_of: Any = private_attribute(
    "torch.distributed.fsdp.FullyShardedDataParallel._flat_param",
    purpose="FSDP1",
    instead="the parameter that holds those of a unit side by side",
)


_needs_loading: Any = private(
    "torch.distributed.fsdp._init_utils._need_to_materialize_module",
    purpose="FSDP1",
    instead="what tells whether the weights of a unit are still to be loaded",
)
_move_unit: Any = private(
    "torch.distributed.fsdp._init_utils._move_module_to_device",
    purpose="FSDP1",
    instead="what moves the parameters of a unit to the device before they are sharded",
)
_find_device: Any = private(
    "torch.distributed.fsdp._init_utils._get_device_from_device_id",
    purpose="FSDP1",
    instead="which device is asked for",
)
_find_compute_device: Any = private(
    "torch.distributed.fsdp._init_utils._get_compute_device", purpose="FSDP1", instead="which device a unit is on"
)
_reshard_rest: Any = private(
    "torch.distributed.fsdp._runtime_utils._catch_all_reshard",
    purpose="FSDP1",
    instead="what reshards units without a gradient when the backward pass ends",
)
_reshard: Any = private("torch.distributed.fsdp._runtime_utils._reshard", purpose="FSDP1", instead="the same")
_use_elsewhere: Any = private(
    "torch.distributed.fsdp._common_utils._no_dispatch_record_stream", purpose="FSDP1", instead="the same"
)
_frees_in_backward: Any = private(
    "torch.distributed.fsdp._runtime_utils._should_free_in_backward", purpose="FSDP1", instead="the same"
)
_shares_storage: Any = private(
    "torch.distributed.fsdp._flat_param._same_storage",
    purpose="FSDP1",
    instead="what tells by addresses whether two tensors share memory",
)
_has_memory: Any = private(
    "torch.distributed.fsdp._flat_param._data_ptr_allocated",
    purpose="FSDP1",
    instead="what tells by an address whether a tensor has memory",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatUnit:
    """A unit of FSDP1 and the parameter `flat` that holds its own side by side.

    The first of them is `name` of `module`, and `owner` is that module's path in the unit. `shared_shapes` are those
    of the ones that another name has too.
    """

    handle: Any
    flat: Tensor
    module: nn.Module
    name: str
    owner: str
    shared_shapes: tuple[torch.Size, ...]

    def note_dtype(self, dtype: torch.dtype) -> None:
        """Have FSDP1 take a dtype for the one that the parameters had at first."""
        self.handle._orig_param_dtype = dtype


def list_flat_units(wrapped: FullyShardedDataParallel) -> Iterator[FlatUnit]:
    """Yield the units of a model that have parameters of their own."""
    for unit in FullyShardedDataParallel.fsdp_modules(wrapped):
        if not _has_parameters(unit):
            continue
        flat = _flat_parameter_of(unit)
        first, *_ = flat._param_infos
        shared = {(item.prim_module, item.prim_param_name) for item in flat._shared_param_infos}
        places = [(item.module, item.param_name) for item in flat._param_infos]
        yield FlatUnit(
            handle=unit._handle,
            flat=flat,
            module=first.module,
            name=first.param_name,
            owner=str(first.module_name),
            shared_shapes=tuple(shape for place, shape in zip(places, flat._shapes, strict=True) if place in shared),
        )


def defer_reduction(wrapped: FullyShardedDataParallel, *, is_deferred: bool) -> None:
    """Have FSDP1 leave gradients whole after the next backward pass, as its `no_sync` does, or reduce them."""
    units: list[Any] = FullyShardedDataParallel.fsdp_modules(wrapped)
    for unit in units:
        unit._sync_gradients = not is_deferred


def let_fsdp1_run_on_meta(move: Callable[..., None]) -> None:
    """Let FSDP1 take parameters on meta for those of a card, until the innermost block of changes ends.

    `move` brings a unit to the card, given the module, ignored parameters and buffers, and the device.
    """
    device = torch.device("meta")
    init = sys.modules[_move_unit.__module__]
    replace_attribute(init, "_need_to_materialize_module", lambda *_arguments: (False, False))
    replace_attribute(init, "_move_module_to_device", move)
    replace_attribute(init, "_get_device_from_device_id", lambda *_arguments: device)
    replace_attribute(init, "_get_compute_device", lambda *_arguments: device)
    tell_fsdp1_storages_apart()


def tell_fsdp1_storages_apart() -> None:
    """Let FSDP1 know tensors by their storages and not by addresses, until the same."""
    flat, runtime = sys.modules[_shares_storage.__module__], sys.modules[_reshard_rest.__module__]
    replace_attribute(flat, "_same_storage", _share_storage)
    replace_attribute(flat, "_data_ptr_allocated", lambda tensor: tensor.untyped_storage().nbytes() > 0)
    replace_attribute(runtime, "_catch_all_reshard", _reshard_what_is_whole)


def tell_uses_of_fsdp1(note_use: Callable[[Tensor, Any], None]) -> None:
    """Have FSDP1 say of which tensors another stream makes use, which it leaves out on meta, until the same."""
    for module in (sys.modules[_shares_storage.__module__], sys.modules[_reshard_rest.__module__]):
        replace_attribute(module, _use_elsewhere.__name__, note_use)


def _share_storage(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors share memory."""
    return storage_address(one.untyped_storage()) == storage_address(other.untyped_storage())


def _reshard_what_is_whole(state: Any) -> None:
    """Reshard a unit whose parameters are gathered still."""
    handle = state._handle
    if not handle:
        return
    is_sharded = _share_storage(handle.flat_param, handle.flat_param._local_shard)
    if not is_sharded or handle._skipped_use_sharded_views:
        _reshard(state, handle, _frees_in_backward(state, handle))


def expect_same_parameters() -> None:
    """Let DDP take the parameters of all ranks for alike, until the innermost block of changes ends."""
    module = sys.modules[DistributedDataParallel.__module__]
    replace_attribute(module, "_verify_param_shape_across_processes", lambda *_arguments: None)


def accept_parameters_on_meta() -> None:
    """Let FSDP2 take parameters on meta for materialised ones, until the innermost block of changes ends."""
    replace_attribute(_group, "_validate_no_meta_params", lambda _self: None)


def replace_move(move: Callable[..., None]) -> None:
    """Have a function move what a unit of FSDP2 holds to the device, given parameters, buffers and device."""
    replace_attribute(sys.modules[_move_states.__module__], "_move_states_to_device", move)


class _OnHost:
    """A weight in host memory, of which the card gets a copy."""

    def __init__(self, weight: Tensor) -> None:
        self._shape, self._dtype = weight.shape, weight.dtype

    def detach(self) -> _OnHost:
        """Return the weight."""
        return self

    def to(self, device: str) -> Tensor:
        """Return a copy on the card."""
        return torch.empty(self._shape, dtype=self._dtype, device=device)


def watch_loading(watch: Callable[[nn.Module], contextlib.AbstractContextManager[Any]]) -> None:
    """Have what `watch` makes of a model hold while accelerate sends it rank 0's weights, until the same."""

    def load(accelerator: Any, model: nn.Module, full: dict[str, Tensor], **kwargs: Any) -> Any:
        with watch(model):
            return _load_full_state(accelerator, model, {name: _OnHost(item) for name, item in full.items()}, **kwargs)

    replace_attribute(sys.modules[_load_full_state.__module__], "fsdp2_load_full_state_dict", load)


def call_after_reset(function: Callable[[Any], None]) -> None:
    """Have a function called with each parameter whose shard FSDP2 looks at anew, until the same."""

    def reset(param: Any) -> None:
        _reset_shard(param)
        function(param)

    replace_attribute(_param, "reset_sharded_param", reset)


def keep_shards_on_host(move: Callable[[Tensor], Tensor]) -> None:
    """Have FSDP2 keep the shards of its parameters where `move` brings them, and gather from copies on the card.

    Off meta it does so by `cpu()` and `to()` (fsdp/_fully_shard/_fsdp_param.py, torch 2.13).
    """
    gather_inputs: Any = _param.all_gather_inputs

    def init(param: Any, *args: Any, **kwargs: Any) -> None:
        _cut_param(param, *args, **kwargs)
        local = param.sharded_param._local_tensor
        dim, size = param.fsdp_placement.dim, param.padded_sharded_param_size
        shard = move(param._sharded_param_data).view(size)
        set_shard(param, shard, shard.narrow(dim, 0, local.size(dim) if local.numel() else 0))

    def list_inputs(param: Any) -> Any:
        kept = param._sharded_param_data
        param._sharded_param_data = torch.empty(kept.shape, dtype=kept.dtype, device=kept.device)
        try:
            return gather_inputs.fget(param)
        finally:
            param._sharded_param_data = kept

    replace_attribute(_group, "_validate_cpu_offload_params", lambda _self: None)
    replace_attribute(_param, "_init_sharded_param", init)
    replace_attribute(_param, "all_gather_inputs", property(list_inputs))


def find_kept_shard(param: Any) -> Tensor:
    """Return the flat shard that FSDP2 gathers from."""
    shard: Tensor = param._sharded_param_data
    return shard


def set_shard(param: Any, shard: Tensor, local: Tensor) -> None:
    """Have FSDP2 gather from a shard, of which the parameter is the part `local`."""
    param._sharded_param_data = shard.view(-1)
    param.sharded_param._local_tensor = local
