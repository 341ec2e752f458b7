"""Loading a model whose weights are quantized on the way, as transformers' `from_pretrained` does it on the GPU.

The allocator is warmed up with one block as large as the model; then one weight after the other comes to the GPU in
float, in the order of the names in the checkpoint, is quantized there and dies (transformers/modeling_utils.py,
`caching_allocator_warmup`; core_model_loading.py, which does not use threads then). What a trainer does to the base
follows (`model.preparation`): PEFT's `prepare_model_for_kbit_training` makes whatever else is in half precision float32
and empties the cache. A release of transformers before 5.23 uses threads here, and where blocks come to lie is chance.
Weights that were stored packed come as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from inspector.dtypes import dtype_name
from inspector.hardware.platform import Platform
from inspector.model.adapter.peft_names import find_owner, strip_wrappers
from inspector.model.build import BuiltModel
from inspector.model.changes.preparation import list_restored, list_upcast_first
from inspector.quantization.bitsandbytes.functional import choose_products_for, renew_shared_tables
from inspector.quantization.bitsandbytes.modules import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from inspector.quantization.bitsandbytes.stand_in import stand_in_for_bitsandbytes
from inspector.quantization.formats import write_4bit_fields
from inspector.records.request import Preparation
from inspector.records.tape import Category
from inspector.trace.tracer import Tracer
from inspector.workloads.base import base_model
from inspector.workloads.loading import ADDED, attach_adapter, find_loaded_dtype

__all__ = ["OUTLIERS", "apply_quantized_rules", "has_int8_weights", "is_quantized", "load_quantized"]

_PACKED = (Params4bit, Int8Params)
# Digits of a float in Python at most: a text with them is still far below the smallest block of 512 bytes.
_LONGEST_OFFSET = -2.2250738585072014e-308
# What transformers reckons an element of a quantized weight as (quantizers/quantizer_bnb_*.py): half a byte, or one.
_HALVES = {Params4bit: 1, Int8Params: 2}


# What a step of LLM.int8() takes beyond the trace.
OUTLIERS = (
    "columns of inputs with outliers, under int8",
    "bitsandbytes multiplies them apart, in half precision; which they are depends on data, and none is assumed",
)


def has_int8_weights(base: nn.Module) -> bool:
    """Tell whether a model has 8-bit weights of bitsandbytes."""
    return any(isinstance(parameter, Int8Params) for parameter in base.parameters())


def is_quantized(base: nn.Module) -> bool:
    """Tell whether a model has weights of bitsandbytes."""
    return any(isinstance(parameter, _PACKED) for parameter in base.parameters())


@contextlib.contextmanager
def apply_quantized_rules(platform: Platform) -> Iterator[None]:
    """Let PEFT find its layers and products follow the GPU inside the block."""
    with (
        stand_in_for_bitsandbytes(),
        renew_shared_tables(),
        choose_products_for(platform.compute_capability, platform.multiprocessors),
    ):
        yield


def load_quantized(tracer: Tracer, built: BuiltModel) -> None:
    """Put loading, preparing and attaching on the tape; the weights of the model are quantized anew for it."""
    model: nn.Module = built.model
    parameters = {name: item for name, item in model.named_parameters() if built.roles[name] not in ADDED}
    with tracer:
        warm_up = torch.empty(_count_warm_up_bytes(parameters.values()), dtype=torch.uint8, device="meta")
        del warm_up
        for name in sorted(parameters, key=lambda name: _make_sort_key(strip_wrappers(model, name))):
            with tracer.attribute_to(find_owner(model, name)):
                _load(tracer, parameters[name], find_owner(model, name))
        for module in model.modules():
            if isinstance(module, Linear8bitLt):
                module.state.SCB = module.weight.SCB  # or PEFT would unpack with what an earlier look has left there
            elif isinstance(module, Linear4bit) and module.weight.quant_storage is not torch.uint8:
                module.hold_state()  # for weights that may be sharded
        for name, buffer in model.named_buffers():
            tracer.hold([buffer], Category.BUFFERS, find_owner(model, name))
        _prepare(tracer, built, parameters)
    attach_adapter(tracer, built, is_upcast=True)
    if built.preparation is Preparation.AXOLOTL:  # loaders/model.py, `_apply_post_lora_load_setup`
        tracer.empty_cache()


def _prepare(tracer: Tracer, built: BuiltModel, parameters: Mapping[str, nn.Parameter]) -> None:
    """Put on the tape what a trainer does to the base: casts of whatever is not packed, in their order."""
    if built.preparation is Preparation.NONE:
        return
    owners = {parameter: find_owner(built.model, name) for name, parameter in parameters.items()}
    is_axolotl = built.preparation is Preparation.AXOLOTL

    def cast(items: Iterable[tuple[str, nn.Parameter]], wanted: torch.dtype | None) -> None:
        for _, parameter in items:
            dtype = wanted or find_loaded_dtype(parameter)
            if parameter in owners and parameter.dtype is not dtype:
                with tracer.attribute_to(owners[parameter]):
                    parameter.data = parameter.data.to(dtype)
                    tracer.hold([parameter], Category.WEIGHTS, owners[parameter])

    if is_axolotl:
        cast(list_upcast_first(base_model(built.model)), torch.float32)
    halves = (
        (name, item)
        for name, item in parameters.items()
        if item.dtype in (torch.float16, torch.bfloat16) and not isinstance(item, Params4bit)
    )
    cast(halves, torch.float32)
    tracer.empty_cache()
    if is_axolotl:
        cast(list_restored(base_model(built.model)), None)


def _load(tracer: Tracer, parameter: nn.Parameter, owner: str) -> None:
    """Make a parameter as it is loaded."""
    if not isinstance(parameter, _PACKED):
        parameter.data = torch.empty(parameter.shape, dtype=find_loaded_dtype(parameter), device="meta")
        tracer.hold([parameter], Category.WEIGHTS, owner)
        return
    if getattr(parameter, "is_stored_packed", find_loaded_dtype(parameter) is parameter.dtype):
        tensors, read = _list_stored_tensors(parameter)
        tracer.hold(tensors, Category.WEIGHTS, owner)
        fields = torch.empty(_count_field_bytes(parameter), dtype=torch.uint8, device="meta")
        tracer.hold(read, Category.WEIGHTS, owner)
        del fields
        return
    shape = parameter.logical_shape if isinstance(parameter, Params4bit) else parameter.shape
    stored = weight = torch.empty(shape, dtype=find_loaded_dtype(parameter), device="meta")
    if isinstance(parameter, Params4bit) and getattr(parameter, "inputs_first", False):
        weight = torch.empty_like(stored)  # GPT-2 stores inputs before outputs; what is packed lies the other way
    parameter.quantize_from(weight)
    tracer.hold([parameter, *parameter.state_tensors()], Category.WEIGHTS, owner)


def _list_stored_tensors(parameter: Params4bit | Int8Params) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors of a packed weight in the order of their names in a checkpoint, and what its fields hold."""
    if isinstance(parameter, Int8Params):
        return [*parameter.state_tensors(), parameter], []
    state = parameter.quant_state
    assert state is not None, "what is stored packed has a state"
    nested = [state.state2.absmax, state.state2.code] if state.state2 is not None else []
    return [parameter, state.absmax, *nested, state.code], [state.offset] if state.offset is not None else []


def _count_field_bytes(parameter: Params4bit | Int8Params) -> int:
    """Return the size of what is stored beside packed tensors, comes to the GPU and is read there.

    Of 4 bits the fields as JSON text, of 8 bits the name of a layout.
    """
    if isinstance(parameter, Int8Params):
        return 1
    state = parameter.quant_state
    assert state is not None, "what is stored packed has a state"
    offset = _LONGEST_OFFSET if state.nested else None
    return len(write_4bit_fields(state.quant_type, dtype_name(state.dtype), state.shape, nested_offset=offset))


def _count_warm_up_bytes(parameters: Any) -> int:
    """Return the size for which the allocator is warmed up."""
    total = 0
    for parameter in parameters:
        if isinstance(parameter, _PACKED):
            total += parameter.logical_count * _HALVES[type(parameter)] // 2
        else:
            total += parameter.numel() * find_loaded_dtype(parameter).itemsize
    return total


def _make_sort_key(name: str) -> list[tuple[int, int | str, int]]:
    """Sort names as transformers does, layer 2 before layer 10 (core_model_loading.py, dot_natural_key)."""
    key: list[tuple[int, int | str, int]] = []
    for part in name.split("."):
        text = part.rstrip("0123456789")
        key.append((1 if text else 0, text or int(part), int(part[len(text) :] or -1) if text else -1))
    return key
