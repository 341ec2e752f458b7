"""PEFT configuration + skeleton -> the model with its adapter, attached by PEFT's own code on the meta device.

The attachment runs under `torch.device("meta")`, so that nothing is allocated and no random number is drawn. PEFT's
own `low_cpu_mem_usage` would do as much, but makes a new parameter of each one registered and so parts shared ones
(`ensure_weight_tying`, `layer_replication`); it is left to those attempts that make tensors for real. A few
methods read values while they attach (BOFT checks a permutation, Uni-LoRA counts indices): for those the adapter's
own tensors are made for real, which costs what the adapter weighs. SHiRA draws a mask over each weight, of which only
the shape counts: its base weights become zeros that take no memory. What depends on the values of the weights
(AdaMSS, whose ranks follow their singular values; FRoD's joint decomposition) cannot be counted without them and is
refused by name.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from typing import Any, cast

import accelerate
import peft
import torch
from peft import PeftConfig, PeftModel
from peft.tuners import AdaptionPromptModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from inspector.compat.peft import BufferDict
from inspector.compat.torch import children_of, parameters_of
from inspector.dtypes import BY_TORCH_NAME, DTYPES, dtype_name
from inspector.errors import InspectorError, UnsupportedModelError, UsageError, quoted
from inspector.model.adapter.config import list_changed_fields
from inspector.model.adapter.patterns import check_config_patterns
from inspector.model.adapter.peft_names import strip_wrappers
from inspector.model.census import BaseCount, count_base
from inspector.model.configuration import describe_error
from inspector.model.untrusted.bounds import bound_modules
from inspector.names import fold_names, near_names
from inspector.records.model import AdapterFacts, MatchedNames

__all__ = [
    "attach_adapter",
    "describe_adapter",
    "detach_adapter",
    "find_adapted_layers",
    "find_saved_modules",
    "measure_adapter_file",
]

# What safetensors writes before the data: an 8-byte length, then JSON padded with spaces to 8 bytes.
# Source: safetensors/src/tensor.rs (serialize), and the format's README.
_SAFETENSORS_LENGTH_BYTES = 8


def attach_adapter(
    build: Callable[[], PreTrainedModel], config: PeftConfig, *, autocast_adapter_dtype: bool = True
) -> tuple[PeftModel, BaseCount]:
    """Return the model that `build` makes with the adapter attached, and the count of that same model before it.

    `build` is called again when the first attempt failed, since PEFT changes the model in place.
    `autocast_adapter_dtype` is that of `get_peft_model`.
    Raises UsageError when PEFT refuses (an unknown target) or would match a pattern for too long, UnsupportedModelError
    when the method needs real weights.
    """
    method = _name_method(config)
    if method in _FOLLOWS_VALUES:
        raise _refuse_without_weights(method)
    for prepare in _PREPARATIONS.get(method, (_make_all_on_meta, _make_adapter_for_real)):
        model = build()
        try:
            check_config_patterns(config, model)
            context = prepare(model)
            base = count_base(model)
            with torch.random.fork_rng(devices=[]), bound_modules(), context:
                attached = peft.get_peft_model(
                    model,
                    copy.deepcopy(config),
                    autocast_adapter_dtype=autocast_adapter_dtype,
                    low_cpu_mem_usage=prepare is not _make_all_on_meta,
                )
            assert isinstance(attached, PeftModel), "get_peft_model makes other models only when asked for mixed ones"
            if not autocast_adapter_dtype:
                _follow_base_dtypes(attached)
            _count_prompt_tokens(attached)
            return attached, base
        except InspectorError:
            raise
        except (NotImplementedError, RuntimeError) as error:
            if "meta" not in str(error).lower():
                raise _explain_refusal(model, config, error) from error
            cause = error
        except Exception as error:  # 45 methods raise any class
            raise _explain_refusal(model, config, error) from error
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
            method = _name_method(model.active_peft_config)
            raise UnsupportedModelError(
                f"PEFT cannot take {method} off again ({describe_error(error)}): pass the base model and the PEFT "
                "config."
            ) from error
        return base
    if isinstance(copied.base_model, AdaptionPromptModel):
        copied.base_model.disable_adapter_layers()  # puts the attention modules that it wrapped back
    return cast(PreTrainedModel, copied.get_base_model())


def describe_adapter(model: PeftModel, asked: PeftConfig) -> AdapterFacts:
    """Return what the adapter is and what it hit; `asked` is the configuration before PEFT expanded it."""
    return AdapterFacts(
        type=_name_method(asked),
        config=list_changed_fields(asked),
        targets=_match_targets(model, asked),
        modules_to_save=_match_saved(model, asked),
        file_bytes=measure_adapter_file(model),
    )


def measure_adapter_file(model: PeftModel) -> int | None:
    """Return the size in bytes of adapter_model.safetensors as `save_pretrained` would write it.

    None where PEFT computes with values to save the adapter (CPT projects its prompt): the size is not known then.
    Header and data follow the safetensors format: entries sorted by dtype (widest first) and name, offsets without
    gaps.
    """
    try:
        with _StayOnMeta(), _hide_base_name(model.active_peft_config):
            state = peft.get_peft_model_state_dict(model, adapter_name=model.active_adapter)
    except Exception as error:  # some methods look into their configuration only now
        if isinstance(error, (NotImplementedError, RuntimeError)) and "meta" in str(error).lower():
            return None
        raise UsageError(
            f"PEFT cannot save this adapter ({describe_error(error)}); correct the adapter's configuration."
        ) from error
    dtypes = {name: BY_TORCH_NAME[dtype_name(tensor.dtype)] for name, tensor in state.items()}
    entries = sorted(state.items(), key=lambda item: (-DTYPES.index(dtypes[item[0]]), item[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in entries:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": dtypes[name].safetensors,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    padded = -(-len(text) // 8) * 8
    return _SAFETENSORS_LENGTH_BYTES + padded + end


def find_adapted_layers(model: PeftModel) -> list[tuple[str, BaseTunerLayer]]:
    """Return (name in the base model, layer) of every module or single parameter that carries an adapter."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            parameter = getattr(module, "parameter_name", None)
            path = strip_wrappers(model, name)
            found.append((f"{path}.{parameter}" if parameter else path, module))
    return found


def find_saved_modules(model: PeftModel) -> list[tuple[str, ModulesToSaveWrapper]]:
    """Return (name in the base model, wrapper) of every module that is trained and saved as a copy."""
    return [
        (strip_wrappers(model, name), module)
        for name, module in model.named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    ]


@contextlib.contextmanager
def _hide_base_name(config: PeftConfig) -> Iterator[None]:
    """Hide the name of the base, for which PEFT would ask the Hub to compare vocabularies; attaching set it."""
    name = config.base_model_name_or_path
    config.base_model_name_or_path = None
    try:
        yield
    finally:
        config.base_model_name_or_path = name


class _StayOnMeta(TorchFunctionMode):
    """Answer `.cpu()` with the tensor itself: PEFT moves prompt embeddings there to save them, and meta has no data."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func is torch.Tensor.cpu else func(*args, **(kwargs or {}))


def _make_all_on_meta(_model: PreTrainedModel) -> contextlib.AbstractContextManager[Any]:
    """Keep PEFT from allocating data inside the block: tensors that it creates are on the meta device."""
    context: contextlib.AbstractContextManager[Any] = accelerate.init_empty_weights(include_buffers=True)
    return context


def _make_adapter_for_real(_model: PreTrainedModel) -> contextlib.AbstractContextManager[Any]:
    """Let PEFT make its tensors for real before it moves them to meta."""
    return contextlib.nullcontext()


def _zero_weights(model: PreTrainedModel) -> contextlib.AbstractContextManager[Any]:
    """Give every base parameter the value zero without memory: one real element, expanded to the shape.

    Packed weights have none: an element of theirs is two codes or a code, and what draws positions in the matrix that
    they stand for would draw them in the packed one.
    """
    zeros: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in parameters_of(module).items():
            if parameter is not None and not parameter.dtype.is_floating_point:
                raise UsageError(
                    f"this adapter is put on weights in float, and those of {type(model).__name__} are quantized: "
                    "drop `quantization`, or use another adapter, such as LoRA."
                )
            if parameter is not None:
                zero = nn.Parameter(torch.zeros((), dtype=parameter.dtype).expand(parameter.shape))
                parameters_of(module)[name] = zeros.setdefault(parameter, zero)
    return contextlib.nullcontext()


# Methods whose shapes follow the values of the base weights: singular values, or a decomposition over all layers.
_FOLLOWS_VALUES = frozenset({"ADAMSS", "FROD"})


def _refuse_without_weights(method: str) -> UnsupportedModelError:
    """Say that a method cannot be counted without the weights."""
    return UnsupportedModelError(
        f"{method} computes with the values of the base weights while PEFT attaches it, and without a download "
        "there are none: it cannot be counted here."
    )


# What the attempts are for methods that a run wholly on meta would miscount.
_PREPARATIONS = {
    # PEFT moves the rank counters to the base's device, which makes new parameters of them that train, although the
    # code before says that they do not; on meta there is nothing to move.
    # (peft/tuners/adalora/layer.py update_layer, tuners_utils.py _move_adapter_to_device_of_base_layer)
    "ADALORA": (_make_adapter_for_real,),
    # Draws r * (rows + columns) positions in each weight: shapes alone count (peft/tuners/shira/mask_functions.py).
    "SHIRA": (_zero_weights,),
}


def _explain_refusal(model: PreTrainedModel, config: PeftConfig, error: Exception) -> UsageError:
    """Turn PEFT's refusal into one line that names the target and what was probably meant."""
    targets = getattr(config, "target_modules", None)
    names = [targets] if isinstance(targets, str) else sorted(targets or [])
    leaves = {name.rpartition(".")[2] for name, module in model.named_modules() if _is_linear(module)}
    linears = ", ".join(sorted(leaves)[:12])
    if names and "not found in the base model" in str(error):
        leaf = names[0].rpartition(".")[2]
        if leaf in leaves:
            return UsageError(
                f"target {quoted(', '.join(names))} is in {type(model).__name__}, but layers_to_transform, "
                "exclude_modules or the rest of its path leaves nothing of it: correct these."
            )
        if isinstance(targets, str) and not targets.isidentifier():
            return UsageError(
                f"target {quoted(targets)} matches no module of {type(model).__name__}; write a regular expression "
                f"that matches the whole path: .*({'|'.join(sorted(leaves)[:2])})."
            )
        near = near_names(leaf, leaves)
        hint = f"Did you mean {', '.join(near)}?" if near else f"The linear layers are {linears}: name some."
        return UsageError(f"target {quoted(', '.join(names))} matches no module of {type(model).__name__}. {hint}")
    if "specify `target_modules`" in str(error) or "No `target_modules` passed" in str(error):
        return UsageError(
            f"PEFT has no default targets for model type {quoted(model.config.model_type)}: add "
            f'`target_modules="all-linear"`, or name some of {linears}.'
        )
    if names and "is not supported. Currently" in str(error):
        return UsageError(
            f"target {quoted(', '.join(names))} matches a module of {type(model).__name__} that PEFT's "
            f"{_name_method(config)} cannot adapt; name linear layers: {linears}."
        )
    return UsageError(
        f"PEFT refuses {_name_method(config)} on {type(model).__name__} ({describe_error(error)}); "
        "correct the adapter's configuration."
    )


def _name_method(config: PeftConfig) -> str:
    """Return PEFT's name of the method, such as LORA."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def _is_linear(module: nn.Module) -> bool:
    """Tell whether PEFT's `all-linear` would count a module as linear."""
    return isinstance(module, (nn.Linear, Conv1D))


def _match_targets(model: PeftModel, asked: PeftConfig) -> MatchedNames | None:
    """Return which modules the adapter sits on and which names of the request hit none."""
    layers = [name for name, _ in find_adapted_layers(model)]
    if not layers:
        return None
    targets = getattr(asked, "target_modules", None)
    unmatched = []
    if isinstance(targets, (list, tuple, set)):
        unmatched = [name for name in sorted(targets) if not any(_ends_with(layer, name) for layer in layers)]
    return MatchedNames(matched=fold_names(layers), matched_count=len(layers), unmatched=unmatched)


def _match_saved(model: PeftModel, asked: PeftConfig) -> MatchedNames | None:
    """Return which modules are trained and saved as copies and which names of the request hit none."""
    saved = [name for name, _ in find_saved_modules(model)]
    names = list(getattr(asked, "modules_to_save", None) or [])
    if not saved and not names:
        return None
    # PEFT matches the end of the whole path, not of a component (peft.utils.other._set_trainable).
    unmatched = [name for name in names if not any(module.endswith(name) for module in saved)]
    return MatchedNames(matched=fold_names(saved), matched_count=len(saved), unmatched=unmatched)


def _ends_with(path: str, name: str) -> bool:
    """Tell whether PEFT's suffix rule matches a module path to a target name."""
    return path == name or path.endswith(f".{name}")
