"""The kernels of mamba-ssm, causal-conv1d and flash-linear-attention on meta tensors, for transformers' own layers.

The packages cannot be installed without CUDA, and a trace needs no more of them than what they allocate. transformers'
layers run as they do with the packages: each calls functions of its own module, which a decorator replaces when it
finds the package or is given the Hub's kernels (`use_kernel_func_from_hub_with_fallback`, integrations/hub_kernels.py
of 5.23). Here the functions of this package take their place, written after the packages' Python and C++ code, tensor
by tensor in their order. The Hub's repositories hold builds of the same packages.
"""

from inspector.trace.scan_kernels.provide import (
    find_missing_kernels,
    list_namespaces,
    list_packages,
    provide_scan_kernels,
    uses_kernels,
)

__all__ = ["find_missing_kernels", "list_namespaces", "list_packages", "provide_scan_kernels", "uses_kernels"]
