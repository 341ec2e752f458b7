"""Ops whose meta kernel in torch refuses what the real kernels take, or cannot know what values say.

A registry, op -> the result on meta as a pure function of shapes, each with its source. Duplicates raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["META_KERNELS"]

aten = torch.ops.aten

_Kernel = Callable[..., Tensor]
META_KERNELS: dict[Any, _Kernel] = {}


def _kernel(op: Any) -> Callable[[_Kernel], _Kernel]:
    """Register the result of an op."""

    def register(kernel: _Kernel) -> _Kernel:
        if op in META_KERNELS:
            raise ValueError(f"two meta kernels for {op}")
        META_KERNELS[op] = kernel
        return kernel

    return register


# Early releases do not have the op; transformers then uses one of its own.
if hasattr(aten, "_grouped_mm"):

    @_kernel(aten._grouped_mm.default)
    def _grouped_mm(first: Tensor, second: Tensor, offs: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        """Multiply the rows of each group by the group's matrix: rows of the result are padded to 16 bytes.

        Torch's own meta kernel takes bfloat16 alone; CUDA and the CPU take float16 and float32 too
        (ATen/native/GroupedMMUtils.h, create_grouped_gemm_output_tensor).
        """
        groups = () if offs is None else (offs.shape[0],)
        if first.dim() == second.dim():
            size = (*(groups or first.shape[:1]), first.shape[-2], second.shape[-1])
        else:
            size = (first.shape[-2], second.shape[-1])
        alignment = 16 // first.element_size()
        row = -(-size[-1] // alignment) * alignment
        strides = (row, 1) if len(size) == 2 else (size[1] * row, row, 1)
        return torch.empty_strided(size, strides, dtype=first.dtype, device=first.device)
