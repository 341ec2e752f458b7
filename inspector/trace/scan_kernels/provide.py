"""Which functions of transformers' modules have kernels, and how stand-ins take their place."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from inspector.records.steps.kernels import Kernels
from inspector.runtime.patches import replace_item, restore_changes
from inspector.trace.scan_kernels.causal_conv1d import causal_conv1d_fn
from inspector.trace.scan_kernels.delta_rule import chunk_gated_delta_rule
from inspector.trace.scan_kernels.rwkv import rwkv_linear_attention
from inspector.trace.scan_kernels.selective_scan import mamba_inner_fn, selective_scan_fn
from inspector.trace.scan_kernels.state_space_dual import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined

__all__ = ["find_missing_kernels", "list_namespaces", "list_packages", "provide_scan_kernels", "uses_kernels"]

# The functions of transformers' modules that kernels replace; None where what a kernel makes is not known here.
_KERNELS: dict[str, Callable[..., Any] | None] = {
    "causal_conv1d_fn": causal_conv1d_fn,
    "mamba_inner_fn": mamba_inner_fn,
    "mamba_selective_scan": selective_scan_fn,
    "mamba2_split_conv1d_scan_combined": mamba_split_conv1d_scan_combined,
    "mamba2_chunk_scan": mamba_chunk_scan_combined,
    "torch_chunk_gated_delta_rule": chunk_gated_delta_rule,
    "rwkv_linear_attention": rwkv_linear_attention,
    "chunk_kimi_delta_attention": None,
}

# Where they are from, by the beginnings of their names.
_PACKAGES = {
    "causal_conv1d": "causal-conv1d 1.7.0",
    "mamba": "mamba-ssm 2.3.2",
    "torch_chunk_gated": "flash-linear-attention 0.6.0",
    "rwkv": "the Hub's kernels-community/rwkv",
}


@contextlib.contextmanager
def provide_scan_kernels(model: nn.Module, kernels: Kernels | str | None) -> Iterator[None]:
    """Let the layers of `model` run kernels inside the block where `kernels` asks for it; then all is as before."""
    if kernels != Kernels.HUB:
        yield
        return
    with restore_changes():
        for namespace in list_namespaces(model):
            for name, kernel in _KERNELS.items():
                if name in namespace and kernel is not None:
                    replace_item(namespace, name, _take_what_it_knows(kernel))
        yield


def uses_kernels(model: nn.Module) -> bool:
    """Tell whether layers of a model have kernels."""
    return any(name in namespace for namespace in list_namespaces(model) for name in _KERNELS)


def list_packages(model: nn.Module) -> list[str]:
    """Return the packages that the kernels of a model's layers are from, with their releases."""
    found = {name for namespace in list_namespaces(model) for name in _KERNELS if name in namespace}
    return [package for start, package in _PACKAGES.items() if any(name.startswith(start) for name in found)]


def find_missing_kernels(model: nn.Module) -> list[str]:
    """Return the functions of a model's layers whose kernel is not known here."""
    namespaces = list_namespaces(model)
    return [name for name, kernel in _KERNELS.items() if kernel is None and any(name in item for item in namespaces)]


def list_namespaces(model: nn.Module) -> list[dict[str, Any]]:
    """Return the modules of transformers that a model's layers are from, as their names."""
    found = {type(module).__module__ for module in model.modules()}
    return [vars(sys.modules[name]) for name in sorted(found) if name.startswith("transformers.models.")]


def _take_what_it_knows(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return a kernel that leaves out keywords that it has no parameters for, as transformers' decorator does."""
    known = frozenset(inspect.signature(kernel).parameters)

    @functools.wraps(kernel)
    def run(*args: Any, **kwargs: Any) -> Any:
        return kernel(*args, **{name: value for name, value in kwargs.items() if name in known})

    return run
