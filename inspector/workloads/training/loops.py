"""The training step itself: plain PyTorch, the same code whether its tensors have data or not.

`on_phase` is called before each phase, so that whoever watches (the tracer, or a measurement on a real GPU) can draw
the line between them.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

from inspector.records.tape import Phase
from inspector.workloads.precision import MixedPrecision
from inspector.workloads.training.offloading import Around

__all__ = ["run_plain_steps", "run_trainer_steps"]


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
    around: Around = contextlib.nullcontext,
) -> tuple[Any, ...]:
    """Run forward, backward, clip, optimizer step and zero_grad `steps` times, as a bare PyTorch loop does.

    The outputs live until the step is over; `max_grad_norm` 0 turns clipping off. Mixed precision is autocast around
    the forward pass, and for fp16 a GradScaler; `around` is entered around both passes of a micro-batch. Returns what
    the loop still holds: nothing.
    """
    precision = MixedPrecision(mixed_precision, _find_device(batch))
    for step in range(1, steps + 1):
        for _ in range(gradient_accumulation):
            with around():
                on_phase(Phase.FORWARD, step)
                with precision.autocast():
                    outputs = model(**batch)
                on_phase(Phase.BACKWARD, step)
                precision.backward(outputs.loss)
        on_phase(Phase.OPTIMIZER, step)
        if max_grad_norm > 0:
            precision.unscale(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        precision.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
        del outputs
    return ()


def run_trainer_steps(
    model: nn.Module,
    batch: Mapping[str, Tensor | bool],
    optimizer: torch.optim.Optimizer,
    on_phase: Callable[[Phase, int], None],
    *,
    steps: int,
    max_grad_norm: float = 1.0,
    gradient_accumulation: int = 1,
    mixed_precision: str = "no",
    around: Around = contextlib.nullcontext,
) -> tuple[Any, ...]:
    """Run `steps` updates as `transformers.Trainer` runs them on one device.

    What differs from a bare loop: the outputs die before the backward pass, because `compute_loss` returns the loss
    alone; the loss is a sum divided by the number of labels in all micro-batches, or a mean divided by their number
    where the model takes no such count; all micro-batches of an update are on the device before the first one runs;
    gradients are clipped by default; the sum of losses, the last loss and the last norm of the gradients stay for the
    log. Returns what the loop still holds, for whoever reads the allocator when the last step is over.
    Source: transformers/trainer.py, `_run_epoch`, `training_step` and `compute_loss` (5.23), and `backward` of
    accelerate/accelerator.py; tests/trace holds it against a real Trainer.
    """
    device = _find_device(batch)
    precision = MixedPrecision(mixed_precision, device)
    forward = precision.wrap_forward(model)
    wrapped: Any = model
    base = wrapped.get_base_model() if hasattr(model, "get_base_model") else model
    labels: Any = batch.get("labels")
    is_counted = labels is not None and _takes_count(base)
    batches = [batch, *(_copy(batch) for _ in range(gradient_accumulation - 1))]
    total = torch.zeros((), device=device)
    count: dict[str, Any] = {}
    for step in range(1, steps + 1):
        if is_counted:
            labels_of_batches: list[Any] = [item["labels"] for item in batches]
            counted = [item[..., 1:] for item in labels_of_batches] if _shifts_labels(base) else labels_of_batches
            count["num_items_in_batch"] = sum(item.ne(_IGNORED).sum() for item in counted)
        for micro_batch in batches:
            with around():
                on_phase(Phase.FORWARD, step)
                loss = forward(**micro_batch, **count)["loss"]
                if not is_counted:
                    loss = loss / gradient_accumulation
                on_phase(Phase.BACKWARD, step)
                # accelerate divides by its own number of micro-batches, which Trainer leaves 1
                precision.backward(loss / 1)
                reported = loss.detach()
                del loss
            # What the log's filter asks for; the answers are not read here, since no value is known on meta.
            torch.isnan(reported)
            torch.isinf(reported)
            total += reported
        on_phase(Phase.OPTIMIZER, step)
        # Trainer logs the norm of the gradients, and without clipping too takes it from there (`_get_grad_norm`).
        norm = None
        precision.unscale(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm or math.inf)
        precision.step(optimizer)
        model.zero_grad()
    return total, reported, norm, count, batches, precision


def _copy(batch: Mapping[str, Tensor | bool]) -> dict[str, Tensor | bool]:
    """Return another micro-batch of the same shapes."""
    return {name: item.clone() if isinstance(item, Tensor) else item for name, item in batch.items()}


def _find_device(batch: Mapping[str, Tensor | bool]) -> torch.device:
    """Return where the tensors of a batch are."""
    return next(item.device for item in batch.values() if isinstance(item, Tensor))


def _takes_count(base: Any) -> bool:
    """Tell whether the Trainer hands a model the number of labels: it says so, or takes any keyword."""
    if hasattr(base, "accepts_loss_kwargs"):
        return bool(base.accepts_loss_kwargs)
    parameters = inspect.signature(base.forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def _shifts_labels(base: Any) -> bool:
    """Tell whether the loss compares each position with the next label, so that the first one does not count."""
    shifts = LOSS_MAPPING.get(getattr(base, "loss_type", None) or "") is ForCausalLMLoss
    return shifts and not getattr(base.config, "is_encoder_decoder", False)
