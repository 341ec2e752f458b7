"""The registry of kernel rules, and what a rule talks to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from inspector.hardware.platform import Platform

__all__ = [
    "ATTENTION_PLANS",
    "CONVOLUTION_PLANS",
    "EXPERT_PRODUCTS",
    "KERNELS",
    "LT_OPS",
    "RECURRENT_LAYERS",
    "WORKSPACE_OPS",
    "Kernel",
    "Scratch",
    "kernel",
]

aten = torch.ops.aten

# The first call of any of these in a thread makes its cuBLAS handle take a workspace (ATen/cuda/CublasHandlePool.cpp).
WORKSPACE_OPS = frozenset(
    {
        *(aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default),
        *(aten.mm.out, aten.addmm.out, aten.bmm.out, aten.baddbmm.out),
        *(aten.addmm_.default, aten.baddbmm_.default),
    }
)
# Of these, the ones with a bias epilogue go through cuBLASLt (ATen/native/cuda/Blas.cpp, addmm_out_cuda_impl).
LT_OPS = frozenset({aten.addmm.default})

# What kernels take and no rule knows: what, and why. `inspector.workloads.unaccounted` says which models it concerns.
RECURRENT_LAYERS = (
    "torch's own recurrent layers",
    "cuDNN runs each as one kernel with a workspace and a reserve of its own, the trace as its parts",
)
EXPERT_PRODUCTS = (
    "grouped matrix products of experts",
    "arguments and workspaces of their kernels, whose size was not measured",
)
_CUDNN_WORKSPACE = "what cuDNN's own engines add to the workspace is chosen at run time"
CONVOLUTION_PLANS = ("plans of cuDNN convolutions", _CUDNN_WORKSPACE)
ATTENTION_PLANS = ("plans of cuDNN attention", _CUDNN_WORKSPACE)


class Scratch(Protocol):
    """What the kernel of one op takes beside its outputs, while a rule tells it."""

    platform: Platform

    def take(self, size_bytes: int) -> int:
        """Allocate a block and return it; 0 bytes take none."""

    def give(self, block: int) -> None:
        """Free a block before the kernel ends."""

    def outputs(self, *order: int) -> None:
        """Allocate the outputs, in this order of their places; those not named lie on the CPU. Empty means all."""


Rule = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Kernel:
    """The rule of one op; `allocates_outputs` when it says itself when the outputs are made, else they are first."""

    rule: Rule
    allocates_outputs: bool


KERNELS: dict[Any, Kernel] = {}


def kernel(*ops: Any, allocates_outputs: bool = False) -> Callable[[Rule], Rule]:
    """Register a rule for ops; a second one for the same op raises ValueError."""

    def register(rule: Rule) -> Rule:
        for op in ops:
            if op in KERNELS:
                raise ValueError(f"two rules for {op}")
            KERNELS[op] = Kernel(rule, allocates_outputs)
        return rule

    return register
