"""Layers of state spaces and linear attention, for which packages of their own have kernels: what to say of a run.

A plain install of transformers has none of these packages, and its own torch code runs. Some of it goes through each
sequence in chunks, some position by position: a step is then one of many small operations, each of which is traced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from inspector.records.notice import Notice
from inspector.records.recipe import Recipe

__all__ = ["attends", "find_scan_notices"]

_CHUNKED = re.compile(r"GatedDeltaNet|KimiDeltaAttention|Mamba2|BambaMixer|MambaLayer$|FalconH1Mixer")
_SEQUENTIAL = re.compile(r"^(Mamba|FalconMamba|JambaMamba|ZambaMamba)Mixer$|^RwkvSelfAttention$|Rglru$")


def attends(base: Any) -> bool:
    """Tell whether a model makes scores of pairs of positions; RWKV calls attention what is none."""
    names = {type(module).__name__ for module in base.modules()} - {"RwkvSelfAttention"}
    return any("Attention" in name or "Attn" in name for name in names)


def find_scan_notices(base: Any, recipe: Recipe) -> Iterator[Notice]:
    """Yield which layers were traced as torch code, and how those run that go from position to position."""
    names = [type(module).__name__ for module in base.modules()]
    chunked = sorted({name for name in names if _CHUNKED.search(name)})
    sequential = [name for name in names if _SEQUENTIAL.search(name)]
    if chunked:
        message = (
            f"{', '.join(chunked)}: traced as transformers' own torch code, which runs where no CUDA kernel is "
            "installed for it (flash-linear-attention, mamba-ssm)."
        )
        yield Notice(code="torch-fallback", message=message)
    if sequential:
        yield Notice(code="torch-fallback", message=_describe_sequential(sequential, recipe))


def _describe_sequential(names: Iterable[str], recipe: Recipe) -> str:
    """Say what the torch code of layers that scan does in reality."""
    layers = list(names)
    positions = (recipe.seq_len or 1) * len(layers)
    kernels = "" if any(name.endswith("Rglru") for name in layers) else " (mamba-ssm, causal-conv1d; RWKV's of the Hub)"
    return (
        f"{', '.join(sorted(set(layers)))}: traced as transformers' own torch code, which runs where no CUDA kernel is "
        f"installed for it{kernels}. It goes from position to position, {positions:,} times a pass with some ten "
        "operations each: a step takes minutes where a kernel takes seconds."
    )
