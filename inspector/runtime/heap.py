"""Memory of this process that nothing needs any more, which goes back to the system.

The cyclic collector is paused while an inspection runs (`process.py`), and models and graphs of autograd end in cycles;
what is freed stays with the C library where pieces of it are in use.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys

__all__ = ["give_back_memory"]


def give_back_memory() -> None:
    """Collect what lies in cycles, and have the C library give back what is free, where it is glibc."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)
