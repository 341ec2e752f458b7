"""Memory that CUDA kernels take and no tensor of a meta run shows: op -> what its kernel allocates, and in which order.

A rule is a function of shapes, strides and the platform. It says on a `Scratch` what the kernel takes and gives back;
what it still holds at its end is freed in reverse order, as the destructors of C++ do. Rules come with their source,
and tests/trace/test_kernels.py holds them against torch's own CUDA code. Duplicate rules for one op raise. What is not
here and not known is named in `registry`, and goes into the report of models that have it.
"""

from inspector.trace.kernels import (
    attention,
    convolutions,
    indexing,
    losses,
    normalization,
    pointwise,
    pooling,
    reductions,
    sampling,
    sorting,
)
from inspector.trace.kernels.registry import KERNELS, LT_OPS, WORKSPACE_OPS, Kernel, Scratch

__all__ = [
    "KERNELS",
    "LT_OPS",
    "WORKSPACE_OPS",
    "Kernel",
    "Scratch",
    "attention",
    "convolutions",
    "indexing",
    "losses",
    "normalization",
    "pointwise",
    "pooling",
    "reductions",
    "sampling",
    "sorting",
]
