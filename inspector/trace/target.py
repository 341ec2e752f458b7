"""The card that a trace is for, as code asks CUDA for the device at hand: some allocate by its multiprocessors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from inspector.hardware.platform import Platform
from inspector.runtime.patches import replace_item, restore_changes

__all__ = ["find_target", "trace_for"]

_TARGET: dict[str, Platform] = {}


@contextlib.contextmanager
def trace_for(platform: Platform) -> Iterator[None]:
    """Let code inside the block find the platform that it is traced for."""
    with restore_changes():
        replace_item(_TARGET, "platform", platform)
        yield


def find_target() -> Platform:
    """Return the platform that a trace is for."""
    return _TARGET["platform"]
