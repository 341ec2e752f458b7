"""Whether DeepSpeed is there to run its own code, without loading it."""

from __future__ import annotations

import importlib.util

__all__ = ["has_deepspeed"]


def has_deepspeed() -> bool:
    """Tell whether DeepSpeed is installed, whose own code runs its stages."""
    return importlib.util.find_spec("deepspeed") is not None
