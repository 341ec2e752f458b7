"""What would make a step fit: known changes of the recipe, each traced, in the order of the harm that they do.

The first ones change nothing of what is learned, the later ones do. A change that does not apply to the request, or
with which the step cannot run, is left out. `inspect plan` has ways of its own, made of the same kind of changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from inspector.dtypes import FOUR_BIT
from inspector.errors import InspectorError
from inspector.planning.fewest_changes import MOST_TRIALS, Chosen, Outcome, fitting_changes
from inspector.planning.predictor import Progress, Trials
from inspector.records.fit import Advice, Purpose
from inspector.records.hardware import Gpu
from inspector.records.recipe import Recipe
from inspector.records.request import LoraOptions, Request
from inspector.records.source import SourceFiles
from inspector.workloads.training.trace_ import NotTraceableError

__all__ = [
    "LORA",
    "NF4",
    "Change",
    "changed",
    "changes_of",
    "find_advice",
    "has_adapter",
    "is_stored_quantized",
    "options_text",
]

# Fields of the request and of its recipe with their new values.
Change = Mapping[str, Any]
LORA = LoraOptions(r=16, targets="all-linear")
# The adapter on 4-bit weights is in float32 (model/build.py).
NF4: Change = {"quantization": "nf4", "double_quant": True, "autocast_adapter_dtype": True}
_OF_A_RECIPE = frozenset(each.name for each in dataclasses.fields(Recipe))
_ADAMW = ("adamw_torch", "adamw_torch_fused")
_Files = SourceFiles | None


def has_adapter(request: Request, files: _Files) -> bool:
    """Tell whether an adapter is trained: one that was asked for, or the one that was named."""
    return request.peft is not None or (files is not None and files.adapter_config is not None)


def is_stored_quantized(files: _Files) -> bool:
    """Tell whether the checkpoint declares a quantization."""
    return files is not None and "quantization_config" in files.config


def _fused_optimizer(request: Request, _files: _Files) -> Change | None:
    recipe = request.recipe
    return {"optimizer": "adamw_torch_fused"} if recipe.optimizer == "adamw_torch" and not recipe.optim_args else None


def _checkpointing(request: Request, _files: _Files) -> Change | None:
    return None if request.recipe.gradient_checkpointing else {"gradient_checkpointing": True}


def _flash_attention(request: Request, _files: _Files) -> Change | None:
    attention = request.recipe.attention
    return None if attention == "flash_attention_2" else {"attention": "flash_attention_2"}


def _small_batch(request: Request, _files: _Files) -> Change | None:
    """Take one row after the other into the same gradients."""
    rows = request.recipe.batch_size
    if rows == 1:
        return None
    return {"batch_size": 1, "gradient_accumulation": rows * request.recipe.gradient_accumulation}


def _eight_bit_optimizer(request: Request, _files: _Files) -> Change | None:
    return {"optimizer": "adamw_8bit"} if request.recipe.optimizer in _ADAMW and not request.recipe.optim_args else None


def _adapter_dtype(request: Request, files: _Files) -> Change | None:
    """Leave the adapter in the half precision of its base."""
    applies = has_adapter(request, files) and request.autocast_adapter_dtype and request.quantization not in FOUR_BIT
    return {"autocast_adapter_dtype": False} if applies else None


def _packed_base(request: Request, files: _Files) -> Change | None:
    """Keep the frozen base in 4 bits, scales packed too."""
    if not has_adapter(request, files) or is_stored_quantized(files):
        return None
    if request.quantization not in FOUR_BIT:
        return NF4
    return None if request.double_quant else {"double_quant": True}


def _short_rows(request: Request, _files: _Files) -> Change | None:
    length = request.recipe.seq_len
    return {"seq_len": length // 2} if length is not None and length > 1 else None


def _lora(request: Request, files: _Files) -> Change | None:
    return None if has_adapter(request, files) else {"peft": LORA}


def _lora_in_the_dtype_of_its_base(request: Request, files: _Files) -> Change | None:
    return None if has_adapter(request, files) else {"peft": LORA, "autocast_adapter_dtype": False}


def _lora_on_a_packed_base(request: Request, files: _Files) -> Change | None:
    return None if has_adapter(request, files) or is_stored_quantized(files) else {"peft": LORA, **NF4}


# Where a model is trained whole, adapters come last: they train something else.
_CHANGES: tuple[Callable[[Request, _Files], Change | None], ...] = (
    _fused_optimizer,
    _checkpointing,
    _flash_attention,
    _small_batch,
    _eight_bit_optimizer,
    _adapter_dtype,
    _packed_base,
    _short_rows,
    _lora,
    _lora_in_the_dtype_of_its_base,
    _lora_on_a_packed_base,
)


def changes_of(request: Request, files: SourceFiles | None) -> list[Change]:
    """Return the changes that apply to a request, the least harmful first."""
    return [change for change in (make(request, files) for make in _CHANGES) if change is not None]


def changed(request: Request, change: Change) -> Request:
    """Return the request with a change made."""
    recipe = {name: value for name, value in change.items() if name in _OF_A_RECIPE}
    others = {name: value for name, value in change.items() if name not in _OF_A_RECIPE}
    return dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, **recipe), **others)


def options_text(change: Change) -> str:
    """Return a change as options of the command; what it leaves at its default is not said."""
    return " ".join(filter(None, (_option(name, value) for name, value in change.items())))


def _option(name: str, value: object) -> str:
    if name == "autocast_adapter_dtype":
        return "" if value else "--no-autocast-adapter-dtype"
    if value in (None, False):
        return ""
    if isinstance(value, LoraOptions):
        return f"--lora r={value.r} --targets {value.targets}"
    option = f"--{name.replace('_', '-')}"
    return option if value is True else f"{option} {value}"


def find_advice(
    request: Request, files: _Files, gpu: Gpu, total_bytes: int, trials: Trials, progress: Progress
) -> tuple[tuple[Advice, ...], int]:
    """Return changes with which the step of `request` runs on `gpu`, and the least total that any trial came to.

    `total_bytes` is what the step takes as it is. What the step refuses is no trace and does not count as one.
    """
    changes = changes_of(request, files)
    made = 0
    least = total_bytes

    def merged(chosen: Chosen) -> Change:
        return {name: value for each in chosen for name, value in changes[each].items()}

    def tried(chosen: Chosen) -> Outcome:
        nonlocal made, least
        asked = changed(request, merged(chosen))
        is_new = not trials.knows(asked)
        if is_new and made == MOST_TRIALS:
            return None
        progress(f"what would make it fit, trace {made + 1}: {options_text(merged(chosen))}")
        try:
            trial = trials.run(asked)
        except (NotTraceableError, InspectorError):  # flash attention in float32, for one
            return None
        made += is_new
        least = min(least, trial.total_bytes)
        return trial.on(gpu).fits, trial.total_bytes

    found = fitting_changes(len(changes), total_bytes, tried)
    advice = tuple(
        Advice(
            purpose=Purpose.FIT,
            change=options_text(merged(chosen)),
            total_bytes=trials.run(changed(request, merged(chosen))).total_bytes,
        )
        for chosen in found
    )
    return advice, least
