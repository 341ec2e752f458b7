"""The training step itself: plain PyTorch, the same code whether its tensors have data or not.

`on_phase` is called before each phase, so that whoever watches (the tracer, or a measurement on a real GPU) can draw
the line between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from inspector.trace.mixed_precision import MixedPrecision
from inspector.training_records import Phase

__all__ = ["plain_steps", "trainer_steps"]


# The label of positions that do not count in the loss (torch.nn.functional.cross_entropy, ignore_index).
_IGNORED = -100


def plain_steps(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    on_phase: Callable[[Phase, int], None],
    *,
    steps: int,
    max_grad_norm: float = 0.0,
    gradient_accumulation: int = 1,
    mixed_precision: str = "no",
) -> None:
    """Run forward, backward, clip, optimizer step and zero_grad `steps` times, as a bare PyTorch loop does.

    The outputs live until the step is over; `max_grad_norm` 0 turns clipping off. Mixed precision is autocast around
    the forward pass, and for fp16 a GradScaler.
    """
    precision = MixedPrecision(mixed_precision, _device_of(batch))
    for step in range(1, steps + 1):
        for _ in range(gradient_accumulation):
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


def trainer_steps(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    on_phase: Callable[[Phase, int], None],
    *,
    steps: int,
    max_grad_norm: float = 1.0,
    gradient_accumulation: int = 1,
    mixed_precision: str = "no",
) -> None:
    """Run `steps` updates as `transformers.Trainer` runs them on one device.

    What differs from a bare loop: the outputs die before the backward pass, because `compute_loss` returns the loss
    alone; the loss is a sum divided by the number of labels in all micro-batches; gradients are clipped by default.
    Source: transformers/trainer.py, `_run_epoch`, `training_step` and `compute_loss` (5.23); tests/trace holds it
    against a real Trainer. Mixed precision is accelerate's (accelerate/accelerator.py and optimizer.py).
    """
    precision = MixedPrecision(mixed_precision, _device_of(batch))
    prepared = precision.prepared(model)
    for step in range(1, steps + 1):
        items = sum((batch["labels"] != _IGNORED).sum() for _ in range(gradient_accumulation))
        for _ in range(gradient_accumulation):
            on_phase(Phase.FORWARD, step)
            loss = prepared(**batch, num_items_in_batch=items)["loss"]
            on_phase(Phase.BACKWARD, step)
            precision.backward(loss)
        on_phase(Phase.OPTIMIZER, step)
        # Trainer logs the norm of the gradients, so they are unscaled without clipping too (`_get_grad_norm`).
        precision.unscale(optimizer)
        if max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        precision.step(optimizer)
        model.zero_grad()


def _device_of(batch: Mapping[str, Tensor]) -> torch.device:
    """Return where the tensors of a batch are."""
    return next(iter(batch.values())).device
