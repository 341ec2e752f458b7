"""The order in which loading and attaching make the tensors of a model: base weights, buffers, then what PEFT added.

On a model that is on the card PEFT makes an adapter there, in the dtype of the layer that it is on, and makes it
float32 once all of it is there (peft/tuners/tuners_utils.py, `_move_adapter_to_device_of_base_layer`,
`cast_adapter_dtype`). One that is attached in host memory comes to the card as it is then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora.dora import DoraLinearLayer
from torch import Tensor, nn

from inspector.model.adapter.peft_names import find_owner
from inspector.model.build import BuiltModel
from inspector.records.model import Role
from inspector.records.tape import Category
from inspector.trace.categories import find_category
from inspector.trace.tracer import Tracer

__all__ = ["ADDED", "attach_adapter", "find_loaded_dtype", "list_in_load_order"]

# Roles of parameters that exist only once an adapter is attached.
ADDED = (Role.ADAPTER, Role.SAVED_COPIES)


def list_in_load_order(built: BuiltModel, *, adapter: bool = True) -> Iterator[tuple[str, Tensor, Category]]:
    """Yield the parameters and buffers with their names and categories in the order in which they are made.

    Without `adapter` what PEFT added is left out.
    """
    parameters = list(built.model.named_parameters())
    for name, tensor in parameters:
        if built.roles[name] not in ADDED:
            yield name, tensor, find_category(built.roles[name])
    yield from ((name, tensor, Category.BUFFERS) for name, tensor in built.model.named_buffers())
    for name, tensor in parameters:
        if adapter and built.roles[name] in ADDED:
            yield name, tensor, find_category(built.roles[name])


def find_loaded_dtype(parameter: nn.Parameter) -> torch.dtype:
    """Return the dtype in which a parameter comes from the checkpoint."""
    dtype: torch.dtype = getattr(parameter, "loaded_dtype", parameter.dtype)
    return dtype


def attach_adapter(tracer: Tracer, built: BuiltModel, *, is_upcast: bool = False) -> None:
    """Put on the tape what PEFT adds to a model on the card: each part in the dtype of its layer first, then float32.

    A trainer may cast it once more, to the dtype that its parameters have. Where none of them is float32, PEFT is taken
    to leave it as it is, but where `is_upcast` says that it is cast twice.

    DoRA's magnitudes are the norms of the unpacked weights; on a GPU that is the first product, which takes the
    workspace of cuBLAS (peft/tuners/lora/dora.py, `update_layer`).
    """
    model: nn.Module = built.model
    added = [(name, parameter) for name, parameter in model.named_parameters() if built.roles[name] in ADDED]
    first = {name: _find_dtype_of_layer(model, name) for name, _ in added}
    final = {name: parameter.dtype for name, parameter in added}
    with tracer:
        for name, parameter in added:
            dtype = first[name]
            with tracer.attribute_to(find_owner(model, name)):
                magnitudes = model.get_submodule(name.rpartition(".")[0])
                if isinstance(magnitudes, DoraLinearLayer):
                    _measure(magnitudes, model.get_submodule(name.partition(".lora_magnitude_vector.")[0]))
                else:
                    dtype = dtype or find_loaded_dtype(parameter)
                    if dtype is not parameter.dtype:
                        parameter.data = torch.empty(parameter.shape, dtype=dtype, device="meta")
                tracer.hold([parameter], find_category(built.roles[name]), find_owner(model, name))
        by_peft = {name: torch.float32 for name, parameter in added if parameter.dtype is first[name]}
        is_upcast = is_upcast or torch.float32 in final.values()
        for dtypes in (by_peft if is_upcast else {}, final):
            for name, parameter in added:
                if name in dtypes and parameter.dtype is not dtypes[name]:
                    with tracer.attribute_to(find_owner(model, name)):
                        parameter.data = parameter.data.to(dtypes[name])
                        tracer.hold([parameter], find_category(built.roles[name]), find_owner(model, name))


def _measure(magnitudes: DoraLinearLayer, layer: Any) -> None:
    """Let PEFT compute the magnitudes of a layer again, into the parameter that is trained."""
    parameter = magnitudes.weight
    adapter = next(name for name, candidate in layer.lora_magnitude_vector.items() if candidate is magnitudes)
    magnitudes.update_layer(
        base_layer=layer.get_base_layer(),
        lora_A=layer.lora_A[adapter].weight,
        lora_B=layer.lora_B[adapter].weight,
        scaling=layer.scaling[adapter],
    )
    parameter.data = magnitudes.weight.data
    magnitudes.weight = parameter


def _find_dtype_of_layer(model: nn.Module, name: str) -> torch.dtype | None:
    """Return the dtype in which PEFT makes a parameter of an adapter, None where it is that of the parameter.

    It is the one that its layer computes in (peft/tuners/tuners_utils.py, `_get_base_layer_device_and_dtype`).
    """
    path = name
    while path:
        path = path.rpartition(".")[0]
        tuner: Any = model.get_submodule(path)
        if hasattr(tuner, "base_layer"):
            layer = tuner.get_base_layer()
            weight = getattr(layer, getattr(tuner, "parameter_name", "weight"), None)
            dtype: torch.dtype | None = getattr(layer, "compute_dtype", getattr(weight, "dtype", None))
            return dtype if dtype is not None and dtype.is_floating_point else None
    return None
