"""What a checkpoint holds beside the model that was counted, added to the counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from inspector.model.checkpoint.diff import NotComparableError, collect_comparison_notices, compare_checkpoint
from inspector.model.checkpoint.format_diff import collect_format_notices, compare_with_format
from inspector.model.quantize import PACKED, BnbPlan, quantize_model
from inspector.quantization.declared import find_declared
from inspector.records.checkpoint import Comparison, FormatComparison, StoredTensor
from inspector.records.model import Census, Counted
from inspector.records.notice import Notice

__all__ = ["Beside", "add_comparison"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What stored tensors are set beside: the model as `build` makes it, how it is quantized, and its config.json."""

    build: Callable[[], PreTrainedModel]
    plan: BnbPlan | None
    config: Mapping[str, Any]


def add_comparison(counted: Counted, beside: Beside, stored: Mapping[str, StoredTensor]) -> Counted:
    """Add what of the stored tensors the model has and what not, or a notice that says why that is not known."""
    by_format = _compare_with_format(beside, stored)
    if by_format is not None:
        notices = (*counted.notices, *collect_format_notices(by_format))
        counted = dataclasses.replace(counted, by_format=by_format, notices=notices)
    try:
        comparison = compare_checkpoint(beside.build, stored, beside.config)
    except NotComparableError as error:
        if by_format is not None:  # which is the comparison then
            return counted
        message = f"The stored tensors were not set beside the model's: {error}."
        return dataclasses.replace(
            counted, notices=(*counted.notices, Notice(code="checkpoint-not-compared", message=message))
        )
    elements = sum(tensor.elements for tensor in stored.values())
    return dataclasses.replace(
        counted,
        census=_explain_published(counted.census, comparison, elements),
        comparison=comparison,
        notices=(*counted.notices, *collect_comparison_notices(comparison)),
    )


def _compare_with_format(beside: Beside, stored: Mapping[str, StoredTensor]) -> FormatComparison | None:
    """Return the stored tensors of a quantized checkpoint beside its format, where that has a rule."""
    declared = find_declared(beside.config)
    if not isinstance(declared, Mapping):
        return None
    packed = None
    if beside.plan is not None:
        model = quantize_model(beside.build(), beside.plan)
        packed = [name for name, parameter in model.named_parameters() if isinstance(parameter, PACKED)]
    return compare_with_format(beside.build, stored, declared, packed)


def _explain_published(census: Census, comparison: Comparison, stored_elements: int) -> Census:
    """Say why the published count differs, where it is that of the stored elements and these are all accounted for."""
    published, beyond = census.published, comparison.beyond_parameters
    if published is None or published.explanation is not None or published.parameters != stored_elements:
        return census
    if not sum(beyond.values()) or census.base + sum(beyond.values()) != stored_elements:
        return census
    parts = ", ".join(f"{count:+,} {reason.replace('_', ' ')}" for reason, count in beyond.items() if count)
    explained = dataclasses.replace(published, explanation=f"What is stored beside the parameters: {parts}.")
    return dataclasses.replace(census, published=explained)
