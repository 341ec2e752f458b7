"""Stored tensors beside the module tree: what loading takes, leaves and draws at random, by transformers' own loader.

Checkpoints are not stored under the names of the modules: transformers renames keys, fuses experts, splits and
transposes while it loads (conversion_mapping.py), adds or drops the prefix of the base model, knows tied weights and
keys to ignore. None of it is repeated here. `from_pretrained` itself loads a state dict of meta tensors in the stored
shapes and dtypes into a model on meta, and its own loading report is the answer. It moves no data and asks no server.

Not covered: packed formats (GPTQ, AWQ, bitsandbytes, MXFP4), whose names and shapes are those of a quantizer that needs
its libraries: `inspector.model.checkpoint.format_diff` holds them against their format. Block-scaled FP8 is compared,
its scales set aside.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from inspector.compat.transformers import ADJUST_REPORT, adjust_report_of
from inspector.dtypes import BY_SAFETENSORS_NAME
from inspector.errors import CompatibilityError, one_line
from inspector.model.configuration import find_text_config
from inspector.model.untrusted.bounds import bound_modules
from inspector.names import fold_names
from inspector.quantization.declared import find_declared
from inspector.records.checkpoint import Comparison, NamedTensors, ShapeDifference, StoredTensor
from inspector.records.notice import Notice
from inspector.runtime.patches import replace_item, restore_changes

__all__ = ["NotComparableError", "collect_comparison_notices", "compare_checkpoint", "load_one_by_one"]

# Stored tensors for one of the model's. 384 experts in three matrices with scales are fused into two parameters, of
# some fifteen that a layer has: Kimi-K2 stores 72 for one. Far beyond that, renaming them only takes time.
_MOST_FOR_ONE = 1_000
# What FP8 stores beside a weight of the same name and shape: the scale of each block.
_FP8_METHODS = ("fp8",)
_FP8_SCALES = (".weight_scale_inv", ".weight_scale", ".input_scale", ".activation_scale")


class NotComparableError(Exception):
    """The checkpoint cannot be compared with the model; `str()` says why, in words that follow "because"."""


def compare_checkpoint(
    build: Callable[[], PreTrainedModel], stored: Mapping[str, StoredTensor], config: Mapping[str, Any]
) -> Comparison:
    """Return how the stored tensors fit the model that `build` makes; NotComparableError where that is not known."""
    method = _find_method(config)
    if method is not None and method not in _FP8_METHODS:
        raise NotComparableError(f"it is stored quantized ({method}), in other tensors than the model's")
    scales = {name for name in stored if method and name.endswith(_FP8_SCALES)}
    model = build()
    expected: dict[str, torch.Tensor] = model.state_dict()
    if len(stored) > _MOST_FOR_ONE * len(expected):
        raise NotComparableError(f"it holds {len(stored):,} tensors, and the model has {len(expected):,}")
    report = _load_report(model, {name: tensor for name, tensor in stored.items() if name not in scales})
    missing = {name for name in report["missing_keys"] if name in expected}
    unexpected = _find_stored_names(set(report["unexpected_keys"]), stored, model)
    mismatched = sorted(report["mismatched_keys"], key=str)
    shapes = [(name, tuple(shape), tuple(own)) for name, shape, own in mismatched]
    fused = _measure_fused(expected, stored, missing | {name for name, _, _ in mismatched})
    return Comparison(
        not_in_model=_name_tensors(unexpected, {name: stored[name].elements for name in unexpected if name in stored}),
        not_in_checkpoint=_name_tensors(missing, {name: expected[name].numel() for name in missing}),
        mismatched=tuple(ShapeDifference(name=str(name), stored=shape, model=own) for name, shape, own in shapes),
        refusal=report.get("refusal"),
        beyond_parameters={
            "not_in_model": sum(stored[name].elements for name in unexpected),
            "scales": sum(stored[name].elements for name in scales),
            **_count_beside_parameters(model, stored, missing),
            "other_shape": sum(math.prod(shape) - math.prod(own) for _, shape, own in shapes),
        },
        fused_bytes=sum(fused),
        largest_fused_bytes=max(fused, default=0),
    )


def collect_comparison_notices(comparison: Comparison) -> list[Notice]:
    """Say what of the model the checkpoint does not fill: it trains from random numbers, or does not load at all."""
    notices = []
    missing = comparison.not_in_checkpoint
    if missing.tensors:
        names = ", ".join(one_line(name, 80) for name in missing.names[:3])
        remainder = f" and {len(missing.names) - 3} more" if len(missing.names) > 3 else ""
        message = (
            f"The checkpoint does not hold {missing.parameters:,} of the model's elements: loading draws them at "
            f"random ({names}{remainder})."
        )
        notices.append(Notice(code="initialised-at-random", message=message))
    if comparison.refusal:
        message = f"from_pretrained refuses this checkpoint: {comparison.refusal}."
        notices.append(Notice(code="does-not-load", message=message))
    if comparison.mismatched:
        first = comparison.mismatched[0]
        message = (
            f"{len(comparison.mismatched):,} stored tensors have another shape than the model's, which from_pretrained "
            f"refuses: {one_line(first.name, 120)} is {list(first.stored)} in the checkpoint and {list(first.model)} "
            "in the model."
        )
        notices.append(Notice(code="shape-mismatch", message=message))
    return notices


def _find_method(config: Mapping[str, Any]) -> str | None:
    """Return the method of a checkpoint that is stored quantized, or None."""
    declared = find_declared(config) or config.get("compression_config")
    if not isinstance(declared, Mapping):
        return None
    return one_line(declared.get("quant_method", "an unnamed method"), 40)


def _load_report(model: PreTrainedModel, stored: Mapping[str, StoredTensor]) -> Mapping[str, Any]:
    """Return what `from_pretrained` reports on loading tensors of these shapes and dtypes."""
    config = copy.deepcopy(model.config)
    # FP8 weights have the names and shapes of the model's; its quantizer wants a GPU before it loads anything.
    for part in (config, find_text_config(config)):
        vars(part).pop("quantization_config", None)
    found: dict[str, Any] = {}
    try:
        tensors = {name: _make_meta(tensor) for name, tensor in stored.items()}
        with bound_modules(), load_one_by_one():
            _report_to(type(model), found).from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=model.dtype,
                device_map={"": "meta"},
                ignore_mismatched_sizes=True,
            )
    except CompatibilityError:
        raise
    except Exception as error:  # 400 classes over untrusted names can raise anything
        reason = f"{type(error).__name__}: {one_line(error).rstrip('.!')}"
        if "missing_keys" not in found:
            raise NotComparableError(
                f"transformers cannot load tensors of these names and shapes ({reason})"
            ) from error
        found["refusal"] = reason  # raised when all had been placed, over parts that do not make a whole
    return found


def _report_to(model_class: type[PreTrainedModel], found: dict[str, Any]) -> type[PreTrainedModel]:
    """Return the class with nothing changed but that its loading report goes to `found` before it is shortened.

    Classes list keys that their report passes over, DeepSeek-V3's multi-token prediction among them.
    """

    def adjust(self: PreTrainedModel, report: Any) -> None:
        found.update(
            missing_keys=set(report.missing_keys),
            unexpected_keys=set(report.unexpected_keys),
            mismatched_keys=set(report.mismatched_keys),
        )
        adjust_report_of(model_class)(self, report)

    # Conversions are looked up by the name of the class, and code from elsewhere is recognised by its module.
    fields = {ADJUST_REPORT: adjust, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), fields)


def _make_meta(tensor: StoredTensor) -> torch.Tensor:
    """Return a tensor without data of this shape and dtype; what torch has no dtype for is bytes of the same shape."""
    known = BY_SAFETENSORS_NAME.get(tensor.dtype)
    dtype: torch.dtype = getattr(torch, known.torch) if known is not None and known.torch is not None else torch.uint8
    return torch.empty(tensor.shape, dtype=dtype, device="meta")


@contextlib.contextmanager
def load_one_by_one() -> Iterator[None]:
    """Keep transformers' loader from its threads (core_model_loading.py).

    Without data to read 18,867 tensors take 1.6 s instead of 3.6; on a GPU, what threads leave between blocks is
    chance.
    """
    with restore_changes():
        replace_item(os.environ, "HF_DEACTIVATE_ASYNC_LOAD", "1")
        yield


def _find_stored_names(unexpected: set[str], stored: Mapping[str, StoredTensor], model: PreTrainedModel) -> set[str]:
    """Return names that the loader did not place as they are stored: it reports them after its renaming."""
    renamed = unexpected - stored.keys()
    if not renamed:
        return unexpected
    with contextlib.suppress(ImportError, TypeError):  # no public names: other releases may have others
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        mapping = get_model_conversion_mapping(model)
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        expected = model.state_dict()
        for name in stored:
            target, _ = rename_source_key(name, renamings, converters, model.base_model_prefix, expected)
            if target in renamed:
                unexpected.add(name)
    return unexpected & stored.keys()


def _count_beside_parameters(
    model: PreTrainedModel, stored: Mapping[str, StoredTensor], missing: set[str]
) -> dict[str, int]:
    """Return the stored elements of buffers and of tied parameters under a second name, and, negative, what is missing.

    With what the model does not have, these lead from the number of unique parameters to that of stored elements.
    """
    names: dict[int, list[str]] = {}
    sizes: dict[int, int] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        sizes[id(parameter)] = parameter.numel()
    parameters = {name for shared in names.values() for name in shared}
    buffers = [tensor for name, tensor in model.state_dict().items() if name not in parameters | missing]
    copies = {key: sum(name in stored for name in shared) - 1 for key, shared in names.items()}
    absent = [sizes[key] for key, shared in names.items() if missing.issuperset(shared)]
    return {
        "buffers": sum(buffer.numel() for buffer in buffers),
        "tied": sum(count * sizes[key] for key, count in copies.items() if count > 0),
        "not_in_checkpoint": -sum(absent),
    }


def _name_tensors(names: set[str], elements: Mapping[str, int]) -> NamedTensors:
    return NamedTensors(tensors=len(names), parameters=sum(elements.values()), names=tuple(fold_names(sorted(names))))


def _measure_fused(
    expected: Mapping[str, torch.Tensor], stored: Mapping[str, StoredTensor], left: set[str]
) -> list[int]:
    """Return the sizes of parameters that are put together: those of a shape that no stored tensor has."""
    shapes = {tensor.shape for tensor in stored.values()}
    return [
        tensor.numel() * tensor.element_size()
        for name, tensor in expected.items()
        if name not in left and tuple(tensor.shape) not in shapes
    ]
