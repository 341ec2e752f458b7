"""The base weights quantized as bitsandbytes does on loading: transformers' rules say which, PEFT prepares the rest.

transformers replaces the modules itself (`replace_with_bnb_linear`), with the stand-in of `inspector.quantization` in
the place of the library; then every replaced weight is packed. An adapter goes on a model that PEFT's
`prepare_model_for_kbit_training` has prepared, as its documentation says: what is left in half precision becomes
float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizer_bnb_8bit import Bnb8BitHfQuantizer

from inspector.compat.transformers import mark_quantized
from inspector.dtypes import dtype_name
from inspector.errors import UnsupportedModelError, UsageError, one_line, quoted
from inspector.model.checkpoint.quantized import FLOATS, check_listed, measure_stored, name_float
from inspector.model.configuration import describe_error
from inspector.model.depth.worded import word
from inspector.model.roles import list_expert_banks
from inspector.model.sizes import count_bytes, count_weights
from inspector.names import fold_names
from inspector.quantization.bitsandbytes.modules import Int8Params, Params4bit
from inspector.quantization.bitsandbytes.stand_in import stand_in_for_bitsandbytes
from inspector.quantization.declared import find_declared
from inspector.quantization.formats import FORMATS
from inspector.quantization.layout import Matrix, NoRuleError
from inspector.records.model import QuantizationFacts
from inspector.records.notice import Notice
from inspector.units import format_bytes, format_count

__all__ = [
    "PACKED",
    "BnbPlan",
    "collect_experts_notices",
    "describe_quantization",
    "plan_quantization",
    "quantize_model",
]

PACKED = (Params4bit, Int8Params)
# What bitsandbytes packs 4-bit weights into (backends/cuda/ops.py, `quantize_4bit`).
STORAGES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class BnbPlan:
    """How weights are quantized: the method, and for 4 bits whether scales are packed too and the dtype of products.

    `storage` is the dtype of the tensors that hold 4-bit weights; one of floats can be sharded.
    """

    method: str
    compute_dtype: torch.dtype
    double_quant: bool = False
    storage: torch.dtype = torch.uint8
    skip: tuple[str, ...] | None = None
    from_checkpoint: bool = False

    def config(self) -> BitsAndBytesConfig:
        """Return transformers' configuration of it."""
        skip = list(self.skip) if self.skip is not None else None
        if self.method == "int8":
            return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.method,
            bnb_4bit_compute_dtype=self.compute_dtype,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_quant_storage=self.storage,
            llm_int8_skip_modules=skip,
        )


def plan_quantization(
    fields: Mapping[str, Any],
    requested: str | None,
    double_quant: bool | None,
    dtype: torch.dtype,
    storage: str | None = None,
) -> BnbPlan | None:
    """Return how bitsandbytes quantizes the weights, as it was asked for or as the checkpoint declares it.

    None where it does not. Raises UsageError for what contradicts itself or the checkpoint.
    """
    declared = find_declared(fields)
    if isinstance(declared, Mapping):
        return _read_declared(declared, requested, double_quant, storage)
    if requested in (None, "none", "int8") and double_quant is not None:
        raise UsageError(
            '`double_quant` packs the scales of 4-bit weights: add `quantization="nf4"`, or fp4, or drop it.'
        )
    if requested in (None, "none", "int8") and storage is not None:
        raise UsageError(
            '`quant_storage` is what 4-bit weights are packed into: add `quantization="nf4"`, or fp4, or drop it.'
        )
    if requested in (None, "none"):
        return None
    packed_in = getattr(torch, storage or "uint8")
    return BnbPlan(method=requested, compute_dtype=dtype, double_quant=bool(double_quant), storage=packed_in)


def _read_declared(
    declared: Mapping[str, Any], requested: str | None, double_quant: bool | None, storage: str | None
) -> BnbPlan | None:
    """Read what a checkpoint of bitsandbytes declares; it cannot be quantized a second time."""
    method = str(declared.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in declared else ""))
    if requested not in (None, "none") or double_quant is not None or storage is not None:
        raise UsageError(
            f"the checkpoint is quantized already ({one_line(method or 'an unnamed method', 40)}), and transformers "
            "does not quantize it again: drop `quantization`, or name the checkpoint that it was made from."
        )
    if method != "bitsandbytes" or requested == "none":
        return None
    try:
        config = BitsAndBytesConfig.from_dict(dict(declared))
        skip = config.llm_int8_skip_modules
        if skip is not None and not all(isinstance(name, str) for name in skip):
            raise ValueError("llm_int8_skip_modules is not a list of names")
        _check_values(config)
    except Exception as error:  # the fields are untrusted
        raise UnsupportedModelError(
            f"quantization_config of config.json is malformed ({describe_error(error)}); correct it."
        ) from error
    return BnbPlan(
        method="int8" if config.load_in_8bit else config.bnb_4bit_quant_type,
        compute_dtype=config.bnb_4bit_compute_dtype,
        double_quant=config.bnb_4bit_use_double_quant,
        storage=config.bnb_4bit_quant_storage,
        skip=None if skip is None else tuple(skip),
        from_checkpoint=True,
    )


def _check_values(config: BitsAndBytesConfig) -> None:
    """Raise ValueError for what transformers takes and bitsandbytes does not."""
    if not config.load_in_4bit and not config.load_in_8bit:
        raise ValueError("neither load_in_4bit nor load_in_8bit is true")
    if config.load_in_4bit and config.bnb_4bit_quant_type not in ("nf4", "fp4"):
        raise ValueError(f"bnb_4bit_quant_type is {quoted(config.bnb_4bit_quant_type, 40)}, not nf4 or fp4")
    if config.bnb_4bit_quant_storage not in STORAGES:
        raise ValueError(
            f"bnb_4bit_quant_storage is {config.bnb_4bit_quant_storage}, in which bitsandbytes packs nothing"
        )
    if config.bnb_4bit_compute_dtype not in FLOATS:
        raise ValueError(f"bnb_4bit_compute_dtype is {config.bnb_4bit_compute_dtype}, in which nothing is multiplied")


def quantize_model(model: PreTrainedModel, plan: BnbPlan) -> PreTrainedModel:
    """Quantize a skeleton in place, by transformers' rules.

    Raises UsageError where there is nothing to quantize, UnsupportedModelError where a checkpoint's own list of modules
    to leave out cannot be matched.
    """
    _check_skipped(model, plan)
    config = plan.config()
    is_int8 = plan.method == "int8"
    quantizer: HfQuantizer = (Bnb8BitHfQuantizer if is_int8 else Bnb4BitHfQuantizer)(config, pre_quantized=False)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    turned = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)}
    with stand_in_for_bitsandbytes():
        quantizer.preprocess_model(model, device_map=None)
    found = False
    for name, parameter in model.named_parameters():
        # Replaced modules are made in the default dtype; the checkpoint's comes with the weights.
        dtype = dtypes[name]
        if isinstance(parameter, PACKED):
            shape = parameter.logical_shape if isinstance(parameter, Params4bit) else parameter.shape
            parameter.quantize_from(torch.empty(shape, dtype=dtype, device="meta"))
            parameter.loaded_dtype = parameter.dtype if plan.from_checkpoint else dtype  # type: ignore[union-attr]
            parameter.is_stored_packed = plan.from_checkpoint  # type: ignore[union-attr]
            parameter.inputs_first = name in turned  # type: ignore[union-attr]
            found = True
        elif parameter.dtype is not dtype:
            parameter.data = parameter.data.to(dtype)
    if not found:
        raise UsageError(
            f"`quantization` {plan.method}: {type(model).__name__} has no linear layer that transformers would "
            "convert; drop the option."
        )
    setattr(model, "is_loaded_in_8bit" if is_int8 else "is_loaded_in_4bit", True)
    quantizer.pre_quantized = plan.from_checkpoint
    setattr(model, "hf_quantizer", quantizer)  # noqa: B010  # as from_pretrained leaves it; no tensor, no module
    # As `postprocess_model` marks a loaded model (quantizers/base.py, `_assign_is_quantized`): attention asks for the
    # dtype of the model then, and not for that of a weight.
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            mark_quantized(module.config)
    return model


def _check_skipped(model: PreTrainedModel, plan: BnbPlan) -> None:
    """Refuse a checkpoint whose list of modules to leave out cannot be matched with those of the model."""
    try:
        check_listed(model, plan.skip or ())
    except NoRuleError as error:
        raise UnsupportedModelError(
            f"quantization_config of config.json is malformed ({one_line(error)}); correct it."
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _ExpertsInFloat:
    """How many weights of experts stay in float, what they take as loaded, and whether PEFT makes them float32."""

    method: str
    count: int
    loaded_bytes: int
    grow: bool

    def word(self) -> Notice:
        """Say so."""
        stays = "transformers converts linear layers, and these are fused parameters."
        message = f"{format_count(self.count)} parameters of routed experts stay in float under {self.method}: {stays}"
        if self.grow:
            message = (
                f"Experts grow under {self.method}: {format_bytes(self.loaded_bytes)} become "
                f"{format_bytes(self.count * torch.float32.itemsize)}, as PEFT's prepare_model_for_kbit_training makes "
                f"{format_count(self.count)} parameters of them float32. They are not packed: {stays}"
            )
        return Notice(code="experts-in-float", message=message)


def collect_experts_notices(model: PreTrainedModel, plan: BnbPlan, *, is_prepared: bool) -> list[Notice]:
    """Say how many weights of routed experts stay in float: transformers converts linear layers alone.

    `is_prepared` says that PEFT prepares the model for an adapter, which makes them float32.
    """
    left = {
        parameter
        for _, bank in list_expert_banks(model)
        for parameter in bank.parameters()
        if not isinstance(parameter, PACKED)
    }
    size = sum(parameter.numel() for parameter in left)
    if not size:
        return []
    loaded = sum(parameter.numel() * parameter.element_size() for parameter in left)
    grow = is_prepared and loaded < size * torch.float32.itemsize
    return [word(_ExpertsInFloat(method=plan.method, count=size, loaded_bytes=loaded, grow=grow))]


def describe_quantization(model: PreTrainedModel, plan: BnbPlan, dequantized_bytes: int) -> QuantizationFacts:
    """Describe a model that `quantize_model` has made, before an adapter is on it."""
    converted: list[str] = []
    kept: list[str] = []
    packed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            (converted if isinstance(module.weight, PACKED) else kept).append(name)
    for parameter in model.parameters():
        (packed if isinstance(parameter, PACKED) else rest).append(parameter)
    weight_bytes = sum(parameter.numel() * parameter.element_size() for parameter in packed)
    return QuantizationFacts(
        method=plan.method,
        source="checkpoint" if plan.from_checkpoint else "request",
        compute_dtype=None if plan.method == "int8" else dtype_name(plan.compute_dtype),
        double_quant=None if plan.method == "int8" else plan.double_quant,
        modules=fold_names(converted),
        modules_count=len(converted),
        kept=fold_names(kept),
        parameters=sum(count_weights(parameter) for parameter in packed),
        weight_bytes=weight_bytes,
        scale_bytes=sum(count_bytes(parameter) for parameter in packed) - weight_bytes,
        kept_bytes=sum(
            parameter.numel() * getattr(parameter, "loaded_dtype", parameter.dtype).itemsize for parameter in rest
        ),
        stored_bytes=_count_stored_bytes(model, plan) if plan.from_checkpoint else None,
        dequantized_bytes=dequantized_bytes,
        trains=True,
    )


def _count_stored_bytes(model: PreTrainedModel, plan: BnbPlan) -> int | None:
    """Return the size of all tensors of a checkpoint that bitsandbytes has written, where it is known."""
    config = {
        "load_in_8bit": plan.method == "int8",
        "bnb_4bit_quant_type": plan.method,
        "bnb_4bit_use_double_quant": plan.double_quant,
    }
    rule = FORMATS["bitsandbytes"].rule
    packed = {}
    for name, parameter in model.named_parameters():
        if isinstance(parameter, PACKED):
            rows, columns = parameter.logical_shape if isinstance(parameter, Params4bit) else parameter.shape
            packed[name] = rule(config, Matrix(rows=rows, columns=columns, dtype=name_float(model.dtype)))
    return measure_stored(model, packed, packed.values())
