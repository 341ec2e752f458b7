"""What would make a step fit: known changes of the recipe, each traced, in the order of the harm that they do.

The first ones change nothing of what is learned, the later ones do. A change that does not apply to the request, or
with which the step cannot run, is left out. `inspect plan` takes its rows from the same changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from inspector.errors import InspectorError
from inspector.fit.changes import MOST_TRIALS, Chosen, Outcome, fitting_changes
from inspector.fit_records import Advice, Gpu
from inspector.records import LoraOptions, Request
from inspector.trace.training import NotTraceableError
from inspector.trials import Progress, Trials

__all__ = ["LORA", "Change", "changed", "find_advice", "options_text"]

LORA = LoraOptions(r=16, targets="all-linear")
# Fields of the recipe, and `peft`, with their new values.
Change = Mapping[str, Any]
_ADAMW = ("adamw_torch", "adamw_torch_fused")


def _fused_optimizer(request: Request) -> Change | None:
    recipe = request.recipe
    return {"optimizer": "adamw_torch_fused"} if recipe.optimizer == "adamw_torch" and not recipe.optim_args else None


def _checkpointing(request: Request) -> Change | None:
    return None if request.recipe.gradient_checkpointing else {"gradient_checkpointing": True}


def _flash_attention(request: Request) -> Change | None:
    attention = request.recipe.attention
    return None if attention == "flash_attention_2" else {"attention": "flash_attention_2"}


def _small_batch(request: Request) -> Change | None:
    """Take one row after the other into the same gradients."""
    rows = request.recipe.batch_size
    if rows == 1:
        return None
    return {"batch_size": 1, "gradient_accumulation": rows * request.recipe.gradient_accumulation}


def _eight_bit_optimizer(request: Request) -> Change | None:
    return {"optimizer": "adamw_8bit"} if request.recipe.optimizer in _ADAMW and not request.recipe.optim_args else None


def _short_rows(request: Request) -> Change | None:
    length = request.recipe.seq_len
    return {"seq_len": length // 2} if length is not None and length > 1 else None


def _lora(request: Request) -> Change | None:
    return {"peft": LORA} if request.peft is None else None


_CHANGES: tuple[Callable[[Request], Change | None], ...] = (
    _fused_optimizer,
    _checkpointing,
    _flash_attention,
    _small_batch,
    _eight_bit_optimizer,
    _short_rows,
    _lora,
)


def changed(request: Request, change: Change) -> Request:
    """Return the request with a change made."""
    recipe = {name: value for name, value in change.items() if name != "peft"}
    request = dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, **recipe))
    return dataclasses.replace(request, peft=change["peft"]) if "peft" in change else request


def options_text(change: Change) -> str:
    """Return a change as options of the command."""
    return " ".join(_option(name, value) for name, value in change.items() if value not in (None, False))


def _option(name: str, value: object) -> str:
    if isinstance(value, LoraOptions):
        return f"--lora r={value.r} --targets {value.targets}"
    option = f"--{name.replace('_', '-')}"
    return option if value is True else f"{option} {value}"


def find_advice(
    request: Request, gpu: Gpu, total_bytes: int, trials: Trials, progress: Progress
) -> tuple[tuple[Advice, ...], int]:
    """Return changes with which the step of `request` runs on `gpu`, and the least total that any trial came to.

    `total_bytes` is what the step takes as it is.
    """
    changes = [change for change in (make(request) for make in _CHANGES) if change is not None]
    made = 0
    least = total_bytes

    def merged(chosen: Chosen) -> Change:
        return {name: value for each in chosen for name, value in changes[each].items()}

    def tried(chosen: Chosen) -> Outcome:
        nonlocal made, least
        asked = changed(request, merged(chosen))
        if not trials.knows(asked):
            if made == MOST_TRIALS:
                return None
            made += 1
            progress(f"what would make it fit, trace {made}: {options_text(merged(chosen))}")
        try:
            trial = trials.run(asked)
        except (NotTraceableError, InspectorError):  # flash attention in float32, for one
            return None
        least = min(least, trial.total_bytes)
        return trial.on(gpu).fits, trial.total_bytes

    found = fitting_changes(len(changes), total_bytes, tried)
    advice = tuple(
        Advice(
            change=options_text(merged(chosen)), total_bytes=trials.run(changed(request, merged(chosen))).total_bytes
        )
        for chosen in found
    )
    return advice, least
