"""Which weights of a checkpoint stay packed while an adapter trains on them, and in which layers.

A model is counted in float; where the stack trains on the packed weights and what it allocates then is known, its step
is traced on them (`inspector.workloads.packed`). That is a plain LoRA in float32 on linear layers of AWQ, GPTQ, FP8 or
torchao's int8, on one card or a rank of DDP. Elsewhere the weights are traced dequantized.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear, LoraLayer
from torch import nn
from transformers import PreTrainedModel

from inspector.compat.transformers import load_fp8_layers
from inspector.model.checkpoint.quantized import collect_stored_notices, find_packed_weights
from inspector.quantization.formats import FORMATS, find_format, find_torchao_type
from inspector.quantization.layout import NoRuleError, Packed
from inspector.records.model import QuantizationFacts
from inspector.records.notice import Notice
from inspector.records.request import Request

__all__ = ["Packing", "find_packing", "mark_packed", "note_packing"]

# What a report says of the step on each kind.
_KINDS: Mapping[str, str] = {
    "awq": "as GPTQModel's Triton layers take them, which unpack a weight for each product; load it with "
    'AwqConfig(backend="auto_trainable"), others of its layers refuse to train',
    "gptq": "as GPTQModel trains on them: each weight is unpacked in the forward pass and kept for the backward pass, "
    "so that all are there at once without checkpointing; load it with "
    'GPTQConfig(backend="auto_trainable"), others of its layers refuse to train',
    "torchao": "as torchao multiplies by them: each weight is cast in the forward pass and kept for the backward pass, "
    "so that all are there at once without checkpointing",
    "fp8": "as transformers' FP8 layers take them, which unpack a weight in the backward pass; GPUs before compute "
    "capability 8.9 load it dequantized, and are judged so",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """The method of a checkpoint, its `quantization_config`, and what stands for each weight, by the module's name."""

    method: str
    config: Mapping[str, Any]
    weights: Mapping[str, Packed]


def note_packing(model: PreTrainedModel, declared: Any) -> PreTrainedModel:
    """Write on a skeleton how its checkpoint is packed, where layers are known that train on that."""
    if isinstance(declared, Mapping) and (method := find_format(declared)) in _KINDS and _is_known(method, declared):
        format_ = FORMATS[method]
        try:
            weights = {
                name.removesuffix(".weight"): [format_.rule(declared, matrix) for matrix in matrices]
                for name, _, matrices in find_packed_weights(model, declared, format_)
            }
        except NoRuleError:
            return model
        linear = {name for name, module in model.named_modules() if type(module) is nn.Linear}
        if weights and weights.keys() <= linear:  # not experts in one parameter, not GPT-2's layers
            packed = {name: matrices[0] for name, matrices in weights.items()}
            model.weights_as_stored = Packing(method=method, config=declared, weights=packed)  # type: ignore[assignment]
    return model


def _is_known(method: str, config: Mapping[str, Any]) -> bool:
    """Tell whether it is known what the layers of a configuration allocate."""
    if method == "gptq":
        return config.get("bits") in (2, 4, 8)
    if method == "fp8":
        has_backward = hasattr(load_fp8_layers(), "FP8LinearFunction")
        return has_backward and config.get("scale_fmt", "float") == "float" and not config.get("dequantize")
    if method == "torchao":
        return find_torchao_type(config) == "Int8WeightOnlyConfig"
    return True


def find_packing(model: nn.Module) -> Packing | None:
    """Return how the weights of a model stay packed in a step, None where they are traced in float."""
    if not isinstance(model, PeftModel):
        return None
    packing: Packing | None = getattr(model.get_base_model(), "weights_as_stored", None)
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if packing is None or not layers or not all(_is_plain(layer) for layer in layers):
        return None
    return packing


def _is_plain(layer: Any) -> bool:
    """Tell whether a layer is LoRA as PEFT puts it on packed weights: no variant, matrices in float32."""
    matrices = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    return (
        type(layer) is Linear
        and not getattr(layer, "lora_variant", None)
        and all(parameter.dtype is torch.float32 for parameter in matrices)
    )


def mark_packed(facts: QuantizationFacts, model: PeftModel, request: Request) -> tuple[QuantizationFacts, list[Notice]]:
    """Return the facts of a stored format with whether a step is traced on packed weights, and what to say of it."""
    spread = (request.sharding, request.device_map, request.tensor_parallel, request.expert_parallel)
    is_alone = request.workload == "training" and not any(spread)
    if not is_alone or find_packing(model) is None:
        return facts, collect_stored_notices(facts)
    facts = dataclasses.replace(facts, traced_packed=True)
    return facts, collect_stored_notices(facts, f"on its packed weights, {_KINDS[facts.method]}.")
