"""What to say of the dtypes that a run trains in on its card, of what trains in name alone, and of models left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from inspector.names import fold_names, join_names
from inspector.records.assumptions import ASSUMED, DIFFERENCE, LAYERS_DIFFER
from inspector.records.memory import WithoutGradient
from inspector.records.model import Counted
from inspector.records.notice import LEFT_OUT, Notice
from inspector.records.request import Request
from inspector.resolve import ResolvedRun
from inspector.units import format_bytes

if TYPE_CHECKING:
    from inspector.workloads.base import RunFacts  # loads torch

__all__ = [
    "find_assumption_notices",
    "find_idle_notices",
    "find_missing_models",
    "find_precision_notices",
    "leave_out_media",
]

# Ampere; before, torch.cuda.is_bf16_supported() says yes to an emulation (torch/cuda/__init__.py).
_FIRST_WITH_BFLOAT16 = (8, 0)
# Stages of training files whose step is one pass over rows with labels.
_SUPERVISED = (None, "sft", "pt")


def leave_out_media(request: Request, facts: RunFacts) -> tuple[Request, Notice] | None:
    """Return a request for text alone, with what to say of it, where a trace with media that nobody asked for fails.

    None where the batch has none, or they were asked for.
    """
    recipe, media = request.recipe, facts.media
    asked = (recipe.images, recipe.image_size, recipe.audio_seconds, recipe.videos)
    if media is None or any(value is not None for value in asked):
        return None
    kind = "images" if media.kind == "images" else "sound"
    message = (
        f"The traced batch has text alone, since a step with {kind} of this model is not traced yet: what their tower "
        "keeps and the positions they take are missing."
    )
    request = dataclasses.replace(request, recipe=dataclasses.replace(recipe, images=0))
    return request, Notice(code=LEFT_OUT[kind], message=message)


def find_precision_notices(run: ResolvedRun, counted: Counted) -> Iterator[Notice]:
    """Yield a notice where a card has no bfloat16 of its own, and where weights train in float16."""
    mixed, trained = run.recipe.mixed_precision, counted.census.trainable_dtypes
    is_bfloat16 = counted.model.dtype == "bfloat16" or mixed == "bf16"
    if is_bfloat16 and run.platform.compute_capability < _FIRST_WITH_BFLOAT16:
        name = "This card" if run.gpu is None else f"The {run.gpu.name}"
        # Gradients of float16 cannot be unscaled: what trains has to be float32, as an adapter is.
        dtype = "float32" if counted.adapter is None or "float32" not in trained else "float16"
        message = (
            f'{name} has no bfloat16 of its own and emulates it, which is slow: usual there are `dtype="{dtype}"` and '
            '`mixed_precision="fp16"`.'
        )
        yield Notice(code="bfloat16-emulated", message=message)
    if run.workload.trains and "float16" in trained and mixed == "no":
        message = (
            "Weights train in float16 and nothing scales the loss: small gradients and updates become 0, and training "
            'usually diverges. Usual are `dtype="bfloat16"`, or `dtype="float32"` with `mixed_precision`.'
        )
        yield Notice(code="float16-training", message=message)


def find_idle_notices(without_gradient: Sequence[WithoutGradient]) -> Iterator[Notice]:
    """Yield a notice where trained parameters get no gradient, with the modules that hold them."""
    if not without_gradient:
        return
    count, size = (sum(getattr(item, name) for item in without_gradient) for name in ("parameters", "bytes"))
    modules = join_names(fold_names(dict.fromkeys(item.name.rpartition(".")[0] for item in without_gradient)), 3)
    what = f"{count:,} trained parameters ({format_bytes(size)})"
    message = f"{what} get no gradient in this step and do not change: {modules}."
    yield Notice(code="no-gradient", message=message)


def find_assumption_notices(assumed: AbstractSet[str]) -> Iterator[Notice]:
    """Yield a notice for each thing that a trace assumed of floating-point numbers and read, and for layers apart."""
    for code, message in (*ASSUMED.items(), (LAYERS_DIFFER, DIFFERENCE)):
        if code in assumed:
            yield Notice(code=code, message=message)


def find_missing_models(run: ResolvedRun) -> str | None:
    """Return what the step of a file's stage runs beside the one that is traced for it, such as the models of PPO."""
    record = None if run.request.source is None else run.request.source.file
    if record is None or record.stage in _SUPERVISED or run.recipe.stage is not None:
        return None
    return next((item.why for item in record.not_modelled if item.value == record.stage), None)
