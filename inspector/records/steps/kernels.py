"""Which code runs layers of state spaces and linear attention."""

from __future__ import annotations

from inspector.checks import Choice

__all__ = ["Kernels"]


class Kernels(Choice):
    """Which code runs layers that go through a sequence: state spaces and linear attention.

    TORCH: transformers' own torch code, which runs where nothing else is installed.
    HUB: kernels of mamba-ssm, causal-conv1d and flash-linear-attention, which run where these packages are installed,
    and of the Hub where a model is loaded with `use_kernels=True`.
    """

    TORCH = "torch"
    HUB = "hub"
