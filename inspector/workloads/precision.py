"""What mixed precision puts around forward, backward and update, with data or without: torch's and accelerate's code.

`autocast` is what a bare loop enters around its forward pass; `wrap_forward` is what accelerate makes of a model
(accelerate/accelerator.py, `prepare_model`): its forward under autocast, its outputs in float32 afterwards. fp16 scales
the loss, and the optimizer's step is torch's `GradScaler.step`. Gradients are taken to be finite: where some are not, a
real step is skipped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import Tensor

from inspector.errors import UsageError

__all__ = ["PRECISIONS", "MixedPrecision"]

# TrainingArguments(bf16=True) and TrainingArguments(fp16=True) by the name that accelerate gives them.
PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class MixedPrecision:
    """Autocast and loss scaling as `name` asks for them, on the device of a batch; "no" adds nothing."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._dtype = PRECISIONS[name]
        self._device_type = device.type
        self._scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a forward pass."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device_type, dtype=self._dtype)

    def wrap_forward(self, model: Any) -> Callable[..., Any]:
        """Return what calls the model as accelerate prepares it: under autocast, with float32 outputs."""
        forward: Callable[..., Any] = model
        if self._dtype is not None:
            autocast = torch.autocast(self._device_type, dtype=self._dtype)
            forward = convert_outputs_to_fp32(autocast(model.__call__))
        return forward

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of the loss, scaled where gradients of float16 would vanish."""
        if self._scaler is None:
            loss.backward()
        else:
            self._scaler.scale(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring the gradients to their own scale, which clipping needs."""
        if self._scaler is not None:
            with _explain_refusals():
                self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the parameters, and the scale."""
        if self._scaler is None:
            optimizer.step()
        else:
            with _explain_refusals():
                self._scaler.step(optimizer)
            self._scaler.update()


# How torch refuses gradients that cannot be unscaled (amp/grad_scaler.py, native/cuda/AmpKernels.cu): their dtype, and
# the precision in which a step with such weights runs.
_CANNOT_UNSCALE = {
    "Attempting to unscale FP16 gradients.": ("float16", "no"),
    "not implemented for 'BFloat16'": ("bfloat16", "bf16"),
}


@contextlib.contextmanager
def _explain_refusals() -> Iterator[None]:
    """Say what to change where torch refuses the gradients that a scaled loss gave."""
    try:
        yield
    except (ValueError, NotImplementedError) as error:
        for message, (dtype, precision) in _CANNOT_UNSCALE.items():
            if message in str(error):
                raise UsageError(
                    f"`mixed_precision=fp16` scales the loss, and torch cannot unscale the gradients of weights that "
                    f"train in {dtype}: use `dtype=float32`, or `mixed_precision={precision}`."
                ) from error
        raise
