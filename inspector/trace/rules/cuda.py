"""Ops that CUDA runs otherwise than meta does, installed in the dispatcher for the time of a trace.

Each rule is an implementation for the key AutogradMeta: it sits above autograd's own formulas, sees meta tensors only,
and is active in recomputed blocks too, where a TorchFunctionMode is not. When the block ends the rules are gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from inspector.compat.torch import dispatcher_rules, give_kernel
from inspector.hardware.platform import Platform
from inspector.runtime.patches import restore_changes
from inspector.trace.memory_format import find_memory_format
from inspector.trace.rules.autocast import provide_autocast_for_meta
from inspector.trace.rules.foreach import use_foreach_on_meta
from inspector.trace.rules.sdpa import Attention

__all__ = ["apply_cuda_rules"]

aten = torch.ops.aten


@contextlib.contextmanager
def apply_cuda_rules(platform: Platform, sdpa_backend: str = "auto") -> Iterator[None]:
    """Make meta tensors follow the rules of CUDA on `platform` inside the block."""
    rules: dict[str, Callable[..., Any]] = {
        "scaled_dot_product_attention": Attention(platform, sdpa_backend),
        "softmax.int": _softmax,
        "log_softmax.int": _log_softmax,
        "dropout": _dropout,
        "batch_norm": _batch_norm,
    }
    if platform.compute_capability < (8, 0) and hasattr(torch.ops.transformers, "grouped_mm_fallback"):
        rules["_grouped_mm"] = _grouped_mm
    with restore_changes():
        # Replacing a kernel is the purpose here; torch warns about it once for each op.
        library = dispatcher_rules("aten")
        for name, rule in rules.items():
            library.impl(name, rule, "AutogradMeta")
        if hasattr(aten, "_fused_rms_norm_backward"):  # with kernels autograd runs the op and not its parts
            give_kernel(library, "_fused_rms_norm", _rms_norm)
            library.impl("_fused_rms_norm_backward", _rms_norm_backward, "Meta")
        with provide_autocast_for_meta(), use_foreach_on_meta():
            yield


def _softmax(values: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax of float16 into float32 is one kernel on CUDA, without a float32 copy of its input (SoftMax.cpp)."""
    if values.dtype is torch.float16 and dtype is torch.float32:
        return aten._softmax.default(values, dim, True)
    return aten._softmax.default(values if dtype is None else values.to(dtype), dim, False)


def _log_softmax(values: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """As `_softmax`, for its logarithm."""
    if values.dtype is torch.float16 and dtype is torch.float32:
        return aten._log_softmax.default(values, dim, True)
    return aten._log_softmax.default(values if dtype is None else values.to(dtype), dim, False)


def _dropout(values: Tensor, p: float, train: bool) -> Tensor:
    """Dropout is one kernel on CUDA that keeps a boolean mask; meta keeps noise in the input's dtype (Dropout.cpp)."""
    if not train or p == 0 or values.numel() == 0:
        return values
    if p == 1:
        return values * torch.zeros_like(values)
    return aten.native_dropout.default(values, p, train)[0]


def _batch_norm(
    values: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, *others: Any
) -> Tensor:
    """In training cuDNN norms images, and keeps a copy of what is not stored as one (native/Normalization.cpp)."""
    if training and values.dim() > 2:
        values = values.contiguous(memory_format=find_memory_format(values))
    normed: Tensor = aten._batch_norm_impl_index.default(values, weight, bias, mean, variance, training, *others)[0]
    return normed


def _rms_norm(values: Tensor, shape: Sequence[int], *_: Any) -> tuple[Tensor, Tensor]:
    """Return the rows normed, and a factor of each (cuda/layer_norm_kernel.cu, _fused_rms_norm_cuda)."""
    rows = (*values.shape[: values.dim() - len(shape)], *(1 for _ in shape))
    dtype = torch.float64 if values.dtype is torch.float64 else torch.float32
    normed = torch.empty_like(values, memory_format=torch.contiguous_format)
    return normed, torch.empty(rows, dtype=dtype, device=values.device)


def _rms_norm_backward(
    _grad: Tensor, values: Tensor, _shape: Any, _scale: Tensor, weight: Tensor | None, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return gradients of what wants one."""
    made = torch.empty_like(values, memory_format=torch.contiguous_format) if wanted[0] else None
    return made, torch.empty_like(weight) if wanted[1] and weight is not None else None


def _grouped_mm(first: Tensor, second: Tensor, offs: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """Before Ampere transformers multiplies the rows of experts by an op of its own (integrations/moe.py)."""
    return torch.ops.transformers.grouped_mm_fallback(first, second, offs)
