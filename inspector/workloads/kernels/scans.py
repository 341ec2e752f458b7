"""Layers of state spaces and linear attention, for which packages of their own have kernels: what runs, what to say.

A plain install of transformers has none of these packages, and its own torch code runs. Some of it goes through each
sequence in chunks, some position by position: a step is then one of many small operations, each of which is traced.
With `kernels="hub"` the packages' functions run, or the Hub's builds of them (`trace.scan_kernels`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from inspector.errors import UsageError
from inspector.records.notice import Notice
from inspector.records.recipe import Kernels, Recipe
from inspector.trace.scan_kernels import find_missing_kernels, list_packages, uses_kernels

__all__ = ["attends", "check_kernels", "explain_long_scan", "find_scan_notices"]

_CHUNKED = re.compile(r"GatedDeltaNet|KimiDeltaAttention|Mamba2|Zamba2MambaMixer|BambaMixer|MambaLayer$|FalconH1Mixer")
_SEQUENTIAL = re.compile(r"^(Mamba|FalconMamba|JambaMamba|ZambaMamba)Mixer$|^RwkvSelfAttention$|Rglru$")
# What the tracer says of a step that it cannot hold.
_TOO_MANY = "allocations and frees"
# Layers that scan and have a kernel nowhere.
_WITHOUT_KERNEL = re.compile(r"Rglru$")


def attends(base: Any) -> bool:
    """Tell whether a model makes scores of pairs of positions; RWKV calls attention what is none."""
    names = {type(module).__name__ for module in base.modules()} - {"RwkvSelfAttention"}
    return any("Attention" in name or "Attn" in name for name in names)


def check_kernels(base: Any, recipe: Recipe) -> None:
    """Raise UsageError where a recipe asks for kernels that a model's layers do not have."""
    if recipe.kernels != Kernels.HUB:
        return
    name = type(base).__name__
    if not uses_kernels(base):
        raise UsageError(f"{name} has no layers that `kernels` runs (state spaces, linear attention); drop it.")
    longest = getattr(base.config, "context_length", None) if base.config.model_type == "rwkv" else None
    if longest is not None and recipe.seq_len is not None and recipe.seq_len > longest:
        raise UsageError(
            f"RWKV's kernel takes sequences of at most {longest:,} tokens here (`context_length`), not "
            f'{recipe.seq_len:,}; use a shorter `seq_len`, or `kernels="torch"`.'
        )
    missing = find_missing_kernels(base)
    if missing:
        raise UsageError(
            f'what the kernel of {missing[0]} allocates, which {name} runs, is not known here; use `kernels="torch"`.'
        )


def explain_long_scan(base: Any, recipe: Recipe, error: Exception) -> str | None:
    """Return what to do where a step of layers that scan has too many events, None where it was something else."""
    scans = any(_SEQUENTIAL.search(type(module).__name__) for module in base.modules())
    if _TOO_MANY not in str(error) or not scans or recipe.kernels == Kernels.HUB:
        return None
    has_kernel = uses_kernels(base) and not find_missing_kernels(base)
    return "use a shorter `seq_len`" + (', or `kernels="hub"`' if has_kernel else "")


def find_scan_notices(base: Any, recipe: Recipe) -> Iterator[Notice]:
    """Yield which layers were traced as what, and how those run that go from position to position."""
    names = [type(module).__name__ for module in base.modules()]
    chunked = {name for name in names if _CHUNKED.search(name)}
    sequential = [name for name in names if _SEQUENTIAL.search(name)]
    if recipe.kernels == Kernels.HUB:
        layers = ", ".join(sorted(chunked | set(sequential))) or type(base).__name__
        packages = list_packages(base)
        tunes = " Triton tries its kernels out once beside a buffer of 256 MiB, which is not in the figures."
        message = (
            f"{layers}: traced as the kernels of {' and '.join(packages)} allocate by their source."
            f"{tunes if chunked else ''}"
        )
        yield Notice(code="kernels-assumed", message=message)
        return
    if chunked:
        message = (
            f"{', '.join(sorted(chunked))}: traced as transformers' own torch code, which runs where no CUDA kernel is "
            'installed for it (flash-linear-attention, mamba-ssm); `kernels="hub"` traces those.'
        )
        yield Notice(code="torch-fallback", message=message)
    if sequential:
        yield Notice(code="torch-fallback", message=_describe_sequential(sequential, recipe))


def _describe_sequential(names: Iterable[str], recipe: Recipe) -> str:
    """Say what the torch code of layers that scan does in reality."""
    layers = list(names)
    positions = (recipe.seq_len or 1) * len(layers)
    has_kernel = not any(_WITHOUT_KERNEL.search(name) for name in layers)
    instead = '; `kernels="hub"` traces one' if has_kernel else ""
    where = "which runs where no CUDA kernel is installed for it" if has_kernel else "for which there is no kernel"
    return (
        f"{', '.join(sorted(set(layers)))}: traced as transformers' own torch code, {where}{instead}. It goes from "
        f"position to position, {positions:,} times a pass with some ten operations each: such a step takes minutes."
    )
