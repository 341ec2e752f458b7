"""Headers of a quantized checkpoint beside the tensors that its format makes of the model: names, shapes, bytes.

The float checkpoint of the model is what transformers would save of it: its own `revert_weight_conversion` takes the
fused experts apart and renames them. Weights that the format packs are then replaced by its tensors. Shapes and sizes
are compared; dtypes of the same size count as equal, since a checkpoint may keep its scales in either half type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict
from transformers.pytorch_utils import Conv1D

from inspector.dtypes import BY_TORCH_NAME, dtype_name
from inspector.errors import one_line
from inspector.model.checkpoint.quantized import find_packed_weights, name_float
from inspector.model.roles import list_expert_banks
from inspector.names import fold_names
from inspector.quantization.formats import FORMATS, find_format
from inspector.quantization.layout import Format, Matrix, NoRuleError
from inspector.records.checkpoint import FormatComparison, FormatDifference, StoredTensor
from inspector.records.notice import Notice

__all__ = ["collect_format_notices", "compare_with_format", "find_packed_names"]

# Marks the tensors that the format packs while transformers takes them apart: no checkpoint is stored in it.
_MARK = torch.complex128


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expected:
    """What a checkpoint of the format holds; `varying` are names of texts whose length depends on data."""

    tensors: Mapping[str, StoredTensor]
    varying: frozenset[str]


def compare_with_format(
    build: Callable[[], PreTrainedModel],
    stored: Mapping[str, StoredTensor],
    config: Mapping[str, Any],
    packed: Iterable[str] | None = None,
) -> FormatComparison | None:
    """Return the stored tensors beside those of the format; None where no rule covers it.

    `packed` are the names of the weights that are packed, where they are known already.
    """
    method = find_format(config)
    format_ = FORMATS.get(method)
    if format_ is None:
        return None
    model = build()
    try:
        names = find_packed_names(model, config, format_) if packed is None else set(packed)
        expected = _list_expected(model, set() if format_.on_loading else names, config, format_)
    except NoRuleError:
        return None
    differing = sorted(
        name for name in expected.tensors.keys() | expected.varying | stored.keys() if _differ(expected, stored, name)
    )
    return FormatComparison(
        method=one_line(method, 40),
        expected_bytes=sum(tensor.bytes for tensor in expected.tensors.values()),
        stored_bytes=sum(tensor.bytes for tensor in stored.values()),
        varying_bytes=sum(stored[name].bytes for name in expected.varying if name in stored),
        differences=_fold_differences(differing, expected.tensors, stored),
    )


def find_packed_names(model: PreTrainedModel, config: Mapping[str, Any], format_: Format) -> set[str]:
    """Return the names of the model's parameters that the format packs; raises NoRuleError."""
    return {name for name, _, _ in find_packed_weights(model, config, format_)}


def collect_format_notices(comparison: FormatComparison) -> list[Notice]:
    """Say that the headers are not what the format says, and where first."""
    if not comparison.differences:
        return []
    beyond = comparison.stored_bytes - comparison.expected_bytes - comparison.varying_bytes
    first = comparison.differences[0]
    how = "of another size"
    if first.stored_shape is None:
        how = "not stored"
    elif first.expected_shape is None:
        how = "not expected"
    size = "as many as" if not beyond else f"{abs(beyond):,} {'more' if beyond > 0 else 'fewer'} than"
    message = (
        f"The checkpoint is stored in {comparison.stored_bytes:,} bytes, {size} its format ({comparison.method}) makes "
        f"of the model, but otherwise: {one_line(first.names[0], 120)} is {how}."
    )
    return [Notice(code="stored-otherwise", message=message)]


def _list_expected(model: PreTrainedModel, packed: set[str], config: Mapping[str, Any], format_: Format) -> _Expected:
    """Return the tensors that a checkpoint of the model holds in this format."""
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    state = {
        name: torch.empty(tensor.shape, dtype=_MARK, device="meta") if name in packed else tensor
        for name, tensor in remove_tied_weights_from_state_dict(model.state_dict(), model).items()
    }
    turned = _find_inputs_first(model)
    dtype = next((name_float(dtypes[name]) for name in sorted(packed)), "F32")
    tensors: dict[str, StoredTensor] = {}
    varying: set[str] = set()
    for name, tensor in revert_weight_conversion(model, state).items():
        if tensor.dtype is not _MARK:
            tensors[name] = _describe_stored(tensor)
            continue
        if tensor.dim() != (3 if format_.experts_only else 2):
            raise NoRuleError("how its experts are stored, which the model holds as one parameter, is not known here")
        for part in format_.rule(config, _describe_matrix(tensor, dtype, is_turned=name in turned)).parts:
            own = name.removesuffix(".weight") + part.suffix
            if part.shape is None:
                varying.add(own)
            else:
                tensors[own] = StoredTensor(dtype=part.dtype, shape=part.shape, bytes=part.bytes or 0)
    return _Expected(tensors=tensors, varying=frozenset(varying))


def _find_inputs_first(model: PreTrainedModel) -> set[str]:
    """Return the names of the weights that have inputs before outputs: GPT-2's, and fused experts of some models."""
    names = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)}
    for name, bank in list_expert_banks(model):
        if getattr(bank, "is_transposed", False):
            names.update(f"{name}.{own}" for own, _ in bank.named_parameters(recurse=False))
    return names


def _describe_matrix(tensor: Tensor, dtype: str, *, is_turned: bool) -> Matrix:
    """Return a weight as outputs by inputs, with one copy for each expert of a fused one."""
    rows, columns = tensor.shape[-2:]
    if is_turned:
        rows, columns = columns, rows
    return Matrix(rows=rows, columns=columns, copies=tensor.shape[0] if tensor.dim() == 3 else 1, dtype=dtype)


def _describe_stored(tensor: Tensor) -> StoredTensor:
    """Return a tensor of the model as it is stored."""
    known = BY_TORCH_NAME.get(dtype_name(tensor.dtype))
    name = known.safetensors if known is not None else None
    return StoredTensor(dtype=name or "F32", shape=tuple(tensor.shape), bytes=tensor.numel() * tensor.element_size())


def _differ(expected: _Expected, stored: Mapping[str, StoredTensor], name: str) -> bool:
    """Tell whether a side lacks the name, or has it in another shape or size."""
    actual = stored.get(name)
    if name in expected.varying:
        return actual is None
    wanted = expected.tensors.get(name)
    return wanted is None or actual is None or (wanted.shape, wanted.bytes) != (actual.shape, actual.bytes)


def _fold_differences(
    names: Iterable[str], expected: Mapping[str, StoredTensor], stored: Mapping[str, StoredTensor]
) -> tuple[FormatDifference, ...]:
    """Group names whose expected and stored tensors are equal, with their layers folded."""
    groups: dict[tuple[StoredTensor | None, StoredTensor | None], list[str]] = {}
    for name in names:
        groups.setdefault((expected.get(name), stored.get(name)), []).append(name)
    return tuple(
        FormatDifference(
            names=tuple(fold_names(group)),
            tensors=len(group),
            expected_dtype=wanted.dtype if wanted else None,
            expected_shape=wanted.shape if wanted else None,
            expected_bytes=wanted.bytes * len(group) if wanted else 0,
            stored_dtype=actual.dtype if actual else None,
            stored_shape=actual.shape if actual else None,
            stored_bytes=actual.bytes * len(group) if actual else 0,
        )
        for (wanted, actual), group in groups.items()
    )
