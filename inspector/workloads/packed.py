"""A step on weights that stay packed: for the time of a trace the layers of the packed checkpoint stand in the model.

Layers and adapters are those that the stack puts there: transformers' own `FP8Linear` runs over a kernel that allocates
its result alone, GPTQModel's and torchao's are modelled (`inspector.quantization.packed`), and PEFT's classes for them
run the adapter. When the block ends the model is as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, MutableMapping
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.awq import AwqLoraLinear
from peft.tuners.lora.gptq import GPTQLoraLinear
from torch import Tensor, nn

from inspector.compat.torch import children_of
from inspector.compat.transformers import load_fp8_layers
from inspector.hardware.platform import Platform
from inspector.model.adapter.peft_names import strip_wrappers
from inspector.model.build import BuiltModel
from inspector.model.checkpoint.packing import Packing, find_packing
from inspector.quantization.packed.layers import AwqLinear, GptqLinear, Int8Linear
from inspector.records.memory import Unaccounted
from inspector.records.model import Role
from inspector.runtime.patches import call_at_end, replace_attribute, replace_item, restore_changes

__all__ = ["find_packed_unaccounted", "leave_packed"]

# From here GPUs multiply FP8 (transformers/quantizers/quantizer_finegrained_fp8.py, `validate_environment`).
_OF_FP8 = (8, 9)
_LAYERS = {"awq": AwqLinear, "gptq": GptqLinear, "torchao": Int8Linear}
# What is not known of a method, or depends on the machine.
_UNACCOUNTED = {
    "gptq": (
        "the compiled unpacking of a GPTQ weight",
        "torch.compile chooses what it takes beside its result, for the time of one layer",
    ),
    "fp8": (
        "inputs in FP8 under DeepGEMM",
        "where nvcc is installed (Hopper), a copy of a layer's input, a byte an element, for the time of its product",
    ),
}
_ADAPTERS: dict[str, type] = {"awq": AwqLoraLinear, "gptq": GPTQLoraLinear}


@contextlib.contextmanager
def leave_packed(
    built: BuiltModel, platform: Platform, names: MutableMapping[nn.Module, str]
) -> Iterator[dict[str, Role]]:
    """Leave the weights of a model packed inside the block where a step on them is known; yield the roles by name.

    `names` are those of the modules, to which the layers that come in are added.
    """
    packing = find_packing(built.model)
    with restore_changes():
        if packing is None or (packing.method == "fp8" and platform.compute_capability < _OF_FP8):
            yield dict(built.roles)
            return
        if packing.method == "fp8":
            layers = load_fp8_layers()
            replace_attribute(layers, "_FINEGRAINED_FP8", layers.FineGrainedFP8(_multiply, _multiply, _multiply))
        roles = dict(built.roles)
        for path, module in list(built.model.named_modules()):
            name = strip_wrappers(built.model, path)
            if type(module) is nn.Linear and name in packing.weights:
                layer = _make_layer(packing, name, module)
                names[layer] = names[module]
                role = roles[f"{path}.weight"]
                roles |= {f"{path}.{own}": role for own, _ in layer.named_parameters()}
                parent = built.model.get_submodule(path.rpartition(".")[0])
                replace_item(children_of(parent), path.rpartition(".")[2], layer)
                if isinstance(parent, LoraLayer) and packing.method in _ADAPTERS:
                    _take_class(parent, _ADAPTERS[packing.method])
                    replace_item(children_of(parent), "quant_linear_module", layer)
        yield roles


def find_packed_unaccounted(model: Any) -> Iterator[Unaccounted]:
    """Yield what layers on packed weights take beyond the trace."""
    packing = find_packing(model)
    if packing is not None and packing.method in _UNACCOUNTED:
        what, why = _UNACCOUNTED[packing.method]
        yield Unaccounted(what=what, why=why)


def _take_class(layer: Any, kind: type) -> None:
    """Give an adapter the class that PEFT has for it on such layers: the same parts, another forward pass."""
    call_at_end(setattr, layer, "__class__", type(layer))
    layer.__class__ = kind


def _make_layer(packing: Packing, name: str, layer: nn.Linear) -> nn.Module:
    """Return the layer that stands for one in float."""
    if packing.method in _LAYERS:
        return _LAYERS[packing.method](layer, packing.weights[name].parts)
    size = packing.config.get("weight_block_size", (128, 128))
    with torch.device("meta"):
        made: nn.Module = load_fp8_layers().FP8Linear(
            layer.in_features,
            layer.out_features,
            block_size=None if size is None else tuple(size),
            activation_scheme=packing.config.get("activation_scheme", "dynamic"),
            has_bias=layer.bias is not None,
        )
    if layer.bias is not None:
        made.bias = layer.bias
    return made.requires_grad_(False)


def _multiply(x: Tensor, weight: Tensor, _scale: Tensor, _block: Any, dtype: torch.dtype, **_: Any) -> Tensor:
    """Allocate the result of the kernel that quantizes its input on the way (`finegrained_fp8_linear`)."""
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=dtype)
