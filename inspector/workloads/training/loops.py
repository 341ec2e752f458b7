"""The training step itself: plain PyTorch, the same code whether its tensors have data or not.

`on_phase` is called before each phase, so that whoever watches (the tracer, or a measurement on a real GPU) can draw
the line between them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from inspector.records.tape import Phase
from inspector.workloads.base import base_model
from inspector.workloads.inputs import map_tensors
from inspector.workloads.precision import MixedPrecision
from inspector.workloads.training.losses import Loss, find_loss, shifts_labels
from inspector.workloads.training.offloading import Around

__all__ = ["find_device", "run_plain_steps", "run_trainer_steps"]


# The label of positions that do not count in the loss (torch.nn.functional.cross_entropy, ignore_index).
_IGNORED = -100


def run_plain_steps(
    model: nn.Module,
    batch: Mapping[str, Tensor | bool],
    optimizer: torch.optim.Optimizer,
    on_phase: Callable[[Phase, int], None],
    *,
    steps: int,
    max_grad_norm: float = 0.0,
    gradient_accumulation: int = 1,
    mixed_precision: str = "no",
    how: Loss | None = None,
    around: Around = contextlib.nullcontext,
) -> tuple[Any, ...]:
    """Run forward, backward, clip, optimizer step and zero_grad `steps` times, as a bare PyTorch loop does.

    The outputs live until the step is over; `max_grad_norm` 0 turns clipping off. Mixed precision is autocast around
    the forward pass, and for fp16 a GradScaler; `around` is entered around both passes of a micro-batch. Returns what
    the loop still holds: nothing.
    """
    precision = MixedPrecision(mixed_precision, find_device(batch, model))
    how = how or find_loss(model)
    forward = how.build_forward(model)
    for step in range(1, steps + 1):
        for _ in range(gradient_accumulation):
            with around():
                on_phase(Phase.FORWARD, step)
                with precision.autocast():
                    loss, outputs = how.compute_loss(forward, batch, {})
                on_phase(Phase.BACKWARD, step)
                precision.backward(loss)
        on_phase(Phase.OPTIMIZER, step)
        if max_grad_norm > 0:
            precision.unscale(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        precision.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
        del loss, outputs
    return ()


def run_trainer_steps(
    model: nn.Module,
    batch: MutableMapping[str, Tensor | bool],
    optimizer: torch.optim.Optimizer,
    on_phase: Callable[[Phase, int], None],
    *,
    steps: int,
    max_grad_norm: float = 1.0,
    gradient_accumulation: int = 1,
    mixed_precision: str = "no",
    how: Loss | None = None,
    around: Around = contextlib.nullcontext,
    total: Tensor | None = None,
) -> tuple[Any, ...]:
    """Run `steps` updates as `transformers.Trainer` runs them, on one device or as a rank of several.

    `how` is where the loss comes from, the model's own way where it is None. `total` is the sum of losses, where it was
    made before the batch.

    What differs from a bare loop: the outputs die before the backward pass, because `compute_loss` returns the loss
    alone; the loss is a sum divided by the number of labels in all micro-batches, or a mean divided by their number
    where the model takes no such count; all micro-batches of an update are on the device before the first one runs,
    and come there while those of the update before are still held, so that `batch` is taken over and left empty;
    gradients are clipped by default; ranks count their labels together and multiply the loss by their number; the sum
    of losses, the last loss and the last norm of the gradients stay for the log. Returns what the loop still holds, for
    whoever reads the allocator when the last step is over.
    Source: transformers/trainer.py, `_run_epoch`, `training_step` and `compute_loss` (5.23), and `backward` of
    accelerate/accelerator.py; tests/trace holds it against a real Trainer.
    """
    device = find_device(batch, model)
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    precision = MixedPrecision(mixed_precision, device)
    how = how or find_loss(model)
    forward = precision.wrap_forward(how.build_forward(model))
    is_counted = how.counts_labels(model, batch)
    has_labels, shifts = "labels" in batch, shifts_labels(base_model(model))
    total = torch.zeros((), device=device) if total is None else total
    upcoming: list[dict[str, Any]] = [dict(batch), *(_copy(batch) for _ in range(gradient_accumulation - 1))]
    batches: Sequence[Mapping[str, Any]] = ()
    batch.clear()
    number: Any = None
    count: dict[str, Any] = {}
    # DeepSpeed's engine updates behind the last backward pass, and keeps the norm.
    own_update: Callable[[Tensor], None] | None = getattr(model, "own_update", None)
    for step in range(1, steps + 1):
        upcoming = upcoming if step == 1 else [_copy(item) for item in batches]
        if is_counted and has_labels:
            number = _add_up_over_ranks(_count_labels(upcoming, shifts=shifts), ranks) / 1  # groups that share a batch
        # What goes now goes in Trainer's order: the batches of the last update, but for the one that the loop below
        # still names, and then their number of labels.
        batches = upcoming
        if number is not None:
            count["num_items_in_batch"] = number
        for micro_batch in batches:
            with around():
                on_phase(Phase.FORWARD, step)
                loss = how.compute_loss(forward, micro_batch, count)[0]
                if not is_counted:
                    loss = loss / gradient_accumulation
                elif ranks > 1:
                    loss *= ranks
                on_phase(Phase.BACKWARD, step)
                if own_update is None:
                    # accelerate divides by its own number of micro-batches, which Trainer leaves 1
                    precision.backward(loss / 1)
                else:
                    own_update(loss)
                reported = loss.detach()
                del loss
            # What the log's filter asks for; the answers are not read here, since no value is known on meta.
            torch.isnan(reported)
            torch.isinf(reported)
            total += reported
        on_phase(Phase.OPTIMIZER, step)
        # Trainer logs the norm of the gradients, and without clipping too takes it from there (`_get_grad_norm`).
        norm = None
        if own_update is None:
            precision.unscale(optimizer)
            norm = _clip(model, max_grad_norm or math.inf)
            precision.step(optimizer)
        model.zero_grad()
    return total, reported, norm, count, batches, precision


def _copy(batch: Mapping[str, Tensor | bool]) -> dict[str, Tensor | bool]:
    """Return another micro-batch of the same shapes."""
    return {name: map_tensors(item, Tensor.clone) for name, item in batch.items()}


def _count_labels(batches: Sequence[Mapping[str, Any]], *, shifts: bool) -> Any:
    """Return the number of labels that count in the loss; where it `shifts` them, the first of a sequence does not."""
    labels = [item["labels"][..., 1:] if shifts else item["labels"] for item in batches]
    return sum(item.ne(_IGNORED).sum() for item in labels)


def _clip(model: Any, max_norm: float) -> Tensor:
    """Clip the gradients of a model and return their norm.

    FSDP1 has its own way (accelerate, `clip_grad_norm_`), and so has Trainer where some are sharded and others not.
    """
    if hasattr(model, "clip_grad_norm_"):
        own: Tensor = model.clip_grad_norm_(max_norm)
        return own
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if len({getattr(gradient, "device_mesh", None) for gradient in gradients}) > 1:
        from inspector.compat.tensor_parallel import clip_mixed_gradients  # loads transformers' trainer

        return clip_mixed_gradients(model, max_norm)
    return torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)


def _add_up_over_ranks(number: Any, ranks: int) -> Tensor:
    """Return the sum of the numbers of all ranks, as accelerate gathers them (operations.py, `_gpu_gather_one`)."""
    if ranks == 1:
        return number
    own = number.clone()[None]
    numbers = torch.empty(ranks, dtype=own.dtype, device=own.device)
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # the name since torch 2.13
    gather(numbers, own)
    del own
    total = numbers.sum()
    del numbers
    return total


def find_device(batch: Mapping[str, Any], model: nn.Module) -> torch.device:
    """Return where the tensors of a batch are; one without any is made on the way, where the model is."""
    devices = (item.device for item in (*batch.values(), *model.parameters()) if isinstance(item, Tensor))
    return next(devices)
