"""A checkpoint that is stored quantized: which weights of the model are, and what they weigh by the format's rule.

Which modules are converted follows transformers' own quantizers (`get_modules_to_not_convert`, `should_convert_module`)
and compressed-tensors' `ignore`; the fused experts of the model are matrices of their own in the checkpoint, as many as
there are experts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from inspector.compat.transformers import float32_modules_of
from inspector.dtypes import BY_TORCH_NAME, dtype_name
from inspector.errors import one_line, quoted
from inspector.model.patterns import MatchCall, PatternError, check_patterns, is_plain
from inspector.model.roles import list_expert_banks
from inspector.names import fold_names
from inspector.quantization.compressed_tensors import is_ignored
from inspector.quantization.declared import MLX
from inspector.quantization.formats import FORMATS, KNOWN, find_format, find_training_support
from inspector.quantization.layout import Format, Matrix, NoRuleError, Packed, Skips
from inspector.records.model import QuantizationFacts
from inspector.records.notice import Notice

__all__ = [
    "FLOATS",
    "check_listed",
    "collect_stored_notices",
    "describe_stored",
    "find_packed_weights",
    "measure_stored",
    "name_float",
]

# The dtypes in which quantized weights are multiplied, and in which formats keep their scales.
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_MOST_NAMES = 20_000
# How transformers matches the names in such lists (quantizers_utils.py, `should_convert_module`), and how
# compressed-tensors does what follows `re:`.
_BY_TRANSFORMERS = MatchCall(function="match", before="(?:", after=r")(?:(?<=\.)|(?=\.|$))")
_BY_COMPRESSED_TENSORS = MatchCall(function="match")


def describe_stored(model: PreTrainedModel, config: Mapping[str, Any]) -> QuantizationFacts:
    """Describe a model in float whose checkpoint declares the quantization `config`."""
    method = find_format(config)
    trains, condition = find_training_support(config)
    facts = QuantizationFacts(
        method=one_line(method, 40) or "unnamed",
        source="checkpoint",
        dequantized_bytes=sum(_measure(parameter) for parameter in model.parameters()),
        trains=trains,
        note=condition and f"{condition[0].upper()}{condition[1:]}.",
    )
    format_ = FORMATS.get(method)
    if format_ is None:
        why = KNOWN.get(method, "it is not known here")
        return dataclasses.replace(facts, note=f"No rule for this format: {why}.")
    try:
        weights = {
            name: (parameter, matrices) for name, parameter, matrices in find_packed_weights(model, config, format_)
        }
        packed = [format_.rule(config, matrix) for _, matrices in weights.values() for matrix in matrices]
    except NoRuleError as error:
        return dataclasses.replace(facts, note=f"No rule for this configuration: {one_line(error)}.")
    if not weights:
        nothing = "No weight of this model is one that the format packs."
        facts = dataclasses.replace(facts, note=nothing)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    modules = [name.removesuffix(".weight") for name in weights]
    return dataclasses.replace(
        facts,
        modules=fold_names(modules),
        modules_count=len(weights),
        kept=fold_names(name for name in linear if f"{name}.weight" not in weights),
        parameters=sum(parameter.numel() for parameter, _ in weights.values()),
        weight_bytes=sum(part.weight_bytes for part in packed),
        scale_bytes=sum(part.scale_bytes for part in packed),
        kept_bytes=facts.dequantized_bytes - sum(_measure(parameter) for parameter, _ in weights.values()),
        stored_bytes=measure_stored(model, () if format_.on_loading else weights, () if format_.on_loading else packed),
    )


def measure_stored(model: PreTrainedModel, weights: Container[str], packed: Iterable[Packed]) -> int | None:
    """Return the size of all tensors in a checkpoint of the model where `packed` stand for `weights`, where known."""
    sizes = [matrix.stored_bytes for matrix in packed]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return None
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = sum(_measure(tensor) for name, tensor in model.state_dict().items() if name not in every)
    kept = sum(_measure(parameter) for name, parameter in model.named_parameters() if name not in weights)
    return sum(known) + kept + buffers


def name_float(dtype: torch.dtype) -> str:
    """Return safetensors' name of a dtype of FLOATS, and F32 for any other."""
    name = BY_TORCH_NAME[dtype_name(dtype)].safetensors if dtype in FLOATS else None
    return name or "F32"


def _measure(parameter: Tensor) -> int:
    """Return the bytes of a parameter as it is before anything is packed."""
    return parameter.numel() * parameter.element_size()


def collect_stored_notices(facts: QuantizationFacts, how: str | None = None) -> list[Notice]:
    """Say what the report's other figures are about: the model as it is used, in float; `how` its step is traced."""
    if facts.method == MLX:
        message = (
            "The weights are packed for MLX, which from_pretrained refuses: parameters are counted as the model that "
            "they were made from has them, and its step is traced; name that model for what can be trained."
        )
        return [Notice(code="does-not-load", message=message)]
    known = ""
    if facts.loaded_bytes is None:
        known = f" {facts.note}"
    traced = how or f"with the weights dequantized.{known}"
    message = (
        f"The checkpoint is stored quantized ({facts.method}): parameters are counted as the model uses them, and its "
        f"step is traced {traced}"
    )
    return [Notice(code="quantized-checkpoint", message=message)]


def find_packed_weights(
    model: PreTrainedModel, config: Mapping[str, Any], format_: Format
) -> Iterator[tuple[str, Tensor, list[Matrix]]]:
    """Yield (name, parameter, matrices in the checkpoint) of what the format converts; raises NoRuleError."""
    is_converted = _choose_converted(model, config, format_)
    if not format_.experts_only:
        linear_types = (nn.Linear, Conv1D) if format_.conv1d else (nn.Linear,)
        for name, module in model.named_modules():
            if type(module) in linear_types and is_converted(name):
                yield f"{name}.weight", module.weight, [_describe_matrix(module)]
    for name, bank in list_expert_banks(model):
        if isinstance(bank, (nn.ModuleList, nn.ModuleDict)) or not is_converted(name):
            continue
        for own, parameter in bank.named_parameters(recurse=False):
            if parameter.dim() == 3:
                yield f"{name}.{own}", parameter, _describe_experts(bank, own, parameter, format_)


def _describe_matrix(module: nn.Module) -> Matrix:
    """Return the weight of a linear layer; GPT-2's `Conv1D` has inputs first."""
    assert isinstance(module.weight, Tensor)
    rows, columns = module.weight.shape[::-1] if isinstance(module, Conv1D) else module.weight.shape
    return Matrix(rows=rows, columns=columns, dtype=name_float(module.weight.dtype))


def _describe_experts(bank: nn.Module, name: str, parameter: Tensor, format_: Format) -> list[Matrix]:
    """Return the matrices that a fused parameter of experts is in a checkpoint: gate and up are two."""
    experts, rows, columns = parameter.shape
    if getattr(bank, "is_transposed", False):
        rows, columns = columns, rows
    dtype = name_float(parameter.dtype)
    if name.startswith("gate_up") and not format_.experts_only:
        return [Matrix(rows=rows // 2, columns=columns, copies=experts, dtype=dtype)] * 2
    return [Matrix(rows=rows, columns=columns, copies=experts, dtype=dtype)]


def _choose_converted(model: PreTrainedModel, config: Mapping[str, Any], format_: Format) -> Callable[[str], bool]:
    """Return what tells by its name whether a module is converted."""
    listed: Any = config.get(format_.skip_key, config.get("ignored_layers"))
    if listed is not None and not _are_names(listed):
        raise NoRuleError(f"{format_.skip_key} is not a list of names")
    check_listed(model, listed or [])
    if format_.skip_key == "ignore":
        return lambda name: not is_ignored(name, "Linear", listed)
    if format_.skip_key == "skip_modules":
        ends = tuple(f".{name}" for name in (["lm_head"] if listed is None else listed))
        return lambda name: not f".{name}".endswith(ends)
    plain = None if listed is None else [name.removeprefix("re:") for name in listed]
    skipped = HfQuantizer.get_modules_to_not_convert(
        model, plain, list(float32_modules_of(model) or ()), add_default_skips=format_.skips is Skips.ALWAYS
    )
    # One pattern for all: a module that is held against hundreds of names compiles each of them anew.
    pattern = "|".join(f"(?:{name})" for name in skipped)
    if not all(map(is_plain, skipped)):
        _check_calls(model, [(pattern, _BY_TRANSFORMERS)])
    only: Any = config.get("modules_in_block_to_quantize") if format_.in_blocks else None
    if only and not (isinstance(only, list) and all(_are_names(group) for group in only)):
        raise NoRuleError("modules_in_block_to_quantize is not a list of lists of names")
    chosen = tuple(f".{name}" for group in only for name in group) if only else None

    def is_converted(name: str) -> bool:
        if format_.in_blocks and not any(part.isdigit() for part in name.split(".")):
            return False
        if chosen is not None and not name.endswith(chosen):
            return False
        if not skipped:
            return True
        return bool(should_convert_module(name, [pattern])) and not name.endswith(tuple(skipped))

    return is_converted


def _are_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)


def check_listed(model: nn.Module, names: Sequence[str]) -> None:
    """Raise NoRuleError for too long a list of modules to leave out, and for a name in it that cannot be matched."""
    if len(names) > _MOST_NAMES:
        raise NoRuleError(f"it lists {len(names):,} modules to leave out")
    plain = [(name.removeprefix("re:"), _BY_TRANSFORMERS) for name in names]
    _check_calls(model, plain + [(name, _BY_COMPRESSED_TENSORS) for name, _ in plain])


def _check_calls(model: nn.Module, calls: Sequence[tuple[str, MatchCall]]) -> None:
    """Raise NoRuleError for what cannot be matched with the names of the model's modules."""
    try:
        check_patterns(calls, [name for name, _ in model.named_modules()])
    except PatternError as error:
        raise NoRuleError(f"{quoted(error.text, 60)} among the modules to leave out {error}") from error
