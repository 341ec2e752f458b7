"""What `device_map` may be: how transformers makes one, or where each module lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inspector.checks import describe_value
from inspector.errors import UsageError

__all__ = ["MADE_MAPS", "check_device_map"]

# transformers/modeling_utils.py, `from_pretrained`.
MADE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def check_device_map(value: Any) -> str | dict[str, int | str]:
    """Return a device map, or how one is made; raise UsageError for anything else."""
    if isinstance(value, str) and value in MADE_MAPS:
        return value
    if isinstance(value, Mapping) and value and all(isinstance(where, (int, str)) for where in value.values()):
        return {str(name): where for name, where in value.items()}
    raise UsageError(
        f"`device_map` is {describe_value(value)}; give {', '.join(MADE_MAPS)}, or modules with the numbers of their "
        'cards, as in {"model.embed_tokens": 0, ...}.'
    )
