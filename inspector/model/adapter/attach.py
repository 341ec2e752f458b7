"""PEFT configuration + skeleton -> the model with its adapter, attached by PEFT's own code on the meta device.

The attachment runs under `torch.device("meta")`, so that nothing is allocated and no random number is drawn. PEFT's
own `low_cpu_mem_usage` would do as much, but makes a new parameter of each one registered and so parts shared ones
(`ensure_weight_tying`, `layer_replication`); it is left to those attempts that make tensors for real. A few
methods read values while they attach (BOFT checks a permutation, Uni-LoRA counts indices): for those the adapter's
own tensors are made for real, which costs what the adapter weighs. SHiRA draws places in each weight, of which only the
number counts: they are left out here and put in by `off_meta`. FRoD and AdaMSS decompose the weights: `by_shape` says
how they run on meta. X-LoRA loads adapters: `mixed` attaches them by their configurations.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any, cast

import accelerate
import peft
import torch
from peft import PeftConfig, PeftModel
from peft.tuners import AdaptionPromptModel
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from inspector.compat.peft import BufferDict
from inspector.compat.torch import children_of, parameters_of
from inspector.errors import InspectorError, UnsupportedModelError, UsageError
from inspector.model.adapter.butterfly import stand_in_for_extension
from inspector.model.adapter.by_shape import cluster_evenly, decompose_by_shape, refuse_unknown_ranks
from inspector.model.adapter.config import name_method
from inspector.model.adapter.mixed import METHOD, attach_by_configuration, check_classifier, list_mixed
from inspector.model.adapter.off_meta import complete_adapter
from inspector.model.adapter.patterns import check_config_patterns
from inspector.model.adapter.peft_names import find_adapted_layers
from inspector.model.adapter.refusals import explain_refusal
from inspector.model.adapter.targets import spell_out_linear
from inspector.model.adapter.token_rows import check_token_rows
from inspector.model.census import BaseCount, count_base
from inspector.model.configuration import describe_error
from inspector.model.untrusted.bounds import bound_modules

__all__ = ["attach_adapter", "detach_adapter"]


def attach_adapter(
    build: Callable[[], PreTrainedModel], config: PeftConfig, *, autocast_adapter_dtype: bool = True
) -> tuple[PeftModel, BaseCount]:
    """Return the model that `build` makes with the adapter attached, and the count of that same model before it.

    `build` is called again when the first attempt failed, since PEFT changes the model in place.
    `autocast_adapter_dtype` is that of `get_peft_model`.
    Raises UsageError when PEFT refuses (an unknown target) or would match a pattern for too long, UnsupportedModelError
    when the method needs real weights.
    """
    method = name_method(config)
    for prepare in _PREPARATIONS.get(method, (_make_all_on_meta, _make_adapter_for_real)):
        model = build()
        spell_out_linear(config, model)
        tried = copy.deepcopy(config)
        for name, value in _LEFT_OUT.items():
            if hasattr(tried, name):
                setattr(tried, name, value)
        try:
            for part in (config, *list_mixed(config)):
                check_config_patterns(part, model)
            check_token_rows(config, model)
            check_classifier(config, model)
            context = prepare(model)
            base = count_base(model)
            with torch.random.fork_rng(devices=[]), bound_modules(), stand_in_for_extension(config), context:
                attached = peft.get_peft_model(
                    model,
                    tried,
                    autocast_adapter_dtype=autocast_adapter_dtype,
                    low_cpu_mem_usage=prepare is _make_adapter_for_real,
                )
            assert isinstance(attached, PeftModel), "get_peft_model makes other models only when asked for mixed ones"
            if not autocast_adapter_dtype:
                _follow_base_dtypes(attached)
            complete_adapter(attached)
            refuse_unknown_ranks(attached, config)
            _count_prompt_tokens(attached)
            return attached, base
        except InspectorError:
            raise
        except (NotImplementedError, RuntimeError) as error:
            if "meta" not in str(error).lower():
                raise explain_refusal(model, config, tried, error) from error
            cause = error
        except Exception as error:  # 45 methods raise any class
            raise explain_refusal(model, config, tried, error) from error
    raise _refuse_without_weights(method) from cause


def _follow_base_dtypes(model: PeftModel) -> None:
    """Give the adapter of each layer the dtype of its base, which PEFT does not do on meta.

    Elsewhere it moves an adapter to the device and the floating-point dtype of its layer, and then makes half precision
    float32 by default (tuners/tuners_utils.py, `_move_adapter_to_device_of_base_layer`).
    """
    for _, layer in find_adapted_layers(model):
        base = layer.get_base_layer()
        base = base.out_proj if isinstance(base, nn.MultiheadAttention) else base
        weight = getattr(base, getattr(layer, "parameter_name", None) or "weight", None)
        dtype = getattr(base, "compute_dtype", None if weight is None else weight.dtype)
        if dtype is None or not dtype.is_floating_point:
            continue
        for name in (*layer.adapter_layer_names, *layer.other_param_names):
            parts = getattr(layer, name, None)
            if isinstance(parts, (nn.ModuleDict, nn.ParameterDict, BufferDict)) and model.active_adapter in parts:
                _cast(parts[model.active_adapter], dtype)


def _cast(part: nn.Module | torch.Tensor, dtype: torch.dtype) -> None:
    """Cast what an adapter holds for one layer in place; integers stay what they are."""
    for tensor in [part] if isinstance(part, torch.Tensor) else [*part.parameters(), *part.buffers()]:
        if tensor.dtype.is_floating_point:
            tensor.data = tensor.data.to(dtype)


def _count_prompt_tokens(model: PeftModel) -> None:
    """Give the numbers of virtual tokens, which PEFT keeps on the CPU outside buffers, their values (peft_model.py)."""
    numbers: dict[str, torch.Tensor] = getattr(model, "prompt_tokens", {})
    for name, tokens in numbers.items():
        numbers[name] = torch.arange(tokens.numel())


def detach_adapter(model: PeftModel) -> PreTrainedModel:
    """Return the base of a live PeftModel: the same parameters in a copy of the module tree, the adapter taken off.

    Raises UnsupportedModelError for a method that PEFT cannot take off.
    """
    copied = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    # `unload` would put the trained copies in the place of the originals: a tied head would come back untied.
    for module in list(copied.modules()):
        for name, child in module.named_children():
            if isinstance(child, ModulesToSaveWrapper):
                children_of(module)[name] = child.original_module
    if isinstance(copied.base_model, BaseTuner):
        try:
            base: PreTrainedModel = copied.unload()
        except Exception as error:  # not every method of PEFT can be unloaded
            method = name_method(model.active_peft_config)
            raise UnsupportedModelError(
                f"PEFT cannot take {method} off again ({describe_error(error)}): pass the base model and the PEFT "
                "config."
            ) from error
        return base
    if isinstance(copied.base_model, AdaptionPromptModel):
        copied.base_model.disable_adapter_layers()  # puts the attention modules that it wrapped back
    return cast(PreTrainedModel, copied.get_base_model())


def _make_all_on_meta(_model: PreTrainedModel) -> contextlib.AbstractContextManager[Any]:
    """Keep PEFT from allocating data inside the block: tensors that it creates are on the meta device."""
    context: contextlib.AbstractContextManager[Any] = accelerate.init_empty_weights(include_buffers=True)
    return context


def _make_adapter_for_real(_model: PreTrainedModel) -> contextlib.AbstractContextManager[Any]:
    """Let PEFT make its tensors for real before it moves them to meta."""
    return contextlib.nullcontext()


def _draw_no_places(model: PreTrainedModel) -> contextlib.AbstractContextManager[Any]:
    """Refuse packed weights, in which PEFT would draw places of the matrix that they stand for."""
    for module in model.modules():
        for parameter in parameters_of(module).values():
            if parameter is not None and not parameter.dtype.is_floating_point:
                raise UsageError(
                    f"this adapter is put on weights in float, and those of {type(model).__name__} are quantized: "
                    "drop `quantization`, or use another adapter, such as LoRA."
                )
    return _make_all_on_meta(model)


def _refuse_without_weights(method: str) -> UnsupportedModelError:
    """Say that a method cannot be counted without the weights."""
    return UnsupportedModelError(
        f"{method} computes with the values of the base weights while PEFT attaches it, and without a download "
        "there are none: it cannot be counted here."
    )


# What PEFT shows or draws while it attaches, and no size hangs on: a bar, and the mask of SHiRA's places.
_LEFT_OUT = {"progressbar": False, "mask_fn": None}

# What the attempts are for methods that a run wholly on meta would miscount.
_PREPARATIONS = {
    # PEFT moves the rank counters to the base's device, which makes new parameters of them that train, although the
    # code before says that they do not; on meta there is nothing to move.
    # (peft/tuners/adalora/layer.py update_layer, tuners_utils.py _move_adapter_to_device_of_base_layer)
    "ADALORA": (_make_adapter_for_real,),
    "SHIRA": (_draw_no_places,),
    "FROD": (decompose_by_shape,),
    "ADAMSS": (cluster_evenly,),
    METHOD: (attach_by_configuration,),
}
